package server

import (
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/eco2-team/eventbus/router/event"
)

var errRate = errors.New("publish rate")

// callerRates bounds the events that each caller publishes. A second's worth may
// come at once. A larger batch passes as a whole, and its caller then waits until
// it is paid off: refusing it would refuse it for ever.
type callerRates struct {
	perSecond float64 // 0 is no bound
	burst     int
	now       func() time.Time

	mu sync.Mutex
	// callers has only those who published lately: who has waited long enough is as
	// good as new, and goes when the map has doubled.
	callers map[string]*rate.Limiter // guarded by mu
	sweepAt int                      // guarded by mu
}

const minSweep = 1024

func newCallerRates(perSecond float64) *callerRates {
	return &callerRates{
		perSecond: perSecond, burst: max(1, int(math.Ceil(perSecond))), now: time.Now,
		callers: map[string]*rate.Limiter{}, sweepAt: minSweep,
	}
}

// take returns event.Exhausted where the caller must wait. It does not block.
func (r *callerRates) take(caller string, events int) error {
	if r.perSecond <= 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	l := r.callers[caller]
	if l == nil {
		r.sweep(now)
		l = rate.NewLimiter(rate.Limit(r.perSecond), r.burst)
		r.callers[caller] = l
	}
	if missing := 1 - l.TokensAt(now); missing > 0 {
		return &event.Error{
			Kind: event.Exhausted, Err: errRate,
			Text:       "more events than PUBLISH_RATE allows one caller",
			RetryAfter: time.Duration(missing / r.perSecond * float64(time.Second)),
		}
	}
	for ; events > 0; events -= r.burst {
		l.ReserveN(now, min(events, r.burst))
	}
	return nil
}

func (r *callerRates) sweep(now time.Time) {
	if len(r.callers) < r.sweepAt {
		return
	}
	for who, l := range r.callers {
		if l.TokensAt(now) >= float64(r.burst) {
			delete(r.callers, who)
		}
	}
	r.sweepAt = max(minSweep, 2*len(r.callers))
}
