package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// recordedTokens is how many tokens the recorded chat has.
const recordedTokens = 223

// H11 of what broke before: three ID spaces in one Last-Event-ID; up to 9 tokens
// lost on resume.
func TestSeedH11_CuttingAtEveryTokenLosesNothingAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	t.Run("while the tokens come", func(t *testing.T) {
		b := b.in(t)
		published := make(chan error, 1)
		go func() { published <- publishEach(t.Context(), b.calls, "live", recordedTokens) }()
		var got []step
		for len(got) == 0 || !got[len(got)-1].Final {
			var at []header
			if n := len(got); n > 0 {
				at = append(at, lastEventID(got[n-1].ID))
			}
			s := b.open(events("chat", "live"), at...)
			got = append(got, s.step())
			s.close()
		}
		if err := <-published; err != nil {
			t.Fatal(err)
		}
		wantTokens(t, got, recordedTokens)
	})
	t.Run("afterwards, from each token to the end", func(t *testing.T) {
		b := b.in(t)
		all := b.open(events("chat", "live")).rest()
		wantTokens(t, all, recordedTokens)
		for i, e := range all[:len(all)-1] {
			s := b.open(events("chat", "live"), lastEventID(e.ID))
			same(t, fmt.Sprint("after token ", i), ids(s.rest()), ids(all[i+1:]))
			s.close()
		}
		last := all[len(all)-1].ID
		if a := b.ask(http.MethodGet, events("chat", "live"), "", header{"Accept", "text/event-stream"}, lastEventID(last)); a.status != http.StatusNoContent {
			t.Errorf("after the end: %d %s, want 204", a.status, a.body)
		}
	})
}

// publishEach publishes tokens one by one as a model does, then the final event.
func publishEach(ctx context.Context, c rpc, job string, n int) error {
	for i := range n + 1 {
		e := done("chat", job)
		if i < n {
			e = token("chat", job, i)
		}
		if _, err := c.Publish(ctx, &eventbusv1.PublishRequest{Event: e, IdempotencyKey: fmt.Sprint(i)}); err != nil {
			return fmt.Errorf("publish %d: %w", i, err)
		}
	}
	return nil
}

// wantTokens checks n tokens and the final event, each once and in order.
func wantTokens(t testing.TB, got []step, n int) {
	t.Helper()
	dense(t, 1, got)
	if len(got) != n+1 || !got[n].Final {
		t.Fatalf("%d events, the last %+v; want %d and the final one", len(got), got[len(got)-1], n)
	}
	for i, e := range got[:n] {
		if want := fmt.Sprintf("t%d ", i); e.Content != want {
			t.Fatalf("event %d: %q, want %q", i, e.Content, want)
		}
	}
}

// A replay that skips events names the place in the log where it begins: who has
// seen nothing yet resumes there.
func TestReplay_FirstMessagesCursorResumesWithoutLoss(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for _, replay := range []eventbusv1.Replay{eventbusv1.Replay_REPLAY_STATE, eventbusv1.Replay_REPLAY_NONE} {
		t.Run(replay.String(), func(t *testing.T) { testFirstCursor(t, b.in(t), replay) })
	}
}

func testFirstCursor(t *testing.T, b *bus, replay eventbusv1.Replay) {
	t.Helper()
	job := replay.String()
	b.calls.publish(&eventbusv1.Event{Domain: "scan", JobId: job, Stage: "queued", Status: "started"})
	b.calls.tokens("scan", job, 3)
	state := b.calls.publish(&eventbusv1.Event{Domain: "scan", JobId: job, Stage: "vision", Status: "completed"})
	present := append([]string{state}, b.calls.tokens("scan", job, 2)...)
	b.open(events("scan", job)).steps(7) // all of it is in the job's log now
	if replay == eventbusv1.Replay_REPLAY_NONE {
		present = nil
	}

	g := b.calls.follow(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: job, Replay: replay})
	s := b.open(events("scan", job) + "?replay=" + replay.String())
	place := cursorFrame(t, s)
	if place != g.cursor {
		t.Errorf("cursor by SSE %q, by gRPC %q", place, g.cursor)
	}
	same(t, "what is there, by SSE", ids(s.steps(len(present))), present)
	same(t, "what is there, by gRPC", g.take(len(present)), present)

	// What comes while nobody listens is what the cursor is for.
	s.close()
	want := append(slices.Clone(present), b.calls.tokens("scan", job, 2)...)
	back := b.open(events("scan", job)+"?replay="+replay.String(), lastEventID(place))
	same(t, "after the cursor, by SSE", ids(back.steps(len(want))), want)
	again := b.calls.follow(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: job, AfterId: place, Replay: replay})
	same(t, "after the cursor, by gRPC", again.take(len(want)), want)
}

// cursorFrame is the id that comes without data before anything else.
func cursorFrame(t testing.TB, s *stream) string {
	t.Helper()
	for {
		f, err := s.next()
		switch {
		case err != nil:
			t.Fatal(err)
		case f.dispatched():
			t.Fatalf("before the cursor: %+v", f)
		case f.hasID:
			return f.id
		}
	}
}

func TestReplay_OfAFinishedJob(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	b.calls.tokens("chat", "over", 3)
	last := b.calls.publish(done("chat", "over"))
	b.open(events("chat", "over")).rest()

	s := b.open(events("chat", "over") + "?replay=REPLAY_STATE")
	same(t, "the state, then the end", ids(s.rest()), []string{last})
	g := b.calls.follow(&eventbusv1.SubscribeRequest{Domain: "chat", JobId: "over", Replay: eventbusv1.Replay_REPLAY_STATE})
	if all := g.rest(); len(all) != 1 || all[0].GetId() != last {
		t.Errorf("by gRPC: %v", all)
	}
	if a := b.ask(http.MethodGet, events("chat", "over")+"?replay=REPLAY_NONE", "", header{"Accept", "text/event-stream"}); a.status != http.StatusNoContent {
		t.Errorf("live only: %d %s, want 204", a.status, a.body)
	}
	_, err := b.calls.subscribe(testContext(t), &eventbusv1.SubscribeRequest{Domain: "chat", JobId: "over", Replay: eventbusv1.Replay_REPLAY_NONE})
	if status.Code(err) != codes.OutOfRange {
		t.Errorf("live only by gRPC: %v, want OUT_OF_RANGE", err)
	}
}

// mixed is event i of two jobs, w and x, that end with events 10 and 11.
func mixed(i int) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: "scan", JobId: []string{"w", "x"}[i%2], Stage: fmt.Sprintf("stage-%d", i),
		Status: []string{"started", "streaming", "completed"}[i%3], Final: i >= 10}
}

// From every message's own cursor, as it was sent.
func TestResume_FromEveryMessagesOwnCursor(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	for i := range 12 {
		b.calls.publish(mixed(i))
	}
	for _, job := range []string{"w", "x"} {
		t.Run(job, func(t *testing.T) { testResumeJob(t, b.in(t), job) })
	}
}

func testResumeJob(t *testing.T, b *bus, job string) {
	t.Helper()
	all := b.open(events("scan", job)).rest()
	dense(t, 1, all)
	for i, e := range all[:len(all)-1] {
		want := ids(all[i+1:])
		s := b.open(events("scan", job), lastEventID(e.ID))
		same(t, "SSE after "+e.Stage, ids(s.rest()), want)
		s.close()
		g := b.calls.follow(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: job, AfterId: e.ID})
		same(t, "gRPC after "+e.Stage, g.take(len(want)), want)
		if e, ok := g.next(); ok {
			t.Fatalf("after the end: %v", e)
		}
		a := b.ask(http.MethodGet, events("scan", job)+"?after_id="+e.ID, "", header{"Accept", "application/json"})
		same(t, "NDJSON after "+e.Stage, ndjsonIDs(t, a.body), want)
	}
}
