package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// raw is a connection that speaks HTTP/1.1 by hand.
func (e *testEdge) raw(text string) *net.TCPConn {
	e.t.Helper()
	c, err := new(net.Dialer).DialContext(e.t.Context(), "tcp", e.Addr().String())
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		e.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// readAll reads until the other side closes.
func readAll(t *testing.T, c net.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(tooLong))
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection was not closed; it said %q", b)
	}
	return string(b)
}

func TestServer_HalfAHeaderIsCutOff(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	readAll(t, e.raw("GET "+jobPath("j")+" HTTP/1.1\r\nHost: edge\r\nX-Slow: ")) // fails after tooLong
}

func TestServer_BodyThatNeverComesIsCutOff(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	e.impatient()
	const head = " HTTP/1.1\r\nHost: edge\r\nContent-Length: 100\r\n"
	for text, status := range map[string]string{
		"POST " + jobPath("j") + head + "Content-Type: application/json\r\n\r\n{": "400",
		"POST " + jobPath("j") + head + "\r\n{":                                   "415",
		// The stream must not wait for it either.
		"GET " + jobPath("j") + head + "Accept: text/event-stream\r\n\r\n{": "400",
	} {
		if got := readAll(t, e.raw(text)); !strings.HasPrefix(got, "HTTP/1.1 "+status) {
			t.Errorf("%s: %q", text[:4], got)
		}
	}
	if f.lastPublish.Load() != nil || f.subscribes.Load() != 0 {
		t.Error("something got through")
	}
}

func TestServer_HugeHeaderIsRefused(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	got := readAll(t, e.raw("GET "+jobPath("j")+" HTTP/1.1\r\nHost: edge\r\nX-Big: "+strings.Repeat("x", maxHeaderBytes+8<<10)+"\r\n\r\n"))
	if !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("%.80q", got)
	}
}

func TestServer_WatchOfTheMostJobsWithTheLongestNamesFits(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	var names []string
	for i := range 256 {
		names = append(names, "job_ids="+strings.Repeat(string(rune('a'+i%26)), 128))
	}
	e.open("/api/v1/scan/events?" + strings.Join(names, "&")).opened()
	same(t, "watches", f.watches.Load(), int64(1))
}

// A browser that does not read is cut off, and slows nobody.
func TestServer_BrowserThatNeverReadsIsCutOffAndSlowsNobody(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	e.impatient()
	for name, open := range map[string]func(job string){
		"HTTP/1.1": func(job string) {
			c := e.raw("GET " + jobPath(job) + " HTTP/1.1\r\nHost: edge\r\nAccept: text/event-stream\r\n\r\n")
			_ = c.SetReadBuffer(4096)
		},
		"HTTP/2": func(job string) {
			h2 := onHTTP2(t)
			resp := (&testEdge{Server: e.Server, t: t, url: e.url, web: h2}).do(t.Context(), http.MethodGet, jobPath(job), "", acceptSSE())
			t.Cleanup(func() { _ = resp.Body.Close() })
			same(t, "version", resp.Proto, "HTTP/2.0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			timeouts := counter(e.metrics.writeTimeouts)
			streams := func() int { return int(e.metrics.open(kindJob)) }
			job := strings.ReplaceAll(name, "/", "-")
			good := e.open(jobPath(job)).opened()
			open(job)
			until(t, "both are there", func() bool { return streams() == 2 })
			text := strings.Repeat("x", 100<<10)
			var slowest time.Duration
			for deadline := time.Now().Add(2 * tooLong); counter(e.metrics.writeTimeouts) == timeouts; {
				begun := time.Now()
				id := f.publish(job, &eventbusv1.Event{Stage: "big", Content: text})[0]
				for got := ""; got != id; {
					frame := good.next()
					if got = field(frame, "id"); frame == "" {
						t.Fatalf("the other browser was cut off: %v", good.err)
					}
				}
				slowest = max(slowest, time.Since(begun))
				if time.Now().After(deadline) {
					t.Fatal("nobody was cut off")
				}
			}
			until(t, "only one is left", func() bool { return streams() == 1 })
			t.Logf("the slowest event took %s", slowest)
			same(t, "streams that ended for it", e.ended(endTimeout), counter(e.metrics.writeTimeouts))
			good.close()
			until(t, "nobody is left", func() bool { return streams() == 0 })
		})
	}
}

// onHTTP2 is a client that speaks HTTP/2 without TLS.
func onHTTP2(tb testing.TB) *http.Client {
	tb.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// In HTTP/2 a deadline that outlives its write would end the stream.
func TestServer_HTTP2StreamOutlivesItsWriteDeadlines(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, func(_ *Config, o *Options) { o.Heartbeat = time.Second })
	e.impatient()
	e.web = onHTTP2(t)
	var all []*browser
	for range 20 { // on one connection
		b := e.open(jobPath("j")).opened()
		same(t, "Transfer-Encoding", b.header.Get("Transfer-Encoding"), "")
		all = append(all, b)
	}
	for range 2 {
		for _, b := range all {
			for f := <-b.frames; f != ": keepalive\n\n"; f = <-b.frames { // longer than a deadline
				t.Fatalf("got %q", f)
			}
		}
	}
	want := f.steps("j", 2)
	f.finish("j")
	for _, b := range all {
		same(t, "events", b.ids(2), want)
		b.ids(1)
		b.ended()
	}
}

// A connection on which a stream ended that was not taken over carries the next
// request, long after the last write's deadline.
func TestServer_ConnectionIsReusedAfterAStream(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	e.impatient()
	f.finish("over")
	c := e.raw("")
	r := bufio.NewReader(c)
	for range 2 {
		if _, err := io.WriteString(c, "GET "+jobPath("over")+" HTTP/1.1\r\nHost: edge\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !bytes.Contains(body, []byte(`"stage":"done"`)) {
			t.Fatalf("%q %v", body, err)
		}
		wait := time.NewTimer(e.pace.timeout * 3 / 2)
		<-wait.C
	}
}

func TestServer_DrainSendsEverybodyAwayWithoutAnError(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.steps("j", 1)
	var all []*browser
	for range 20 {
		b := e.open(jobPath("j")).opened()
		b.ids(1)
		all = append(all, b)
	}
	all = append(all, e.open("/api/v1/scan/events").opened())
	lines := e.do(t.Context(), http.MethodGet, jobPath("j"), "")
	defer func() { _ = lines.Body.Close() }()
	if err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for _, b := range all {
		last := b.next()
		if !isAway(last) {
			t.Errorf("got %q", last)
		}
		seen[last] = true
		b.ended()
	}
	if len(seen) < 10 {
		t.Errorf("%d browsers come back at %d times", len(all), len(seen))
	}
	if text, err := io.ReadAll(lines.Body); err != nil || strings.Contains(string(text), "error") {
		t.Errorf("NDJSON: %q %v", text, err)
	}
	if ok, text := e.Ready(); ok {
		t.Errorf("ready: %s", text)
	}
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", e.Addr().String()); err == nil {
		t.Error("it still listens")
	}
	until(t, "the router is left", func() bool { return f.open.Load() == 0 })
	same(t, "streams", int(e.metrics.open(kindJob)), 0)
}

func TestServer_NewStreamWhileDrainingIsSentAway(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.finish("j")
	e.drain()
	if a := e.ask(http.MethodGet, jobPath("j"), "", acceptSSE()); a.status != 200 || !isAway(a.body) {
		t.Errorf("SSE: %d %q", a.status, a.body)
	}
	e.ask(http.MethodGet, jobPath("j"), "").refused(t, 503, codes.Unavailable)
	if a := e.ask(http.MethodGet, "/api/v1/scan/j/state", ""); a.status != 200 {
		t.Errorf("state: %d", a.status)
	}
}

func TestServer_DrainIsBounded(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, func(_ *Config, o *Options) { o.Drain = 200 * time.Millisecond })
	release := make(chan struct{})
	f.set(func() {
		f.fault = func(m string) error {
			if m == "GetState" {
				<-release
			}
			return nil
		}
	})
	go func() {
		resp, err := e.web.Do(mustRequest(t, e.url+"/api/v1/scan/j/state"))
		if err == nil {
			_ = resp.Body.Close()
		}
	}()
	until(t, "a call hangs", func() bool { return f.states.Load() == 1 })
	begun := time.Now()
	err := e.Stop(context.Background())
	if took := time.Since(begun); took > tooLong || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v after %s", err, took)
	}
	close(release)
	e.opts.Drain = tooLong
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Error(err)
	}
	return r
}

func TestServer_ReadyTellsWhetherARouterAnswers(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.stop()
	until(t, "not ready", func() bool { ok, _ := e.Ready(); return !ok })
	if _, text := e.Ready(); !strings.Contains(text, f.addr) {
		t.Errorf("%q does not name the router", text)
	}
	f.start()
	until(t, "ready", func() bool { ok, _ := e.Ready(); return ok })
}

// H8: what is over leaves nothing behind.
func TestServer_SeedH08_ThousandFinishedSubscriptionsLeaveNothing(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 3)
	last := f.finish("j")
	one := func(path string, status int) {
		if a := e.ask(http.MethodGet, path, "", acceptSSE()); a.status != status {
			t.Fatalf("%s: %d", path, a.status)
		}
	}
	one(jobPath("j"), 200)
	goroutines, heap := settled()
	for i := range 1000 {
		switch i % 3 {
		case 0:
			one(jobPath("j"), 200)
		case 1:
			one(jobPath("j")+"?after_id="+ids[1], 200)
		default:
			one(jobPath("j")+"?after_id="+last, 204)
		}
	}
	until(t, "gauges are back", func() bool {
		return int(e.metrics.open(kindJob)) == 0 && counter(e.metrics.topics) == 0
	})
	until(t, "goroutines are back", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	if _, now := settled(); now > heap+2<<20 {
		t.Errorf("heap: %d KiB, then %d KiB", heap>>10, now>>10)
	}
}

func settled() (goroutines int, heap uint64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

func TestServer_AddressInUseIsAnError(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	conn, err := Dial(f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s, err := New(Config{HTTPAddr: e.Addr().String(), RouterAddr: f.addr}, conn, Options{Heartbeat: time.Second, Drain: time.Second, Log: e.opts.Log, Metrics: fresh()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "HTTP_ADDR") {
		t.Errorf("%v", err)
	}
}
