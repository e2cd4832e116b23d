package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// testConfig is a quick bus on the given Redis.
func testConfig(streams, pubsub string) Config {
	return Config{
		StreamsURL: streams, PubSubURL: pubsub,
		Domains: []string{"scan", "chat"}, ShardCount: 4, ConsumerGroup: "eventrouter", PodName: "router-0",
		Retention: time.Hour, IdempotencyWindow: 2 * time.Hour,
		LeaseTTL: time.Second, HeadCheckInterval: time.Second, ProbeInterval: time.Second,
		MaxEventBytes: 262144, MaxLag: 5000,
	}
}

// testBus is a bus and what it stands on.
type testBus struct {
	*Bus
	t       testing.TB
	streams *redistest.Server
	pubsub  *redistest.Server
	reg     *prometheus.Registry
	// dead: the bus was killed; its connections are closed already.
	dead atomic.Bool
}

// newTestBus starts a bus on two Redis of its own.
func newTestBus(t testing.TB, change ...func(*Config)) *testBus {
	t.Helper()
	streams, pubsub := redistest.New(t), redistest.New(t)
	return startBus(t, streams, pubsub, change...)
}

// startBus starts a bus on Redis that is there.
func startBus(t testing.TB, streams, pubsub *redistest.Server, change ...func(*Config)) *testBus {
	t.Helper()
	tb := newBus(t, testConfig(streams.URL(), pubsub.URL()), change...)
	tb.streams, tb.pubsub = streams, pubsub
	tb.Start()
	tb.waitReady()
	return tb
}

// newBus makes a bus that is not started; it is stopped with the test.
func newBus(t testing.TB, cfg Config, change ...func(*Config)) *testBus {
	t.Helper()
	for _, c := range change {
		c(&cfg)
	}
	reg := prometheus.NewRegistry()
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil)).With("pod", cfg.PodName)
	if _, bench := t.(*testing.B); bench {
		log = slog.New(slog.DiscardHandler)
	}
	b, err := New(cfg, log, reg)
	if err != nil {
		t.Fatal(err)
	}
	tb := &testBus{Bus: b, t: t, reg: reg}
	t.Cleanup(func() {
		if tb.Bus != nil {
			tb.halt()
		}
	})
	return tb
}

// halt stops the bus before the test ends.
func (tb *testBus) halt() {
	tb.t.Helper()
	if err := tb.Stop(); err != nil && !tb.dead.Load() {
		tb.t.Errorf("stop: %v", err)
	}
	tb.Bus = nil
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p))
	return len(p), nil
}

func (tb *testBus) waitReady() {
	tb.t.Helper()
	eventually(tb.t, "the bus is ready", func() bool { return tb.Status().Err == nil })
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("timed out: %s", what)
		case <-tick.C:
		}
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

// publish publishes one event, which must succeed.
func (tb *testBus) publish(e event.Event) {
	tb.t.Helper()
	if e.Domain == "" {
		e.Domain = "scan"
	}
	if _, err := tb.Publish(testContext(tb.t), []Request{{Event: &e}}); err != nil {
		tb.t.Fatalf("publish %s/%s: %v", e.JobID, e.Stage, err)
	}
}

// subscribe begins a subscription that ends with the test.
func (tb *testBus) subscribe(jobID string, o SubscribeOptions) *testSub {
	tb.t.Helper()
	s, err := tb.Subscribe(testContext(tb.t), "scan", jobID, o)
	if err != nil {
		tb.t.Fatalf("subscribe %s: %v", jobID, err)
	}
	ts := &testSub{Subscription: s, t: tb.t}
	tb.t.Cleanup(ts.close)
	return ts
}

// testSub collects what a subscription delivers.
type testSub struct {
	*Subscription
	t      testing.TB
	events []*event.Event
	gaps   []*event.Gap
	ended  bool
	closed bool
}

func (s *testSub) close() {
	if !s.closed {
		s.closed = true
		s.Close()
	}
}

// step takes one batch; it returns false at the end of the stream.
func (s *testSub) step() bool {
	s.t.Helper()
	b, err := s.Next(testContext(s.t), patience)
	if errors.Is(err, io.EOF) {
		s.ended = true
		return false
	}
	if err != nil {
		s.t.Fatalf("next: %v", err)
	}
	if b.Gap == nil && len(b.Items) == 0 {
		s.t.Fatalf("nothing came for %s; have %s", patience, s.text())
	}
	if b.Gap != nil {
		s.gaps = append(s.gaps, b.Gap)
	}
	for _, it := range b.Items {
		s.events = append(s.events, it.Value)
	}
	return true
}

// take waits until n events came.
func (s *testSub) take(n int) []*event.Event {
	s.t.Helper()
	for len(s.events) < n {
		if !s.step() {
			break
		}
	}
	if len(s.events) < n {
		s.t.Fatalf("the stream ended after %d of %d events: %s", len(s.events), n, s.text())
	}
	return s.events
}

// drain waits for the end of the stream.
func (s *testSub) drain() []*event.Event {
	s.t.Helper()
	for !s.ended {
		s.step()
	}
	return s.events
}

func (s *testSub) text() string {
	out := ""
	for _, e := range s.events {
		out += fmt.Sprintf(" %d:%s", e.Seq, e.Stage)
	}
	return out
}

// dense checks that events have the sequence numbers 1, 2, 3 …
func dense(t testing.TB, events []*event.Event) {
	t.Helper()
	for i, e := range events {
		if want := uint32(i) + 1; e.Seq != want {
			t.Fatalf("event %d has seq %d, want %d", i, e.Seq, want)
		}
	}
}

// kill ends the bus as SIGKILL would: from now on it reaches no Redis, and gives
// nothing back.
func (tb *testBus) kill() {
	for _, c := range tb.closers {
		_ = c() // a second close, when the test ends, fails
	}
}

// crashAt makes the bus die when a bridge comes to that step for the nth time.
func (tb *testBus) crashAt(step string, nth int) {
	var n atomic.Int32
	tb.deps.step = func(name string) error {
		if name == step && int(n.Add(1)) >= nth {
			tb.dead.Store(true)
			tb.kill()
			return errCrash
		}
		return nil
	}
}

// xadd appends a legacy entry, as a worker without the bus does.
func (tb *testBus) xadd(jobID string, fields ...string) string {
	tb.t.Helper()
	values := append([]string{"job_id", jobID}, fields...)
	id, err := tb.streams.Client().XAdd(testContext(tb.t), &redis.XAddArgs{
		Stream: shardKey("scan", event.ShardOf(jobID, 4)), MaxLen: 10000, Approx: true, Values: values,
	}).Result()
	if err != nil {
		tb.t.Fatal(err)
	}
	return id
}

// metric sums a metric over its labels.
func (tb *testBus) metric(name string) float64 {
	tb.t.Helper()
	families, err := tb.reg.Gather()
	if err != nil {
		tb.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// stages is a job as text: "queued vision done".
func stages(events []*event.Event) string {
	names := make([]string, len(events))
	for i, e := range events {
		names[i] = e.Stage
	}
	return strings.Join(names, " ")
}
