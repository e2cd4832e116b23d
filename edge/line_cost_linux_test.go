package edge

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// countWrites counts what lines write.
func (e *testEdge) countWrites() *atomic.Int64 {
	writes := new(atomic.Int64)
	e.Server.lines.write = func(fd int, b []byte) (int, error) {
		writes.Add(1)
		return writeNow(fd, b)
	}
	return writes
}

// One event costs one write for each browser, and no goroutine.
func TestLine_OneEventIsOneWriteForEachBrowser(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	writes := e.countWrites()
	const n = 50
	var all []*browser
	for range n {
		all = append(all, e.open(jobPath("j")).opened())
	}
	e.together("j", n)
	writes.Store(0)
	goroutines, _ := settled()
	for range 20 {
		f.steps("j", 1)
		for _, b := range all {
			b.ids(1)
		}
	}
	same(t, "writes", writes.Load(), int64(20*n))
	until(t, "nobody needs a goroutine", func() bool { now, _ := settled(); return now <= goroutines })
	// What comes at once is written at once.
	writes.Store(0)
	f.steps("j", 100)
	for _, b := range all {
		b.ids(100)
	}
	if w := writes.Load(); w > 10*n {
		t.Errorf("100 events at once were %d writes for %d browsers", w, n)
	}
}

// Who comes back gets the header and all that it missed in one write.
func TestLine_ComingBackIsOneWrite(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	writes := e.countWrites()
	first := e.open(jobPath("j")).opened()
	e.together("j", 1)
	ids := f.steps("j", 50)
	same(t, "the first one", first.ids(50), ids)
	for get, code := range map[string]func(string) string{get11: chunk, get10: func(s string) string { return s }} {
		writes.Store(0)
		_, r, _ := e.rawStream("j", strings.Replace(get, "Accept:", "Last-Event-ID: "+ids[9]+"\r\nAccept:", 1))
		read(t, r, code("retry: 2000\n: subscribed\n\n"))
		missed := 0
		for missed < 40 {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if id, ok := strings.CutPrefix(line, "id: "); ok {
				same(t, "the next", strings.TrimSpace(id), ids[10+missed])
				missed++
			}
		}
		same(t, "writes", writes.Load(), int64(1))
	}
}

// A delivery allocates nothing.
func TestLine_DeliveryAllocatesNothing(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	e.Server.lines.write = func(_ int, b []byte) (int, error) { return len(b), nil }
	ring := hub.NewTopicAt[frame](limits(), event.ID{})
	tp := &topic{owner: e.topics, crowd: crowd{lines: e.Server.lines}}
	tp.ring.Store(ring)
	const n = 1000
	for range n {
		l := &line{topic: tp, chunked: true, at: -1, cancel: func(error) {}}
		if _, _, ok := tp.crowd.join(t.Context(), l, &jobFeed{topics: e.topics, topic: tp, sub: tp.subscribe(event.ID{})}, nil); !ok {
			t.Fatal("it could not join")
		}
	}
	text := mustItem(t, sample())
	items := make([]hub.Item[frame], 1)
	id := uint64(0)
	allocs := testing.AllocsPerRun(200, func() {
		id++
		items[0] = hub.Item[frame]{ID: event.ID{Ms: id}, Size: 300, Value: text}
		ring.Extend(items)
		tp.crowd.mu.Lock()
		tp.crowd.pass()
		tp.crowd.unlock()
	})
	if allocs > 3 { // for all of them: the ring grows, and the race detector empties pools
		t.Errorf("an event to %d browsers: %v allocations", n, allocs)
	}
}
