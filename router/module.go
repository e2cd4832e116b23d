package router

import (
	"context"

	"go.uber.org/fx"
)

// Module provides a running *Bus from a Config, a *slog.Logger and a
// prometheus.Registerer. List it before what uses it: it stops after them.
func Module() fx.Option {
	return fx.Module("router", fx.Provide(New), fx.Invoke(func(lc fx.Lifecycle, b *Bus) {
		lc.Append(fx.Hook{
			OnStart: func(context.Context) error { b.Start(); return nil },
			OnStop:  func(context.Context) error { return b.Stop() },
		})
	}))
}
