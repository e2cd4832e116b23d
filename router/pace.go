package router

import "time"

// pace lets a carrier that gets entries all the time take more of them in each round,
// since a round costs nearly the same for one as for many. A carrier without load never
// waits: it blocks in Redis until the next entry.
type pace struct {
	// began is when the round began.
	began time.Time
	// busy counts rounds that came quickly one after the other, idle rounds that brought
	// nothing since.
	busy, idle int
	last       time.Time
}

const (
	// busyRound is how long a round of a busy carrier lasts at least.
	busyRound = time.Millisecond
	// quickRound after the one before makes a carrier busier; busyRounds of them make it
	// wait, idleRounds without an entry let it block again.
	quickRound = 4 * time.Millisecond
	busyRounds = 4
	idleRounds = 8
	// fullRound is not worth waiting for more.
	fullRound = 64
)

// round is told of a round with n entries. It returns whether the carrier is busy, and how
// long the next round is worth waiting for.
func (p *pace) round(n int) (busy bool, rest time.Duration) {
	now := time.Now()
	switch {
	case n == 0:
		if p.idle++; p.idle > idleRounds {
			p.busy = 0
		}
	case now.Sub(p.last) <= quickRound:
		p.busy, p.idle, p.last = min(p.busy+1, busyRounds), 0, now
	default:
		p.busy, p.idle, p.last = max(p.busy-1, 0), 0, now
	}
	if busy = p.busy == busyRounds; busy && n < fullRound {
		rest = busyRound - now.Sub(p.began)
	}
	return busy, rest
}
