package server

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"
)

// Module is the gRPC server of a process: it needs Config, Common, *router.Bus,
// *access.Guard, *slog.Logger and prometheus.Registerer, and provides *Server.
//
// List it after the bus's module, so that the server starts after the bus and
// stops before it, and give the application a stop timeout longer than
// DRAIN_TIMEOUT: fx's own is 15 s.
func Module() fx.Option {
	return fx.Module("server",
		fx.Provide(New),
		fx.Invoke(func(lc fx.Lifecycle, s *Server) { lc.Append(fx.StartStopHook(s.Start, s.Stop)) }),
	)
}

// AdminModule is the admin server of a process, on addr: it needs
// *prometheus.Registry, Readiness and *slog.Logger, and provides *Admin.
//
// List it before the other modules, so that it starts first and stops last:
// /readyz answers while they drain. An addr that is empty or "off" is no admin
// server.
func AdminModule(addr string) fx.Option {
	if addr == "" || addr == "off" {
		return fx.Options()
	}
	return fx.Module("admin",
		fx.Provide(func(reg *prometheus.Registry, ready Readiness, log *slog.Logger) *Admin {
			return NewAdmin(addr, reg, ready, log)
		}),
		fx.Invoke(func(lc fx.Lifecycle, a *Admin) { lc.Append(fx.StartStopHook(a.Start, a.Stop)) }),
	)
}
