package edge

import (
	"context"
	"errors"

	"go.uber.org/fx"
)

// Module runs an edge. It needs a Config and Options, and provides the *Server.
func Module() fx.Option {
	return fx.Module("edge", fx.Provide(run), fx.Invoke(func(*Server) {}))
}

// run ties an edge and its connection to the routers to the process's life.
func run(life fx.Lifecycle, down fx.Shutdowner, cfg Config, opts Options) (*Server, error) {
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
	life.Append(fx.Hook{
		OnStart: s.Start,
		// Browsers leave before the connection that feeds them closes.
		OnStop: func(ctx context.Context) error { return errors.Join(s.Stop(ctx), router.Close()) },
	})
	return s, nil
}
