package client

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// maxBatch and maxBatchBytes bound one call; the bus takes 1000 and 8 MiB.
const (
	maxBatch      = 256
	maxBatchBytes = 1 << 20
)

// lane is the events of some jobs, in order. One call of a lane is under way at a
// time; that is what keeps the order, and what makes batches: events that come
// meanwhile go together in the next.
type lane struct {
	mu sync.Mutex
	// waiting is bounded by the publisher's room.
	waiting []*Ack
	// newest was added last.
	newest *Ack
	// driven: a goroutine works on it. It ends with the last event, so that an idle
	// publisher has none.
	driven bool
}

// add tells whether the caller must drive the lane.
func (l *lane) add(a *Ack) (drive bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting, l.newest = append(l.waiting, a), a
	drive = !l.driven
	l.driven = true
	return drive
}

// last is the event after which all that was added so far is done; nil where it is.
func (l *lane) last() *Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.driven {
		return nil
	}
	return l.newest
}

// next takes a batch; none ends the driving.
func (l *lane) next() []*Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, 0
	for _, a := range l.waiting {
		if bytes += a.bytes; n == maxBatch || n > 0 && bytes > maxBatchBytes {
			break
		}
		n++
	}
	if n == 0 {
		l.driven, l.waiting, l.newest = false, nil, nil
		return nil
	}
	batch := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n) // clears what it leaves, for the collector
	return batch
}

// drive publishes what is in the lane until it is empty.
func (p *Publisher) drive(l *lane) {
	for {
		batch := l.next()
		if batch == nil {
			return
		}
		p.publish(batch)
	}
}

// publish returns when each event is acknowledged or given up.
func (p *Publisher) publish(batch []*Ack) {
	if cause := context.Cause(p.ctx); cause != nil {
		p.settle(batch, nil, cause)
		return
	}
	responses, err := p.call(batch)
	switch {
	case err == nil || len(batch) == 1 || !refused(err):
		p.settle(batch, responses, err)
	default:
		// Some event is refused for good, and it is not said which: each is asked for
		// alone, those that are written already by their keys.
		for i := range batch {
			p.publish(batch[i : i+1])
		}
	}
}

// refused tells whether an error may be one event's only.
func refused(err error) bool {
	return !passes(err) && status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Canceled
}

// call publishes a batch, again and again.
func (p *Publisher) call(batch []*Ack) (responses []*eventbusv1.PublishResponse, err error) {
	requests := make([]*eventbusv1.PublishRequest, len(batch))
	for i, a := range batch {
		requests[i] = a.request
	}
	err = retry(p.ctx, p.opts.GiveUp, func(ctx context.Context) error {
		if len(requests) == 1 {
			one, err := p.client.api.Publish(ctx, requests[0])
			responses = []*eventbusv1.PublishResponse{one}
			return err
		}
		many, err := p.client.api.PublishBatch(ctx, &eventbusv1.PublishBatchRequest{Requests: requests})
		responses = many.GetResponses()
		if err == nil && len(responses) != len(requests) {
			return errShort
		}
		return err
	}, p.away)
	if err == nil && p.failed.CompareAndSwap(true, false) {
		p.client.log.Info("publishing works again")
	}
	return responses, err
}

var errShort = errors.New("client: the bus answered for fewer events than it was sent")

// away says, once, that events are waiting.
func (p *Publisher) away(err error) {
	if p.failed.CompareAndSwap(false, true) {
		p.client.log.Warn("publishing fails; it is tried again", "error", err)
	}
}

// settle ends the wait for each event.
func (p *Publisher) settle(batch []*Ack, responses []*eventbusv1.PublishResponse, err error) {
	for i, a := range batch {
		if err != nil {
			a.err = err
			p.failures.add(a)
			a.job.lose(a.request.GetEvent(), err)
		} else {
			a.receipt = Receipt{ID: responses[i].GetId(), Duplicate: responses[i].GetDuplicate()}
		}
		a.finish(err)
		close(a.done)
		p.room.Release(a.weight)
	}
}
