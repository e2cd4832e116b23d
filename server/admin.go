package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of an admin connection.
const (
	adminReadTimeout  = 5 * time.Second
	adminWriteTimeout = 90 * time.Second // a profile takes 30 s
	adminIdleTimeout  = 2 * time.Minute
	adminHeaderBytes  = 16 << 10
)

// Readiness tells whether the process can do its work, and in words: "ok",
// "degraded: …", or why not. It must not block.
type Readiness func() (ok bool, text string)

// Admin is the HTTP server for operators and probes: /livez, /readyz, /metrics
// and /debug/pprof/. It asks nobody who they are: its port must not be reachable
// from outside.
type Admin struct {
	addr   string
	server *http.Server
	log    *slog.Logger
	lis    net.Listener
	done   chan struct{} // closed when serving has ended
}

// NewAdmin makes an admin server that will listen on addr.
func NewAdmin(addr string, reg *prometheus.Registry, ready Readiness, log *slog.Logger) *Admin {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ok, text := ready()
		if !ok {
			say(w, http.StatusServiceUnavailable, text)
			return
		}
		say(w, http.StatusOK, text)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		Registry: reg,
		// For who asks for it: the format that has exemplars.
		EnableOpenMetrics: true,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
	}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &Admin{
		addr: addr,
		log:  log,
		done: make(chan struct{}),
		server: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: adminReadTimeout,
			ReadTimeout:       adminReadTimeout,
			WriteTimeout:      adminWriteTimeout,
			IdleTimeout:       adminIdleTimeout,
			MaxHeaderBytes:    adminHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // the prober has gone
}

// Start listens and serves in the background until Stop. It must be called once.
func (a *Admin) Start(ctx context.Context) error {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", a.addr)
	if err != nil {
		return fmt.Errorf("admin server: %w", err)
	}
	a.lis = lis
	go func() {
		defer close(a.done)
		if err := a.server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("admin server ended", "error", err)
		}
	}()
	return nil
}

// Addr is where it listens, with the real port; empty before Start.
func (a *Admin) Addr() string {
	if a.lis == nil {
		return ""
	}
	return a.lis.Addr().String()
}

// Stop waits for requests under way until ctx ends, then cuts them. It is
// harmless before Start.
func (a *Admin) Stop(ctx context.Context) error {
	if a.lis == nil {
		return nil
	}
	err := a.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, a.server.Close())
	}
	<-a.done
	return err
}
