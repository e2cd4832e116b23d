package router

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// What broke in the system that the bus replaces: TestSeedH… is the hole of that
// number, impossible here.

// A router that dies at any step of a batch loses nothing: the next one does the
// batch again, and subscribers drop what they have.
func TestSeedH01_RouterDiesAtAnyStep(t *testing.T) {
	for _, step := range []string{"project", "announce", "settle"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			streams, pubsub := redistest.New(t), redistest.New(t)
			doomed := newBus(t, testConfig(streams.URL(), pubsub.URL()))
			doomed.streams, doomed.pubsub = streams, pubsub
			doomed.crashAt(step, 2)
			doomed.Start()
			doomed.waitReady()
			// The subscriber and the publisher sit on a router that owns nothing, ever.
			tb := newBus(t, testConfig(streams.URL(), pubsub.URL()), func(c *Config) { c.PodName = "router-1" })
			tb.shards.cfg = &Config{ConsumerGroup: "bystanders", LeaseTTL: time.Second}
			tb.Start()
			tb.waitReady()
			s := tb.subscribe("job", SubscribeOptions{})
			const n = 20
			tb.publish(event.Event{JobID: "job", Stage: "s0"})
			s.take(1) // a batch of its own
			for i := 1; i < n; i++ {
				tb.publish(event.Event{JobID: "job", Stage: fmt.Sprintf("s%d", i), Final: i == n-1})
			}
			eventually(t, "the router is dead", doomed.dead.Load)
			startBus(t, streams, pubsub, func(c *Config) { c.PodName = "router-2" })
			got := s.drain()
			dense(t, got)
			if len(got) != n || len(s.gaps) > 0 {
				t.Fatalf("got %d of %d, gaps %v: %s", len(got), n, s.gaps, s.text())
			}
		})
	}
}

// A late subscriber gets the whole job, however much else its shard carried.
func TestSeedH03_ReplayAfterManyOtherEvents(t *testing.T) {
	tb := newTestBus(t)
	tb.publish(event.Event{JobID: "job", Stage: "queued"})
	others := 0
	for i := 0; others < 10_000; {
		reqs := make([]Request, 0, 500)
		for ; len(reqs) < cap(reqs); i++ {
			if id := fmt.Sprintf("other-%d", i); event.ShardOf(id, 4) == event.ShardOf("job", 4) {
				reqs = append(reqs, Request{Event: &event.Event{Domain: "scan", JobID: id, Stage: "s"}})
			}
		}
		eventually(t, "the bus takes a batch", func() bool {
			_, err := tb.Publish(testContext(t), reqs)
			return err == nil
		})
		others += len(reqs)
	}
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	s := tb.subscribe("job", SubscribeOptions{})
	if got := stages(s.drain()); got != "queued done" {
		t.Fatalf("replay: %q", got)
	}
}

// Any stage name works, as often as it comes, and the state is the latest event.
func TestSeedH04_UnknownStages(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job", SubscribeOptions{})
	for _, stage := range []string{"queued", "never-seen", "never-seen", "also.new:2"} {
		tb.xadd("job", "stage", stage, "status", "completed", "seq", "999999999")
	}
	tb.xadd("job", "stage", "done", "status", "completed", "seq", "51")
	got := s.drain()
	if want := "queued never-seen never-seen also.new:2 done"; stages(got) != want {
		t.Fatalf("got %q, want %q", stages(got), want)
	}
	dense(t, got)
	state, err := tb.State(testContext(t), "scan", "job")
	if err != nil || state.Stage != "done" || !state.Final {
		t.Fatalf("state %+v, %v", state, err)
	}
}

// failed is an event of its own: it is delivered after started, and ends the job.
func TestSeedH05_FailedEndsTheJob(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job", SubscribeOptions{})
	tb.xadd("job", "stage", "vision", "status", "started", "seq", "10")
	tb.xadd("job", "stage", "vision", "status", "failed", "seq", "10")
	got := s.drain()
	if len(got) != 2 || got[0].Status != "started" || got[1].Status != "failed" || !got[1].Final {
		t.Fatalf("got %d events: %+v", len(got), got)
	}
}

// Events published while a subscriber catches up come once each.
func TestSeedH07_PublishDuringCatchUp(t *testing.T) {
	tb := newTestBus(t)
	const before, during = 700, 300
	publishMany(tb, "job", before, false)
	published := make(chan struct{})
	go func() {
		defer close(published)
		publishMany(tb, "job", during, true)
	}()
	subs := make([]*testSub, 5)
	for i := range subs {
		subs[i] = tb.subscribe("job", SubscribeOptions{})
	}
	for _, s := range subs {
		if got := s.drain(); len(got) != before+during {
			t.Fatalf("got %d of %d", len(got), before+during)
		}
		dense(t, s.events)
	}
	<-published
}

// publishMany publishes events in batches; the last may be final.
func publishMany(tb *testBus, jobID string, n int, end bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for from := 0; from < n; from += 50 {
		var reqs []Request
		for i := from; i < min(from+50, n); i++ {
			reqs = append(reqs, Request{Event: &event.Event{
				Domain: "scan", JobID: jobID, Stage: "token", Status: "streaming", Content: fmt.Sprint(i), Final: end && i == n-1,
			}})
		}
		if _, err := tb.Publish(ctx, reqs); err != nil {
			tb.t.Errorf("publish: %v", err)
			return
		}
	}
}

// After Redis lost everything the group is made again: publishing and delivery go
// on, and subscribers are told.
func TestSeedH09_FlushAll(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job", SubscribeOptions{})
	idle := tb.subscribe("idle-job", SubscribeOptions{})
	tb.publish(event.Event{JobID: "idle-job", Stage: "queued"})
	idle.take(1)
	for i := range 10 {
		tb.publish(event.Event{JobID: "job", Stage: fmt.Sprintf("a%d", i)})
	}
	s.take(10)
	tb.streams.FlushAll(t)
	for i := range 10 {
		tb.publish(event.Event{JobID: "job", Stage: fmt.Sprintf("b%d", i), Final: i == 9})
	}
	got := s.drain()
	if len(s.gaps) == 0 || s.gaps[0].Reason != event.LogReset {
		t.Fatalf("gaps %v", s.gaps)
	}
	dense(t, got[10:])
	if last := got[len(got)-1]; last.Stage != "b9" {
		t.Fatalf("last is %s", last.Stage)
	}
	// Nothing was published to this one since: the head check finds out.
	for len(idle.gaps) == 0 && !idle.ended {
		idle.step()
	}
	if len(idle.gaps) != 1 || idle.gaps[0].Reason != event.LogReset {
		t.Fatalf("the idle job's gaps: %v", idle.gaps)
	}
}

// A terminal event comes once; then the stream ends.
func TestSeedH10_TerminalEventOnce(t *testing.T) {
	tb := newTestBus(t, func(c *Config) { c.HeadCheckInterval = 100 * time.Millisecond })
	live := tb.subscribe("job", SubscribeOptions{})
	tb.xadd("job", "stage", "vision", "status", "failed")
	if got := live.drain(); len(got) != 1 || !live.ended {
		t.Fatalf("live: %d events", len(got))
	}
	state := tb.subscribe("job", SubscribeOptions{Replay: ReplayState})
	if got := state.drain(); len(got) != 1 || !state.ended {
		t.Fatalf("from the state: %d events", len(got))
	}
}
