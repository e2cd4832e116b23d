// Package server serves the bus over gRPC, and its process to operators.
//
// It owns the wire: checking requests (validate.go), converting events between
// proto and router/event (convert.go, jsonvalue.go), the statuses of errors
// (errors.go), streams and their heartbeats (stream.go; relay.go for edges, inside.go
// where the edge is in this process), what operators see (inspect.go), what every call passes
// (interceptors.go), who may call and how often (access.go, rate.go), grpc.health.v1 (health.go), the drain (Server.Stop), and the
// admin HTTP server that every process has (admin.go). It keeps no events and
// knows no Redis.
//
// On an event's way: publisher → service.go → router.Bus; router.Subscription or
// router.Watch → stream.go → any gRPC client; router.Relay → relay.go → edge.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/certs"
)

// Limits of connections.
const (
	// maxRecvBytes is above MaxBatchBytes, so that a batch that is too large is
	// told so by name.
	maxRecvBytes   = 16 << 20
	maxHeaderBytes = 64 << 10
	// maxStreams is per connection, and as good as none: an edge has one connection
	// and a stream for each job on it, and a client that meets the limit waits
	// without a word.
	maxStreams = math.MaxInt32
	// minPing is how often clients may ping. Those that ask for every 10 s must not
	// be cut off for a jitter.
	minPing = 5 * time.Second
	// A peer that is silent for pingAfter is pinged, and gone after pingTimeout
	// more: its streams end.
	pingAfter        = 30 * time.Second
	pingTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	// streamWorkers are goroutines that serve calls one after the other; with more
	// calls at once, the others get one of their own.
	streamWorkers = 128
)

// Server serves a bus over gRPC.
type Server struct {
	addr         string
	drainTimeout time.Duration
	log          *slog.Logger
	grpc         *grpc.Server
	drain        *drain
	health       *healthWatch
	bus          *router.Bus
	relay        *relayService

	lis     net.Listener
	running sync.WaitGroup
}

// New makes a server that will listen on cfg.GRPCAddr; an error is a metric that
// reg refuses or a TLS file. The bus and the guard are the caller's: they must
// outlive the server.
func New(cfg Config, common Common, bus *router.Bus, guard *access.Guard, log *slog.Logger, reg prometheus.Registerer) (*Server, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("gRPC server: metrics: %w", err)
	}
	d := newDrain(cfg.MaxConnectionAge)
	d.ended = m.ended
	a := &authorizer{guard: guard, services: cfg.ClientNames, rates: newCallerRates(cfg.PublishRate), refused: m.refused}
	errs := newErrorMapper(log)
	options := append(connectionOptions(cfg.MaxConnectionAge), interceptors(log, m.grpc, errs, d, a)...)
	if cfg.TLSCert != "" {
		files, err := certs.Load(cfg.tls(), log)
		if err != nil {
			return nil, fmt.Errorf("gRPC server: %w", err)
		}
		options = append(options, grpc.Creds(credentials.NewTLS(files.Server("h2"))))
	}
	s := &Server{
		addr: cfg.GRPCAddr, drainTimeout: common.DrainTimeout, log: log, drain: d, bus: bus,
		grpc: grpc.NewServer(options...),
	}
	rules := &validator{domains: bus.Domains(), maxEventBytes: bus.MaxEventBytes(), keyRequired: bus.KeyRequired()}
	s.relay = &relayService{bus: bus, rules: rules, errs: errs, heartbeat: common.HeartbeatInterval, metrics: m.stream("Relay")}
	relayv1.RegisterRelayServiceServer(s.grpc, s.relay)
	inspectv1.RegisterInspectServiceServer(s.grpc, &inspectService{bus: bus, rules: rules})
	eventbusv1.RegisterEventBusServiceServer(s.grpc, &service{
		bus:   bus,
		rules: rules,
		streams: streams{
			heartbeat: common.HeartbeatInterval, subscribe: m.stream("Subscribe"), watch: m.stream("Watch"),
		},
	})
	s.health = newHealthWatch(s.grpc, s.serving)
	if cfg.Reflection {
		reflection.Register(s.grpc)
	}
	m.grpc.InitializeMetrics(s.grpc)
	return s, nil
}

// connectionOptions are the limits of connections. Age makes a client connect anew
// and, with a dns:/// name, look for routers again (gRPC varies it by 10 %). Streams
// stay on the old connection until they have their own age (drain.stream); what
// then still is on it does not read, and is cut.
func connectionOptions(age time.Duration) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRecvBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: pingAfter, Timeout: pingTimeout, MaxConnectionAge: age, MaxConnectionAgeGrace: 2 * age, // 0 is never
		}),
		// A goroutine that is new grows its stack in each call: a tenth of what a publish
		// costs. Streams keep theirs, so where there are many this does nothing.
		grpc.NumStreamWorkers(streamWorkers),
		// After Stop no call uses the bus any more.
		grpc.WaitForHandlers(true),
	}
}

// Start listens and serves in the background until Stop. It must be called once.
func (s *Server) Start(ctx context.Context) error {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("gRPC server: %w", err)
	}
	s.lis = lis
	s.running.Go(func() {
		if err := s.grpc.Serve(lis); err != nil {
			s.log.Error("gRPC server ended", "error", err)
		}
	})
	s.running.Go(func() { s.health.run(s.drain.ctx) })
	s.log.Info("gRPC server listens", "addr", lis.Addr().String())
	return nil
}

// Addr is where it listens, with the real port; empty before Start.
func (s *Server) Addr() string {
	if s.lis == nil {
		return ""
	}
	return s.lis.Addr().String()
}

// Ready is the Readiness of the bus and its server.
func (s *Server) Ready() (ok bool, text string) {
	if s.drain.ctx.Err() != nil {
		return false, "draining"
	}
	st := s.bus.Status()
	switch {
	case st.Err != nil:
		return false, st.Err.Error()
	case st.Degraded != "":
		return true, "degraded: " + st.Degraded
	}
	return true, "ok"
}

func (s *Server) serving() bool {
	ok, _ := s.Ready()
	return ok
}

// Stop ends serving, within the drain timeout or until ctx ends, whichever is
// first. It is harmless before Start. The order:
//
//  1. Not ready, not healthy: no new clients are sent here.
//  2. All streams end with UNAVAILABLE: subscribers resume at another router.
//     (GracefulStop would wait for them for ever.)
//  3. The listener closes; calls under way, such as a Publish that Redis has
//     already got, are answered.
//  4. What is left after the drain timeout is cut.
//
// The bus is stopped by the caller, afterwards.
func (s *Server) Stop(ctx context.Context) {
	s.health.stop()              // 1
	s.drain.begin(errDraining()) // 1 and 2
	ctx, cancel := context.WithTimeout(ctx, s.drainTimeout)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop() // 3
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.log.Warn("gRPC calls that did not end within the drain timeout are cut")
		s.grpc.Stop() // 4
		<-done
	}
	s.running.Wait()
	s.relay.receivers.Wait()
}
