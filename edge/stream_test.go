package edge

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s (- want, + got):\n%s", what, d)
	}
}

func TestStream_BeginsAtOnceWithHeadersAndRetry(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	b := e.open(jobPath("j")).opened()
	for name, want := range map[string]string{
		"Content-Type":      "text/event-stream",
		"Cache-Control":     "no-cache, no-transform",
		"X-Accel-Buffering": "no",
		"Vary":              "",
	} {
		if got := b.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for name := range b.header {
		if strings.HasPrefix(name, "Grpc-") {
			t.Errorf("the header %s is nobody's business", name)
		}
	}
}

func TestStream_SendsKeepalivesWhileNothingHappens(t *testing.T) {
	e := newEdge(t, newFakeRouter(t), func(_ *Config, o *Options) { o.Heartbeat = 60 * time.Millisecond })
	b := e.open(jobPath("j")).opened()
	for range 3 {
		if f := <-b.frames; f != ": keepalive\n\n" {
			t.Fatalf("got %q", f)
		}
	}
}

func TestStream_ReplaysThenFollowsThenEnds(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	want := f.steps("j", 3)
	b := e.open(jobPath("j")).opened()
	same(t, "replay", b.ids(3), want)
	live := f.steps("j", 2)
	same(t, "live", b.ids(2), live)
	last := f.finish("j")
	same(t, "the final event", b.ids(1), []string{last})
	b.ended()
}

func TestStream_ResumesByEachSourceInOrderOfPrecedence(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 5)
	f.finish("j")
	for name, c := range map[string]struct {
		query   string
		headers []header
		after   int
	}{
		"header":                {"", []header{lastEventID(ids[2])}, 2},
		"last_event_id":         {"?last_event_id=" + ids[1], nil, 1},
		"after_id":              {"?after_id=" + ids[3], nil, 3},
		"cursor":                {"?cursor=" + ids[3], nil, 3},
		"header before query":   {"?last_event_id=" + ids[1] + "&after_id=" + ids[0], []header{lastEventID(ids[2])}, 2},
		"empty header":          {"?last_event_id=" + ids[1], []header{lastEventID("")}, 1},
		"last_event_id first":   {"?last_event_id=" + ids[1] + "&after_id=" + ids[0], nil, 1},
		"empty query parameter": {"?last_event_id=&after_id=" + ids[0], nil, 0},
		"replay is ignored":     {"?replay=REPLAY_NONE", []header{lastEventID(ids[2])}, 2},
		"the zero id":           {"?after_id=0-0&replay=REPLAY_NONE", nil, -1},
	} {
		t.Run(name, func(t *testing.T) {
			b := e.open(jobPath("j")+c.query, c.headers...).opened()
			same(t, "ids", b.ids(4-c.after), ids[c.after+1:])
		})
	}
}

func TestStream_UnreadableHeaderIsAGapThenEverything(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 3)
	f.trim("j", 1) // another gap, which is no further news
	for _, id := range []string{"recovery:12", "1-", "-1", "99999999999999999999999-0", "1-0,2-0"} {
		b := e.open(jobPath("j")+"?replay=REPLAY_NONE", lastEventID(id)).opened()
		want := "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\",\"oldest_id\":\"" + ids[1] + "\"}\n\n"
		same(t, "first frame", b.next(), want)
		same(t, "then", b.ids(2), ids[1:])
	}
}

func TestStream_OpeningDoesNotWaitForTheLog(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, func(_ *Config, o *Options) { o.Heartbeat = time.Hour })
	f.failWith("ListEvents", codes.Unavailable)
	b := e.open(jobPath("j"), lastEventID("recovery:12")).opened()
	same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\"}\n\n")
	want := f.steps("j", 1)
	same(t, "then", b.ids(1), want)
}

func TestStream_CursorOutsideTheLogIsAGapWithoutID(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 3)
	b := e.open(jobPath("j"), lastEventID("9000000000000-0")).opened()
	same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\",\"oldest_id\":\""+ids[0]+"\"}\n\n")
	same(t, "then", b.ids(3), ids)

	ids = f.steps("k", 3)
	f.trim("k", 1)
	b = e.open(jobPath("k"), lastEventID(ids[0])).opened()
	same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_HISTORY_EXPIRED\",\"oldest_id\":\""+ids[1]+"\"}\n\n")
	same(t, "then", b.ids(2), ids[1:])
}

func TestStream_LostLogIsAGapForAllWhoFollow(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	old := f.steps("j", 3)
	early := e.open(jobPath("j")).opened()
	late := e.open(jobPath("j"), lastEventID(old[1])).opened()
	same(t, "before", early.ids(3), old)
	same(t, "before", late.ids(1), old[2:])
	f.trim("j", 3)
	for _, b := range []*browser{early, late} {
		same(t, "gap", b.next(), "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\"}\n\n")
	}
	again := f.steps("j", 2)
	f.finish("j")
	for _, b := range []*browser{early, late} {
		same(t, "after", b.ids(2), again)
		b.ids(1)
		b.ended()
	}
}

func TestStream_StateReplayBeginsWithCursorAndState(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	before := f.steps("j", 3)
	state := f.publish("j", &eventbusv1.Event{Stage: "vision", Status: "completed"})[0]
	after := f.steps("j", 2)
	b := e.open(jobPath("j") + "?replay=REPLAY_STATE").opened()
	same(t, "cursor", b.next(), "id: "+before[2]+"\n\n")
	same(t, "state, then the log", b.ids(3), append([]string{state}, after...))
	live := f.steps("j", 1)
	same(t, "live", b.ids(1), live)
}

func TestStream_StateReplayOfAFinishedJobEndsAfterTheState(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.steps("j", 2)
	last := f.finish("j")
	b := e.open(jobPath("j") + "?replay=REPLAY_STATE").opened()
	b.next() // the cursor
	same(t, "state", b.ids(1), []string{last})
	b.ended()
}

func TestStream_StateReplayWithoutStateBeginsAtTheStart(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 2)
	b := e.open(jobPath("j") + "?replay=REPLAY_STATE").opened()
	same(t, "everything", b.ids(2), ids)
}

func TestStream_LiveOnlySkipsWhatIsThere(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	old := f.steps("j", 3)
	b := e.open(jobPath("j") + "?replay=REPLAY_NONE").opened()
	same(t, "cursor", b.next(), "id: "+old[2]+"\n\n")
	live := f.steps("j", 1)
	same(t, "live", b.ids(1), live)
	nothing := e.open(jobPath("empty") + "?replay=REPLAY_NONE").opened()
	one := f.steps("empty", 1)
	same(t, "live", nothing.ids(1), one)
}

func TestStream_OfAFinishedJobIs204(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 2)
	last := f.finish("j")
	for name, c := range map[string]struct {
		path    string
		headers []header
	}{
		"SSE":       {jobPath("j"), []header{acceptSSE(), lastEventID(last)}},
		"NDJSON":    {jobPath("j") + "?after_id=" + last, nil},
		"legacy":    {"/api/v1/stream?job_id=j&after_id=" + last, []header{acceptSSE()}},
		"live only": {jobPath("j") + "?replay=REPLAY_NONE", []header{acceptSSE()}},
	} {
		a := e.ask(http.MethodGet, c.path, "", c.headers...)
		if a.status != http.StatusNoContent || a.body != "" {
			t.Errorf("%s: %d %q", name, a.status, a.body)
		}
	}
	same(t, "the others still get it", e.open(jobPath("j"), lastEventID(ids[0])).opened().ids(2), []string{ids[1], last})
}

// A browser whose cursor is the final event opens the topic; its 204 is not that
// of those who wait beside it with another cursor.
func TestStream_EndOfTheOpenerIsNotTheEndOfOthers(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 2)
	last := f.finish("j")
	type result struct {
		status int
		body   string
	}
	results := make(chan result, 20)
	for i := range cap(results) {
		cursor := last
		if i%2 == 1 {
			cursor = ids[0]
		}
		go func() {
			a := e.ask(http.MethodGet, jobPath("j")+"?after_id="+cursor, "", acceptSSE())
			results <- result{a.status, a.body}
		}()
	}
	over, served := 0, 0
	for range cap(results) {
		switch r := <-results; {
		case r.status == http.StatusNoContent:
			over++
		case r.status == http.StatusOK && strings.Contains(r.body, "id: "+ids[1]) && strings.Contains(r.body, "id: "+last):
			served++
		default:
			t.Errorf("%d %q", r.status, r.body)
		}
	}
	same(t, "answers", []int{over, served}, []int{10, 10})
}

func TestStream_LegacyRouteIsScanWhateverTheQueryNames(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 2)
	b := e.open("/api/v1/stream?domain=chat&job_id=j&after_id=" + ids[0]).opened()
	same(t, "ids", b.ids(1), ids[1:])
	same(t, "domain", f.lastSubscribe.Load().GetDomain(), "scan")
}

func TestStream_MidStreamErrorIsAFrameWithoutIDThenTheEnd(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 1)
	b := e.open(jobPath("j")).opened()
	same(t, "event", b.ids(1), ids)
	f.failWith("stream", codes.NotFound)
	frame := b.next()
	if field(frame, "id") != "" || field(frame, "event") != "error" {
		t.Errorf("error frame: %q", frame)
	}
	same(t, "data", field(frame, "data"), `{"code":5,"message":"as the test wants"}`)
	b.ended()
}

func TestStream_EndsAfterItLeftNothingBehind(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.steps("j", 1)
	b := e.open(jobPath("j")).opened()
	b.ids(1)
	same(t, "streams", int(e.metrics.open(kindJob)), 1)
	same(t, "topics", counter(e.metrics.topics), 1)
	b.close()
	until(t, "the stream from the router is closed", func() bool { return f.open.Load() == 0 })
	until(t, "gauges are back", func() bool {
		return int(e.metrics.open(kindJob)) == 0 && counter(e.metrics.topics) == 0
	})
}
