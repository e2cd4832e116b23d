package edge

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// jobKey names a job.
type jobKey struct{ domain, job string }

// clone is the key as one string of its own.
func (k jobKey) clone() jobKey {
	text := k.domain + k.job
	return jobKey{text[:len(k.domain)], text[len(k.domain):]}
}

// limits bounds a job's ring at 256 KiB, because an edge has one for each of
// 10,000 jobs; who falls out of it reads the log. A batch is written at once: its
// bound is what a browser that does not read can hold on to.
func limits() hub.Limits {
	return hub.Limits{RingItems: 256, RingBytes: 256 << 10, BatchItems: 128, BatchBytes: 64 << 10}
}

// topic is one job that browsers of this edge follow: a part of one stream from a
// router (relay), one ring, encoded once. It lives as long as a browser holds it,
// and has no goroutine.
type topic struct {
	owner *topics
	relay *relay
	key   jobKey
	log   pages
	// at is the cursor of the browser that opened the topic.
	at event.ID
	// refs is guarded by owner.mu.
	refs int

	// ring is replaced, never reset, when the router tells of a gap: between a
	// Reset and the Extend that follows, a subscriber that has just read the log
	// to its end would give the ring a place, and then get the events of the
	// Extend a second time. The old ring fails with a movedError, and its subscribers
	// go on in the new one, told of the gap by the error or by the log.
	ring atomic.Pointer[hub.Topic[frame]]
	// crowd is poked after each change of the ring.
	crowd crowd

	// opening is the wait for the router's first word; nil once that was good.
	opening atomic.Pointer[opening]

	// handle, again and left are guarded by relay.mu: the topic's name in the stream,
	// the next attempt after the router ended it, and whether the last browser left.
	handle uint64
	again  *time.Timer
	left   bool

	// What follows belongs to relay's goroutine. fed: events came from the router, so
	// after is its word and not a browser's.
	fed bool
	// after is the last event that came from the router; zero after a gap and at the
	// start.
	after event.ID
	// retry is nil before the first attempt.
	retry *attempts
}

// attempts spaces them; the last one was at.
type attempts struct {
	*patience
	at time.Time
}

// opening is what those wait for who came before the router's first word.
type opening struct {
	once sync.Once
	// done is closed once there is an answer: err.
	done chan struct{}
	err  error
	// late ends the wait.
	late *time.Timer
}

// settle gives those who wait for the first word their answer, once; it tells
// whether this was it. With an error, later browsers open another topic.
func (t *topic) settle(err error) (first bool) {
	o := t.opening.Load()
	if o == nil {
		return false
	}
	o.once.Do(func() {
		first = true
		o.late.Stop()
		if o.err = err; err != nil {
			t.owner.forget(t)
		} else {
			t.opening.Store(nil)
		}
		close(o.done)
	})
	return first
}

// opened waits for the router's first word; the error is its answer.
func (t *topic) opened(ctx context.Context) (answer, cause error) {
	o := t.opening.Load()
	if o == nil {
		return nil, nil
	}
	select {
	case <-o.done:
		return o.err, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ended is the job's end in the stream: it is over, or a router refuses it, for
// good or for now.
func (t *topic) ended(err error) {
	switch {
	case t.ring.Load().Ended():
	case t.settle(err):
	case status.Code(err) == codes.OutOfRange:
		t.fail(errEnded)
	case !transient(err):
		t.fail(err)
	default:
		t.owner.upstreamLost(err, "domain", t.key.domain, "job_id", t.key.job)
		t.addAgain()
	}
}

// addAgain asks for the job's events in a while.
func (t *topic) addAgain() {
	if t.retry == nil {
		t.retry = &attempts{patience: newPatience()}
	} else {
		t.retry.lived(t.retry.at)
	}
	wait := t.retry.NextBackOff()
	t.retry.at = time.Now().Add(wait)
	t.relay.mu.Lock()
	defer t.relay.mu.Unlock()
	if !t.left {
		t.again = time.AfterFunc(wait, func() { t.relay.add(t) })
	}
}

// take puts a word's events into the ring.
func (t *topic) take(w *relayv1.Word) error {
	gap := w.GetGap()
	if gap != nil {
		t.after = event.ID{}
	}
	events := w.GetEvents()
	if gap == nil && len(events) == 0 {
		return nil
	}
	items := make([]hub.Item[frame], 0, len(events))
	last := t.after
	for _, e := range events {
		it, err := textItem(e)
		if err != nil {
			return err
		}
		if it.ID.Compare(last) <= 0 {
			t.owner.metrics.duplicates.Inc()
			continue // seen: what follows a ring must be newer
		}
		items, last = append(items, it), it.ID
	}
	t.owner.metrics.framesEncoded.Add(float64(len(items)))
	if t.owner.trace != nil {
		t.received(items)
	}
	// A log whose first event is not the job's first has lost some: who begins at
	// the start must learn that from the log.
	lostStart := t.after.IsZero() && len(events) > 0 && events[0].GetSeq() > 1
	switch {
	case gap != nil && t.fed:
		t.replace(items, gap)
	case gap != nil || lostStart:
		// The cursor was the opener's own: the log judges each browser's.
		t.replace(items, nil)
	default:
		t.ring.Load().Extend(items)
	}
	t.crowd.poke()
	t.after, t.fed = last, t.fed || len(items) > 0
	return nil
}

// replace begins a new ring with the oldest events that the log still has; without
// any, with its start. A gap is every browser's.
func (t *topic) replace(items []hub.Item[frame], gap *eventbusv1.Gap) {
	ring := hub.NewTopicAt[frame](limits(), event.ID{})
	if len(items) > 0 {
		ring = hub.NewTopic[frame](limits()) // what precedes them is not known
		ring.Extend(items)
	}
	t.ring.Swap(ring).Fail(&movedError{gap})
}

// fail ends the topic for its browsers, and lets later ones open another.
func (t *topic) fail(err error) {
	t.owner.forget(t)
	t.ring.Load().Fail(err)
	t.crowd.poke()
}

// over tells whether nothing can follow the cursor: it is the final event. A
// cursor beyond the ring is one that a router must judge: the ring may be on its
// way there.
func (t *topic) over(cursor event.ID) bool {
	ring := t.ring.Load()
	if ring.EndsAt(cursor) {
		return true
	}
	last, ok := ring.Last()
	if ok && cursor == last {
		return false
	}
	return cursor != t.at && (!ok || cursor.Compare(last) > 0) && t.log.over(cursor)
}

// subscribe begins after the cursor.
func (t *topic) subscribe(after event.ID) *hub.Subscription[frame] {
	return t.ring.Load().Subscribe(after, &t.log)
}

// idText is empty for the zero ID, which stands for the start.
func idText(id event.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
