package edge

import (
	"strconv"
	"testing"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// A job is a place in a stream: all of them share relayStreams streams.
func TestRelay_JobsShareAFewStreams(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	const jobs = 300
	held := make([]*topic, jobs)
	for i := range held {
		tp, err := e.topics.join(t.Context(), jobKey{"scan", "job-" + strconv.Itoa(i)}, event.ID{})
		if err != nil {
			t.Fatal(err)
		}
		held[i] = tp
	}
	same(t, "streams", f.relays.Load(), int64(relayStreams))
	same(t, "jobs", f.open.Load(), int64(jobs))
	for _, tp := range held {
		e.topics.leave(tp)
	}
	until(t, "the router has none left", func() bool { return f.open.Load() == 0 })
	same(t, "streams", f.relays.Load(), int64(relayStreams))
}

// An event costs an edge its frame, and what holds it.
func TestRelay_EventCostsItsFrame(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	tp := &topic{owner: e.topics}
	tp.ring.Store(hub.NewTopicAt[frame](limits(), event.ID{}))
	src := &event.Event{Domain: "scan", JobID: "j", Seq: 1, Stage: "s", Content: "x", ID: event.ID{Ms: 1}, PublishMs: 1}
	text := src.Text()
	m := &relayv1.Text{Seq: 1, Json: text.JSON, StageStart: text.StageStart, StageEnd: text.StageEnd}
	w := &relayv1.Word{Handle: 1, Events: []*relayv1.Text{m}}
	allocs := testing.AllocsPerRun(1000, func() {
		m.IdMs++
		if err := tp.take(w); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 3 { // the frame, the list of items; the ring grows now and then
		t.Errorf("%v allocations", allocs)
	}
}
