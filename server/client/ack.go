package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// Receipt is what the bus says of an event that it has.
type Receipt struct {
	// ID is the event's id.
	ID string
	// Duplicate: the key was known, and nothing was written now.
	Duplicate bool
}

// Ack is an event under way. Its methods are safe for concurrent use.
type Ack struct {
	request *eventbusv1.PublishRequest
	job     *Job // may be nil
	bytes   int
	weight  int64
	span    trace.Span // nil: the caller has none

	// receipt and err are set before done is closed.
	receipt Receipt
	err     error
	done    chan struct{}
	// told: the caller knows err.
	told atomic.Bool
}

// Done is closed when the bus has the event, or it was given up: Wait returns at
// once.
func (a *Ack) Done() <-chan struct{} { return a.done }

// Wait returns what the bus said of the event. The error is its refusal, a gRPC
// status; its last answer, where trying again took too long; or that of ctx, which
// does not call the event back.
func (a *Ack) Wait(ctx context.Context) (Receipt, error) {
	select {
	case <-a.done:
	default:
		select {
		case <-a.done:
		case <-ctx.Done():
			return Receipt{}, fmt.Errorf("client: the event is not acknowledged yet: %w", context.Cause(ctx))
		}
	}
	a.told.Store(true)
	return a.receipt, a.err
}

func (a *Ack) isTold() bool { return a.told.Load() || a.job.isTold() }

// Request is what is published, key included.
func (a *Ack) Request() *eventbusv1.PublishRequest { return a.request }

// Lost is an event that is not known to be in the bus.
type Lost struct {
	Request *eventbusv1.PublishRequest
	Err     error
}

// LostError tells which events are not known to be in the bus: refused, given up, or
// not acknowledged before Close had to end.
type LostError struct {
	// Events are the first of them: refused ones up to a thousand, and all that were
	// under way when Close had to end.
	Events []Lost
	// Count is how many there are.
	Count int
}

func (e *LostError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client: %d events are not acknowledged", e.Count)
	const shown = 3
	for i, l := range e.Events {
		if i == shown {
			break
		}
		ev := l.Request.GetEvent()
		fmt.Fprintf(&b, "; %s/%s %s (key %s): %v", ev.GetDomain(), ev.GetJobId(), ev.GetStage(), l.Request.GetIdempotencyKey(), l.Err)
	}
	if e.Count > shown {
		fmt.Fprintf(&b, "; and %d more", e.Count-shown)
	}
	return b.String()
}

// Unwrap lets errors.Is and status.Code see why.
func (e *LostError) Unwrap() []error {
	out := make([]error, len(e.Events))
	for i, l := range e.Events {
		out[i] = l.Err
	}
	return out
}

// failures remembers what was lost until it is told.
type failures struct {
	mu    sync.Mutex
	acks  []*Ack // guarded by mu
	more  int    // guarded by mu; beyond maxFailures
	every bool   // guarded by mu; maxFailures does not count any more
}

func (f *failures) add(a *Ack) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.acks) >= maxFailures && !f.every {
		f.acks = slices.DeleteFunc(f.acks, (*Ack).isTold)
	}
	if len(f.acks) >= maxFailures && !f.every {
		f.more++
		return
	}
	f.acks = append(f.acks, a)
}

// keepAll lifts the bound: what is left is in the buffer, which has a bound of its own.
func (f *failures) keepAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.every = true
}

// take tells what nobody knows yet, once.
func (f *failures) take() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := slices.DeleteFunc(f.acks, (*Ack).isTold)
	count := len(lost) + f.more
	f.acks, f.more = nil, 0
	if count == 0 {
		return nil
	}
	e := &LostError{Count: count}
	for _, a := range lost {
		e.Events = append(e.Events, Lost{a.request, a.err})
	}
	return e
}
