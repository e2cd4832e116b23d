package edge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience of the tests: nothing takes so long unless it is broken.
const tooLong = 30 * time.Second

// testEdge is an edge on a real port, in front of a fakeRouter.
type testEdge struct {
	*Server
	t   testing.TB
	url string
	web *http.Client
}

type setting func(*Config, *Options)

// impatient makes an edge that waits for nobody, yet long enough for a busy
// machine.
func (e *testEdge) impatient() {
	e.pace = pace{700 * time.Millisecond, 100 << 20}
	e.readTimeout = 500 * time.Millisecond
}

func newEdge(tb testing.TB, f *fakeRouter, settings ...setting) *testEdge {
	tb.Helper()
	cfg := Config{HTTPAddr: "127.0.0.1:0", RouterAddr: f.addr, HTTPPublish: true}
	opts := Options{
		Heartbeat: 200 * time.Millisecond, Drain: tooLong,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
	for _, set := range settings {
		set(&cfg, &opts)
	}
	if err := cfg.Check(); err != nil {
		tb.Fatal(err)
	}
	how, err := RouterOptions(cfg, opts.RouterToken, opts.Log)
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := Dial(cfg.RouterAddr, how...)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := New(cfg, conn, opts)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	e := &testEdge{Server: s, t: tb, url: "http://" + s.Addr().String(), web: &http.Client{Transport: &http.Transport{}}}
	tb.Cleanup(func() {
		e.web.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), tooLong)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			tb.Error(err)
		}
		_ = conn.Close()
	})
	until(tb, "the edge is ready", func() bool { ok, _ := s.Ready(); return ok })
	return e
}

// until waits for a condition.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(tooLong); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatal("never true: " + what)
		}
	}
}

// jobPath is the stream of a job of domain scan.
func jobPath(job string) string { return "/api/v1/scan/" + job + "/events" }

// header is a request header, or several of a name.
type header [2]string

func acceptSSE() header { return header{"Accept", "text/event-stream"} }

func lastEventID(id string) header { return header{"Last-Event-ID", id} }

func (e *testEdge) do(ctx context.Context, method, path, body string, headers ...header) *http.Response {
	e.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, e.url+path, r)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, h := range headers {
		req.Header.Add(h[0], h[1])
	}
	resp, err := e.web.Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp
}

// answer is a whole response, for requests that are no stream.
type answer struct {
	status int
	header http.Header
	body   string
}

func (e *testEdge) ask(method, path, body string, headers ...header) answer {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), tooLong)
	defer cancel()
	resp := e.do(ctx, method, path, body, headers...)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// browser reads an SSE stream frame by frame, as text.
type browser struct {
	t      testing.TB
	status int
	header http.Header
	frames chan string // closed at the end
	err    error       // of the reading, once frames is closed
	leave  context.CancelFunc
	done   chan struct{}
}

// open starts an SSE stream; it fails the test unless the status is 200.
func (e *testEdge) open(path string, headers ...header) *browser {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.t.Context())
	resp := e.do(ctx, http.MethodGet, path, "", append(headers, acceptSSE())...) //nolint:bodyclose // read closes it
	b := &browser{t: e.t, status: resp.StatusCode, header: resp.Header, frames: make(chan string, 10_000), leave: cancel, done: make(chan struct{})}
	go b.read(resp.Body)
	e.t.Cleanup(b.close)
	if b.status != http.StatusOK {
		e.t.Fatalf("GET %s: %d", path, b.status)
	}
	return b
}

func (b *browser) read(body io.ReadCloser) {
	defer close(b.done)
	defer close(b.frames)
	defer func() { _ = body.Close() }()
	r := bufio.NewReader(body)
	var text strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if text.Len()+len(line) > 0 {
				b.err = errors.New("the stream ended within a frame: " + text.String() + line)
			} else if !errors.Is(err, io.EOF) {
				b.err = err
			}
			return
		}
		text.WriteString(line)
		if line == "\n" {
			b.frames <- text.String()
			text.Reset()
		}
	}
}

func (b *browser) close() {
	b.leave()
	for range b.frames { // what is unread does not matter
	}
	<-b.done
}

// next is the next frame that is no keepalive; "" at the end.
func (b *browser) next() string {
	b.t.Helper()
	late := time.After(tooLong)
	for {
		select {
		case f := <-b.frames:
			if f != ": keepalive\n\n" {
				return f
			}
		case <-late:
			b.t.Fatal("no frame came")
		}
	}
}

// opened skips the opening.
func (b *browser) opened() *browser {
	b.t.Helper()
	if f := b.next(); f != "retry: 2000\n: subscribed\n\n" {
		b.t.Fatalf("the stream begins with %q", f)
	}
	return b
}

// ids reads n frames and returns their ids.
func (b *browser) ids(n int) []string {
	b.t.Helper()
	ids := make([]string, 0, n)
	for range n {
		f := b.next()
		if f == "" {
			b.t.Fatalf("the stream ended (%v) after %d of %d events", b.err, len(ids), n)
		}
		ids = append(ids, field(f, "id"))
	}
	return ids
}

// ended fails the test unless the stream ends now, as it should.
func (b *browser) ended() {
	b.t.Helper()
	if f := b.next(); f != "" {
		b.t.Fatalf("the stream goes on with %q", f)
	}
	<-b.done
	if b.err != nil {
		b.t.Fatal(b.err)
	}
}

// field is a field of an SSE frame; "" where it has none.
func field(frame, name string) string {
	for line := range strings.SplitSeq(frame, "\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return v
		}
	}
	return ""
}

// counter reads a counter or a gauge.
func counter(m prometheus.Metric) int {
	var v dto.Metric
	if err := m.Write(&v); err != nil {
		return -1
	}
	return int(v.GetCounter().GetValue() + v.GetGauge().GetValue())
}

func fresh() *prometheus.Registry { return prometheus.NewRegistry() }
