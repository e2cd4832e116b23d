package router

import (
	"fmt"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

func TestBus_DeliversOnceInOrderAndEnds(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job-1", SubscribeOptions{})
	for i := range 50 {
		tb.publish(event.Event{JobID: "job-1", Stage: fmt.Sprintf("s%d", i), Status: "streaming"})
	}
	tb.publish(event.Event{JobID: "job-1", Stage: "done", Final: true})
	got := s.drain()
	if len(got) != 51 {
		t.Fatalf("got %d events: %s", len(got), s.text())
	}
	dense(t, got)
	again := tb.subscribe("job-1", SubscribeOptions{})
	if got := again.drain(); len(got) != 51 {
		t.Fatalf("replay: %d events", len(got))
	}
	_, err := tb.Subscribe(testContext(t), "scan", "job-1", SubscribeOptions{After: got[50].ID, HasAfter: true})
	if event.KindOf(err) != event.OutOfRange {
		t.Fatalf("after the final event: %v", err)
	}
	_, err = tb.Publish(testContext(t), []Request{{Event: &event.Event{Domain: "scan", JobID: "job-1", Stage: "late"}}})
	if event.KindOf(err) != event.Over {
		t.Fatalf("publish after the final event: %v", err)
	}
}
