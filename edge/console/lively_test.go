package console

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// Jobs of a lively bus.
const (
	exampleJob = "904fb02f-3e06-482c-b271-e641d3275d6b" // ended well
	deadJob    = "5f2c0c1e-77aa-4d0e-9a51-0d5a3f2f9a10" // has only dead letters
	failedJob  = "c3a7e1d2-0b8f-4f7e-8f55-aa1be0d9c001"
)

// worker publishes by gRPC.
type worker struct {
	tb  testing.TB
	api eventbusv1.EventBusServiceClient
}

func newWorker(tb testing.TB, b *bustest.Bus, opts ...grpc.DialOption) worker {
	tb.Helper()
	conn, err := grpc.NewClient(b.GRPC, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return worker{tb, eventbusv1.NewEventBusServiceClient(conn)}
}

func (w worker) publish(e *eventbusv1.Event) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bustest.Patience)
	defer cancel()
	if e.GetDomain() == "" {
		e.Domain = "scan"
	}
	if _, err := w.api.Publish(ctx, &eventbusv1.PublishRequest{Event: e}); err != nil {
		w.tb.Fatalf("publish %s/%s: %v", e.GetJobId(), e.GetStage(), err)
	}
}

// legacy appends an entry as an old worker does; an id of * is now.
func legacy(tb testing.TB, b *bustest.Bus, id, job string, fields ...string) {
	tb.Helper()
	key := fmt.Sprintf("scan:events:%d", event.ShardOf(job, 4))
	b.Redis.CLI(tb, append([]string{"XADD", key, id, "job_id", job}, fields...)...)
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// scan publishes a scan with a little time between its events.
func (w worker) scan(job string, pace time.Duration, until int, failed bool) {
	w.tb.Helper()
	pause := time.NewTicker(pace)
	defer pause.Stop()
	stages := []struct {
		name, message string
		paces         int
		result        map[string]any
	}{
		{"queued", "waiting for a free worker", 1, nil},
		{"vision", "looking at the photo", 6, map[string]any{"category": "metal can", "confidence": 0.97}},
		{"rule", "looking up the rule", 3, map[string]any{"rule_id": "metal-can"}},
		{"answer", "writing the answer", 5, nil}, {"reward", "choosing the reward", 2, nil},
	}
	for i, s := range stages[:until] {
		progress := int32(100 * i / len(stages))
		w.publish(&eventbusv1.Event{JobId: job, Stage: s.name, Status: "started", Progress: &progress, Message: s.message, Traceparent: traceparent})
		for range s.paces {
			<-pause.C
			if s.name == "answer" {
				w.publish(&eventbusv1.Event{JobId: job, Stage: s.name, Status: "streaming", Content: "Rinse the can, press it flat, bring it back. "})
			}
		}
		e := &eventbusv1.Event{JobId: job, Stage: s.name, Status: "completed", Progress: &progress, Traceparent: traceparent}
		if failed && i == until-1 {
			e.Status, e.Message, e.Final = "failed", "out of memory", true
		} else if s.result != nil {
			v, err := structpb.NewValue(s.result)
			if err != nil {
				w.tb.Fatal(err)
			}
			e.Result = v
		}
		w.publish(e)
	}
	if until == len(stages) {
		w.publish(&eventbusv1.Event{JobId: job, Stage: "done", Status: "completed", Progress: new(int32(100)), Final: true, Traceparent: traceparent})
	}
}

// newLivelyBus is a bus with jobs of all kinds, some of which go on.
func newLivelyBus(t *testing.T, change ...bustest.Settings) *bustest.Bus {
	t.Helper()
	streams := redistest.New(t, redistest.WithAppendOnly(), redistest.WithConfig("maxmemory", "100mb"), redistest.WithConfig("maxmemory-policy", "noeviction"))
	b := bustest.NewOn(t, streams, append([]bustest.Settings{{"CONSOLE": "true", "POD_NAME": "router-0"}}, change...)...)
	w := newWorker(t, b)
	w.scan(exampleJob, 60*time.Millisecond, 5, false)
	w.scan(failedJob, 20*time.Millisecond, 2, true)
	legacy(t, b, "*", deadJob, "stage", "", "status", "started")
	legacy(t, b, "*", deadJob, "stage", "", "status", "completed")
	ctx, stop := context.WithCancel(context.Background())
	var working sync.WaitGroup
	for i := range 3 {
		working.Go(func() { w.goOn(ctx, i) })
	}
	t.Cleanup(func() { stop(); working.Wait() })
	return b
}

// goOn publishes jobs until ctx ends.
func (w worker) goOn(ctx context.Context, n int) {
	tick := time.NewTicker(70 * time.Millisecond)
	defer tick.Stop()
	for round := 0; ; round++ {
		job := fmt.Sprintf("%d%s-%04d", 7+n, strings.Repeat("b", 7), round)
		for i := range 40 {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			e := &eventbusv1.Event{Domain: []string{"scan", "chat"}[n%2], JobId: job, Stage: []string{"queued", "vision", "rule", "answer"}[i/10], Status: "started", Progress: new(int32(i * 5 / 2)), Final: i == 39}
			if e.GetFinal() {
				e.Stage, e.Status = "done", "completed"
			}
			if _, err := w.api.Publish(ctx, &eventbusv1.PublishRequest{Event: e}); err != nil {
				if ctx.Err() == nil && status.Code(err) != codes.Unavailable { // the test may have ended the bus
					w.tb.Errorf("publish: %v", err)
				}
				return
			}
		}
	}
}
