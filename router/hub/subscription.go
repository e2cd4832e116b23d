package hub

import (
	"context"
	"io"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// Batch is what a subscriber gets at once: a gap, then items; neither is a
// heartbeat.
type Batch[E any] struct {
	// Gap: events before Items are lost to this subscriber.
	Gap *event.Gap
	// Items is valid until the next call of Next.
	Items []Item[E]
}

// Subscription is one subscriber's place in a topic. It belongs to one
// goroutine, holds no resources and needs no closing.
type Subscription[E any] struct {
	topic *Topic[E]
	log   Log[E]
	// cursor is the ID of the last item delivered. Invariant: everything after it
	// is still owed, or a gap is.
	cursor event.ID
	// pos is the ring position of the next item, while attached.
	pos      uint64
	attached bool
	// told: a gap was delivered and nothing since; the log's missing start is no
	// further news.
	told  bool
	ended bool
	// atEnd: the log had nothing after cursor when the topic was at version seen.
	atEnd bool
	// losses is the topic's count that this subscriber was told of.
	losses uint32
	seen   uint64

	buf   []Item[E]
	timer *time.Timer

	// waker and nextParked are guarded by topic.mu; waker is nil unless parked.
	waker      Waker
	nextParked *Subscription[E]
}

// Subscribe begins after the cursor; the zero ID is the start of the log.
func (t *Topic[E]) Subscribe(after event.ID, log Log[E]) *Subscription[E] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &Subscription[E]{topic: t, log: log, cursor: after, losses: t.losses}
}

// Cursor is where another subscription would go on.
func (s *Subscription[E]) Cursor() event.ID { return s.cursor }

// Next waits for events. It returns an empty batch where nothing came for idle,
// io.EOF after the final event, the topic's error after Fail, ctx's error, or
// that of the log.
func (s *Subscription[E]) Next(ctx context.Context, idle time.Duration) (Batch[E], error) {
	var timeout <-chan time.Time
	for {
		if s.ended {
			return Batch[E]{}, io.EOF
		}
		changed, gap, err := s.wait()
		if len(s.buf) > 0 || gap != nil || err != nil {
			return s.deliver(Batch[E]{Gap: gap, Items: s.buf}), err
		}
		if changed == nil {
			page, err := s.read(ctx)
			if page.Gap != nil || len(page.Items) > 0 || err != nil {
				return s.deliver(Batch[E](page)), err
			}
			continue
		}
		if timeout == nil {
			timeout = s.idleTimer(idle)
		}
		select {
		case <-changed:
		case <-timeout:
			return Batch[E]{}, nil
		case <-ctx.Done():
			return Batch[E]{}, context.Cause(ctx)
		}
	}
}

// Ready is Next without waiting: ok is false where there is nothing to deliver
// now.
func (s *Subscription[E]) Ready(ctx context.Context) (b Batch[E], ok bool, err error) {
	for !s.ended {
		changed, gap, err := s.wait()
		if len(s.buf) > 0 || gap != nil || err != nil {
			return s.deliver(Batch[E]{Gap: gap, Items: s.buf}), true, err
		}
		if changed != nil {
			return Batch[E]{}, false, nil
		}
		page, err := s.read(ctx)
		if page.Gap != nil || len(page.Items) > 0 || err != nil {
			return s.deliver(Batch[E](page)), true, err
		}
	}
	return Batch[E]{}, true, io.EOF
}

// Live is Next from memory alone, into buf, which must be empty: it neither waits
// nor reads the log. No items and ok is that the subscriber has all that there is.
// Where that is not all that is to be said, ok is false, and Next says it: the
// cursor is not within the ring, a gap is due or was the last word, the topic
// failed or ended.
func (s *Subscription[E]) Live(buf []Item[E]) (items []Item[E], ok bool) {
	t := s.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.ended || s.told || s.losses != t.losses {
		return buf, false
	}
	if s.attached && s.pos < t.start {
		s.attached = false
	}
	if !s.attached {
		if s.pos, s.attached = t.find(s.cursor); !s.attached {
			return buf, false
		}
	}
	if buf = t.from(s.pos, buf, t.limits.BatchBytes); len(buf) == 0 {
		return buf, t.err == nil && !t.ended()
	}
	s.deliver(Batch[E]{Items: buf})
	return buf, true
}

// Beside tells whether what the one gets next the other would, where both are
// Live.
func (s *Subscription[E]) Beside(o *Subscription[E]) bool {
	return s.topic == o.topic && s.cursor == o.cursor
}

// Fork is another subscription at the same place.
func (s *Subscription[E]) Fork() *Subscription[E] {
	c := *s
	c.buf, c.timer, c.waker, c.nextParked = nil, nil, nil, nil
	return &c
}

// wait fills buf from the ring, or returns the gap of a loss. With neither it
// returns the channel to wait on, or nil where the log must be read first.
func (s *Subscription[E]) wait() (<-chan struct{}, *event.Gap, error) {
	t := s.topic
	s.buf = s.buf[:0]
	t.mu.Lock()
	defer t.mu.Unlock()
	behind, gap, err := s.take(t.limits.BatchBytes)
	if behind || len(s.buf) > 0 || gap != nil || err != nil {
		return nil, gap, err
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed, nil, nil
}

// take appends to buf from the ring, or returns the gap of a loss, or says that
// the log must be read first. The topic is locked.
func (s *Subscription[E]) take(maxBytes int) (behind bool, gap *event.Gap, err error) {
	t := s.topic
	if s.losses != t.losses {
		s.losses = t.losses
		gap := *t.gap
		return false, &gap, nil
	}
	if s.atEnd && s.seen == t.version && !t.known {
		// The log ends here, and nothing was announced since. Who read an older end
		// looks again: what it misses may be announced no more.
		t.place(s.cursor)
		t.wake()
	}
	if s.attached && s.pos < t.start {
		s.attached = false
	}
	if !s.attached {
		s.pos, s.attached = t.find(s.cursor)
	}
	if s.attached {
		if s.pos < t.start+uint64(len(t.items)) {
			s.buf = t.from(s.pos, s.buf, maxBytes)
			return false, nil, nil
		}
		if t.ended() {
			return false, nil, io.EOF
		}
	}
	if t.err != nil {
		return false, nil, t.err
	}
	if !s.attached && (!s.atEnd || s.seen != t.version) {
		s.seen, s.atEnd = t.version, false // until the read says so; it may fail
		return true, nil, nil
	}
	return false, nil, nil
}

// from appends a batch of the items from a ring position on to buf.
func (t *Topic[E]) from(pos uint64, buf []Item[E], maxBytes int) []Item[E] {
	start, bytes := len(buf), 0
	for _, it := range t.items[pos-t.start:] {
		bytes += it.Size
		if len(buf) > start && (len(buf) == start+t.limits.BatchItems || bytes > maxBytes) {
			break
		}
		buf = append(buf, it)
	}
	return buf
}

// read reads one page of the log. The page's version was noted by take before,
// so that nothing announced in between is missed.
func (s *Subscription[E]) read(ctx context.Context) (Page[E], error) {
	page, err := s.log.Read(ctx, s.cursor)
	if err != nil {
		return Page[E]{}, err
	}
	if s.told && s.cursor.IsZero() {
		page.Gap = nil
	}
	s.atEnd = page.Gap == nil && len(page.Items) == 0
	return page, nil
}

func (s *Subscription[E]) deliver(b Batch[E]) Batch[E] {
	if b.Gap != nil {
		s.cursor, s.told, s.attached, s.atEnd = event.ID{}, true, false, false
	}
	if n := len(b.Items); n > 0 {
		s.cursor, s.told, s.atEnd = b.Items[n-1].ID, false, false
		s.ended = b.Items[n-1].Final
		if s.attached {
			s.pos += uint64(n)
		}
	}
	return b
}

func (s *Subscription[E]) idleTimer(d time.Duration) <-chan time.Time {
	if s.timer == nil {
		s.timer = time.NewTimer(d)
	} else {
		s.timer.Reset(d)
	}
	return s.timer.C
}
