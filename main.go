// Command eventbus carries the events of long jobs from workers to browsers:
// gRPC and Redis Streams in, gRPC and SSE out, once and in order.
//
// This file only wires: each command is a list of modules and their settings.
//
//	worker → server (gRPC) → router (Redis) → server → edge (SSE) → browser
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"
	"google.golang.org/grpc"

	"github.com/eco2-team/eventbus/edge"
	"github.com/eco2-team/eventbus/edge/bench"
	"github.com/eco2-team/eventbus/edge/console"
	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/embedded"
	"github.com/eco2-team/eventbus/router/trace"
	"github.com/eco2-team/eventbus/server"
	"github.com/eco2-team/eventbus/server/command"
	"github.com/eco2-team/eventbus/server/demo"
	"github.com/eco2-team/eventbus/server/metricsdoc"
	"github.com/eco2-team/eventbus/server/tracing"
)

// Set by the linker; see the Makefile.
var (
	version = "dev"
	commit  = "unknown"
	date    = "unknown"
)

type cli struct {
	Version kong.VersionFlag `short:"v" help:"Print version, commit and build time."`

	Dev    devCmd    `cmd:"" default:"withargs" set:"dev=true" help:"Everything in one process on an embedded Redis, with the console and a demo job. For trying out; nothing outlives it."`
	Serve  serveCmd  `cmd:"" help:"Router and edge in one process on your Redis: the small deployment."`
	Router routerCmd `cmd:"" help:"The bus: gRPC, backed by Redis."`
	Edge   edgeCmd   `cmd:"" help:"SSE for browsers, in front of routers."`
	Bench  benchCmd  `cmd:"" help:"Load test of a running bus: real SSE and gRPC connections, checked for loss, order and duplicates while it measures."`
	Floor  floorCmd  `cmd:"" name:"bench-floor" hidden:"" help:"What bench --floor measures the bus against."`

	Metrics metricsCmd `cmd:"" hidden:"" help:"Write the reference of all metrics, docs/metrics.md."`

	Publish    command.Publish    `cmd:"" help:"Publish an event, or one for each line of standard input."`
	Tail       command.Tail       `cmd:"" help:"Show events as they come."`
	State      command.State      `cmd:"" help:"Show the latest event of a job."`
	Check      command.Check      `cmd:"" help:"Examine settings and Redis: what is wrong, and how to mend it."`
	Completion command.Completion `cmd:"" help:"Print a script that completes this command line in a shell."`
	Complete   command.Complete   `cmd:"" hidden:"" help:"What may stand in the place of the last word."`
}

// benchCmd is what a load test can be told.
type benchCmd struct {
	Load bench.Config `embed:""`
}

// floorCmd is the process beside it.
type floorCmd struct {
	Floor bench.FloorConfig `embed:""`
}

// routerCmd is a router's settings.
type routerCmd struct {
	Bus    router.Config `embed:""`
	GRPC   server.Config `embed:""`
	Access access.Config `embed:""`
	Common server.Common `embed:""`
	Admin  string        `name:"admin-addr" env:"ADMIN_ADDR" default:":9091" help:"Where /livez, /readyz, /metrics and /debug/pprof are served; off is nowhere. Keep it inside."`
}

// edgeCmd is an edge's settings.
type edgeCmd struct {
	Edge   edge.Config   `embed:""`
	Access access.Config `embed:""`
	Common server.Common `embed:""`
	Admin  string        `name:"admin-addr" env:"ADMIN_ADDR" default:":8001" help:"Where /livez, /readyz, /metrics and /debug/pprof are served; off is nowhere. Keep it inside."`
}

// serveCmd is the settings of both in one process; the edge's router is the one
// beside it, whatever ROUTER_ADDR says.
type serveCmd struct {
	Bus    router.Config `embed:""`
	GRPC   server.Config `embed:""`
	Edge   edge.Config   `embed:""`
	Access access.Config `embed:""`
	Common server.Common `embed:""`
	Admin  string        `name:"admin-addr" env:"ADMIN_ADDR" default:":9091" help:"Where /livez, /readyz, /metrics and /debug/pprof are served; off is nowhere. Keep it inside."`
}

// devCmd is the same on an embedded Redis.
type devCmd struct {
	serveCmd
	Demo bool `default:"true" negatable:"" help:"Play a scan and a chat job again and again."`
}

// metricsCmd is the settings of processes that are made and not run.
type metricsCmd struct {
	serveCmd
	JSON bool `name:"json" help:"One object a line."`
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "eventbus:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	var c cli
	parser, err := kong.New(&c, kong.Name("eventbus"),
		kong.Description("Live events of long jobs, from workers to browsers: acknowledged means delivered once, in order, or the reader is told of a gap."),
		kong.Vars{"hostname": host, "dev": "false", "version": fmt.Sprintf("eventbus %s (commit %s, built %s)", version, commit, date)},
		kong.Writers(out, os.Stderr), kong.Bind(command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}), kong.BindTo(out, (*io.Writer)(nil)), kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 110}))
	if err != nil {
		return err
	}
	ctx, err := parser.Parse(args)
	parser.FatalIfErrorf(err)
	return ctx.Run()
}

// Run runs a router.
func (c *routerCmd) Run() error {
	if err := errors.Join(c.Bus.Check(), c.GRPC.Check(), c.Access.Check(), c.Common.Check()); err != nil {
		return err
	}
	return runApp("eventbus-router", c.Common, c.Access, c.Admin, c.modules(), fx.Provide(func(s *server.Server) server.Readiness { return s.Ready }))
}

func (c *routerCmd) modules() fx.Option {
	return fx.Options(fx.Supply(c.Bus, c.GRPC), router.Module(), server.Module())
}

// Run runs an edge.
func (c *edgeCmd) Run() error {
	if err := errors.Join(c.Edge.Check(), c.Access.Check(), c.Common.Check()); err != nil {
		return err
	}
	return runApp("eventbus-edge", c.Common, c.Access, c.Admin, edgeModules(c.Edge, fx.Supply(inside{})), fx.Provide(func(s *edge.Server) server.Readiness { return s.Ready }))
}

// inside is what an edge has from the router in its own process, if there is one.
type inside struct {
	relay relayv1.RelayServiceClient
	token string
}

// edgeModules is an edge; router provides its inside.
func edgeModules(c edge.Config, router fx.Option) fx.Option {
	return fx.Options(fx.Supply(c), edge.Module(), router, fx.Provide(
		func(common server.Common, guard *access.Guard, in inside, log *slog.Logger, t *trace.Tracer, reg prometheus.Registerer) edge.Options {
			return edge.Options{
				Heartbeat: common.HeartbeatInterval, Drain: common.DrainTimeout,
				Console: console.Handler(console.Settings{TraceURL: c.TraceURL}), Access: guard, Log: log, Metrics: reg,
				Relay: in.relay, RouterToken: in.token, Trace: t,
			}
		}))
}

// Run runs both.
func (c *serveCmd) Run() error { return c.run(fx.Options()) }

func (c *serveCmd) run(more fx.Option) error {
	addr, err := loopback(&c.GRPC.GRPCAddr)
	if err != nil {
		return err
	}
	c.Edge.RouterAddr, c.Edge.RouterTokenFile = addr, ""
	if c.GRPC.TLSCert != "" && c.Edge.RouterTLSCA == "" {
		return errors.New("GRPC_TLS_CERT is set, so ROUTER_TLS_CA must be: the edge in this process speaks to the router by it")
	}
	if err := errors.Join(c.Bus.Check(), c.GRPC.Check(), c.Edge.Check(), c.Access.Check(), c.Common.Check()); err != nil {
		return err
	}
	ready := fx.Provide(func(s *server.Server, e *edge.Server) server.Readiness {
		return func() (bool, string) {
			if ok, text := s.Ready(); !ok || text != "ok" {
				return ok, text
			}
			return e.Ready()
		}
	})
	beside := fx.Provide(func(s *server.Server, guard *access.Guard) inside { return inside{s.Inside(), guard.Insider()} })
	both := routerCmd{Bus: c.Bus, GRPC: c.GRPC}
	return runApp("eventbus", c.Common, c.Access, c.Admin, fx.Options(both.modules(), edgeModules(c.Edge, beside)), ready, more)
}

// loopback is where this process reaches its own gRPC server. A port 0 is chosen
// here, so that both sides know it.
func loopback(addr *string) (string, error) {
	host, port, err := net.SplitHostPort(*addr)
	if err != nil {
		return "", fmt.Errorf("GRPC_ADDR: %w", err)
	}
	if port == "0" {
		lis, err := new(net.ListenConfig).Listen(context.Background(), "tcp", *addr)
		if err != nil {
			return "", fmt.Errorf("GRPC_ADDR: %w", err)
		}
		*addr = lis.Addr().String()
		if err := lis.Close(); err != nil {
			return "", err
		}
		return loopback(addr)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// Run runs both on an embedded Redis, with a demo worker.
func (c *devCmd) Run(out io.Writer) error {
	if c.Bus.StreamsURL == "" {
		r, err := embedded.Start()
		if err != nil {
			return err
		}
		defer r.Close()
		c.Bus.StreamsURL, c.Bus.Embedded = r.URL(), true
	}
	more := fx.Invoke(func(lc fx.Lifecycle, e *edge.Server, s *server.Server) {
		lc.Append(fx.StartHook(func() error {
			_, err := fmt.Fprint(out, c.greeting(e.Addr().String(), s.Addr()))
			return err
		}))
	})
	if c.Demo {
		more = fx.Options(more, fx.Invoke(c.playDemo))
	}
	return c.run(more)
}

// Run runs a load test; a signal ends it.
func (c *benchCmd) Run(out io.Writer) error {
	if err := c.Load.Check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench.Run(ctx, c.Load, version, out, os.Stderr)
}

// Run runs what a load test is compared with.
func (c *floorCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench.ServeFloor(ctx, c.Floor)
}

// Run makes each process as it is, on a registry that remembers.
func (c *metricsCmd) Run(out io.Writer) error {
	c.Bus.StreamsURL, c.Edge.RouterAddr = "redis://127.0.0.1:0/0", "127.0.0.1:0" // nobody dials
	both := routerCmd{Bus: c.Bus, GRPC: c.GRPC}
	set := metricsdoc.New()
	for _, p := range []struct {
		name    string
		modules fx.Option
	}{{"router", both.modules()}, {"edge", edgeModules(c.Edge, fx.Supply(inside{}))}} {
		reg := set.Process(p.name)
		reg.MustRegister(buildInfo())
		app := fx.New(fx.NopLogger, fx.Supply(c.Common, c.Access, slog.New(slog.DiscardHandler), (*trace.Tracer)(nil)),
			fx.Provide(func() prometheus.Registerer { return reg }), access.Module(), p.modules)
		if err := app.Err(); err != nil {
			return err
		}
	}
	if c.JSON {
		return set.WriteJSON(out)
	}
	return set.Write(out)
}

// greeting tells where to look.
func (c *devCmd) greeting(httpAddr, grpcAddr string) string {
	local := func(addr string) string {
		l, err := loopback(&addr)
		if err != nil {
			return addr
		}
		return l
	}
	web, rpc := local(httpAddr), local(grpcAddr)
	return fmt.Sprintf(`
eventbus %s is running on an embedded Redis. Nothing outlives it; Ctrl-C ends it.

  console    http://%s/
  live       curl -N -H 'Accept: text/event-stream' http://%s/api/v1/scan/events
  publish    curl -X POST -H 'Content-Type: application/json' -d '{"stage":"hello"}' http://%s/api/v1/scan/my-job/events
  gRPC       grpcurl -plaintext %s list
  your page  new EventSource("http://%s/api/v1/scan/my-job/events"); this bus must know where it
             comes from: CORS_ORIGINS=http://localhost:8080

`, version, web, web, web, rpc, web)
}

// playDemo runs the demo worker, a gRPC client like any other, while the
// application runs.
func (c *devCmd) playDemo(lc fx.Lifecycle, guard *access.Guard, log *slog.Logger) error {
	how, err := edge.RouterOptions(c.Edge, "", log)
	if err != nil {
		return err
	}
	if guard.Required() {
		how = append(how, grpc.WithPerRPCCredentials(insider(guard.Insider())))
	}
	conn, err := edge.Dial(c.Edge.RouterAddr, how...)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	worker := demo.New(eventbusv1.NewEventBusServiceClient(conn), log, demo.Options{Pace: demo.DefaultPace})
	lc.Append(fx.StartStopHook(func() {
		go func() {
			defer close(done)
			if err := worker.Run(ctx); err != nil {
				log.Error("demo worker ended", "error", err)
			}
		}()
	}, func() error {
		stop()
		<-done
		return conn.Close()
	}))
	return nil
}

// insider is the token of a part of this process.
type insider string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (i insider) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(i)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: it stays on
// this machine.
func (insider) RequireTransportSecurity() bool { return false }

// runApp runs modules until a signal comes. The admin server starts first and
// stops last: probes see the drain.
func runApp(service string, common server.Common, who access.Config, adminAddr string, options ...fx.Option) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: common.Level()}))
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	app := fx.New(
		fx.Supply(common, who, log, reg, common.Tracing, tracing.Identity{Service: service, Version: version, Instance: host}),
		fx.Provide(func(r *prometheus.Registry) prometheus.Registerer { return r }),
		fx.WithLogger(func() fxevent.Logger {
			l := &fxevent.SlogLogger{Logger: log}
			l.UseLogLevel(slog.LevelDebug)
			return l
		}),
		// Stopping may take the drain and what comes after it; fx's own 15 s would cut it.
		fx.StopTimeout(common.DrainTimeout+30*time.Second),
		server.AdminModule(adminAddr),
		tracing.Module(),
		access.Module(),
		fx.Options(options...),
	)
	if err := app.Err(); err != nil {
		return err
	}
	start, cancel := context.WithTimeout(context.Background(), app.StartTimeout())
	defer cancel()
	if err := app.Start(start); err != nil {
		return err
	}
	sig := <-app.Wait()
	log.Info("stopping", "signal", fmt.Sprint(sig.Signal))
	stop, cancel := context.WithTimeout(context.Background(), app.StopTimeout())
	defer cancel()
	if err := app.Stop(stop); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	if sig.ExitCode != 0 {
		return fmt.Errorf("exit code %d", sig.ExitCode)
	}
	return nil
}

func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "eventbus_build_info", Help: "1; the labels say which build runs.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	}, func() float64 { return 1 })
}
