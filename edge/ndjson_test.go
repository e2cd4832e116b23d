package edge

import (
	"bufio"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// lines opens a stream without asking for SSE.
func (e *testEdge) lines(path string, headers ...header) (next func() string) {
	e.t.Helper()
	resp := e.do(e.t.Context(), http.MethodGet, path, "", headers...)
	e.t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != contentNDJSON {
		e.t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	r := bufio.NewReader(resp.Body)
	return func() string {
		e.t.Helper()
		line, err := r.ReadString('\n')
		if err != nil {
			return err.Error()
		}
		return strings.TrimSuffix(line, "\n")
	}
}

func TestNDJSON_IsOneBareEventPerLine(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.steps("j", 3)
	f.finish("j")
	var want []string
	b := e.open(jobPath("j")).opened()
	for range 4 {
		want = append(want, field(b.next(), "data"))
	}
	for _, accept := range []string{"", "*/*", "application/json", "application/x-ndjson"} {
		next := e.lines(jobPath("j"), header{"Accept", accept})
		var got []string
		for line := next(); line != "EOF"; line = next() {
			if line != "" {
				got = append(got, line)
			}
		}
		same(t, accept, got, want)
	}
}

func TestNDJSON_AnyAcceptThatContainsSSEIsSSE(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.finish("j")
	for _, accept := range [][]header{
		{{"Accept", "text/event-stream"}},
		{{"Accept", "Text/Event-Stream; charset=utf-8"}},
		{{"Accept", "application/json, text/event-stream;q=0.5"}},
		{{"Accept", "application/json"}, {"Accept", "text/event-stream"}},
	} {
		if a := e.ask(http.MethodGet, jobPath("j"), "", accept...); a.header.Get("Content-Type") != contentSSE {
			t.Errorf("%v: %v", accept, a.header)
		}
	}
}

func TestNDJSON_HeartbeatIsAnEmptyLine(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	next := e.lines(jobPath("j"))
	for range 3 {
		same(t, "line", next(), "")
	}
}

func TestNDJSON_GapAndError(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 1)
	next := e.lines(jobPath("j"), lastEventID("x"))
	same(t, "opening", next(), "")
	same(t, "gap", next(), `{"gap":{"reason":"REASON_LOG_RESET","oldest_id":"`+ids[0]+`"}}`)
	if line := next(); !strings.Contains(line, ids[0]) {
		t.Fatalf("got %q", line)
	}
	f.failWith("stream", codes.NotFound)
	line := next()
	for line == "" {
		line = next()
	}
	same(t, "error", line, `{"error":{"code":5,"message":"as the test wants"}}`)
	same(t, "end", next(), "EOF")
}

func TestNDJSON_HasNoCursorLines(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.steps("j", 2)
	next := e.lines(jobPath("j") + "?replay=REPLAY_NONE")
	same(t, "opening", next(), "")
	want := f.steps("j", 1)
	line := next()
	for line == "" {
		line = next()
	}
	if !strings.HasPrefix(line, `{"id":"`+want[0]) {
		t.Errorf("got %q", line)
	}
}
