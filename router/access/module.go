package access

import "go.uber.org/fx"

// Module provides the *Guard of a process; it needs Config and *slog.Logger.
func Module() fx.Option {
	return fx.Module("access",
		fx.Provide(New),
		fx.Invoke(func(lc fx.Lifecycle, g *Guard) { lc.Append(fx.StopHook(g.Close)) }),
	)
}
