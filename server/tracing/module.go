package tracing

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/fx"
	"golang.org/x/time/rate"

	"github.com/eco2-team/eventbus/router/trace"
)

// Module provides the *trace.Tracer of a process, nil where nobody wants to know: it
// needs Config, Identity and *slog.Logger.
//
// List it before what makes spans: it stops after them, and sends what waits.
func Module() fx.Option {
	return fx.Module("tracing", fx.Provide(build, tracer), fx.Invoke(run))
}

// provider is nil within where tracing is off.
type provider struct{ *sdk.TracerProvider }

func build(c Config, who Identity) (provider, error) {
	p, err := Start(context.Background(), c, who)
	return provider{p}, err
}

func tracer(p provider, log *slog.Logger) *trace.Tracer {
	if p.TracerProvider == nil {
		return trace.New(nil, log)
	}
	return trace.New(p, log)
}

func run(life fx.Lifecycle, p provider, log *slog.Logger) {
	if p.TracerProvider == nil {
		return
	}
	// For the process, so not Start's to set. A collector that is away fails each batch.
	lines := rate.Sometimes{First: 1, Interval: time.Minute}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		lines.Do(func() { log.Warn("traces are lost: the collector does not take them", "error", err) })
	}))
	life.Append(fx.Hook{OnStop: func(ctx context.Context) error {
		if err := Stop(ctx, p.TracerProvider); err != nil {
			log.Warn("the last traces are lost", "error", err) // no reason to end badly
		}
		return nil
	}})
}
