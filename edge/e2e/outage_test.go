package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/redistest"
)

// health is what grpc.health.v1 says of the service.
func (c rpc) health() grpc_health_v1.HealthCheckResponse_ServingStatus {
	c.t.Helper()
	r, err := grpc_health_v1.NewHealthClient(c.conn).Check(testContext(c.t),
		&grpc_health_v1.HealthCheckRequest{Service: eventbusv1.EventBusService_ServiceDesc.ServiceName})
	if err != nil {
		c.t.Fatalf("health: %v", err)
	}
	return r.GetStatus()
}

// said waits until a probe answers with the code and its text begins so.
func (n *node) said(code int, text string) {
	n.t.Helper()
	gotCode, gotText := 0, ""
	defer func() {
		if n.t.Failed() {
			n.t.Logf("%s said %d %q", n.name, gotCode, gotText)
		}
	}()
	eventually(n.t, fmt.Sprintf("/readyz of %s is %d %s", n.name, code, text), func() bool {
		gotCode, gotText = n.readyz()
		return gotCode == code && strings.HasPrefix(gotText, text)
	})
}

// R4 of what broke before: readiness was green while the pod was deaf.
func TestSeedR04_ReadinessTellsTheTruthAndNobodyIsDeaf(t *testing.T) {
	t.Parallel()
	streams, pubsub := redistest.New(t, redistest.WithAppendOnly()), redistest.New(t)
	b := newBusOn(t, settings{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": pubsub.URL()})
	serving, not := grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING
	b.router.said(http.StatusOK, "ok")
	b.edge.said(http.StatusOK, "")
	live := b.open(events("scan", "j"))
	n := 0
	publish := func() {
		t.Helper()
		b.calls.publish(token("scan", "j", n))
		n++
	}
	publish()
	dense(t, 1, live.steps(1))

	// Without Pub/Sub the head check delivers.
	_ = pubsub.Kill()
	b.router.said(http.StatusOK, "degraded")
	if got := b.calls.health(); got != serving {
		t.Errorf("health is %v while degraded", got)
	}
	const interval, late = time.Second, 4 * time.Second // of a busy machine
	newcomer := b.open(events("scan", "j"))
	newcomer.steps(1)
	for range 3 {
		publish()
		at := time.Now()
		dense(t, n, live.steps(1))
		dense(t, n, newcomer.steps(1))
		if took := time.Since(at); took > interval+late {
			t.Errorf("event %d came after %v, head check interval %v", n, took, interval)
		}
	}
	b.edge.said(http.StatusOK, "")

	// Without the logs nothing can be promised.
	_ = streams.Kill()
	b.router.said(http.StatusServiceUnavailable, "")
	eventually(t, "health says so", func() bool { return b.calls.health() == not })
	b.edge.said(http.StatusServiceUnavailable, "")
	_, err := b.calls.Publish(testContext(t), &eventbusv1.PublishRequest{Event: token("scan", "lost", 0)})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("publish: %v, want UNAVAILABLE", err)
	}
	away := b.ask(http.MethodGet, events("scan", "new"), "", header{"Accept", "text/event-stream"})
	if away.status != http.StatusOK || !strings.HasPrefix(away.body, "retry: ") || strings.Contains(away.body, "event:") {
		t.Errorf("a new browser gets %d %q, want a retry alone", away.status, away.body)
	}

	// Both are back, and so is everything, on the connections of before.
	if err := errors.Join(streams.Start(), pubsub.Start()); err != nil {
		t.Fatal(err)
	}
	b.router.said(http.StatusOK, "ok")
	eventually(t, "health says so", func() bool { return b.calls.health() == serving })
	b.edge.said(http.StatusOK, "")
	publish()
	b.calls.publish(done("scan", "j"))
	dense(t, n, live.rest())
	dense(t, n, newcomer.rest())
}
