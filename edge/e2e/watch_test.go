package e2e

import (
	"errors"
	"io"
	"net/http"
	"strings"
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

// A cursor of another system, as an EventSource brings it on migration day, costs
// a gap, and nothing that is retained.
func TestResume_WatchWithAnotherSystemsCursorBeginsAtTheStart(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	const jobs, each = 8, 3
	for i := range jobs {
		b.calls.tokens("scan", job(i), each)
	}
	const path = "/api/v1/scan/events"
	total := jobs * each
	for _, cursor := range []string{"recovery:12", "1-0,1-0"} { // another system's; another number of shards
		s := b.open(path, lastEventID(cursor))
		if f := s.frame(); f.event != "gap" || f.data != `{"reason":"REASON_LOG_RESET"}` || f.hasID {
			t.Fatalf("after %q: %+v, want a gap", cursor, f)
		}
		seqs, last := map[string]int{}, ""
		for range total {
			f := s.frame()
			e := object(t, []byte(f.data))
			name, _ := e["job_id"].(string)
			if seqs[name]++; e["seq"] != float64(seqs[name]) {
				t.Fatalf("after %q: %+v, want seq %d", cursor, f, seqs[name])
			}
			if f.hasID {
				last = f.id
			}
		}
		s.close()
		b.calls.publish(token("scan", job(0), each))
		total++
		if f := b.open(path, lastEventID(last)).frame(); object(t, []byte(f.data))["seq"] != float64(seqs[job(0)]+1) {
			t.Fatalf("resumed after %q: %+v", last, f)
		}
	}
}

// Whoever does not know how many shards there are may ask for all that is retained.
func TestResume_WatchByGRPCFromTheStart(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	const jobs, each = 8, 3
	for i := range jobs {
		b.calls.tokens("scan", job(i), each)
	}
	w, err := b.calls.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan", Cursor: "0-0"})
	if err != nil {
		t.Fatal(err)
	}
	seqs, cursor := map[string]uint32{}, ""
	for n := 0; n < jobs*each; {
		m, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetGap() != nil {
			t.Fatalf("%v, though nothing is lost", m.GetGap())
		}
		for _, e := range m.GetEvents() {
			if seqs[e.GetJobId()]++; e.GetSeq() != seqs[e.GetJobId()] {
				t.Fatalf("%v, want seq %d", e, seqs[e.GetJobId()])
			}
		}
		n, cursor = n+len(m.GetEvents()), m.GetCursor()
	}
	if got := strings.Count(cursor, ","); got != 3 {
		t.Fatalf("the last cursor is %q, want one of 4 shards", cursor)
	}
}
