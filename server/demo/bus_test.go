package demo

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryBus takes events as the bus does: once per key, none after the final
// one, a batch in order.
type memoryBus struct {
	eventbusv1.UnimplementedEventBusServiceServer

	// before and after are asked at each event; an error fails the call there, so
	// one of after is a reply that got lost. Called with mu held.
	before, after func(call int) error

	mu sync.Mutex
	// jobs are in the order of their first event.
	jobs  []*memoryJob
	byID  map[string]*memoryJob
	calls int
	// changed is closed and made anew at every event.
	changed chan struct{}
}

type memoryJob struct {
	id     string
	events []*eventbusv1.Event
	keys   map[string]string
	// batches are how many of its events came by each call, duplicates counts the
	// events that were known.
	batches    []int
	duplicates int
}

func newMemoryBus() *memoryBus {
	return &memoryBus{byID: map[string]*memoryJob{}, changed: make(chan struct{})}
}

func (b *memoryBus) Publish(_ context.Context, req *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp, err := b.take(req)
	if err == nil {
		j := b.byID[req.GetEvent().GetJobId()]
		j.batches = append(j.batches, 1)
	}
	return resp, err
}

func (b *memoryBus) PublishBatch(_ context.Context, req *eventbusv1.PublishBatchRequest) (*eventbusv1.PublishBatchResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := &eventbusv1.PublishBatchResponse{}
	sizes := map[*memoryJob]int{} // both jobs' events may share a call
	for _, r := range req.GetRequests() {
		one, err := b.take(r)
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses, one)
		sizes[b.byID[r.GetEvent().GetJobId()]]++
	}
	for j, n := range sizes {
		j.batches = append(j.batches, n)
	}
	return resp, nil
}

func (b *memoryBus) take(req *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	b.calls++
	call := b.calls
	if b.before != nil {
		if err := b.before(call); err != nil {
			return nil, err
		}
	}
	resp, err := b.write(req)
	if err == nil && b.after != nil {
		err = b.after(call)
	}
	return resp, err
}

func (b *memoryBus) write(req *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	e, key := req.GetEvent(), req.GetIdempotencyKey()
	if key == "" {
		return nil, status.Error(codes.InvalidArgument, "an event without a key")
	}
	j := b.byID[e.GetJobId()]
	if j == nil {
		j = &memoryJob{id: e.GetJobId(), keys: map[string]string{}}
		b.jobs, b.byID[j.id] = append(b.jobs, j), j
	}
	if id, known := j.keys[key]; known {
		j.duplicates++
		return &eventbusv1.PublishResponse{Id: id, Duplicate: true}, nil
	}
	if n := len(j.events); n > 0 && j.events[n-1].GetFinal() {
		return nil, status.Error(codes.FailedPrecondition, "the job is over")
	}
	id := fmt.Sprintf("%d-0", b.calls)
	j.events, j.keys[key] = append(j.events, e), id
	close(b.changed)
	b.changed = make(chan struct{})
	return &eventbusv1.PublishResponse{Id: id}, nil
}

// waitFinished returns the jobs of a domain that are over once there are n.
func (b *memoryBus) waitFinished(t *testing.T, domain string, n int) []*memoryJob {
	t.Helper()
	var over []*memoryJob
	b.wait(t, func() bool {
		over = nil
		for _, j := range b.jobs {
			if last := j.events[len(j.events)-1]; last.GetFinal() && last.GetDomain() == domain {
				over = append(over, j)
			}
		}
		return len(over) >= n
	})
	return over
}

// waitEvent waits for the first event.
func (b *memoryBus) waitEvent(t *testing.T) {
	t.Helper()
	b.wait(t, func() bool { return len(b.jobs) > 0 })
}

// wait asks condition, with mu held, now and after each event until it holds.
func (b *memoryBus) wait(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		ok, changed := condition(), b.changed
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("not seen within the deadline")
		}
	}
}

func (b *memoryBus) duplicates() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		n += j.duplicates
	}
	return n
}

// serve puts the bus on a loopback port and returns a client of it.
func (b *memoryBus) serve(t *testing.T) eventbusv1.EventBusServiceClient {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	eventbusv1.RegisterEventBusServiceServer(server, b)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return eventbusv1.NewEventBusServiceClient(conn)
}

// inProcess calls the bus without a network, so that it may run in a synctest
// bubble.
type inProcess struct {
	eventbusv1.EventBusServiceClient
	bus *memoryBus
	// latency is how long a call takes.
	latency time.Duration
}

func (c inProcess) Publish(ctx context.Context, req *eventbusv1.PublishRequest, _ ...grpc.CallOption) (*eventbusv1.PublishResponse, error) {
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	return c.bus.Publish(ctx, req)
}

func (c inProcess) PublishBatch(ctx context.Context, req *eventbusv1.PublishBatchRequest, _ ...grpc.CallOption) (*eventbusv1.PublishBatchResponse, error) {
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	return c.bus.PublishBatch(ctx, req)
}

// wait lets the latency pass. None makes no timer: one that is due at once in a bubble
// crashes Go 1.26's race detector once in a few thousand runs.
func (c inProcess) wait(ctx context.Context) error {
	if c.latency == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(c.latency):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
