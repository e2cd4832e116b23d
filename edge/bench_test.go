package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// sink is a browser's connection that takes everything.
type sink struct {
	header  http.Header
	flushes *atomic.Int64 // of all sinks
}

func (s *sink) Header() http.Header               { return s.header }
func (s *sink) Write(b []byte) (int, error)       { return len(b), nil }
func (s *sink) WriteHeader(int)                   {}
func (s *sink) FlushError() error                 { s.flushes.Add(1); return nil }
func (s *sink) SetWriteDeadline(time.Time) error  { return nil }
func (s *sink) SetReadDeadline(_ time.Time) error { return nil }

// One event to 1,000 browsers: from the router's gRPC stream through the gateway
// to each connection's flush. The allocations are those of all of them together.
func BenchmarkFanOut(b *testing.B) {
	const browsers = 1000
	f := newFakeRouter(b)
	e := newEdge(b, f, func(_ *Config, o *Options) { o.Heartbeat = time.Hour })
	ctx, cancel := context.WithCancel(b.Context())
	var flushes atomic.Int64
	var all sync.WaitGroup
	for range browsers {
		all.Go(func() {
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, jobPath("j"), http.NoBody)
			r.Header.Set("Accept", contentSSE)
			e.serve(&sink{http.Header{}, &flushes}, r)
		})
	}
	until(b, "all are there", func() bool { return flushes.Load() == browsers })
	b.ReportAllocs()
	for n := int64(2); b.Loop(); n++ {
		f.publish("j", &eventbusv1.Event{Stage: "token", Status: "streaming", Content: "t" + strconv.FormatInt(n, 10)})
		if n > 10 {
			f.trim("j", 1)
		}
		for flushes.Load() < n*browsers {
			runtime.Gosched()
		}
	}
	b.ReportMetric(float64(b.N*browsers)/b.Elapsed().Seconds(), "frames/s")
	cancel()
	all.Wait()
}

// A frame costs a browser no allocation: it is written from where all share it.
func TestOutlet_FrameCostsABrowserNoAllocation(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	ring := hub.NewTopicAt[frame](limits(), event.ID{})
	tp := &topic{owner: e.topics}
	tp.ring.Store(ring)
	var flushes atomic.Int64
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, jobPath("j"), http.NoBody)
	w := newStreamWriter(&sink{http.Header{}, &flushes}, r, e.pace, e.metrics)
	o := newOutlet(true, w, e.client)
	o.feed = &jobFeed{topics: e.topics, topic: tp, sub: tp.subscribe(event.ID{})}
	if err := o.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := mustItem(t, sample())
	items := make([]hub.Item[frame], 1)
	n := uint64(0)
	for _, c := range []struct{ batch, most int }{
		{batch: 1, most: 0},
		// The buffer is borrowed; the race detector empties pools at random.
		{batch: 5, most: 2},
	} {
		allocs := testing.AllocsPerRun(1000, func() {
			for range c.batch {
				n++
				items[0] = hub.Item[frame]{ID: event.ID{Ms: n}, Size: 300, Value: text}
				ring.Extend(items)
			}
			if err := o.fill(t.Context()); err != nil || o.frames != c.batch {
				t.Fatal(err, o.frames)
			}
			_, _ = w.Write(o.body.GetData())
			_ = w.FlushError()
		})
		if int(allocs) > c.most { // the ring itself grows now and then
			t.Errorf("%d frames: %v allocations", c.batch, allocs)
		}
	}
}
