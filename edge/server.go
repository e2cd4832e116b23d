// Package edge serves the bus to browsers: HTTP, Server-Sent Events and NDJSON
// over the routers' gRPC API.
//
// It owns the SSE wire, cursors, CORS and the draining of streams. It never sees
// Redis, keeps nothing that a router does not have, and starts no goroutine for a
// job or for a browser: a stream that has begun over plain HTTP/1
// is taken over from net/http and written by one writer for all (docs/adr/0009).
//
// On an event's way, each step a file:
//
//	server/ Relay → relay.go (a few streams for all jobs) → topic.go (one per job,
//	topics.go) → sse.go (framed once) → router/hub (ring) → jobfeed.go (one per browser;
//	pages.go for laggards; watchfeed.go for Watch) → outlet.go (one write)
//	→ gateway.go (the generated HTTP API) → the browser
//
// or, once the stream was taken over: ring → crowd.go (those who have everything)
// → packet.go (one write each) → the browser; line.go for who lags behind; lines.go
// for heartbeats, ends and the drain.
//
// A request's way: server.go → request.go (admit: limits.go, access.go) → gateway.go
// (grants) → jobfeed.go.
package edge

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/cors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	page "github.com/eco2-team/eventbus/edge/client"
	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/certs"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

//go:embed openapi.json
var openAPI []byte

// Options is what a Server needs beside its Config.
type Options struct {
	// Heartbeat is how often a silent stream says so; routers must send theirs at
	// least once in three of these.
	Heartbeat time.Duration
	// Drain bounds Stop.
	Drain time.Duration
	// Console serves / where Config.Console is set.
	Console http.Handler
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Access checks browsers; nil lets everybody do everything. The caller closes it.
	Access *access.Guard
	// RouterToken is the edge's own towards its routers; empty where it is in
	// ROUTER_TOKEN_FILE or there is none. Module uses it.
	RouterToken string
	// Relay is the router in this process; nil: jobs come through the connection.
	Relay relayv1.RelayServiceClient
	// Trace has the way of events written down; nil is nowhere.
	Trace *trace.Tracer
	// Failed is told when the server stops by itself. It may be nil.
	Failed func(error)
}

// Server is one edge. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	opts    Options
	router  *grpc.ClientConn
	metrics *metrics
	guard   *access.Guard
	gate    *gate
	topics  *topics
	gateway *runtime.ServeMux
	client  *client
	lines   *lines
	// inspector answers the console.
	inspector *inspector
	modules   map[string]http.Handler // eventbus.js
	http      *http.Server

	// pace and readTimeout are the constants; tests that wait for them shorten them.
	pace        pace
	readTimeout time.Duration

	// draining ends when Stop begins.
	draining context.Context
	drain    context.CancelFunc
	open     atomic.Int64 // streams
	serving  atomic.Bool
	addr     net.Addr
	served   sync.WaitGroup
}

// New makes an edge in front of the routers behind the connection, see Dial; the
// caller closes the connection after Stop.
func New(cfg Config, router *grpc.ClientConn, opts Options) (*Server, error) {
	m, err := newMetrics(opts.Metrics)
	if err != nil {
		return nil, fmt.Errorf("edge: metrics: %w", err)
	}
	s := &Server{
		cfg: cfg, opts: opts, router: router, metrics: m, modules: page.Files(),
		pace: pace{writeTimeout, writeRate}, readTimeout: readTimeout,
	}
	if s.guard = opts.Access; s.guard == nil {
		if s.guard, err = access.New(access.Config{}, opts.Log); err != nil {
			return nil, err
		}
	}
	if cfg.RouterTokenFile != "" && !s.guard.Required() {
		return nil, errOpenEdge
	}
	s.gate = newGate(cfg, s.guard.Proxies(), m)
	s.draining, s.drain = context.WithCancel(context.Background())
	api := eventbusv1.NewEventBusServiceClient(router)
	relay, streams := opts.Relay, 1
	if relay == nil {
		relay, streams = relayv1.NewRelayServiceClient(router), relayStreams
	}
	s.topics = newTopics(api, relay, streams, opts.Heartbeat, m, opts.Log)
	if err := opts.Metrics.Register(hub.Collector("eventbus_edge", s.topics.rings)); err != nil {
		return nil, fmt.Errorf("edge: metrics: %w", err)
	}
	s.client = &client{EventBusServiceClient: api, topics: s.topics, metrics: m,
		buffers: &sync.Pool{New: func() any { return new([]byte) }}}
	s.inspector = newInspector(s)
	s.lines = newLines(s.client, &s.pace, opts.Heartbeat)
	s.topics.lines, s.topics.trace = s.lines, opts.Trace
	if s.gateway, err = newGateway(s.client); err != nil {
		return nil, fmt.Errorf("edge: gateway: %w", err)
	}
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ConnContext:       markTCP,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000, // a proxy carries many browsers on one connection
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          writeTimeout,
			WriteByteTimeout:     writeTimeout,
		},
		Protocols: new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	if cfg.HTTPTLSCert != "" {
		files, err := certs.Load(certs.Paths{Cert: cfg.HTTPTLSCert, Key: cfg.HTTPTLSKey}, opts.Log)
		if err != nil {
			return nil, fmt.Errorf("edge: %w", err)
		}
		s.http.Protocols.SetHTTP2(true)
		s.http.TLSConfig = files.Server("h2", "http/1.1")
	}
	return s, nil
}

// Handler is everything the edge serves.
func (s *Server) Handler() http.Handler {
	h := http.HandlerFunc(s.serve)
	if len(s.cfg.CORSOrigins) == 0 {
		return h
	}
	return cors.New(cors.Options{
		AllowedOrigins:   s.cfg.CORSOrigins,
		AllowCredentials: true,
		// All of them: a page should be able to read its 405.
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Content-Type", "Idempotency-Key", "Authorization", "Last-Event-ID", "Cache-Control"},
		ExposedHeaders: []string{"Retry-After"},
		MaxAge:         600,
	}).Handler(h)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		_ = control.SetReadDeadline(time.Now().Add(s.readTimeout))
	}
	// Streams set their own, write by write.
	_ = control.SetWriteDeadline(time.Now().Add(callTimeout + readTimeout + writeTimeout))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	module := s.modules[r.URL.Path]
	switch {
	case r.URL.Path == "/openapi.json":
		s.serveOpenAPI(w, r)
	case module != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		module.ServeHTTP(w, r)
	case module != nil:
		writeError(w, &call{}, refuseMethod(r.Method, http.MethodGet, http.MethodHead))
	case strings.HasPrefix(r.URL.Path, inspectPath) && s.cfg.Console:
		s.serveInspect(w, r)
	case strings.HasPrefix(r.URL.Path, "/api/") || !s.cfg.Console || s.opts.Console == nil:
		s.serveAPI(w, r)
	default:
		s.opts.Console.ServeHTTP(w, r)
	}
}

func (s *Server) serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		writeError(w, &call{}, refuseMethod(r.Method, http.MethodGet, http.MethodHead))
		return
	}
	w.Header().Set("Content-Type", contentJSON)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(openAPI)
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	c, err := s.admit(w, r)
	defer c.left()
	if err != nil {
		s.client.fail(w, c, err)
		return
	}
	ctx := withCall(r.Context(), c)
	if !c.streams() {
		s.gateway.ServeHTTP(w, r.WithContext(ctx))
		return
	}
	if s.draining.Err() != nil {
		s.client.fail(w, c, explainEnd(s.draining, errDraining))
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.open.Add(1)
	defer s.open.Add(-1)
	defer context.AfterFunc(s.draining, func() { s.endStream(ctx, cancel) })()
	defer expire(c.identity, cancel)()
	if c.sse && c.kind == kindJob && s.lines.takes(r) {
		c.lines, c.chunked = s.lines, r.ProtoAtLeast(1, 1)
	}
	out := newStreamWriter(w, r, s.pace, s.metrics)
	c.out = newOutlet(c.sse, out, s.client)
	defer c.end()
	s.gateway.ServeHTTP(out, r.WithContext(ctx))
}

// Start listens and serves until Stop.
func (s *Server) Start(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("edge: HTTP_ADDR: %w", err)
	}
	if err := s.lines.start(); err != nil {
		s.opts.Log.Info("each stream has a goroutine of its own", "reason", err)
	}
	s.topics.start()
	s.addr = l.Addr()
	s.serving.Store(true)
	s.served.Go(func() {
		serve := s.http.Serve
		if s.http.TLSConfig != nil {
			serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.serving.Store(false)
			s.opts.Log.Error("edge stopped serving", "error", err)
			if s.opts.Failed != nil {
				s.opts.Failed(err)
			}
		}
	})
	s.opts.Log.Info("edge serves", "addr", s.addr.String(), "router", s.cfg.RouterAddr)
	return nil
}

// Addr is where the edge listens, after Start.
func (s *Server) Addr() net.Addr { return s.addr }

// Stop sends all browsers to another edge and waits for them, until ctx ends or
// Options.Drain has passed; then it cuts them off.
func (s *Server) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Drain)
	defer cancel()
	// First nobody new: not ready, and streams are refused. Then the browsers, who
	// are senders to nobody but receive from topics; then the topics, who receive
	// from routers.
	s.serving.Store(false)
	s.drain()
	lines := make(chan error, 1)
	go func() { lines <- s.lines.drain(ctx, s.opts.Drain/2) }()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("edge: streams were cut off: %w", err), s.http.Close())
	}
	if cut := <-lines; cut != nil {
		err = errors.Join(err, fmt.Errorf("edge: taken-over streams were cut off: %w", cut))
	}
	s.served.Wait()
	s.topics.close()
	s.lines.close()
	return err
}

// drainPace is how long the edge takes to send one browser away, so that thousands
// do not arrive at the others in the same moment. Half of the drain time is the
// most that it takes for all.
const drainPace = time.Millisecond

// endStream ends a stream at a moment of its own within the drain.
func (s *Server) endStream(ctx context.Context, end context.CancelCauseFunc) {
	spread := min(time.Duration(s.open.Load())*drainPace, s.opts.Drain/2)
	wait := time.NewTimer(rand.N(spread + 1))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	end(errDraining)
}

// Ready tells whether the edge can serve, and why not. It does not block.
func (s *Server) Ready() (ok bool, text string) {
	if !s.serving.Load() {
		return false, "not serving"
	}
	switch state := s.router.GetState(); state {
	case connectivity.Ready:
		if !s.topics.up() {
			return false, "no router at " + s.cfg.RouterAddr + " streams to this edge; it may be older"
		}
		return true, "a router answers"
	case connectivity.Idle:
		s.router.Connect()
		return false, "connecting to " + s.cfg.RouterAddr
	default:
		return false, "no router answers at " + s.cfg.RouterAddr + ": " + strings.ToLower(state.String())
	}
}
