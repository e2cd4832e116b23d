package chaos

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Edges find routers that were added later, by name, and their streams spread over
// them; no browser's connection is cut meanwhile, and nothing is lost.
//
// It takes the half minute that gRPC waits before it asks for a name again.
func TestRebalance_StreamsSpreadToRoutersAddedLater(t *testing.T) {
	t.Parallel()
	const jobs, routers = 30, 3
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 1, 1, settings{"MAX_CONNECTION_AGE": "2s", "HEARTBEAT_INTERVAL": "10s"}) // no stream is left for a router that is slow
	r := newRun(t, w)
	finish := make(chan struct{})
	var open atomic.Int64
	for range jobs {
		j := newJob("scan")
		r.jobs = append(r.jobs, j)
		v := newView("a browser", j, &r.since)
		r.views = append(r.views, v)
		s := &subscriber{run: r, view: v}
		p := &publisher{run: r, job: j, pace: 200 * time.Millisecond, batch: 1, finish: finish, size: 64}
		r.wg.Go(func() {
			var once sync.Once
			if err := s.cheap(func() { once.Do(func() { open.Add(1) }) }); err != nil { // also where it is cut
				v.wrong("%v", err)
			}
		})
		r.wg.Go(func() { p.publish(r.ctx) })
	}
	r.await("every stream is open", func() bool { return open.Load() == jobs })
	for range routers - 1 {
		w.start(w.addRouter())
	}
	r.await("every router has one of the edge's streams", func() bool {
		for _, n := range w.routers {
			if n.metric(t, "eventbus_grpc_streams", `rpc="Relay"`) < 1 {
				return false
			}
		}
		return true
	})
	if n := w.edges[0].metric(t, "eventbus_edge_upstream_moves_total"); n < routers-1 {
		t.Errorf("%v streams moved, want %d at least", n, routers-1)
	}
	if n := w.edges[0].metric(t, "eventbus_edge_upstream_reconnects_total"); n > 0 {
		t.Errorf("%v streams broke, want none", n)
	}
	close(finish)
	r.await("every browser has its job's end", func() bool {
		for _, v := range r.views {
			if !v.ended() {
				return false
			}
		}
		return true
	})
	r.wg.Wait()
	mustBeWhole(t, r.judge())
}
