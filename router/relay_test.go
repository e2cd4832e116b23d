package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// relayView is what a reader of a relay has seen of one job.
type relayView struct {
	job    string
	opened bool
	seqs   []uint32
	gaps   int
	last   event.ID
	end    error
}

// relayReader reads a relay, and checks each word.
type relayReader struct {
	t     *testing.T
	relay *Relay
	views map[uint64]*relayView
	// opened and events count those of all jobs.
	opened, events int
}

func newRelayReader(t *testing.T, bus *Bus) *relayReader {
	t.Helper()
	r := &relayReader{t: t, relay: bus.Relay(), views: map[uint64]*relayView{}}
	t.Cleanup(r.relay.Close)
	return r
}

func (r *relayReader) add(handle uint64, job string, after event.ID) *relayView {
	r.t.Helper()
	if err := r.relay.Add(handle, "scan", job, after); err != nil {
		r.t.Fatal(err)
	}
	v := &relayView{job: job, last: after}
	r.views[handle] = v
	return v
}

// step takes one Next.
func (r *relayReader) step() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(testContext(r.t), 30*time.Second)
	defer cancel()
	words, err := r.relay.Next(ctx, time.Minute)
	if err != nil {
		for h, v := range r.views {
			r.t.Logf("job %s (%d): opened %v, %d events, %d gaps, %v", v.job, h, v.opened, len(v.seqs), v.gaps, v.end)
		}
		r.t.Fatal(err)
	}
	for _, w := range words {
		v := r.views[w.Handle]
		if v == nil {
			r.t.Fatalf("a word for handle %d, which is nobody's", w.Handle)
		}
		if v.end != nil {
			r.t.Fatalf("job %s speaks after its end: %+v", v.job, w)
		}
		if w.Opened == v.opened && w.Err == nil {
			r.t.Fatalf("job %s: opened is %v in %+v", v.job, w.Opened, w)
		}
		if w.Opened {
			v.opened = true
			r.opened++
		}
		r.events += len(w.Items)
		if w.Gap != nil {
			v.gaps++
			v.last = event.ID{}
		}
		for _, it := range w.Items {
			text := it.Value.Text()
			e, err := text.Event()
			if err != nil || e.JobID != v.job || e.ID != it.ID {
				r.t.Fatalf("job %s got %s, %v", v.job, text.JSON, err)
			}
			if it.ID.Compare(v.last) <= 0 {
				r.t.Fatalf("job %s: %s after %s", v.job, it.ID, v.last)
			}
			v.seqs, v.last = append(v.seqs, e.Seq), it.ID
		}
		v.end = w.Err
	}
}

func (r *relayReader) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(5 * patience); !ok(); { // some want 50 MB, and the race detector looks at each byte
		if time.Now().After(deadline) {
			r.t.Fatal("never true: " + what)
		}
		r.step()
	}
}

// wantSeqs checks that a job's events came once, in order, from the given one on.
func (v *relayView) wantSeqs(t *testing.T, first, n int) {
	t.Helper()
	if len(v.seqs) != n {
		t.Fatalf("job %s: %d events, want %d", v.job, len(v.seqs), n)
	}
	for i, s := range v.seqs {
		if int(s) != first+i {
			t.Fatalf("job %s: event %d has seq %d, want %d", v.job, i, s, first+i)
		}
	}
}

func publishSteps(t *testing.T, bus *testBus, job string, n int, final bool) []event.ID {
	t.Helper()
	reqs := make([]Request, n)
	for i := range reqs {
		reqs[i] = Request{Event: &event.Event{Domain: "scan", JobID: job, Stage: "step", Content: "x", Final: final && i == n-1}}
	}
	receipts, err := bus.Publish(testContext(t), reqs)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]event.ID, n)
	for i, r := range receipts {
		ids[i] = r.ID
	}
	return ids
}

func TestRelay_JobsComeOnceInOrderFromTheirCursors(t *testing.T) {
	bus := newTestBus(t)
	ids := publishSteps(t, bus, "old", 200, false)
	r := newRelayReader(t, bus.Bus)
	fresh := r.add(1, "fresh", event.ID{})
	all := r.add(2, "old", event.ID{})
	r.until("they are open", func() bool { return fresh.opened && len(all.seqs) == 200 })
	tail := r.add(3, "old", ids[149])
	r.until("it is open", func() bool { return len(tail.seqs) == 50 })
	publishSteps(t, bus, "old", 10, true)
	publishSteps(t, bus, "fresh", 300, false)
	r.until("all came", func() bool { return all.end != nil && tail.end != nil && len(fresh.seqs) == 300 })
	all.wantSeqs(t, 1, 210)
	tail.wantSeqs(t, 151, 60)
	fresh.wantSeqs(t, 1, 300)
	if !errors.Is(all.end, io.EOF) || !errors.Is(tail.end, io.EOF) || all.gaps+tail.gaps+fresh.gaps != 0 {
		t.Fatalf("%v %v", all.end, tail.end)
	}
	over := r.add(4, "old", all.last)
	unknown := r.add(5, "old", event.ID{Ms: ids[0].Ms - 1000})
	r.until("the others are judged", func() bool { return over.end != nil && unknown.end != nil })
	if event.KindOf(over.end) != event.OutOfRange || over.opened {
		t.Errorf("after the final event: %v", over.end)
	}
	unknown.wantSeqs(t, 1, 210)
	if unknown.gaps != 1 {
		t.Errorf("%d gaps", unknown.gaps)
	}
}

func TestRelay_DroppedJobsLeaveNothing(t *testing.T) {
	bus := newTestBus(t)
	r := newRelayReader(t, bus.Bus)
	for h := range uint64(200) {
		r.add(h, fmt.Sprintf("job-%d", h%50), event.ID{})
		if h%3 == 0 {
			r.relay.Drop(h)
		}
	}
	r.until("the others are open", func() bool { return r.opened >= 133 })
	for h := range uint64(200) {
		r.relay.Drop(h)
	}
	last := r.add(1000, "last", event.ID{})
	r.until("the last one is open", func() bool { return last.opened })
	eventually(t, "the others leave nothing", func() bool {
		if _, err := r.relay.Next(testContext(t), time.Millisecond); err != nil { // a read may be under way
			t.Fatal(err)
		}
		return bus.metric("eventbus_subscribers") == 1 && bus.metric("eventbus_topics") == 1
	})
}

func TestRelay_RefusesWhatIsWrongWithoutHarmToTheOthers(t *testing.T) {
	bus := newTestBus(t)
	r := newRelayReader(t, bus.Bus)
	good := r.add(1, "j", event.ID{})
	if err := r.relay.Add(1, "scan", "k", event.ID{}); event.KindOf(err) != event.Invalid {
		t.Errorf("a handle twice: %v", err)
	}
	bad := &relayView{job: "bad"}
	r.views[2] = bad
	if err := r.relay.Refuse(2, event.Errorf(event.Denied, "no")); err != nil {
		t.Fatal(err)
	}
	r.until("both are answered", func() bool { return good.opened && bad.end != nil })
	if event.KindOf(bad.end) != event.Denied {
		t.Errorf("%v", bad.end)
	}
	again := r.add(2, "j", event.ID{}) // the handle is free
	publishSteps(t, bus, "j", 3, false)
	r.until("events came", func() bool { return len(good.seqs) == 3 && len(again.seqs) == 3 })
}

// A job with a long past, of which the reader takes little at a time, does not hold
// up what is new of another.
func TestRelay_LaggingJobsDoNotHoldUpTheOthers(t *testing.T) {
	bus := newTestBus(t)
	big := make([]Request, 20)
	for i := range big {
		big[i] = Request{Event: &event.Event{Domain: "scan", JobID: "big", Stage: "s", Content: strings.Repeat("x", 20<<10)}}
	}
	for range 5 {
		if _, err := bus.Publish(testContext(t), big); err != nil {
			t.Fatal(err)
		}
	}
	r := newRelayReader(t, bus.Bus)
	live := r.add(0, "live", event.ID{})
	r.until("it is open", func() bool { return live.opened })
	var lagging []*relayView
	for h := range uint64(relayReads + 8) {
		lagging = append(lagging, r.add(h+1, "big", event.ID{}))
	}
	r.until("one has begun", func() bool { return len(lagging[0].seqs) > 0 })
	other := bus.subscribe("live", SubscribeOptions{})
	publishSteps(t, bus, "live", 1, false)
	other.take(1) // it is here; nobody has taken more of the past meanwhile
	r.until("the new event came", func() bool { return len(live.seqs) == 1 })
	for _, v := range lagging {
		if len(v.seqs) == 100 {
			t.Fatal("a job with a long past came before what was new")
		}
	}
	r.until("all came", func() bool {
		for _, v := range lagging {
			if len(v.seqs) < 100 {
				return false
			}
		}
		return true
	})
	for _, v := range lagging {
		v.wantSeqs(t, 1, 100)
	}
}

// 10,000 jobs are a matter of memory, not of goroutines.
func TestRelay_TenThousandJobsNeedNoGoroutines(t *testing.T) {
	bus := newTestBus(t)
	const jobs = 10_000
	before := runtime.NumGoroutine()
	r := newRelayReader(t, bus.Bus)
	for h := range uint64(jobs) {
		r.add(h, fmt.Sprintf("job-%d", h), event.ID{})
	}
	r.until("all are open", func() bool { return r.opened == jobs })
	if n := runtime.NumGoroutine() - before; n > 4+2*relayReads {
		t.Errorf("%d goroutines for %d jobs", n, jobs)
	}
	for h := range uint64(jobs) {
		if h%100 == 0 {
			publishSteps(t, bus, fmt.Sprintf("job-%d", h), 2, false)
		}
	}
	r.until("events came", func() bool { return r.events == jobs/100*2 })
}
