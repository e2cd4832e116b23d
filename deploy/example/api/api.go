// Package api is the Scan API: it takes a picture, gives the scan to the queue, and says
// where to watch it and where its result will be. It keeps nothing itself, so that there
// may be any number of it: what it knows of a scan it asks the bus.
//
//	browser ──POST /scan──► API ──► bus: "queued"; RabbitMQ: the picture ──► worker
//	browser ◄──SSE── edge ◄── bus ◄── worker
package api

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/eco2-team/eventbus/deploy/example/bus"
	"github.com/eco2-team/eventbus/deploy/example/queue"
)

// Config is the API's settings.
type Config struct {
	APIAddr     string  `name:"api-addr" env:"API_ADDR" default:":8080" help:"Where the API and its page are."`
	AMQPURL     string  `name:"amqp-url" env:"AMQP_URL" required:"" help:"RabbitMQ, amqp://user:password@host:5672/vhost."`
	RouterAddr  string  `name:"router-addr" env:"ROUTER_ADDR" required:"" help:"The bus, host:port or dns:///host:port."`
	EventsURL   string  `name:"events-url" env:"EVENTS_URL" required:"" help:"Where browsers reach the edge, http://host:port; its CORS_ORIGINS must name this API's origin."`
	Tries       int     `name:"queue-tries" env:"QUEUE_TRIES" default:"10" help:"How often a scan is handed out again before it is a dead letter; the same for everybody who uses the queues."`
	LegacyShare float64 `name:"legacy-share" env:"LEGACY_SHARE" default:"0" help:"Share of the scans that go to legacy workers, 0-1."`
}

// Check names what is out of bounds.
func (c Config) Check() error {
	var errs []error
	if u, err := url.Parse(c.EventsURL); err != nil || u.Host == "" {
		errs = append(errs, fmt.Errorf("EVENTS_URL is %q, want http://host:port", c.EventsURL))
	}
	if c.LegacyShare < 0 || c.LegacyShare > 1 {
		errs = append(errs, fmt.Errorf("LEGACY_SHARE is %g, want 0 to 1", c.LegacyShare))
	}
	if c.Tries < 1 || c.Tries > 1000 {
		errs = append(errs, fmt.Errorf("QUEUE_TRIES is %d, want 1 to 1000", c.Tries))
	}
	return errors.Join(errs...)
}

const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	drainTimeout  = 30 * time.Second
)

//go:embed page
var page embed.FS

type server struct {
	config Config
	bus    *bus.Bus
	queue  *queue.Publisher
	log    *slog.Logger
}

// Run serves until ctx ends, and then finishes what is under way.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	if err := c.Check(); err != nil {
		return err
	}
	b, err := bus.Dial(c.RouterAddr, log)
	if err != nil {
		return err
	}
	publisher := queue.NewPublisher(c.AMQPURL, c.Tries)
	defer func() {
		publisher.Close()
		if err := b.Close(); err != nil {
			log.Warn("close", "error", err)
		}
	}()
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", c.APIAddr)
	if err != nil {
		return fmt.Errorf("API_ADDR: %w", err)
	}
	handler, err := (&server{c, b, publisher, log}).routes()
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		stopped <- s.Shutdown(ctx)
	}()
	log.Info("serving", "addr", lis.Addr().String())
	if err := s.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func (s *server) routes() (http.Handler, error) {
	files, err := fs.Sub(page, "page")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /scan", s.postScan)
	mux.HandleFunc("GET /scan/{job_id}/result", s.getResult)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, status{Status: "ok"}) })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /", http.FileServerFS(files))
	return mux, nil
}

// readyz is 503 while a scan could not be taken.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	_, err := s.bus.State(ctx, "ready")
	if err == nil {
		err = s.queue.Ready(ctx)
	}
	if err != nil {
		answer(w, http.StatusServiceUnavailable, status{Status: "unavailable", Error: err.Error()})
		return
	}
	answer(w, http.StatusOK, status{Status: "ok"})
}

const readyTimeout = 3 * time.Second
