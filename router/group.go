package router

import (
	"context"
	"runtime"
	"sync"
)

// group lets concurrent calls share round trips: one runs at a time, and what comes
// meanwhile runs together next. So a lone call waits for nobody, and the more calls
// there are, the more of them share one. Its methods are safe for concurrent use.
type group[T any] struct {
	// run does what was asked, for at least one item. It must be bounded in time.
	run func(items []T)
	// fits tells how many of the items run together; at least one. nil: all.
	fits func(items []T) int

	mu sync.Mutex
	// waiting is in the order in which it came. It is bounded by the callers, each of
	// whom waits. Guarded by mu.
	waiting []*ticket[T]
	busy    bool // guarded by mu: loop runs
	loops   sync.WaitGroup
}

// ticket is one call that waits.
type ticket[T any] struct {
	item T
	done chan struct{}
}

// submit has the item run soon; wait for it.
func (g *group[T]) submit(item T) *ticket[T] {
	t := &ticket[T]{item, make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, t)
	if !g.busy {
		g.busy = true
		g.loops.Go(g.loop)
	}
	return t
}

// wait returns when the item was run, or ctx's cause where ctx ended first: then the
// item is run all the same, and stays the group's.
func (t *ticket[T]) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loop runs what waits until nothing does.
func (g *group[T]) loop() {
	var items []T
	for {
		runtime.Gosched() // callers that are about to call come along
		g.mu.Lock()
		if len(g.waiting) == 0 {
			g.busy = false
			g.mu.Unlock()
			return
		}
		tickets := g.waiting
		items = items[:0]
		for _, t := range tickets {
			items = append(items, t.item)
		}
		if g.fits != nil {
			n := g.fits(items)
			items, tickets = items[:n], tickets[:n]
		}
		// What is left keeps its own memory, so that what ran can be let go.
		g.waiting = append([]*ticket[T](nil), g.waiting[len(tickets):]...)
		g.mu.Unlock()
		g.run(items)
		for _, t := range tickets {
			close(t.done)
		}
		clear(items)
	}
}

// close waits for what runs. No call may come after it.
func (g *group[T]) close() { g.loops.Wait() }
