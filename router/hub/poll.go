package hub

import (
	"context"
	"io"
)

// Waker is told that a parked subscription has something.
type Waker interface {
	// Wake is called once after a Poll that parked. The topic is locked: it must
	// not block, and not call the topic.
	Wake()
}

// Progress says what to do after a Poll.
type Progress int

// What to do after a Poll.
const (
	// Parked: there is nothing more now; the Waker is told.
	Parked Progress = iota
	// More: Poll again.
	More
	// Behind: what is next is in the log; see ReadLog.
	Behind
)

// Poll is Next for one that reads many subscriptions: it neither waits nor reads
// the log. It appends to buf at most maxBytes, or one larger item; the batch's
// items are there. Its errors are Next's; io.EOF comes alone.
func (s *Subscription[E]) Poll(buf *[]Item[E], maxBytes int, w Waker) (Batch[E], Progress, error) {
	if s.ended {
		return Batch[E]{}, More, io.EOF
	}
	t := s.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	from := len(*buf)
	s.buf = *buf
	behind, gap, err := s.take(maxBytes)
	*buf, s.buf = s.buf, nil
	b := s.deliver(Batch[E]{Gap: gap, Items: (*buf)[from:]})
	switch {
	case err != nil || gap != nil || s.ended:
		return b, More, err
	case behind:
		return b, Behind, nil
	case len(b.Items) > 0 && s.pos < t.start+uint64(len(t.items)):
		return b, More, nil
	}
	if s.waker == nil {
		s.nextParked, t.parked = t.parked, s
	}
	s.waker = w
	return b, Parked, nil
}

// ReadLog reads a page for a subscription that is Behind. An empty batch says that
// the log has nothing: Poll again.
func (s *Subscription[E]) ReadLog(ctx context.Context) (Batch[E], error) {
	page, err := s.read(ctx)
	return s.deliver(Batch[E](page)), err
}

// Leave takes a parked subscription out of its topic; its Waker is not told
// afterwards. It is harmless for one that is not parked.
func (s *Subscription[E]) Leave() {
	t := s.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.waker == nil {
		return
	}
	at := &t.parked
	for *at != s {
		at = &(*at).nextParked
	}
	*at, s.waker, s.nextParked = s.nextParked, nil, nil
}
