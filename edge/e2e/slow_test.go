package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// A client that never finishes its request is cut off in time, however it drips,
// and costs the others nothing.
func TestSlowClient_HalfARequestIsCutOffWhileOthersGoOn(t *testing.T) {
	t.Parallel()
	const each = 40
	const header, body = 5 * time.Second, 10 * time.Second // what the edge allows
	const late = patience / 2                              // of a busy machine
	b := newBus(t)
	ctx := testContext(t)
	var slow errgroup.Group
	for range each {
		slow.Go(func() error {
			return drip(ctx, b.http, "GET "+events("scan", "j")+" HTTP/1.1\r\nHost: x\r\nX-Slow: ", header+late)
		})
		slow.Go(func() error {
			return drip(ctx, b.http, "POST "+events("scan", "j")+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", body+late)
		})
	}
	over, began := make(chan error, 1), time.Now()
	go func() { over <- slow.Wait() }()

	good := b.open(events("scan", "good"))
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		at := time.Now()
		b.calls.publish(token("scan", "good", n))
		dense(t, n, good.steps(1))
		if took := time.Since(at); took > late {
			t.Errorf("event %d took %v beside slow clients", n, took)
		}
		select {
		case err := <-over:
			if err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took < body-time.Second {
				t.Errorf("the slow ones were gone after %v and %d events", took, n)
			}
			wantOnly(t, b, done("scan", "j")) // half a body is no event
			return
		case <-tick.C:
		}
	}
}

// drip sends a request's beginning, and then a byte at a time, until the server
// ends the connection. That must be within limit.
func drip(ctx context.Context, addr, begin string, limit time.Duration) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	started := time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn) // an answer may come before the end, which is FIN or RST
	}()
	if _, err := io.WriteString(conn, begin); err != nil {
		return err
	}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-deadline.C:
			return fmt.Errorf("still connected %v after %.20q", time.Since(started), begin)
		case <-tick.C:
			_, _ = conn.Write([]byte(" ")) // its failure shows in ended
		}
	}
}

// A browser that never reads is cut off after a while, keeps nothing in the
// edge's memory meanwhile, and finds everything when it comes back. Nobody else
// waits for it.
func TestSlowClient_BrowsersThatNeverReadHoldNothingUp(t *testing.T) {
	t.Parallel()
	const stuckOnes, readers, total, size = 20, 4, 250, 32 << 10 // 8 MiB fill a socket
	b := newBus(t)
	path := events("chat", "large")
	stuck := make([]*stream, stuckOnes)
	for i := range stuck {
		stuck[i] = b.open(path)
	}
	heap := func() int { return b.edge.number("/debug/pprof/heap?gc=1&debug=1", `# HeapAlloc = (\d+)`) }
	before := heap()
	got := make([][]string, readers)
	var good errgroup.Group
	for i := range got {
		s := b.open(path)
		good.Go(func() (err error) {
			got[i], err = s.readIDs()
			return err
		})
	}
	want := publishLarge(b.calls, "large", total, size)
	if err := good.Wait(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for _, ids := range got {
		same(t, "a reader", ids, want)
	}
	// A write to them may take 10 s and more: who waited for one comes later.
	cut := b.edge.metric("eventbus_edge_write_timeouts_total") // where all of it took long
	if n := b.edge.metric("eventbus_edge_streams"); n > stuckOnes || n+cut < stuckOnes {
		t.Errorf("%v streams are open and %v were cut off, want the %d stuck ones", n, cut, stuckOnes)
	}
	// For each: what one write is made of. In the sockets are megabytes.
	if grown := heap() - before; grown > stuckOnes*512<<10 {
		t.Errorf("%d browsers that do not read hold %d KiB", stuckOnes, grown>>10)
	}

	eventually(t, "they are cut off", func() bool {
		return b.edge.metric("eventbus_edge_write_timeouts_total") == stuckOnes && b.edge.metric("eventbus_edge_streams") == 0
	})
	back, err := stuck[0].readIDs() // what was in the socket
	if errors.Is(err, os.ErrDeadlineExceeded) || len(back) == 0 || len(back) >= len(want) {
		t.Fatalf("a stuck browser got %d events of %d, then %v", len(back), len(want), err)
	}
	rest, err := b.open(path, lastEventID(back[len(back)-1])).readIDs()
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	same(t, "after it came back", append(back, rest...), want)
}

// readIDs reads events until the connection ends, in order or not, and returns
// their ids without a look at what they carry.
func (s *stream) readIDs() ([]string, error) {
	var ids []string
	for {
		f, err := s.read()
		if err != nil {
			return ids, err
		}
		ids = append(ids, f.id)
	}
}

// publishLarge publishes events of that size and the final one, and returns their
// ids.
func publishLarge(c rpc, job string, total, size int) []string {
	c.t.Helper()
	const each = 25
	var ids []string
	content := strings.Repeat("x", size)
	for range total / each {
		in := &eventbusv1.PublishBatchRequest{}
		for range each {
			in.Requests = append(in.Requests, &eventbusv1.PublishRequest{
				Event: &eventbusv1.Event{Domain: "chat", JobId: job, Stage: "token", Status: "streaming", Content: content},
			})
		}
		out, err := c.PublishBatch(testContext(c.t), in)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, r := range out.GetResponses() {
			ids = append(ids, r.GetId())
		}
	}
	return append(ids, c.publish(done("chat", job)))
}

// A request that is too large for HTTP is refused by its first part.
func TestSlowClient_EndlessBodyIsRefusedBeforeItsEnd(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	conn, err := new(net.Dialer).DialContext(testContext(t), "tcp", b.http)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s := &stream{t: t, conn: conn}
	_, err = io.WriteString(conn, "POST "+events("scan", "j")+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat("x", 64<<10))
	for sent := 0; err == nil && sent < 64<<20; sent += 64 << 10 {
		s.patient()
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		_, err = io.WriteString(conn, chunk)
	}
	if err == nil {
		t.Fatal("64 MiB of body were taken")
	}
	if errors.Is(err, io.ErrShortWrite) || strings.Contains(err.Error(), "timeout") {
		t.Fatalf("the body was neither taken nor refused: %v", err)
	}
	if a := b.ask(http.MethodGet, "/openapi.json", ""); a.status != http.StatusOK {
		t.Errorf("afterwards: %d", a.status)
	}
}
