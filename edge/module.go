package edge

import (
	"context"
	"errors"

	"go.uber.org/fx"
	"google.golang.org/grpc"
)

// Module runs an edge. It needs a Config and Options, and provides the *Server.
//
// The hooks are appended by an Invoke, in the order in which modules are listed, and
// not where the server is made: the admin server asks it for its readiness, so it is
// made first, and would be stopped last.
func Module() fx.Option {
	return fx.Module("edge", fx.Provide(build, serverOf), fx.Invoke(run))
}

// built is an edge and its connection to the routers.
type built struct {
	server *Server
	router *grpc.ClientConn
}

func serverOf(b *built) *Server { return b.server }

func build(down fx.Shutdowner, cfg Config, opts Options) (*built, error) {
	how, err := RouterOptions(cfg, opts.RouterToken, opts.Log)
	if err != nil {
		return nil, err
	}
	router, err := Dial(cfg.RouterAddr, how...)
	if err != nil {
		return nil, err
	}
	if opts.Failed == nil {
		opts.Failed = func(error) { _ = down.Shutdown(fx.ExitCode(1)) }
	}
	s, err := New(cfg, router, opts)
	if err != nil {
		return nil, errors.Join(err, router.Close())
	}
	return &built{s, router}, nil
}

// run ties an edge to the process's life.
func run(life fx.Lifecycle, b *built) {
	life.Append(fx.Hook{
		OnStart: b.server.Start,
		// Browsers leave before the connection that feeds them closes.
		OnStop: func(ctx context.Context) error { return errors.Join(b.server.Stop(ctx), b.router.Close()) },
	})
}
