package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// A browser does not notice that the only router dies and comes back: its
// connection stays, and it gets every event once.
func TestRestart_ThousandBrowsersStayWhileTheOnlyRouterIsKilled(t *testing.T) {
	const browsers, jobs, before, during, after = 1000, 25, 5, 25, 5
	b := newBus(t)
	streams := make([]*stream, browsers)
	var open errgroup.Group
	open.SetLimit(50)
	for i := range streams {
		open.Go(func() (err error) {
			streams[i], err = dial(t, b.http, events("chat", job(i%jobs)))
			return err
		})
	}
	if err := open.Wait(); err != nil {
		t.Fatal(err)
	}
	var readers errgroup.Group
	for i, s := range streams {
		t.Cleanup(s.close)
		readers.Go(func() error {
			all, err := s.readAll() // fails where the connection is cut
			if err != nil {
				return fmt.Errorf("browser %d: %w", i, err)
			}
			return wantAll(all, before+during+after)
		})
	}
	if n := b.edge.metric("eventbus_edge_streams"); n != browsers {
		t.Fatalf("%v streams, want %d", n, browsers)
	}

	ctx := testContext(t)
	publish := func(first, n int) *errgroup.Group {
		var g errgroup.Group
		for j := range jobs {
			g.Go(func() error { return publishThrough(ctx, b.calls, job(j), first, n) })
		}
		return &g
	}
	if err := publish(0, before).Wait(); err != nil {
		t.Fatal(err)
	}
	// Publishers go on as workers do, with a key, until the bus takes it.
	workers := publish(before, during)
	b.router.Kill()
	eventually(t, "the edge has noticed", func() bool { code, _ := b.edge.readyz(); return code != 200 })
	b.router.start()
	b.router.waitReady()
	if err := workers.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := publish(before+during, after).Wait(); err != nil {
		t.Fatal(err)
	}
	for j := range jobs {
		b.calls.publish(done("chat", job(j)))
	}
	if err := readers.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := b.edge.metric("eventbus_edge_upstream_reconnects_total"); n < 1 || n > 20 {
		t.Errorf("%v streams to the router were opened again: a few carry all %d jobs", n, jobs)
	}
}

// wantAll checks n tokens and the final event, each once and in order.
func wantAll(all []step, n int) error {
	if len(all) != n+1 {
		return fmt.Errorf("%d events, want %d", len(all), n+1)
	}
	for i, e := range all {
		if e.Seq != i+1 || e.Final != (i == n) || i < n && e.Content != fmt.Sprintf("t%d ", i) {
			return fmt.Errorf("event %d is %+v", i, e)
		}
	}
	return nil
}

// publishThrough publishes tokens one by one and repeats what was not taken.
func publishThrough(ctx context.Context, c rpc, job string, first, n int) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for i := first; i < first+n; {
		_, err := c.Publish(ctx, &eventbusv1.PublishRequest{Event: token("chat", job, i), IdempotencyKey: fmt.Sprint("token/", i)})
		switch status.Code(err) {
		case codes.OK:
			i++
		case codes.Unavailable:
			select {
			case <-again.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return fmt.Errorf("publish %d to %s: %w", i, job, err)
		}
	}
	return nil
}
