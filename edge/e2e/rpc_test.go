package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// rpc is a worker's or backend's gRPC client.
type rpc struct {
	eventbusv1.EventBusServiceClient
	t    testing.TB
	conn *grpc.ClientConn
}

func newRPC(t testing.TB, addr string) rpc {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return rpc{eventbusv1.NewEventBusServiceClient(conn), t, conn}
}

// publish publishes one event, which must be taken, and returns its id.
func (c rpc) publish(e *eventbusv1.Event) string {
	c.t.Helper()
	r, err := c.Publish(testContext(c.t), &eventbusv1.PublishRequest{Event: e})
	if err != nil {
		c.t.Fatalf("publish %s/%s: %v", e.GetJobId(), e.GetStage(), err)
	}
	return r.GetId()
}

// token is an event of a stream of text.
func token(domain, job string, i int) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: domain, JobId: job, Stage: "token", Status: "streaming", Content: fmt.Sprintf("t%d ", i)}
}

// done is a job's last event.
func done(domain, job string) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: domain, JobId: job, Stage: "done", Status: "completed", Progress: new(int32(100)), Final: true}
}

// tokens publishes n tokens at once and returns their ids.
func (c rpc) tokens(domain, job string, n int) []string {
	c.t.Helper()
	in := &eventbusv1.PublishBatchRequest{}
	for i := range n {
		in.Requests = append(in.Requests, &eventbusv1.PublishRequest{Event: token(domain, job, i)})
	}
	out, err := c.PublishBatch(testContext(c.t), in)
	if err != nil {
		c.t.Fatalf("publish a batch: %v", err)
	}
	ids := make([]string, n)
	for i, r := range out.GetResponses() {
		ids[i] = r.GetId()
	}
	return ids
}

// subscription is a Subscribe stream whose first message has come.
type subscription struct {
	t      testing.TB
	stream grpc.ServerStreamingClient[eventbusv1.SubscribeResponse]
	cursor string
	ready  []*eventbusv1.Event
}

// subscribe opens a subscription. The error is that of the first message.
func (c rpc) subscribe(ctx context.Context, r *eventbusv1.SubscribeRequest) (*subscription, error) {
	stream, err := c.Subscribe(ctx, r)
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return &subscription{t: c.t, stream: stream, cursor: first.GetCursor(), ready: first.GetEvents()}, nil
}

// follow opens a subscription, which must succeed.
func (c rpc) follow(r *eventbusv1.SubscribeRequest) *subscription {
	c.t.Helper()
	s, err := c.subscribe(testContext(c.t), r)
	if err != nil {
		c.t.Fatalf("subscribe %v: %v", r, err)
	}
	return s
}

// next waits for an event; false at the end of the stream.
func (s *subscription) next() (*eventbusv1.Event, bool) {
	s.t.Helper()
	for len(s.ready) == 0 {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, false
		}
		if err != nil {
			s.t.Fatalf("subscription: %v", err)
		}
		if m.GetGap() != nil {
			s.t.Fatalf("subscription: %v", m.GetGap())
		}
		s.ready = m.GetEvents()
	}
	e := s.ready[0]
	s.ready = s.ready[1:]
	return e, true
}

// take waits for n events and returns their ids.
func (s *subscription) take(n int) []string {
	s.t.Helper()
	out := make([]string, n)
	for i := range out {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended after %d of %d events", i, n)
		}
		out[i] = e.GetId()
	}
	return out
}

// rest reads to the end.
func (s *subscription) rest() []*eventbusv1.Event {
	s.t.Helper()
	var out []*eventbusv1.Event
	for {
		e, ok := s.next()
		if !ok {
			return out
		}
		out = append(out, e)
	}
}
