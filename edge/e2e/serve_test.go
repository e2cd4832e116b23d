package e2e

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// newServe starts the small deployment: router and edge in one process.
func newServe(t *testing.T) *bus {
	t.Helper()
	streams := redistest.New(t)
	b := &bus{t: t, streams: streams, grpc: bustest.Address(t), http: bustest.Address(t)}
	env := quick()
	maps.Copy(env, settings{"REDIS_STREAMS_URL": streams.URL(), "GRPC_ADDR": b.grpc, "HTTP_ADDR": b.http, "HTTP_PUBLISH": "true", "DRAIN_TIMEOUT": (5 * patience).String()})
	b.router = newNode(t, env, "serve")
	b.edge = b.router
	b.calls = newRPC(t, b.grpc)
	return b
}

func TestServe_CarriesTheWholePath(t *testing.T) {
	t.Parallel()
	b := newServe(t)
	eventually(t, "not degraded", func() bool { _, text := b.router.readyz(); return !strings.Contains(text, "degraded") })
	smokePath(t, b, b.streams.CLI)
	if a := b.ask(http.MethodGet, "/", ""); a.status != http.StatusNotFound {
		t.Errorf("the console is there though nobody asked for it: %d", a.status)
	}
	if a := b.ask(http.MethodGet, "/openapi.json", ""); a.status != http.StatusOK || object(t, []byte(a.body))["swagger"] == nil {
		t.Errorf("openapi.json: %d %.80s", a.status, a.body)
	}
}

// A supervisor's SIGTERM: everybody is sent away in good order, in time, and what
// was acknowledged is there for the next process.
func TestServe_TerminationEndsStreamsInOrder(t *testing.T) {
	t.Parallel()
	b := newServe(t)
	watch := b.open("/api/v1/scan/events")
	published := b.calls.tokens("scan", "j", 3)
	sse := b.open(events("scan", "j"))
	sse.steps(3)
	for range published { // which it may get later than the job's own
		watch.frame()
	}
	grpc := b.calls.follow(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	grpc.take(3)

	b.router.terminate()
	for name, s := range map[string]*stream{"job": sse, "watch": watch} {
		if away := sentAway(t, name, s); away < 1000 || away > 5000 {
			t.Errorf("%s: retry after %d ms, want 1000-5000", name, away)
		}
	}
	if _, err := grpc.stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("gRPC subscriber gets %v, want UNAVAILABLE", err)
	}
	if code := b.router.exit(); code != 0 { // nothing here needs DRAIN_TIMEOUT, which is longer than it waits
		t.Errorf("exit code %d", code)
	}

	b.router.start()
	b.router.waitReady()
	same(t, "the next process resumes", ids(b.open(events("scan", "j"), lastEventID(published[0])).steps(2)), published[1:])
}

// sentAway reads to the end, which must be a retry and nothing that fires. It
// returns the retry.
func sentAway(t *testing.T, name string, s *stream) int {
	t.Helper()
	s.patient()
	var last frame
	for {
		f, err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if f.dispatched() {
			t.Errorf("%s: %+v while stopping", name, f)
		}
		last = f
	}
	millis, err := strconv.Atoi(last.retry)
	if err != nil {
		t.Fatalf("%s ended with %+v, want a retry", name, last)
	}
	return millis
}

// Router and edge as processes of their own stop in order, too.
func TestRouterAndEdge_TerminationIsCleanAndInvisibleBehindTheEdge(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	b.calls.tokens("scan", "j", 3)
	s := b.open(events("scan", "j"))
	dense(t, 1, s.steps(3))

	b.router.terminate()
	if code := b.router.exit(); code != 0 {
		t.Errorf("router: exit code %d", code)
	}
	b.router.start()
	b.router.waitReady()
	b.calls.publish(token("scan", "j", 3))
	dense(t, 4, s.steps(1)) // on the same connection

	b.edge.terminate()
	sentAway(t, "job", s)
	if code := b.edge.exit(); code != 0 {
		t.Errorf("edge: exit code %d", code)
	}
}
