package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

// sizes counts the events of each call.
type sizes struct {
	mu sync.Mutex
	of []int
}

func (s *sizes) count(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	n := 1
	if many, ok := req.(*eventbusv1.PublishBatchRequest); ok {
		n = len(many.GetRequests())
	}
	s.mu.Lock()
	s.of = append(s.of, n)
	s.mu.Unlock()
	return invoke(ctx, method, req, reply, cc, opts...)
}

func (s *sizes) take() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.of
	s.of = nil
	return of
}

func TestPublisher_AloneAnEventGoesAtOnceUnderLoadInBatches(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	var calls sizes
	c := dial(t, bus.GRPC, client.Options{Dial: []grpc.DialOption{grpc.WithUnaryInterceptor(calls.count)}})
	p := publisher(t, c, client.PublisherOptions{})
	for i := range 20 {
		if _, err := p.Publish(patience(t), token("j", i)); err != nil {
			t.Fatal(err)
		}
	}
	if of := calls.take(); len(of) != 20 {
		t.Errorf("20 events, one after the other, took calls of %v events", of)
	}
	const many = 5000
	for i := range many {
		if _, err := p.Send(patience(t), token("j", 20+i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(patience(t)); err != nil {
		t.Fatal(err)
	}
	of := calls.take()
	if len(of) > many/4 {
		t.Errorf("%d events at once took %d calls", many, len(of))
	}
	for _, n := range of {
		if n > 256 {
			t.Errorf("a call of %d events", n)
		}
	}
	if _, err := p.Publish(patience(t), done("j")); err != nil {
		t.Fatal(err)
	}
	whole(t, c, "j", 20+many)
}

// A router that dies in mid-publish, again and again: what was under way is repeated
// under its key, so nothing is lost, and nothing is there twice.
func TestPublisher_ARouterThatRestartsLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	const jobs, tokens, restarts = 8, 600, 3
	var workers sync.WaitGroup
	pace := make(chan struct{}) // closed when the last restart is over
	for j := range jobs {
		workers.Go(func() {
			job := fmt.Sprintf("job-%d", j)
			for i := range tokens {
				if _, err := p.Send(patience(t), token(job, i)); err != nil {
					t.Errorf("%s: %v", job, err)
					return
				}
				select {
				case <-pace:
				case <-time.After(2 * time.Millisecond): // as long as it is killed, it is published
				}
			}
			if _, err := p.Publish(patience(t), done(job)); err != nil {
				t.Errorf("%s: %v", job, err)
			}
		})
	}
	for range restarts {
		// In the middle: something was acknowledged since the last start.
		r, err := p.Publish(patience(t), &eventbusv1.Event{Domain: "scan", JobId: "clock", Stage: "tick"})
		if err != nil || r.ID == "" {
			t.Errorf("%+v %v", r, err)
		}
		bus.Restart(t)
	}
	close(pace)
	workers.Wait()
	for j := range jobs {
		whole(t, c, fmt.Sprintf("job-%d", j), tokens)
	}
}

// lostReplies lets calls through and says that they failed.
type lostReplies struct {
	mu   sync.Mutex
	left int
}

func (l *lostReplies) lose(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left > 0 && err == nil {
		l.left--
		return status.Error(codes.Unavailable, "the reply was lost")
	}
	return err
}

func TestPublisher_ARepeatIsADuplicateAndNotASecondEvent(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	lost := &lostReplies{left: 2}
	c := dial(t, bus.GRPC, client.Options{Dial: []grpc.DialOption{grpc.WithUnaryInterceptor(lost.lose)}})
	p := publisher(t, c, client.PublisherOptions{})
	first, err := p.Publish(patience(t), token("j", 0))
	if err != nil || !first.Duplicate || first.ID == "" {
		t.Errorf("after two lost replies: %+v, %v; want a duplicate", first, err)
	}
	for range 2 { // a worker that plays its job again
		if _, err := p.Publish(patience(t), token("j", 1), client.WithKey("token/1")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Publish(patience(t), done("j")); err != nil {
		t.Fatal(err)
	}
	whole(t, c, "j", 2)
}

func TestPublisher_WaitsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	if _, err := p.Publish(patience(t), token("j", 0)); err != nil {
		t.Fatal(err)
	}
	if err := bus.Redis.Pause(); err != nil {
		t.Fatal(err)
	}
	var acks []*client.Ack
	for i := range 100 {
		a, err := p.Send(patience(t), token("j", 1+i))
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, a)
	}
	select {
	case <-acks[0].Done():
		t.Error("acknowledged without Redis")
	default:
	}
	if err := bus.Redis.Resume(); err != nil {
		t.Fatal(err)
	}
	for i, a := range acks {
		if r, err := a.Wait(patience(t)); err != nil || r.ID == "" {
			t.Fatalf("event %d: %+v %v", i, r, err)
		}
	}
	if _, err := p.Publish(patience(t), done("j")); err != nil {
		t.Fatal(err)
	}
	whole(t, c, "j", 101)
}

// One bad event in a batch is no other's trouble.
func TestPublisher_ARefusedEventIsTheOnlyOneAndCloseNamesIt(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := c.Publisher(client.PublisherOptions{})
	if err := bus.Redis.Pause(); err != nil { // so that all of them are one batch
		t.Fatal(err)
	}
	bad := token("j", 0)
	bad.Stage = "not a stage"
	for i := range 10 {
		if _, err := p.Send(patience(t), token("j", i)); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			if _, err := p.Send(patience(t), bad, client.WithKey("the bad one")); err != nil {
				t.Fatal(err)
			}
			a, err := p.Send(patience(t), &eventbusv1.Event{Domain: "chat", JobId: "j"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := a.Wait(patience(t)); status.Code(err) != codes.InvalidArgument {
					t.Errorf("an event without a stage: %v", err)
				}
			}()
			go func() { _, _ = a.Wait(patience(t)) }() // who asks is told, so that Close need not
		}
	}
	if _, err := p.Send(patience(t), done("j")); err != nil {
		t.Fatal(err)
	}
	if err := bus.Redis.Resume(); err != nil {
		t.Fatal(err)
	}
	err := p.Close(patience(t))
	lost, ok := errors.AsType[*client.LostError](err)
	if !ok || len(lost.Events) == 0 || lost.Events[0].Request.GetIdempotencyKey() != "the bad one" {
		t.Fatalf("close: %v; want the bad one's name", err)
	}
	if status.Code(lost.Events[0].Err) != codes.InvalidArgument || !strings.Contains(err.Error(), "the bad one") {
		t.Errorf("close: %v", err)
	}
	whole(t, c, "j", 10)
	if _, err := p.Send(patience(t), token("j", 0)); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := p.Close(patience(t)); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestPublisher_CloseNamesWhatItCouldNotFlush(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := c.Publisher(client.PublisherOptions{})
	bus.Kill()
	const n = 2500 // more than the refused ones that it would keep
	for i := range n {
		if _, err := p.Send(patience(t), token("j", i)); err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	lost, ok := errors.AsType[*client.LostError](p.Close(ended))
	if !ok || lost.Count != n || len(lost.Events) != n {
		t.Fatalf("close: %v; want all %d", lost, n)
	}
	if !errors.Is(lost, context.Canceled) {
		t.Errorf("close: %v; want the context's end in it", lost)
	}
	// What the caller got back goes out later, once each, whatever the bus has of it.
	bus.Process.Start(t)
	again := publisher(t, c, client.PublisherOptions{})
	for _, l := range lost.Events {
		if _, err := again.Send(patience(t), l.Request.GetEvent(), client.WithKey(l.Request.GetIdempotencyKey())); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := again.Publish(patience(t), done("j")); err != nil {
		t.Fatal(err)
	}
	whole(t, c, "j", n)
}

func TestPublisher_AFullBufferMakesSendWaitAndNothingElse(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{Buffer: 4 << 10})
	if err := bus.Redis.Pause(); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := p.Send(ctx, token("j", sent))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent++; sent > 100 {
			t.Fatal("the buffer has no end")
		}
	}
	if sent == 0 {
		t.Error("the buffer has no room")
	}
	if err := bus.Redis.Resume(); err != nil {
		t.Fatal(err)
	}
	large := token("j", sent) // has the buffer to itself
	large.Attributes = map[string]string{"large": strings.Repeat("x", 8<<10)}
	if _, err := p.Send(patience(t), large); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(patience(t), done("j")); err != nil {
		t.Fatal(err)
	}
	whole(t, c, "j", sent+1)
}
