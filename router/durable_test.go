package router

import (
	"testing"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// With PUBLISH_MIN_REPLICAS an event is acknowledged once the replicas have it, and
// not before: neither the first time nor as a duplicate.
func TestPublish_WaitsForReplicas(t *testing.T) {
	s := redistest.NewSentinel(t, 1, 1)
	tb := newBus(t, testConfig(s.URL(), redistest.New(t).URL()), func(c *Config) { c.MinReplicas = 1 })
	tb.Start()
	tb.waitReady()
	req := []Request{{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "one"}, Key: "k1"}}
	first, err := tb.Publish(testContext(t), req)
	if err != nil {
		t.Fatal(err)
	}
	replica := s.Replicas(t)[0]
	if err := replica.Pause(); err != nil {
		t.Fatal(err)
	}
	late := []Request{{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "two"}, Key: "k2"}}
	for range 2 { // new, then a duplicate
		if _, err := tb.Publish(testContext(t), late); event.KindOf(err) != event.Unavailable {
			t.Fatalf("acknowledged without a replica: %v", err)
		}
	}
	if err := replica.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica catches up", func() bool {
		r, err := tb.Publish(testContext(t), late)
		return err == nil && r[0].Duplicate
	})
	again, err := tb.Publish(testContext(t), req)
	if err != nil || !again[0].Duplicate || again[0].ID != first[0].ID {
		t.Fatalf("duplicate %+v, %v", again, err)
	}
	sub := tb.subscribe("job", SubscribeOptions{})
	dense(t, sub.take(2))
}

// A script that appends is never run twice by the client itself.
func TestPublish_KeysMakeARepeatHarmless(t *testing.T) {
	tb := newTestBus(t)
	for range 3 {
		_, err := tb.Publish(testContext(t), []Request{
			{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "one"}, Key: "k1"},
			{Event: &event.Event{Domain: "chat", JobID: "job", Stage: "one"}, Key: "k1"},
			{Event: &event.Event{Domain: "scan", JobID: "other", Stage: "one"}, Key: "k1"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	sub := tb.subscribe("job", SubscribeOptions{})
	if got := stages(sub.drain()); got != "one done" {
		t.Fatalf("got %q", got)
	}
}

// After a failover no master knows the scripts: every call must find its way.
func TestScripts_AreUnknownAfterScriptFlush(t *testing.T) {
	tb := newTestBus(t)
	sub := tb.subscribe("job", SubscribeOptions{})
	for i := range 20 {
		if err := tb.streams.Client().ScriptFlush(testContext(t)).Err(); err != nil {
			t.Fatal(err)
		}
		tb.publish(event.Event{JobID: "job", Stage: "s", Final: i == 19})
	}
	dense(t, sub.drain())
}
