package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"
)

// residue is what a process holds on to.
type residue struct {
	gauges     float64 // streams, topics, subscribers: all together
	goroutines int
	heap       int // bytes in use after a garbage collection
}

// number reads the first group of a regular expression out of an admin page.
func (n *node) number(path, re string) int {
	n.t.Helper()
	_, text := get(n.t, n.admin, path)
	m := regexp.MustCompile(re).FindStringSubmatch(text)
	if m == nil {
		n.t.Fatalf("%s of %s has no %s:\n%s", path, n.name, re, text)
	}
	v, err := strconv.Atoi(m[1])
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

func (n *node) residue(gauges ...string) residue {
	n.t.Helper()
	var r residue
	for _, g := range gauges {
		r.gauges += n.metric(g)
	}
	r.goroutines = n.number("/debug/pprof/goroutine?debug=1", `goroutine profile: total (\d+)`)
	// Twice: what a pool or a finalizer holds is freed by the second.
	n.number("/debug/pprof/heap?gc=1&debug=1", `# HeapAlloc = (\d+)`)
	r.heap = n.number("/debug/pprof/heap?gc=1&debug=1", `# HeapAlloc = (\d+)`)
	return r
}

// H8 of what broke before: each subscription to a finished job left a gauge and
// memory behind.
func TestSeedH08_FinishedSubscriptionsLeaveNothingBehind(t *testing.T) {
	b := newBus(t)
	const total, jobs, atOnce = 1000, 40, 25
	for i := range jobs {
		b.calls.tokens("scan", job(i), 10)
		b.calls.publish(done("scan", job(i)))
	}
	edge := func() residue { return b.edge.residue("eventbus_edge_streams", "eventbus_edge_topics") }
	router := func() residue { return b.router.residue("eventbus_topics", "eventbus_subscribers") }
	finish := func(n int) {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(atOnce)
		for i := range n {
			g.Go(func() error { return readToTheEnd(b, job(i%jobs)) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	// Below them is what net/http, gRPC and the runtime vary by. A leak of a
	// goroutine, or of 1 KiB, for each subscription passes them by far.
	const spareGoroutines, spareHeap = 10, 512 << 10
	idle := func(before residue, now func() residue) residue {
		t.Helper()
		var r residue
		eventually(t, "gauges and goroutines are back where they were", func() bool {
			r = now()
			return r.gauges == 0 && (before.goroutines == 0 || r.goroutines <= before.goroutines+spareGoroutines)
		})
		return r
	}

	finish(total / 4) // pools, connections and caches get their size
	edgeWas, routerWas := idle(residue{}, edge), idle(residue{}, router)
	finished := total / 4
	// A leak grows with every round; the pool of Redis connections with some.
	for round := 1; ; round++ {
		finish(total)
		finished += total
		edgeIs, routerIs := idle(edgeWas, edge), idle(routerWas, router)
		t.Logf("round %d: edge %+v, then %+v; router %+v, then %+v", round, edgeWas, edgeIs, routerWas, routerIs)
		if edgeIs.heap <= edgeWas.heap+spareHeap && routerIs.heap <= routerWas.heap+spareHeap {
			break
		}
		if round == 3 {
			t.Fatalf("the heap grows by more than %d KiB with each %d subscriptions", spareHeap>>10, total)
		}
		edgeWas.heap, routerWas.heap = edgeIs.heap, routerIs.heap
	}
	if refused := b.edge.metric("eventbus_edge_streams_refused_total", `code="OutOfRange"`); refused != float64(finished) {
		t.Errorf("%v answers of 204, want %d", refused, finished)
	}
}

func job(i int) string { return fmt.Sprintf("job-%d", i) }

// readToTheEnd does what a browser does with a finished job: it reads everything,
// comes back after the end and is told to stop.
func readToTheEnd(b *bus, job string) error {
	s, err := dial(b.t, b.http, events("scan", job))
	if err != nil {
		return err
	}
	all, err := s.readAll()
	s.close()
	if err != nil {
		return err
	}
	if len(all) != 11 || !all[10].Final {
		return fmt.Errorf("%s: %d events", job, len(all))
	}
	if s, err = dial(b.t, b.http, events("scan", job), lastEventID(all[10].ID)); err != nil {
		return err
	}
	s.close()
	if s.status != http.StatusNoContent {
		return fmt.Errorf("%s after its end: %d", job, s.status)
	}
	return nil
}
