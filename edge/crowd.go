package edge

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/status"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/hub"
)

// crowd is the lines of a job that are all at the same place of its ring, so that
// one reader and one encoding serve them all. It never waits: for no browser, for
// no log.
//
// Invariant: each member's connection took everything before sub's cursor, and
// nothing after it. So a line joins only where its own subscription is beside sub,
// with nothing left to write; and one that does not take all of a packet is alone
// from there on, with the rest of the packet and a fork of sub. Whatever is not
// plain events (a gap, another ring, a place outside the ring, an end without
// a final event) scatters the crowd: everyone is alone, and jobFeed knows.
type crowd struct {
	lines *lines
	// since is when the job's first browser came, in milliseconds since 1970.
	since uint64

	mu sync.Mutex
	// sub is nil without members.
	sub     *hub.Subscription[frame] // guarded by mu
	members []*line                  // guarded by mu
	// over are lines that ended under mu; unlock lets go of them.
	over []*line // guarded by mu

	// size is len(members), for poke.
	size atomic.Int32
	// pokes since pump began; 0 is that none runs.
	pokes atomic.Int32
}

// poke tells the crowd that the ring has changed. It does not block: the ring's
// writer may serve other jobs, too. Who joins looks at the ring again after size
// has changed, so that no change is missed by both.
func (c *crowd) poke() {
	if c.size.Load() > 0 && c.pokes.Add(1) == 1 {
		c.lines.work.Add(1)
		go c.pump()
	}
}

// pump hands on until nobody has poked meanwhile.
func (c *crowd) pump() {
	defer c.lines.work.Done()
	for {
		n := c.pokes.Load()
		c.mu.Lock()
		c.pass()
		c.unlock()
		if c.pokes.CompareAndSwap(n, 0) {
			return
		}
	}
}

// unlock lets go of the lines that have ended: the last one of a job waits for
// the job's stream from the router.
func (c *crowd) unlock() {
	over := c.over
	c.over = nil
	c.mu.Unlock()
	for _, l := range over {
		l.finish()
	}
}

// pass hands what the ring has to all members; mu is held.
func (c *crowd) pass() {
	s := c.lines.borrow()
	defer c.lines.giveBack(s)
	for c.sub != nil {
		items, ok := c.sub.Live(s.items[:0])
		s.items = items
		if !ok {
			c.scatter()
			return
		}
		if len(items) == 0 {
			return
		}
		p := s.packet(items)
		c.lines.client.metrics.framesSent.Add(float64(len(items) * len(c.members)))
		n, now := len(c.members), c.lines.now()
		for _, l := range slices.Backward(c.members) { // from the end: give may take it out
			if !c.give(l, &p, now) {
				s.keep()
			}
		}
		c.lines.client.metrics.passed(c, items, n)
	}
}

// give writes a packet to a member. It returns false where the line keeps the
// packet's bytes.
func (c *crowd) give(l *line, p *packet, now int64) bool {
	rest, err := l.send(p.bytes(l.chunked))
	switch {
	case err != nil:
		c.end(l, endGone)
	case len(rest) > 0:
		c.lines.client.metrics.slow.Inc()
		c.detach(l, rest, p.end)
		return false
	case p.end != "":
		c.end(l, p.end)
	default:
		l.wrote = now
	}
	return true
}

// join makes a line that is alone a member, and hands it what it lacks, after what
// leads. Where it returns false, the line stays alone: it writes the rest first, and
// ends where that was the last.
func (c *crowd) join(ctx context.Context, l *line, f *jobFeed, lead []byte) (rest []byte, end ending, ok bool) {
	if !f.plain() {
		return lead, "", false
	}
	c.mu.Lock()
	defer c.unlock()
	s := c.lines.borrow() // within mu: who waits for it needs none
	defer c.lines.giveBack(s)
	for ctx.Err() == nil {
		items, live := f.sub.Live(s.items[:0])
		s.items = items
		switch {
		case !live:
			return lead, "", false
		case len(lead)+len(items) > 0:
			b, end := s.coded(lead, items, l.chunked)
			c.lines.client.metrics.framesSent.Add(float64(len(items)))
			if rest, err := l.send(b); err != nil || len(rest) > 0 || end != "" {
				s.keep() // after an error, the next write finds it again
				return rest, end, false
			}
			f.wrote(items)
			lead = nil
		case c.sub == nil || c.sub.Beside(f.sub):
			c.add(l, f.sub)
			c.pass() // what came before it was counted poked nobody
			f.caughtUp()
			return nil, "", true
		default:
			// The line is at the ring's end: the crowd gets there now, or scatters.
			c.pass()
		}
	}
	return lead, "", false
}

func (c *crowd) add(l *line, sub *hub.Subscription[frame]) {
	if c.sub == nil {
		c.sub = sub
	}
	l.at, l.wrote = int32(len(c.members)), c.lines.now()
	l.cancel(nil)
	l.cancel = nil
	l.forgo()
	c.members = append(c.members, l)
	c.size.Store(int32(len(c.members)))
	c.lines.joined.Add(1)
}

// remove takes a member out.
func (c *crowd) remove(l *line) {
	n := len(c.members) - 1
	moved := c.members[n]
	c.members[l.at], moved.at = moved, l.at
	c.members[n] = nil
	c.members = c.members[:n]
	l.at = -1
	if n == 0 {
		c.sub, c.members = nil, nil
	}
	c.size.Store(int32(n))
}

// detach leaves a member alone.
func (c *crowd) detach(l *line, rest []byte, end ending) {
	f := &jobFeed{topics: l.topic.owner, topic: l.topic, sub: c.sub.Fork(), reading: reading{since: l.since}}
	c.remove(l)
	var ctx context.Context
	ctx, l.cancel = context.WithCancelCause(context.Background())
	c.lines.work.Add(1)
	go l.crawl(ctx, f, rest, end)
}

func (c *crowd) scatter() {
	for len(c.members) > 0 {
		c.detach(c.members[len(c.members)-1], nil, "")
	}
}

// end is the end of a line; unlock closes it.
func (c *crowd) end(l *line, why ending) {
	if l.at >= 0 {
		c.remove(l)
	}
	if l.cancel != nil {
		l.cancel(nil)
	}
	l.done, l.cancel, l.why = true, nil, why
	c.over = append(c.over, l)
}

// gone ends a line whose browser is gone.
func (c *crowd) gone(l *line) {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case l.done:
	case l.at >= 0:
		c.end(l, endGone)
	default:
		l.cancel(errGone)
		l.hangUp() // it may be writing
	}
}

// dismiss ends a line with a reason, and a last packet that tells it.
func (c *crowd) dismiss(l *line, reason error) {
	c.mu.Lock()
	defer c.unlock()
	c.dismissLocked(l, reason)
}

func (c *crowd) dismissLocked(l *line, reason error) {
	switch {
	case l.done:
	case l.at >= 0:
		p := newPacket(endingOf(reason), func(b []byte) []byte {
			if errors.Is(reason, errExpired) {
				return appendError(b, true, status.Convert(accessStatus(access.Expired())))
			}
			return appendAway(b, awayMillis())
		})
		c.give(l, &p, 0)
	default:
		l.cancel(reason)
	}
}

// tick does what is due for a line.
func (c *crowd) tick(l *line, now int64, keepalive *packet) {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case l.until > 0 && now >= l.until:
		c.dismissLocked(l, errExpired)
	case l.at >= 0 && now-l.wrote >= int64(c.lines.silence()):
		c.give(l, keepalive, now)
	}
}
