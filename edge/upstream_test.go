package edge

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tmaxmax/go-sse"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

func TestUpstream_IsOneForAllBrowsersOfAJob(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	old := f.steps("j", 10)
	var browsers []*browser
	for range 50 {
		browsers = append(browsers, e.open(jobPath("j")).opened())
	}
	same(t, "streams from the router", f.open.Load(), int64(1))
	same(t, "subscriptions", f.subscribes.Load(), int64(1))
	for _, b := range browsers {
		same(t, "replay", b.ids(10), old)
	}
	live := f.steps("j", 5)
	f.finish("j")
	for _, b := range browsers {
		same(t, "live", b.ids(5), live)
		b.ids(1)
		b.ended()
	}
	same(t, "frames encoded", counter(e.metrics.framesEncoded), 16)
	same(t, "frames sent", counter(e.metrics.framesSent), 50*16)
}

func TestUpstream_RouterRestartIsInvisibleToBrowsers(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	first := f.steps("j", 3)
	b := e.open(jobPath("j")).opened()
	empty := e.open(jobPath("later")).opened()
	same(t, "before", b.ids(3), first)
	for range 3 {
		f.stop()
		missed := f.steps("j", 2) // while no router is there
		f.start()
		same(t, "after", b.ids(2), missed)
	}
	until(t, "the other stream is resumed", func() bool { return f.open.Load() == 2 })
	same(t, "of a job without events", f.steps("later", 1), empty.ids(1))
	f.finish("j")
	b.ids(1)
	b.ended()
	if n := counter(e.metrics.reconnects); n < 3 {
		t.Errorf("%d reconnects", n)
	}
}

func TestUpstream_ResumesAfterTheLastEvent(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 3)
	b := e.open(jobPath("j")).opened()
	b.ids(3)
	f.failWith("stream", codes.Unavailable)
	until(t, "it resumes", func() bool { return f.lastSubscribe.Load().GetAfterId() == ids[2] })
	f.heal()
	want := f.steps("j", 1)
	same(t, "then", b.ids(1), want)
}

func TestUpstream_EveryTransientErrorIsInvisibleToBrowsers(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	for _, c := range []codes.Code{
		codes.Unavailable, codes.Internal, codes.Unknown, codes.Aborted,
		codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled,
	} {
		job := c.String()
		b := e.open(jobPath(job)).opened()
		n := f.subscribes.Load()
		f.failWith("stream", c)
		until(t, job+" is tried again", func() bool { return f.subscribes.Load() > n })
		f.heal()
		want := f.steps(job, 1)
		same(t, "after "+job, b.ids(1), want)
		b.close()
	}
}

// A stream that had its age at its router is no trouble, for nobody.
func TestUpstream_MovesOnAtItsAge(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("1-0"), Cursor: "1-0"})
	first := f.steps("j", 3)
	b, w := e.open(jobPath("j")).opened(), e.open(watchPath).opened()
	same(t, "before", b.ids(3), first)
	same(t, "before, in a Watch", w.ids(1), []string{"1-0"})
	aged, err := status.New(codes.Unavailable, "aged").WithDetails(&errdetails.ErrorInfo{Reason: "STREAM_AGE", Domain: "eventbus"})
	if err != nil {
		t.Fatal(err)
	}
	f.set(func() {
		f.fault = func(method string) error {
			if method == "stream" {
				return aged.Err()
			}
			return nil
		}
	})
	until(t, "both moved", func() bool { return counter(e.metrics.moves) >= 2 && f.watches.Load() > 1 && f.subscribes.Load() > 1 })
	f.heal()
	same(t, "after", f.steps("j", 2), b.ids(2))
	f.script(&eventbusv1.WatchResponse{Events: watchEvents("2-0"), Cursor: "2-0"})
	same(t, "after, in a Watch", w.ids(1), []string{"2-0"})
	same(t, "streams that broke", counter(e.metrics.reconnects), 0)
}

func TestUpstream_SilentRouterIsLeft(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(jobPath("j")).opened()
	f.set(func() { f.silent = true })
	until(t, "the edge opens another stream", func() bool { return f.subscribes.Load() >= 2 })
	f.heal()
	want := f.steps("j", 1)
	same(t, "then", b.ids(1), want)
}

func TestUpstream_OutOfRangeAfterTheStartEndsTheStream(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 2)
	b := e.open(jobPath("j")).opened()
	same(t, "before", b.ids(2), ids)
	f.failWith("stream", codes.Unavailable)
	f.failWith("Subscribe", codes.OutOfRange)
	f.stop()
	f.start()
	b.ended()
	until(t, "nothing is left", func() bool { return counter(e.metrics.topics) == 0 })
}

// The job ends while a browser is behind the ring: it still gets everything.
func TestUpstream_EndOfTheJobLeavesNobodyBehind(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", limits().RingItems*3)
	b := e.open(jobPath("j"), lastEventID(ids[len(ids)-1])).opened()
	f.failWith("ListEvents", codes.Unavailable)
	late := e.open(jobPath("j"), lastEventID(ids[0])).opened()
	until(t, "the late one reads the log", func() bool { return f.lists.Load() > 0 })
	f.failWith("Subscribe", codes.OutOfRange)
	f.stop()
	f.start()
	b.ended()
	f.heal()
	same(t, "the rest", late.ids(len(ids)-1), ids[1:])
	late.ended()
}

func TestUpstream_BrowserOutsideTheRingReadsTheLog(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 2000)
	first := e.open(jobPath("j"), lastEventID(ids[1999])).opened()
	before := f.lists.Load()
	b := e.open(jobPath("j")).opened()
	same(t, "everything", b.ids(2000), ids)
	if f.lists.Load() == before {
		t.Error("no page was read")
	}
	same(t, "subscriptions", f.subscribes.Load(), int64(1))
	live := f.steps("j", 3)
	same(t, "live", b.ids(3), live)
	same(t, "live", first.ids(3), live)
}

func TestUpstream_BrowsersBehindOneHoleShareTheReads(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ids := f.steps("j", 100)
	holder := e.open(jobPath("j"), lastEventID(ids[99])).opened()
	defer holder.close()
	// Every read fails until all browsers wait behind the same hole.
	const n = 40
	release := make(chan struct{})
	f.set(func() {
		f.fault = func(m string) error {
			if m == "ListEvents" {
				<-release
			}
			return nil
		}
	})
	var browsers []*browser
	for range n {
		browsers = append(browsers, e.open(jobPath("j")).opened())
	}
	until(t, "all are there", func() bool { return int(e.metrics.open(kindJob)) == n+1 })
	close(release)
	for _, b := range browsers {
		same(t, "everything", b.ids(100), ids)
	}
	if reads := f.lists.Load(); reads > n/4 {
		t.Errorf("%d browsers made %d reads", n, reads)
	}
}

func TestUpstream_NoRouterIsAnAnswerAtOnce(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.stop()
	defer f.start()
	a := e.ask(http.MethodGet, jobPath("j"), "", acceptSSE()) // which waits tooLong at most
	if a.status != http.StatusOK || a.header.Get("Content-Type") != contentSSE || !isAway(a.body) {
		t.Errorf("SSE: %d %q", a.status, a.body)
	}
	a = e.ask(http.MethodGet, jobPath("j"), "")
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); a.status != http.StatusServiceUnavailable || err != nil || after < 1 || after > 5 {
		t.Errorf("NDJSON: %d %v", a.status, a.header)
	}
}

func TestUpstream_SilentRouterIsNoRouter(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.set(func() { f.silent = true })
	if a := e.ask(http.MethodGet, jobPath("j"), "", acceptSSE()); !isAway(a.body) { // which waits tooLong at most
		t.Errorf("%q", a.body)
	}
	f.heal()
}

// isAway tells whether an SSE body does nothing but send the browser away.
func isAway(body string) bool {
	ms, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(body, "retry: "), "\n\n"))
	return err == nil && ms >= minAway && ms <= maxAway
}

// Cut at every event: none lost, none twice.
func TestUpstream_SeedH11_CutAtEveryEvent(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	want := f.steps("j", 100)
	var got []string
	for range want {
		var headers []header
		if n := len(got); n > 0 {
			headers = append(headers, lastEventID(got[n-1]))
		}
		b := e.open(jobPath("j"), headers...).opened()
		got = append(got, b.ids(1)...)
		b.close()
	}
	same(t, "events", got, want)
}

// A client of another make comes back by itself, and stops when it should.
func TestUpstream_OtherClientResumesAndEnds(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 2*tooLong)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+jobPath("j"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	cuts := &cutter{next: e.web.Transport}
	c := (&sse.Client{HTTPClient: &http.Client{Transport: cuts}}).NewConnection(req)
	got := make(chan sse.Event, 100)
	c.SubscribeToAll(func(ev sse.Event) {
		if ev.Data != "" { // it tells of frames without data, which browsers do not
			got <- ev
		}
	})
	done := make(chan error, 1)
	go func() { done <- c.Connect() }()
	var want, ids []string
	wait := func(n int) {
		for range n {
			select {
			case ev := <-got:
				ids = append(ids, ev.LastEventID)
			case <-ctx.Done():
				t.Fatalf("%d of %d events", len(ids), len(want))
			}
		}
	}
	want = append(want, f.steps("j", 5)...)
	wait(5)
	cuts.cut()
	want = append(want, f.steps("j", 5)...)
	wait(5)
	f.stop()
	f.start()
	want = append(want, f.finish("j"))
	wait(1)
	same(t, "events", ids, want)
	err = <-done // 204 ends the client for good
	if ce, ok := errors.AsType[*sse.ConnectionError](err); !ok || !strings.Contains(ce.Error(), "204") {
		t.Errorf("the client ended with %v", err)
	}
}

// cutter breaks the newest response body when told.
type cutter struct {
	next http.RoundTripper
	mu   sync.Mutex
	stop context.CancelFunc
}

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	c.mu.Lock()
	c.stop = cancel
	c.mu.Unlock()
	return c.next.RoundTrip(r.WithContext(ctx))
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
}

func TestUpstream_LateEventsNeverComeTwice(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	var all []string
	browsers := []*browser{e.open(jobPath("j")).opened()}
	for range 20 {
		f.failWith("stream", codes.Unavailable)
		all = append(all, f.steps("j", 7)...)
		f.heal()
		browsers = append(browsers, e.open(jobPath("j")).opened())
	}
	f.finish("j")
	for _, b := range browsers {
		same(t, "events", b.ids(len(all)), all)
		b.ids(1)
		b.ended()
	}
	if !slices.IsSorted(all) {
		t.Error("the fake is broken")
	}
}
