package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"

	"github.com/eco2-team/eventbus/edge/browsertest"
)

// The console, on the real bus, behind a network that breaks.
func TestBrowser_ConsoleFollowsAJobLive(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	net := newProxy(t, b.http)
	browser := browsertest.New(t)
	p := openTab(t, browser, net.url("/#scan/j")) // a link of old
	p.until(hook("connection")+"?.textContent", "live")
	p.until(hook("watch")+"?.textContent", "live")

	b.calls.publish(&eventbusv1.Event{Domain: "scan", JobId: "j", Stage: "vision", Status: "started", Progress: new(int32(10))})
	stages := `[...document.querySelectorAll('[data-testid=stage]')].map((s) => s.dataset.stage + ' ' + s.dataset.status).join()`
	p.until(stages, "vision started")
	p.until(hook("progress")+".value", 10)
	p.until(`document.querySelector('[data-job=j]')?.dataset.stage`, "vision") // the list lives too

	b.streams.CLI(t, legacy("j", "vision")...) // a worker of another make
	p.until(stages, "vision completed")
	p.until(hook("progress")+".value", 50)
	p.until(hook("result")+"?.textContent", "{\n  \"n\": 1\n}")

	var text strings.Builder
	for i := range 30 {
		b.calls.publish(token("scan", "j", i))
		fmt.Fprintf(&text, "t%d ", i)
		if i%10 == 9 {
			p.until(hook("tokens")+".textContent", text.String()) // as they come
			net.cut()
		}
	}
	b.calls.publish(done("scan", "j"))
	p.until(hook("connection")+".textContent", "finished")
	p.until(stages, "vision completed,token streaming,done completed")
	p.until(hook("tokens")+".textContent", text.String())
	p.until(hook("progress")+".value", 100)
	p.until(fmt.Sprintf(`(({events, duplicates, holes}) => [events, duplicates, holes].join())(%s.dataset)`, hook("counts")), "33,0,0")
	p.until(`document.querySelector('[data-job=j]')?.dataset.final`, "done")
}

// A page of another origin with native EventSources: what the contract promises
// to a browser that runs no code of ours.
func TestBrowser_EventSourceResumesByItselfAndStopsAtTheEnd(t *testing.T) {
	t.Parallel()
	page := foreignPage(t)
	b := newBus(t, settings{"CORS_ORIGINS": page})
	net := newProxy(t, b.http)
	p := openTab(t, browsertest.New(t), page+"/page.html")

	// This one is cut within frames, wherever 16 KiB end; that one while it is
	// written.
	b.calls.tokens("chat", "replayed", recordedTokens)
	b.calls.publish(done("chat", "replayed"))
	const replayed, live = "/api/v1/chat/replayed/events", "/api/v1/chat/live/events"
	net.limit(replayed, 16<<10)
	p.follow("replayed", net.url(replayed), "token", "done")
	p.follow("live", net.url(live), "token", "done")
	p.until("live.opened", 1)
	const half = 60
	for i := range 2 * half {
		b.calls.publish(token("chat", "live", i))
		if i == half {
			p.until("live.seqs.length", half+1)
			net.cut()
		}
	}
	b.calls.publish(done("chat", "live"))

	wantWhole(t, p, net, "live", live, 2*half)
	wantWhole(t, p, net, "replayed", replayed, recordedTokens)
	if n := len(net.requests(replayed)); n < 4 {
		t.Errorf("%d requests: the connection was not cut often", n)
	}
	// The time of another's reconnection shows that theirs would have come.
	before := len(net.requests(live)) + len(net.requests(replayed))
	p.follow("clock", net.url("/api/v1/chat/clock/events"), "token")
	p.until("clock.opened", 1)
	net.cut()
	p.until("clock.opened", 2)
	if after := len(net.requests(live)) + len(net.requests(replayed)); after != before {
		t.Errorf("%d requests for jobs that were over", after-before)
	}
}

// wantWhole checks that a page got a job whole, that each of its connections began
// where the one before ended, and that it has stopped.
func wantWhole(t *testing.T, p tab, net *proxy, name, path string, tokens int) {
	t.Helper()
	p.until(name+".source.readyState", 2)
	wantSeqs(t, p, name, tokens+1)
	ids := value[[]string](p, name+".ids")
	asked := net.requests(path)
	if n := len(asked); n < 3 || asked[0] != "" || asked[n-1] != ids[len(ids)-1] {
		t.Errorf("%s: requests after %v; want the first after nothing, the last after %s", name, asked, ids[len(ids)-1])
	}
	if got := value[int](p, name+".gaps + "+name+".errors.length"); got != 0 {
		t.Errorf("%s: %d gaps and errors", name, got)
	}
}

// wantSeqs checks that a page got n events, each once and in order, and their
// tokens.
func wantSeqs(t *testing.T, p tab, name string, n int) {
	t.Helper()
	for i, seq := range value[[]int](p, name+".seqs") {
		if seq != i+1 {
			t.Fatalf("%s: event %d has seq %d", name, i, seq)
		}
	}
	var text strings.Builder
	for i := range n - 1 {
		fmt.Fprintf(&text, "t%d ", i)
	}
	if got := value[string](p, name+".text"); got != text.String() {
		t.Errorf("%s: %q, want %q", name, got, text.String())
	}
	if got := value[int](p, name+".seqs.length"); got != n {
		t.Errorf("%s: %d events, want %d", name, got, n)
	}
}

// H12 of what broke before: an empty id on errors reset the browser's cursor.
//
// The error is a real one: the only router comes back without the job's domain, by
// a wrong DOMAINS. The edge, which would wait for any router that may come, is told
// that asking again cannot help, and says so to the browser.
func TestSeedH12_BrowserResumesWhereItWasAfterAnErrorFrame(t *testing.T) {
	t.Parallel()
	page := foreignPage(t)
	b := newBus(t, settings{"CORS_ORIGINS": page})
	net := newProxy(t, b.http)
	p := openTab(t, browsertest.New(t), page+"/page.html")
	const path = "/api/v1/scan/j/events"
	p.follow("job", net.url(path), "token", "done")
	raw := b.open(path)
	const before, after = 5, 5
	ids := b.calls.tokens("scan", "j", before)
	p.until("job.seqs.length", before)
	raw.steps(before)

	domains := func(list string) {
		b.router.Kill()
		b.router.env["DOMAINS"] = list
		b.router.start()
	}
	domains("chat")
	f := raw.frame() // the browser gets it in the same moment, and waits for 2 s
	domains("scan,chat")
	b.router.waitReady()
	var said struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(f.data), &said); err != nil || f.event != "error" || f.hasID || said.Code != 3 || !strings.Contains(said.Message, "scan") {
		t.Fatalf("%+v, want an error without an id that names the domain: %v", f, err)
	}
	if _, err := raw.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the error: %v, want the end", err)
	}

	for i := range after {
		b.calls.publish(token("scan", "j", before+i))
	}
	b.calls.publish(done("scan", "j"))
	p.until("job.source.readyState", 2)
	wantSeqs(t, p, "job", before+after+1)
	if got := value[[]string](p, "job.errors"); len(got) != 1 || got[0] != f.data {
		t.Errorf("the page's errors: %q, want %q", got, f.data)
	}
	asked := net.requests(path)
	if len(asked) < 3 || asked[1] != ids[before-1] {
		t.Errorf("requests after %q; want the second after %s", asked, ids[before-1])
	}
}
