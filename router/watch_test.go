package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

// testWatch collects what a watch delivers.
type testWatch struct {
	*Watch
	t      *testing.T
	events []*event.Event
	gaps   []*event.Gap
	last   string
}

func (tb *testBus) watch(t *testing.T, o WatchOptions) *testWatch {
	t.Helper()
	w, err := tb.Watch(testContext(t), "scan", o)
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	t.Cleanup(w.Close)
	return &testWatch{Watch: w, t: t, last: w.Cursor()}
}

// take waits until n events came, or the end.
func (w *testWatch) take(n int) []*event.Event {
	w.t.Helper()
	for len(w.events) < n {
		b, err := w.Next(testContext(w.t), patience)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			w.t.Fatalf("next: %v", err)
		}
		if b.Gap == nil && len(b.Events) == 0 {
			w.t.Fatalf("nothing came for %s; have %d of %d", patience, len(w.events), n)
		}
		if b.Gap != nil {
			w.gaps = append(w.gaps, b.Gap)
		}
		w.events, w.last = append(w.events, b.Events...), b.Cursor
	}
	return w.events
}

// onceInOrder checks that each job's events came once and in order.
func onceInOrder(t *testing.T, events []*event.Event) {
	t.Helper()
	seqs := make(map[string]uint32)
	for _, e := range events {
		if want := seqs[e.JobID] + 1; e.Seq != want {
			t.Fatalf("job %s: seq %d, want %d", e.JobID, e.Seq, want)
		}
		seqs[e.JobID] = e.Seq
	}
}

func TestWatch_OnARedisThatHasNothingYet(t *testing.T) {
	tb := newTestBus(t)
	w := tb.watch(t, WatchOptions{})
	for i := range 40 {
		tb.publish(event.Event{JobID: fmt.Sprintf("job-%d", i%10), Stage: "s"})
	}
	onceInOrder(t, w.take(40))
}

func TestWatch_IsLiveAndFiltersStages(t *testing.T) {
	tb := newTestBus(t)
	tb.publish(event.Event{JobID: "before", Stage: "s"})
	tb.subscribe("before", SubscribeOptions{}).take(1)
	w := tb.watch(t, WatchOptions{Stages: []string{"wanted"}})
	for i := range 20 {
		tb.publish(event.Event{JobID: "job", Stage: "other"})
		tb.publish(event.Event{JobID: "job", Stage: "wanted", Content: fmt.Sprint(i)})
	}
	for i, e := range w.take(20) {
		if e.Stage != "wanted" || e.Content != fmt.Sprint(i) {
			t.Fatalf("event %d: %s %s", i, e.Stage, e.Content)
		}
	}
}

func TestWatch_OfNamedJobsEndsWhenAllAreFinal(t *testing.T) {
	tb := newTestBus(t)
	w := tb.watch(t, WatchOptions{Jobs: []string{"a", "b"}})
	tb.publish(event.Event{JobID: "a", Stage: "s"})
	tb.publish(event.Event{JobID: "c", Stage: "s"})
	tb.publish(event.Event{JobID: "a", Stage: "done", Final: true})
	tb.publish(event.Event{JobID: "b", Stage: "done", Final: true})
	if got := w.take(4); len(got) != 3 {
		t.Fatalf("got %d events: %s", len(got), stages(got))
	}
	_, err := tb.Watch(testContext(t), "scan", WatchOptions{Jobs: []string{"a", "b"}, Cursor: w.last})
	if event.KindOf(err) != event.OutOfRange {
		t.Fatalf("watch of jobs that are over: %v", err)
	}
}

// From every message's cursor a watch resumes without a hole and without a repeat.
func TestWatch_ResumesFromEveryCursor(t *testing.T) {
	tb := newTestBus(t)
	first := tb.watch(t, WatchOptions{})
	const n = 30
	for i := range n {
		tb.publish(event.Event{JobID: fmt.Sprintf("job-%d", i%7), Stage: "s"})
	}
	type point struct {
		cursor string
		have   int
	}
	points := []point{{first.last, 0}}
	for len(first.events) < n {
		first.take(len(first.events) + 1)
		points = append(points, point{first.last, len(first.events)})
	}
	for _, p := range points {
		again := tb.watch(t, WatchOptions{Cursor: p.cursor})
		onceInOrder(t, append(first.events[:p.have:p.have], again.take(n-p.have)...))
		if len(again.gaps) > 0 {
			t.Fatalf("resume from %s: gap %+v", p.cursor, again.gaps[0])
		}
	}
}

func TestWatch_CursorThatTheLogLostIsAGap(t *testing.T) {
	tb := newTestBus(t)
	w := tb.watch(t, WatchOptions{})
	tb.publish(event.Event{JobID: "job", Stage: "one"})
	w.take(1)
	tb.streams.FlushAll(t)
	tb.publish(event.Event{JobID: "job", Stage: "two"})
	tb.subscribe("job", SubscribeOptions{}).take(1)
	again := tb.watch(t, WatchOptions{Cursor: w.last})
	if got := stages(again.take(1)); got != "two" || len(again.gaps) == 0 || again.gaps[0].Reason != event.LogReset {
		t.Fatalf("got %q, gaps %v", got, again.gaps)
	}
}

// Who does not know how many shards there are may begin at the start of all.
func TestWatch_FromTheStartOfAllShards(t *testing.T) {
	tb := newTestBus(t)
	const n = 30
	for i := range n {
		tb.publish(event.Event{JobID: fmt.Sprintf("job-%d", i%10), Stage: "s"})
	}
	w := tb.watch(t, WatchOptions{Cursor: "0-0"})
	if w.last != "0-0,0-0,0-0,0-0" {
		t.Fatalf("it begins at %q", w.last)
	}
	tb.publish(event.Event{JobID: "job-0", Stage: "live"})
	onceInOrder(t, w.take(n+1))
	if len(w.gaps) > 0 {
		t.Fatalf("gap %+v, though nothing was trimmed", w.gaps[0])
	}
	onceInOrder(t, tb.watch(t, WatchOptions{Cursor: w.last, Jobs: []string{"job-1"}}).events)
}

// A watch of jobs whose end lies before what is retained ends as well.
func TestWatch_EndsForJobsWhoseEndWasTrimmed(t *testing.T) {
	tb := newTestBus(t)
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	tb.subscribe("job", SubscribeOptions{}).drain()
	key := shardKey("scan", event.ShardOf("job", 4))
	if err := tb.streams.Client().XTrimMaxLen(testContext(t), key, 0).Err(); err != nil {
		t.Fatal(err)
	}
	w := tb.watch(t, WatchOptions{Cursor: "0-0", Jobs: []string{"job"}})
	b, err := w.Next(testContext(t), patience)
	if err != nil || b.Gap == nil {
		t.Fatalf("got %+v, %v; want a gap", b, err)
	}
	if _, err := w.Next(testContext(t), patience); !errors.Is(err, io.EOF) {
		t.Fatalf("after the gap: %v, want the end", err)
	}
}

// A lost announcement is found by the head check.
func TestWatch_WithoutPubSub(t *testing.T) {
	tb := newTestBus(t)
	w := tb.watch(t, WatchOptions{})
	tb.publish(event.Event{JobID: "job", Stage: "one"})
	w.take(1)
	if err := tb.pubsub.Kill(); err != nil {
		t.Fatal(err)
	}
	tb.publish(event.Event{JobID: "job", Stage: "two"})
	if got := stages(w.take(2)); got != "one two" {
		t.Fatal(got)
	}
}

func TestWatch_BadCursor(t *testing.T) {
	tb := newTestBus(t)
	for _, cursor := range []string{"x", "1-0", "1-0,2-0,3-0", "1-0,2-0,3-0,4-0,5-0", "1-0,,3-0,4-0"} {
		_, err := tb.Watch(context.Background(), "scan", WatchOptions{Cursor: cursor})
		if event.KindOf(err) != event.Invalid {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}
