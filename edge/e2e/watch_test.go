package e2e

import (
	"errors"
	"io"
	"net/http"
	"testing"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// From every message's own cursor, as it was sent.
func TestResume_WatchFromEveryMessagesOwnCursor(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	const path = "/api/v1/scan/events?job_ids=w&job_ids=x"
	watch := b.open(path)
	batch := &eventbusv1.PublishBatchRequest{} // many in one message
	for i := range 12 {
		batch.Requests = append(batch.Requests, &eventbusv1.PublishRequest{Event: mixed(i)})
	}
	if _, err := b.calls.PublishBatch(testContext(t), batch); err != nil {
		t.Fatal(err)
	}
	seen := make([]frame, len(batch.GetRequests()))
	for i := range seen {
		seen[i] = watch.frame()
	}
	for i, f := range seen[:len(seen)-1] {
		if !f.hasID {
			t.Fatalf("frame %d has no cursor: %+v", i, f)
		}
		s := b.open(path, lastEventID(f.id))
		got := map[string]int{}
		for range seen[i+1:] {
			got[s.frame().event]++
		}
		for j, f := range seen {
			if n, want := got[f.event], min(1, max(0, j-i)); n != want {
				t.Fatalf("after frame %d (%s): %s came %d times, want %d", i, f.id, f.event, n, want)
			}
		}
		if _, err := s.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("after all jobs are over: %v", err)
		}
		s.close()
	}
	if a := b.ask(http.MethodGet, path, "", header{"Accept", "text/event-stream"}, lastEventID(seen[len(seen)-1].id)); a.status != http.StatusNoContent {
		t.Errorf("after the last: %d %s, want 204", a.status, a.body)
	}
}
