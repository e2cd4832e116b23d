package chaos

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// A router that is told to stop gives its shards away at once: the other takes them
// with its next round, a fifth of LEASE_TTL later at most. Its streams go on there.
func TestRolling_ARouterHandsItsShardsOverAtOnce(t *testing.T) {
	t.Parallel()
	const lease, atOnce = 30 * time.Second, 20 * time.Second // a round takes 6 s; the machine is busy
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 2, 2, settings{"LEASE_TTL": lease.String()})
	r := newRun(t, w)
	shards := func(n *node) float64 { return n.metric(t, "eventbus_shard_owned") }
	r.await("both have their share", func() bool { return shards(w.routers[0]) == 4 && shards(w.routers[1]) == 4 })
	r.start(usual())
	began := time.Now()
	r.since.Store(began.UnixNano())
	w.check(w.routers[0].stop(stopPatience))
	r.await("the other router has all shards", func() bool { return shards(w.routers[1]) == 8 })
	if took := time.Since(began); took > atOnce {
		t.Errorf("the handover took %v", took)
	}
	r.flows()
	res := r.end(true)
	mustBeWhole(t, res)
	if res.silence > atOnce {
		t.Errorf("a subscriber heard nothing for %v", res.silence)
	}
}

// An edge that is told to stop says that it is not ready, sends its browsers away one
// after the other, each with a time of its own to come back, and ends. They find
// another, and lose nothing.
func TestRolling_AnEdgeSendsItsBrowsersAwayOneAfterTheOther(t *testing.T) {
	t.Parallel()
	const browsers = 600
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 1, 2, settings{"DRAIN_TIMEOUT": "20s", "HTTP_PUBLISH": "true"})
	r := newRun(t, w)
	r.start(usual())
	lasting := r.steady // all but these jobs end
	needFiles(t, browsers+500)
	var ready errgroup.Group
	ready.SetLimit(32)
	ended, retries := make([]time.Time, browsers), make([]int, browsers)
	conns := make([]net.Conn, browsers)
	for i := range conns {
		ready.Go(func() error {
			c, err := new(net.Dialer).DialContext(r.ctx, "tcp4", w.https[0])
			if err != nil {
				return err
			}
			conns[i] = c
			_, err = fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: edge\r\nAccept: text/event-stream\r\n\r\n", lasting[i%len(lasting)].job.path())
			return err
		})
	}
	if err := ready.Wait(); err != nil {
		t.Fatal(err)
	}
	var readers errgroup.Group
	last := regexp.MustCompile(`\nretry: (\d+)\n\n$`)
	for i, c := range conns {
		defer func() { _ = c.Close() }()
		readers.Go(func() error {
			_ = c.SetReadDeadline(time.Now().Add(2 * patience))
			text, err := io.ReadAll(c)
			ended[i] = time.Now()
			m := last.FindSubmatch(text)
			if err != nil || m == nil {
				return fmt.Errorf("browser %d: %w, after %q", i, err, text[max(0, len(text)-100):])
			}
			retries[i], err = strconv.Atoi(string(m[1]))
			return err
		})
	}
	r.await("every stream is open", func() bool { return w.edges[0].metric(t, "eventbus_edge_streams") >= browsers })
	// A publish under way keeps the edge from its end until it was looked at.
	hold, err := new(net.Dialer).DialContext(r.ctx, "tcp4", w.https[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Close() }()
	if _, err := fmt.Fprintf(hold, "POST %s HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", lasting[0].job.path()); err != nil {
		t.Fatal(err)
	}
	r.await("the publish is under way", func() bool { return w.edges[0].metric(t, "eventbus_edge_connections") > browsers+2 })
	w.check(w.edges[0].signal(syscall.SIGTERM))
	r.await("it says that it is not ready", func() bool {
		code, _ := w.edges[0].readyz(r.ctx)
		return code == http.StatusServiceUnavailable
	})
	if err := readers.Wait(); err != nil {
		t.Fatal(err)
	}
	_ = hold.Close()
	r.await("the edge has ended", func() bool { return !w.edges[0].running() })
	first, final, different := ended[0], ended[0], map[int]bool{}
	for i, at := range ended {
		first, final = minTime(first, at), maxTime(final, at)
		different[retries[i]] = true
		if retries[i] < 1000 || retries[i] > 5000 {
			t.Fatalf("browser %d is to come back after %d ms, want 1000-5000", i, retries[i])
		}
	}
	if spread := final.Sub(first); spread < browsers/3*time.Millisecond || len(different) < browsers/10 {
		t.Errorf("%d browsers left within %v, with %d different times to come back", browsers, spread, len(different))
	} else {
		t.Logf("%d browsers left within %v, with %d different times to come back", browsers, spread.Round(time.Millisecond), len(different))
	}
	w.start(w.edges[0])
	r.flows()
	mustBeWhole(t, r.end(true))
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
