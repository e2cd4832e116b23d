package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// wireTap is a transport that remembers the cursors that were asked for, and cuts
// connections when told.
type wireTap struct {
	next http.RoundTripper

	mu      sync.Mutex
	cursors []string
	cut     context.CancelFunc
}

func (w *wireTap) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	w.mu.Lock()
	w.cursors, w.cut = append(w.cursors, r.Header.Get("Last-Event-ID")), cancel
	w.mu.Unlock()
	return w.next.RoundTrip(r.WithContext(ctx)) //nolint:bodyclose // the client's
}

func (w *wireTap) breakLine() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut()
}

func (w *wireTap) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.cursors...)
}

// The standard's rules, judged by a client library that is not ours: events as they
// were published, their names and ids, the time to wait that `retry:` names, the
// cursor on reconnect after a cut, and the end by 204. (TestBrowser_… does the same
// with a Chromium.)
func TestConformance_GoSSEReadsResumesAndEnds(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	ctx := testContext(t)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	tap := &wireTap{next: transport}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url(events("chat", "conform")), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan time.Duration, 100)
	client := &sse.Client{
		HTTPClient: &http.Client{Transport: tap},
		Backoff:    sse.Backoff{InitialInterval: time.Hour, Multiplier: 1}, // only the server's word can make it shorter
		OnRetry:    func(_ error, d time.Duration) { waits <- d },
	}
	conn := client.NewConnection(r)
	got := make(chan sse.Event, 100)
	conn.SubscribeToAll(func(e sse.Event) {
		if e.Data != "" { // it tells of frames without data, which browsers do not
			got <- e
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- conn.Connect() }()

	texts := []string{"plain", "two\nlines", "\r\n\rid: 0-0\n\ndata: evil", " leads", "캔 ♻️", `"quoted" \ </script>`, "\u2028\x00", ":comment"}
	var last string
	next := func(text string) {
		t.Helper()
		select {
		case e := <-got:
			var body struct {
				ID, Stage, Content string
			}
			if err := json.Unmarshal([]byte(e.Data), &body); err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
			if body.Content != text || body.Stage != e.Type || body.ID != e.LastEventID || e.LastEventID == "" {
				t.Fatalf("%+v, want %q", e, text)
			}
			last = e.LastEventID
		case <-ctx.Done():
			t.Fatalf("%q did not come", text)
		}
	}
	publish := func(text string) {
		t.Helper()
		b.calls.publish(&eventbusv1.Event{Domain: "chat", JobId: "conform", Stage: "token.x", Status: "streaming", Content: text})
	}
	for _, text := range texts {
		publish(text)
		next(text)
	}
	tap.breakLine()
	cut := last
	publish("while it was away")
	next("while it was away")
	select {
	case d := <-waits:
		if d < time.Second || d > 3*time.Second { // half of it up or down is its own jitter
			t.Errorf("it waits %v before it comes back; retry: 2000 was sent", d)
		}
	default:
		t.Error("it came back without a retry")
	}
	if cursors := tap.seen(); len(cursors) != 2 || cursors[0] != "" || cursors[1] != cut {
		t.Errorf("cursors %q, want none and %q", cursors, cut)
	}
	b.calls.publish(done("chat", "conform"))
	next("")
	err = <-ended
	if ce, ok := errors.AsType[*sse.ConnectionError](err); !ok || !strings.Contains(ce.Error(), "204") {
		t.Errorf("it ended with %v, want 204", err)
	}
	if cursors := tap.seen(); len(cursors) != 3 || cursors[2] != last {
		t.Errorf("cursors %q, the last should be %q", cursors, last)
	}
}
