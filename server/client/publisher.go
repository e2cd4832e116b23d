package client

import (
	"context"
	"crypto/md5" //nolint:gosec // the bus's shards, no secret
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// PublisherOptions are what a publisher can be told. The zero value is for most.
type PublisherOptions struct {
	// Buffer is how many bytes of events may wait for their acknowledgement, about
	// 500 of each event's being its own. It fills while the bus is away, asks to
	// wait, or is slower than the worker; then Send waits for room. Nothing is ever
	// dropped. 0 is 8 MiB.
	Buffer int64
	// GiveUp is how long an event is tried again. It must be shorter than the bus's
	// IDEMPOTENCY_WINDOW (2 h), after which a repeat would be a second event. 0 is an
	// hour.
	GiveUp time.Duration
}

const (
	defaultBuffer = 8 << 20
	defaultGiveUp = time.Hour
	// overhead is what an event costs beyond its own bytes.
	overhead = 512
	// laneCount is how many calls may be under way at once. A job's events are in one
	// lane, and a lane's in one shard of the bus, if the number of shards divides 16: a
	// shard that asks to wait does not hold up the others.
	laneCount = 16
	// maxFailures is how many refused events Flush and Close can name; more are only
	// counted.
	maxFailures = 1000
)

// ErrClosed is what a publisher says after Close.
var ErrClosed = errors.New("client: the publisher is closed")

// Publisher publishes events: each once, those of a job in the order in which they
// were sent. An event that is alone goes out at once; those that come while a call
// is under way go together in the next. What failed for now is tried again under
// the same key. Its methods are safe for concurrent use; close it.
type Publisher struct {
	client *Client
	opts   PublisherOptions
	// prefix and number make the keys of events that were given none.
	prefix string
	number atomic.Uint64
	// room is what is left of the buffer.
	room   *semaphore.Weighted
	failed atomic.Bool // since the last call that worked; said once

	ctx  context.Context // of all calls
	stop context.CancelCauseFunc

	// mu lets Close wait for Sends under way: none begins a lane after it.
	mu      sync.RWMutex
	closed  bool
	running sync.WaitGroup // lanes
	lanes   [laneCount]lane

	failures failures
}

// Publisher makes one. It starts nothing until something is sent.
func (c *Client) Publisher(o PublisherOptions) *Publisher {
	if o.Buffer <= 0 {
		o.Buffer = defaultBuffer
	}
	if o.GiveUp <= 0 {
		o.GiveUp = defaultGiveUp
	}
	p := &Publisher{client: c, opts: o, prefix: rand.Text() + "/", room: semaphore.NewWeighted(o.Buffer)}
	p.ctx, p.stop = context.WithCancelCause(context.Background())
	return p
}

// SendOption is more about an event that is sent.
type SendOption func(*eventbusv1.PublishRequest)

// WithKey is the event's idempotency key, unique within the job. Without one it gets a
// key of its own, which covers repeats by this publisher. Give one that names the
// step, "vision/started", where a worker may do a job again after a crash: the bus
// then keeps one event of each step.
func WithKey(key string) SendOption {
	return func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = key }
}

// Send takes an event, which must not be changed any more, and returns as soon as
// there is room for it in the buffer; it does not wait for the bus. The error is
// ErrClosed, or that of ctx, which bounds the wait for room only: an event that was
// taken is published even where ctx ends.
//
// Where ctx has an OpenTelemetry span, the event is part of its trace, unless it names
// one itself.
//
// What the bus says of it comes by the Ack. A failure that nobody learned by Ack.Wait
// comes by Flush or Close.
func (p *Publisher) Send(ctx context.Context, e *eventbusv1.Event, opts ...SendOption) (*Ack, error) {
	return p.send(ctx, e, nil, opts)
}

func (p *Publisher) send(ctx context.Context, e *eventbusv1.Event, job *Job, opts []SendOption) (*Ack, error) {
	a := &Ack{request: &eventbusv1.PublishRequest{Event: e}, job: job, done: make(chan struct{})}
	for _, o := range opts {
		o(a.request)
	}
	if a.request.GetIdempotencyKey() == "" {
		a.request.IdempotencyKey = p.prefix + strconv.FormatUint(p.number.Add(1), 36)
	}
	a.span = begin(ctx, e)
	a.bytes = proto.Size(a.request)
	a.weight = min(int64(a.bytes)+overhead, p.opts.Buffer) // one that is larger has the buffer to itself
	if err := p.acquire(ctx, a.weight); err != nil {
		a.finish(err)
		return nil, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		p.room.Release(a.weight)
		a.finish(ErrClosed)
		return nil, ErrClosed
	}
	l := &p.lanes[laneOf(e.GetJobId())]
	if l.add(a) {
		p.running.Go(func() { p.drive(l) })
	}
	return a, nil
}

// acquire waits for room, and no longer than the publisher is open.
func (p *Publisher) acquire(ctx context.Context, n int64) error {
	if ctx.Err() == nil && p.room.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(ErrClosed) })()
	if err := p.room.Acquire(ctx, n); err != nil {
		return fmt.Errorf("client: no room in the buffer: %w", context.Cause(ctx))
	}
	return nil
}

func laneOf(jobID string) uint64 {
	sum := md5.Sum([]byte(jobID)) //nolint:gosec // as above
	return binary.BigEndian.Uint64(sum[:8]) % laneCount
}

// Publish sends an event and waits until the bus has acknowledged it. Where ctx ends
// first, the event may still be published.
func (p *Publisher) Publish(ctx context.Context, e *eventbusv1.Event, opts ...SendOption) (Receipt, error) {
	a, err := p.Send(ctx, e, opts...)
	if err != nil {
		return Receipt{}, err
	}
	return a.Wait(ctx)
}

// Flush waits until all that was sent before is acknowledged or given up, or ctx
// ends. The error is a *LostError that names what failed since the last Flush, or
// ctx's.
func (p *Publisher) Flush(ctx context.Context) error {
	for i := range p.lanes {
		if a := p.lanes[i].last(); a != nil {
			select {
			case <-a.done:
			case <-ctx.Done():
				return fmt.Errorf("client: flush: %w", context.Cause(ctx))
			}
		}
	}
	return p.failures.take()
}

// Close refuses further events and waits until those that were sent are
// acknowledged or given up. When ctx ends it stops trying. The error is a *LostError
// that names each event of which it is not known that the bus has it, so that the
// caller can keep it and publish it later under the same key. Closing again is
// harmless.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		p.failures.keepAll()
		p.stop(fmt.Errorf("client: closed before the bus had it: %w", context.Cause(ctx)))
	})
	p.running.Wait()
	stop()
	p.stop(ErrClosed) // whoever waits for room
	return p.failures.take()
}
