// Package hub hands the events of one topic to many subscribers, each at its
// own pace.
//
// A topic keeps a bounded ring of the newest events; a subscriber is only a
// cursor. Who is within the ring reads from memory; who is not (late, slow, or
// after a hole) reads the log from its own cursor, page by page, until it is
// within the ring again. So a slow subscriber costs nobody memory and loses
// nothing, and there is one way to repair a hole, to catch up and to find out
// about a gap: reading the log.
//
// On an event's way: announcement (router) or upstream message (edge) →
// Topic.Append → Subscription.Next, or Poll for one that reads many → gRPC stream
// or SSE frame. The package knows neither Redis nor gRPC nor HTTP, and starts no goroutine.
package hub

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// Item is one event in a topic. E is the form that subscribers want; it is
// shared by all of them and must not be changed.
type Item[E any] struct {
	ID event.ID
	// Final: nothing follows; subscriptions end after it.
	Final bool
	// Size is what the value takes in memory, in bytes.
	Size  int
	Value E
}

// Page is what a log holds after a cursor, oldest first.
type Page[E any] struct {
	// Gap is set where events between the cursor and Items are lost.
	Gap   *event.Gap
	Items []Item[E]
}

// Log reads the events that a topic announces.
type Log[E any] interface {
	// Read returns the events after the cursor, at least one where there is one.
	// If the cursor is not in the log, the page has a Gap and begins with the
	// oldest event. It must be safe for concurrent use.
	Read(ctx context.Context, after event.ID) (Page[E], error)
}

// Limits bounds a topic's ring and a subscription's batches.
type Limits struct {
	// RingItems and RingBytes: the oldest items leave a fuller ring; subscribers
	// that still want them read the log. The newest item always stays.
	RingItems int
	RingBytes int
	// BatchItems and BatchBytes bound one Batch; it has at least one item.
	BatchItems int
	BatchBytes int
}

// DefaultLimits keeps a busy topic under 1 MiB of ring and a batch well below
// gRPC's default message limit of 4 MiB.
func DefaultLimits() Limits {
	return Limits{RingItems: 1024, RingBytes: 1 << 20, BatchItems: 256, BatchBytes: 1 << 20}
}

// Outcome says what an Append found.
type Outcome int

// The outcomes of Append.
const (
	// Appended: the items continued the ring, or were its first.
	Appended Outcome = iota
	// Duplicate: nothing was new.
	Duplicate
	// Hole: events before these were never seen here; subscribers read the log.
	Hole
)

// Topic is one stream of events. All methods are safe for concurrent use and
// none blocks.
type Topic[E any] struct {
	limits Limits

	mu sync.Mutex
	// The ring: items are neighbours in the log, the first follows base. start is
	// the absolute position of items[0]; positions only grow, so a subscriber's
	// position tells whether it is still within the ring.
	items []Item[E]
	start uint64
	bytes int
	// base is the ID before items[0]; meaningless unless known or while detached.
	base event.ID
	// known: base and items describe a place in the log.
	known bool
	// detached: items are neighbours, but what precedes the first is not known.
	detached bool
	// losses counts calls of Lose, and gap is the latest one's.
	losses uint32
	gap    *event.Gap
	// version grows with every change that a waiting subscriber must see.
	version uint64
	changed chan struct{}
	// parked are the subscriptions whose Waker is told of the next change, linked by
	// nextParked.
	parked *Subscription[E]
	err    error
	// moved is when the topic last got something new.
	moved time.Time
}

// NewTopic makes a topic that does not know its place yet: the first Append, or
// the first subscriber that has read the log to its end, tells it.
func NewTopic[E any](l Limits) *Topic[E] {
	return &Topic[E]{limits: l, moved: time.Now()}
}

// NewTopicAt makes a topic that continues after the given ID.
func NewTopicAt[E any](l Limits, base event.ID) *Topic[E] {
	t := NewTopic[E](l)
	t.base, t.known = base, true
	return t
}

// Append takes items that are neighbours in the log; prev is the ID of the entry
// before the first, zero only where the first is the log's first ever. Repeated
// and overlapping calls are harmless.
func (t *Topic[E]) Append(prev event.ID, items []Item[E]) Outcome {
	if len(items) == 0 {
		return Duplicate
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known {
		t.place(prev)
		t.push(items)
		return Appended
	}
	last := t.last()
	if prev == last {
		t.push(items)
		return Appended
	}
	if i := slices.IndexFunc(items, func(it Item[E]) bool { return it.ID == last }); i >= 0 {
		if i == len(items)-1 {
			return Duplicate
		}
		t.push(items[i+1:])
		return Appended
	}
	if items[len(items)-1].ID.Compare(last) <= 0 {
		return Duplicate
	}
	t.place(prev)
	t.push(items)
	return Hole
}

// Extend takes items that follow the newest one; those that do not, by ID, are
// dropped. It is for a topic that has one source, in order: what lies between the
// newest and the first item is never asked. A topic that does not know its place
// must get its first items before its first subscriber, or that one, having read
// the log to its end, gives it a place of which the source does not know.
func (t *Topic[E]) Extend(items []Item[E]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known {
		for len(items) > 0 && items[0].ID.Compare(t.last()) <= 0 {
			items = items[1:]
		}
	}
	if len(items) == 0 {
		return
	}
	if !t.known {
		t.known, t.detached = true, true
	}
	t.push(items)
}

// Reset says that the topic no longer trusts its ring: every subscriber compares
// its cursor with the log before it goes on.
func (t *Topic[E]) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	t.wake()
}

// Lose is Reset where the log is known to have lost events: every present
// subscriber is told, and then gets everything that is retained.
func (t *Topic[E]) Lose(g event.Gap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.losses++
	t.gap = &g
	t.clear()
	t.wake()
}

// Fail ends every subscription with err, after what is in the ring.
func (t *Topic[E]) Fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
		t.wake()
	}
}

// Last is the ID of the newest event that the topic knows of; ok is false while
// it does not know its place.
func (t *Topic[E]) Last() (id event.ID, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known || (t.detached && len(t.items) == 0) {
		return event.ID{}, false
	}
	return t.last(), true
}

// Ended tells whether the newest event is final.
func (t *Topic[E]) Ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended()
}

// EndsAt tells whether the newest event is final and has the ID. Last and Ended,
// asked one after the other, may speak of two events.
func (t *Topic[E]) EndsAt(id event.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended() && t.last() == id
}

// Quiet is how long the topic got nothing new.
func (t *Topic[E]) Quiet(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.Sub(t.moved)
}

func (t *Topic[E]) last() event.ID {
	if n := len(t.items); n > 0 {
		return t.items[n-1].ID
	}
	return t.base
}

func (t *Topic[E]) ended() bool {
	n := len(t.items)
	return n > 0 && t.items[n-1].Final
}

// place makes the ring empty, after base.
func (t *Topic[E]) place(base event.ID) {
	t.clear()
	t.base, t.known = base, true
}

func (t *Topic[E]) clear() {
	t.start += uint64(len(t.items)) + 1 // + 1: no old position is the new start
	clear(t.items)
	t.items, t.bytes = t.items[:0], 0
	t.base, t.known, t.detached = event.ID{}, false, false
}

func (t *Topic[E]) push(items []Item[E]) {
	for _, it := range items {
		t.items = append(t.items, it)
		t.bytes += it.Size
	}
	for len(t.items) > 1 && (len(t.items) > t.limits.RingItems || t.bytes > t.limits.RingBytes) {
		t.base, t.detached = t.items[0].ID, false
		t.bytes -= t.items[0].Size
		t.items[0] = Item[E]{} // let go of the value
		t.items = t.items[1:]
		t.start++
	}
	t.moved = time.Now()
	t.wake()
}

func (t *Topic[E]) wake() {
	t.version++
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
	for s := t.parked; s != nil; {
		w, next := s.waker, s.nextParked
		s.waker, s.nextParked = nil, nil
		w.Wake()
		s = next
	}
	t.parked = nil
}

// find returns the position after the cursor, if the cursor is within the ring.
func (t *Topic[E]) find(cursor event.ID) (uint64, bool) {
	if !t.known {
		return 0, false
	}
	if !t.detached && cursor == t.base {
		return t.start, true
	}
	i, ok := slices.BinarySearchFunc(t.items, cursor, func(it Item[E], id event.ID) int { return it.ID.Compare(id) })
	return t.start + uint64(i) + 1, ok
}
