package edge

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
)

// watchEvents are events of several jobs, ids "1-0" on.
func watchEvents(ids ...string) []*eventbusv1.Event {
	var events []*eventbusv1.Event
	for _, id := range ids {
		events = append(events, &eventbusv1.Event{Id: id, Domain: "scan", JobId: "job-" + id, Seq: 1, Stage: "x"})
	}
	return events
}

// script makes the Watch streams of the fake send these messages.
func (f *fakeRouter) script(messages ...*eventbusv1.WatchResponse) {
	f.set(func() { f.watch = append(f.watch, messages...) })
}

const watchPath = "/api/v1/scan/events"

func TestWatch_IDIsTheCursorAfterEachEvent(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(watchPath + "?job_ids=a&job_ids=b&stages=x").opened()
	same(t, "request", []any{f.lastWatch.Load().GetDomain(), f.lastWatch.Load().GetJobIds(), f.lastWatch.Load().GetStages(), f.lastWatch.Load().GetCursor()},
		[]any{"scan", []string{"a", "b"}, []string{"x"}, ""})
	at := func(id string, shard int) *eventbusv1.Event {
		return &eventbusv1.Event{Id: id, Domain: "scan", JobId: jobOf(shard, 2), Seq: 1, Stage: "x"}
	}
	events := func(events ...*eventbusv1.Event) []*eventbusv1.Event { return events }
	f.script(
		&eventbusv1.WatchResponse{Events: events(at("1-0", 0)), Cursor: "1-0,0-0"},
		&eventbusv1.WatchResponse{Events: events(at("2-0", 0), at("3-0", 1), at("4-0", 0)), Cursor: "4-0,3-0"},
		&eventbusv1.WatchResponse{Cursor: "5-0,3-0"},                                             // filtered events moved it
		&eventbusv1.WatchResponse{Events: events(at("6-0", 0)), Cursor: "5-0,3-0"},               // it may not move yet
		&eventbusv1.WatchResponse{Events: events(at("8-0", 1), at("7-0", 0)), Cursor: "7-0,3-0"}, // nor for the first
		&eventbusv1.WatchResponse{Events: events(at("9-0", 0)), Cursor: "9-0,\ndata: evil"},
	)
	for i, want := range [][2]string{
		{"1-0,0-0", "1-0"}, {"2-0,0-0", "2-0"}, {"2-0,3-0", "3-0"}, {"4-0,3-0", "4-0"}, {"5-0,3-0", ""},
		{"5-0,3-0", "6-0"}, {"", "8-0"}, {"7-0,3-0", "7-0"}, {"", "9-0"},
	} {
		frame := b.next()
		if field(frame, "id") != want[0] || !strings.Contains(frame, want[1]) || want[1] == "" && strings.Contains(frame, "data") {
			t.Fatalf("%d: got %q, want %q", i, frame, want)
		}
		if strings.HasPrefix(frame, "id: \n") || strings.HasPrefix(frame, "id:\n") {
			t.Fatalf("an empty id: %q", frame)
		}
	}
	same(t, "gauge", int(e.metrics.open(kindWatch)), 1)
}

// jobOf is a job of the shard.
func jobOf(shard, of int) string {
	for i := 0; ; i++ {
		if job := "job-" + strconv.Itoa(i); event.ShardOf(job, of) == shard {
			return job
		}
	}
}

// Whoever resumes from any frame's cursor gets every event after that frame.
func TestWatch_NoCursorSkipsAnEvent(t *testing.T) {
	const shards = 3
	jobs := [shards]string{jobOf(0, shards), jobOf(1, shards), jobOf(2, shards)}
	rapid.Check(t, func(t *rapid.T) {
		after := make([]event.ID, shards)
		var events []event.Event
		var places []event.ID // in the shards' logs
		for range rapid.IntRange(1, 12).Draw(t, "n") {
			s := rapid.IntRange(0, shards-1).Draw(t, "shard")
			place := event.ID{Ms: after[s].Ms + rapid.Uint64Range(1, 3).Draw(t, "step")}
			id := place
			if rapid.IntRange(0, 4).Draw(t, "late") == 0 {
				id.Ms = rapid.Uint64Range(1, 40).Draw(t, "id")
			}
			after[s] = place
			events, places = append(events, event.Event{ID: id, JobID: jobs[s]}), append(places, place)
		}
		cursors := watchCursors(event.JoinIDs(make([]event.ID, shards)), event.JoinIDs(after), events)
		same := cursors[len(cursors)-1] == event.JoinIDs(after)
		if len(cursors) != len(events) || !same {
			t.Fatalf("the last of %q is not the message's, %q", cursors, event.JoinIDs(after))
		}
		for i, text := range cursors {
			if text == "" {
				continue
			}
			cursor, err := event.ParseIDs(text)
			if err != nil || len(cursor) != shards {
				t.Fatalf("cursor %q: %v", text, err)
			}
			for j := i + 1; j < len(events); j++ {
				if s := event.ShardOf(events[j].JobID, shards); places[j].Compare(cursor[s]) <= 0 {
					t.Fatalf("%q, after event %d, skips event %d at %s", text, i, j, places[j])
				}
			}
		}
	})
}

func TestWatch_GapHasNoIDAndNamesTheJob(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(watchPath).opened()
	f.script(&eventbusv1.WatchResponse{
		Gap: &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_HISTORY_EXPIRED, JobId: "a"}, Events: watchEvents("9-0"), Cursor: "9-0",
	})
	same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_HISTORY_EXPIRED\",\"job_id\":\"a\"}\n\n")
	same(t, "then", b.ids(1), []string{"9-0"})
}

func TestWatch_ResumesAfterTheLastCursorWhenTheRouterIsBack(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(watchPath).opened()
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("1-0"), Cursor: "1-0"})
	b.ids(1)
	f.stop()
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("2-0"), Cursor: "2-0"})
	f.start()
	same(t, "after", b.ids(1), []string{"2-0"})
	same(t, "cursor", f.lastWatch.Load().GetCursor(), "1-0")
}

func TestWatch_CursorComesFromHeaderOrQuery(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	e.open(watchPath + "?cursor=1-0,2-0").opened()
	same(t, "cursor", f.lastWatch.Load().GetCursor(), "1-0,2-0")
	e.open(watchPath+"?cursor=1-0,2-0", lastEventID("3-0,4-0")).opened()
	same(t, "header", f.lastWatch.Load().GetCursor(), "3-0,4-0")
	e.open(watchPath + "?cursor=1-0,2-0&last_event_id=5-0").opened()
	same(t, "last_event_id", f.lastWatch.Load().GetCursor(), "5-0")
}

func TestWatch_UnreadableHeaderIsAGapAndAllThatIsRetained(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("9-0"), Cursor: "9-0"})
	for _, id := range []string{"recovery:12", "1-0,1-0"} { // another system's; another number of shards
		b := e.open(watchPath, lastEventID(id)).opened()
		same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\"}\n\n")
		same(t, "then the cursor", field(b.next(), "id"), "0-0") // in place of the bad one
		same(t, "then", b.ids(1), []string{"9-0"})
		same(t, "cursor", f.lastWatch.Load().GetCursor(), "0-0")
	}
	e.ask(http.MethodGet, watchPath+"?cursor=1-0,1-0", "", acceptSSE()).refused(t, 400, codes.InvalidArgument)
}

func TestWatch_AfterAnUnreadableHeaderOneGapIsEnough(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	trimmed := &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_HISTORY_EXPIRED}
	f.script(
		&eventbusv1.WatchResponse{Gap: trimmed, Cursor: "1-0"},
		&eventbusv1.WatchResponse{Events: watchEvents("2-0"), Cursor: "2-0"},
		&eventbusv1.WatchResponse{Gap: trimmed, Events: watchEvents("9-0"), Cursor: "9-0"},
	)
	b := e.open(watchPath, lastEventID("recovery:12")).opened()
	same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\"}\n\n")
	for _, want := range []string{"0-0", "1-0", "2-0"} {
		same(t, "id", field(b.next(), "id"), want)
	}
	same(t, "later gap", field(b.next(), "event"), "gap")
	same(t, "then", b.ids(1), []string{"9-0"})
}

func TestWatch_EndsWhenTheRouterEndsIt(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(watchPath + "?job_ids=a").opened()
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("1-0"), Cursor: "1-0"}, nil)
	b.ids(1)
	b.ended()
}

func TestWatch_ErrorsAreToldAndTransientOnesAreNot(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(watchPath).opened()
	f.failWith("stream", codes.Unavailable)
	until(t, "it tries again", func() bool { return f.watches.Load() > 1 })
	f.heal()
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("1-0"), Cursor: "1-0"})
	b.ids(1)
	f.failWith("stream", codes.NotFound)
	same(t, "event", field(b.next(), "event"), "error")
	b.ended()
	f.failWith("Watch", codes.NotFound)
	e.ask(http.MethodGet, watchPath, "", acceptSSE()).refused(t, 404, codes.NotFound)
	f.failWith("Watch", codes.OutOfRange)
	same(t, "all over", e.ask(http.MethodGet, watchPath+"?job_ids=a&cursor=1-0", "", acceptSSE()).status, 204)
}

func TestWatch_KeepalivesGoOnWhileTheRouterIsAway(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(watchPath).opened()
	f.stop()
	defer f.start()
	for len(b.frames) > 0 {
		<-b.frames
	}
	for range 2 {
		same(t, "frame", <-b.frames, ": keepalive\n\n")
	}
}
