package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/redistest"
)

// rig is a real Redis, a bus on it, its gRPC server and a client, over TCP.
type rig struct {
	redis  *redistest.Server
	bus    *router.Bus
	server *Server
	reg    *prometheus.Registry
	logs   *logBuffer
	conn   *grpc.ClientConn
	eventbusv1.EventBusServiceClient
}

// setup is what a test may change.
type setup struct {
	router router.Config
	common Common
	grpc   Config
	access access.Config
	level  slog.Level
}

// newRig starts all and waits until the server is ready.
func newRig(t *testing.T, change ...func(*setup)) *rig {
	t.Helper()
	r := &rig{redis: redistest.New(t), reg: prometheus.NewRegistry(), logs: &logBuffer{}}
	cfg := setup{
		router: router.Config{
			StreamsURL: r.redis.URL(), Domains: []string{"scan", "chat"}, ShardCount: 4, ConsumerGroup: "eventrouter",
			PodName: "router-0", Retention: time.Hour, IdempotencyWindow: 2 * time.Hour, LeaseTTL: time.Second,
			HeadCheckInterval: time.Second, ProbeInterval: time.Second, MaxEventBytes: 262144, MaxLag: 5000,
		},
		common: Common{HeartbeatInterval: 10 * time.Second, DrainTimeout: 10 * time.Second},
		grpc:   Config{GRPCAddr: "127.0.0.1:0", Reflection: true},
		level:  slog.LevelInfo,
	}
	for _, c := range change {
		c(&cfg)
	}
	log := r.logs.logger(cfg.level)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", r.logs)
		}
	})
	var err error
	if r.bus, err = router.New(cfg.router, log, r.reg); err != nil {
		t.Fatal(err)
	}
	r.bus.Start()
	t.Cleanup(func() {
		if err := r.bus.Stop(); err != nil {
			t.Errorf("stop the bus: %v", err)
		}
	})
	guard, err := access.New(cfg.access, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(guard.Close)
	if r.server, err = New(cfg.grpc, cfg.common, r.bus, guard, log, r.reg); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.server.Stop(context.Background()) })
	r.conn = r.dial(t)
	r.EventBusServiceClient = eventbusv1.NewEventBusServiceClient(r.conn)
	eventually(t, "the server is ready", func() bool { ok, _ := r.server.Ready(); return ok })
	for shard := range cfg.router.ShardCount {
		eventually(t, "the bus reads its shards", func() bool {
			groups, _ := r.redis.Client().XInfoGroups(t.Context(), fmt.Sprintf("scan:events:%d", shard)).Result()
			return len(groups) > 0
		})
	}
	return r
}

// dial makes another connection, closed with the test.
func (r *rig) dial(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(r.server.Addr(), append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLong)
	t.Cleanup(cancel)
	return ctx
}

// scanEvent is an event of the domain scan.
func scanEvent(job, stage string) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: "scan", JobId: job, Stage: stage}
}

func finalEvent(job string) *eventbusv1.Event {
	e := scanEvent(job, "done")
	e.Final = true
	return e
}

// publish publishes events in one batch and returns their ids.
func (r *rig) publish(t *testing.T, events ...*eventbusv1.Event) []string {
	t.Helper()
	req := &eventbusv1.PublishBatchRequest{}
	for _, e := range events {
		req.Requests = append(req.Requests, &eventbusv1.PublishRequest{Event: e})
	}
	resp, err := r.PublishBatch(testContext(t), req)
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	var ids []string
	for _, one := range resp.GetResponses() {
		ids = append(ids, one.GetId())
	}
	return ids
}

// projected waits until the log of job "j" holds n events, and returns them.
func (r *rig) projected(t *testing.T, n int) []*eventbusv1.Event {
	t.Helper()
	var page *eventbusv1.ListEventsResponse
	eventually(t, "events are in the job log", func() bool {
		var err error
		page, err = r.ListEvents(testContext(t), &eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j", PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return len(page.GetEvents()) >= n
	})
	return page.GetEvents()
}

// subscribe opens a stream and takes its first message.
func (r *rig) subscribe(t *testing.T, req *eventbusv1.SubscribeRequest) (grpc.ServerStreamingClient[eventbusv1.SubscribeResponse], *eventbusv1.SubscribeResponse) {
	t.Helper()
	s, err := r.Subscribe(testContext(t), req)
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Recv()
	if err != nil {
		t.Fatalf("first message: %v", err)
	}
	if len(first.GetEvents()) > 0 || first.GetGap() != nil {
		t.Fatalf("first message: %v; want no events and no gap", first)
	}
	return s, first
}

// stages receives until there are n events, and returns their stages.
func stages(t *testing.T, s interface {
	Recv() (*eventbusv1.SubscribeResponse, error)
}, n int,
) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(got), n, err)
		}
		for _, e := range m.GetEvents() {
			got = append(got, e.GetStage())
		}
	}
	return got
}

// wantEnd checks that the stream ends with the code; OK is io.EOF.
func wantEnd[M any](t *testing.T, s interface{ Recv() (*M, error) }, want codes.Code) {
	t.Helper()
	for {
		_, err := s.Recv()
		if err == nil {
			continue // a heartbeat
		}
		if want == codes.OK {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v; want OK", err)
			}
		} else if status.Code(err) != want {
			t.Errorf("the stream ended with %v; want %s", err, want)
		}
		return
	}
}

// wantCode checks an error's code.
func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v; want %s", err, want)
	}
}

// metric is the value of a metric with these labels, name and value in turn.
func (r *rig) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			match := true
			for i := 0; i < len(labels); i += 2 {
				match = match && have[labels[i]] == labels[i+1]
			}
			if match {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}
