package router

import (
	"context"
	"time"
)

// pace lets a bridge that gets entries all the time carry them in beats, so that each
// round trip has more than one. A bridge without load never waits: it blocks in
// Redis until the next entry.
type pace struct {
	// busy counts batches that came quickly one after the other, idle turns that
	// brought nothing since.
	busy, idle int
	last       time.Time
}

const (
	// beatInterval is between two turns of a busy bridge. All bridges wait for the
	// same beats, so that their scripts share round trips.
	beatInterval = time.Millisecond
	// quickBatch after the one before makes a bridge busier; busyBatches of them make
	// it wait for beats, idleTurns without an entry let it block again.
	quickBatch  = 4 * time.Millisecond
	busyBatches = 4
	idleTurns   = 8
	// fullBatch is not worth waiting for more.
	fullBatch = 64
)

// beat waits for the next beat where that is worth it after a turn with n entries,
// and tells whether it is.
func (p *pace) beat(ctx context.Context, n int) bool {
	now := time.Now()
	switch {
	case n == 0:
		if p.idle++; p.idle > idleTurns {
			p.busy = 0
		}
	case now.Sub(p.last) <= quickBatch:
		p.busy, p.idle, p.last = min(p.busy+1, busyBatches), 0, now
	default:
		p.busy, p.idle, p.last = max(p.busy-1, 0), 0, now
	}
	if p.busy < busyBatches {
		return false
	}
	if n < fullBatch {
		select {
		case <-time.After(beatInterval - time.Duration(now.UnixNano())%beatInterval):
		case <-ctx.Done():
		}
	}
	return true
}
