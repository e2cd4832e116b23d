package e2e

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/redistest"
)

// shardKey is the stream that a legacy worker writes a job's events to.
func shardKey(domain, job string) string {
	sum := md5.Sum([]byte(job))
	return fmt.Sprintf("%s:events:%d", domain, binary.BigEndian.Uint64(sum[:8])%4)
}

// legacy are redis-cli's arguments for an event as a legacy scan worker writes it.
func legacy(job, stage string) []string {
	return []string{"XADD", shardKey("scan", job), "MAXLEN", "~", "10000", "*", "job_id", job, "stage", stage, "status", "completed",
		"seq", "11", "ts", "1766830000.5", "progress", "50", "result", `{"n": 1}`, "trace_id", "", "span_id", "", "traceparent", ""}
}

// Every shape of Redis that the settings allow carries the whole path.
func TestTopology(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"StandaloneOfAll", func(t *testing.T) {
			t.Helper()
			one := redistest.New(t)
			smoke(t, newBusOn(t, settings{"REDIS_STREAMS_URL": one.URL()}), one.CLI)
		}},
		{"StreamsOnSentinel", func(t *testing.T) {
			t.Helper()
			streams, pubsub := redistest.NewSentinel(t, 1, 3), redistest.New(t)
			smoke(t, newBusOn(t, settings{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": pubsub.URL()}), streams.Master(t).CLI)
		}},
		{"PubSubOnSentinel", func(t *testing.T) {
			t.Helper()
			streams, pubsub := redistest.New(t), redistest.NewSentinel(t, 1, 3)
			smoke(t, newBusOn(t, settings{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": pubsub.URL()}), streams.CLI)
		}},
		{"StreamsOnCluster", func(t *testing.T) {
			t.Helper()
			streams, pubsub := redistest.NewCluster(t, 3, 0), redistest.New(t)
			smoke(t, newBusOn(t, settings{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": pubsub.URL()}),
				func(tb testing.TB, args ...string) string {
					tb.Helper()
					return streams.Servers()[0].CLI(tb, append([]string{"-c"}, args...)...)
				})
		}},
		{"PubSubOnTwo", testTwoPubSub},
		{"TLSAndPasswords", testTLS},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}

// smoke follows one job from all kinds of publishers to all kinds of subscribers.
func smoke(t *testing.T, b *bus, cli func(testing.TB, ...string) string) {
	t.Helper()
	b.router.said(http.StatusOK, "ok") // not degraded: announcements arrive
	smokePath(t, b, cli)
}

func smokePath(t *testing.T, b *bus, cli func(testing.TB, ...string) string) {
	t.Helper()
	const j = "904fb02f-3e06-482c-b271-e641d3275d6b"
	sse, grpc := b.open(events("scan", j)), b.calls.follow(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: j})
	want := []string{
		b.calls.publish(&eventbusv1.Event{Domain: "scan", JobId: j, Stage: "queued", Status: "started"}),
		cli(t, legacy(j, "vision")...),
	}
	want = append(want, b.calls.tokens("scan", j, 20)...)
	a := b.ask(http.MethodPost, events("scan", j), `{"stage":"rule","status":"completed"}`,
		header{"Content-Type", "application/json"}, header{"Idempotency-Key", "rule"})
	if a.status != http.StatusOK {
		t.Fatalf("publish by HTTP: %d %s", a.status, a.body)
	}
	id, _ := object(t, []byte(a.body))["id"].(string)
	want = append(want, id, cli(t, legacy(j, "done")...))

	all := sse.rest()
	dense(t, 1, all)
	same(t, "live by SSE", ids(all), want)
	same(t, "live by gRPC", grpc.take(len(want)), want)
	if e, ok := grpc.next(); ok {
		t.Fatalf("after the end: %v", e)
	}
	same(t, "replayed", ids(b.open(events("scan", j)).rest()), want)
	same(t, "resumed", ids(b.open(events("scan", j), lastEventID(want[1])).rest()), want[2:])
	over := b.ask(http.MethodGet, events("scan", j), "", header{"Accept", "text/event-stream"}, lastEventID(want[len(want)-1]))
	if over.status != http.StatusNoContent {
		t.Errorf("after the end: %d %s, want 204", over.status, over.body)
	}
	state := b.ask(http.MethodGet, "/api/v1/scan/"+j+"/state", "")
	if got := object(t, []byte(state.body)); got["stage"] != "done" {
		t.Errorf("state: %s", state.body)
	}
}

// Several Pub/Sub Redis share the jobs.
func testTwoPubSub(t *testing.T) {
	t.Helper()
	streams, first, second := redistest.New(t), redistest.New(t), redistest.New(t)
	b := newBusOn(t, settings{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": first.URL() + "," + second.URL()})
	smoke(t, b, streams.CLI)
	const jobs = 16
	open := make([]*stream, jobs)
	for i := range open {
		open[i] = b.open(events("chat", job(i)))
	}
	channels := 0
	for i, s := range []*redistest.Server{first, second} {
		n := len(strings.Fields(s.CLI(t, "PUBSUB", "CHANNELS", "sse:events:*")))
		if channels += n; n == 0 {
			t.Errorf("Pub/Sub Redis %d has no job of %d", i, jobs)
		}
	}
	if channels != jobs {
		t.Errorf("%d channels for %d jobs", channels, jobs)
	}
	for i, s := range open {
		b.calls.publish(done("chat", job(i)))
		dense(t, 1, s.rest())
	}
}

// TLS with private CAs, and a password that must be escaped in a URL.
func testTLS(t *testing.T) {
	t.Helper()
	secure := func() *redistest.Server {
		return redistest.New(t, redistest.WithTLS(), redistest.WithPassword("p@ss:/w 캔%"))
	}
	streams, pubsub := secure(), secure()
	var roots bytes.Buffer
	for _, s := range []*redistest.Server{streams, pubsub} {
		pem, err := os.ReadFile(s.CAFile())
		if err != nil {
			t.Fatal(err)
		}
		roots.Write(pem)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, roots.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	smoke(t, newBusOn(t, settings{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": pubsub.URL(), "SSL_CERT_FILE": file}), streams.CLI)
}
