package edge

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"
)

func TestModule_StartsServesAndStops(t *testing.T) {
	f := newFakeRouter(t)
	f.finish("j")
	var s *Server
	app := fxtest.New(t, Module(), fx.Populate(&s), fx.NopLogger, fx.Supply(
		Config{HTTPAddr: "127.0.0.1:0", RouterAddr: f.addr},
		Options{Heartbeat: time.Second, Drain: tooLong, Log: slog.New(slog.DiscardHandler), Metrics: fresh()},
	))
	app.RequireStart()
	until(t, "ready", func() bool { ok, _ := s.Ready(); return ok })
	app.RequireStop()
	if ok, _ := s.Ready(); ok {
		t.Error("ready after its end")
	}
}
