package server

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/access"
)

func TestModule_StartsTheServerAndStopsItBeforeTheAdminServer(t *testing.T) {
	r := newRig(t)
	var s *Server
	var a *Admin
	reg := newRegistry()
	app := fx.New(
		AdminModule("127.0.0.1:0"),
		Module(),
		fx.Supply(Config{GRPCAddr: "127.0.0.1:0"}, Common{HeartbeatInterval: time.Second, DrainTimeout: time.Second}, r.bus, reg, openTo(t)),
		fx.Provide(
			func() *slog.Logger { return slog.New(slog.DiscardHandler) },
			func() prometheus.Registerer { return reg },
			func(s *Server) Readiness { return s.Ready },
		),
		fx.NopLogger,
		fx.Populate(&s, &a),
		fx.Invoke(func(lc fx.Lifecycle) {
			lc.Append(fx.StopHook(func() {
				if code, body := get(t, "GET", "http://"+a.Addr()+"/readyz"); code != 200 {
					t.Errorf("before the stop: %d %s", code, body)
				}
			}))
		}),
	)
	if err := app.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Addr() == "" || a.Addr() == "" {
		t.Fatal("not started")
	}
	if err := app.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if ok, _ := s.Ready(); ok {
		t.Error("not stopped")
	}
}

func TestModule_IsComplete(t *testing.T) {
	err := fx.ValidateApp(
		AdminModule(":0"), Module(),
		fx.Supply(Config{}, Common{}),
		fx.Provide(
			func() *router.Bus { return nil }, func() *access.Guard { return nil }, prometheus.NewRegistry,
			func(r *prometheus.Registry) prometheus.Registerer { return r }, slog.Default,
			func(s *Server) Readiness { return s.Ready },
		),
	)
	if err != nil {
		t.Error(err)
	}
}

func TestAdminModule_CanBeOff(t *testing.T) {
	for _, addr := range []string{"off", ""} {
		app := fx.New(AdminModule(addr), fx.NopLogger, fx.Invoke(func(p struct {
			fx.In
			Admin *Admin `optional:"true"`
		},
		) {
			if p.Admin != nil {
				t.Errorf("%q: there is an admin server", addr)
			}
		}))
		if err := app.Err(); err != nil {
			t.Error(err)
		}
	}
}
