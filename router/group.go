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
	// fits tells how many of the items run together; at least one.
	fits func(items []T) int

	mu sync.Mutex
	// waiting is in the order in which it came. It is bounded by the callers, each of
	// whom waits. Guarded by mu.
	waiting []*ticket[T]
	// came wakes the loop, which lives as long as the group: a goroutine for each run
	// would have to grow its stack each time.
	came    chan struct{}
	loop    sync.WaitGroup
	closing sync.Once
}

// ticket is one call that waits.
type ticket[T any] struct {
	item T
	done chan struct{}
}

func newGroup[T any](run func([]T), fits func([]T) int) *group[T] {
	g := &group[T]{run: run, fits: fits, came: make(chan struct{}, 1)}
	g.loop.Go(g.runAll)
	return g
}

// submit has the item run soon; wait for it.
func (g *group[T]) submit(item T) *ticket[T] {
	t := &ticket[T]{item, make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, t)
	first := len(g.waiting) == 1
	g.mu.Unlock()
	if first {
		signal(g.came)
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

// runAll runs what waits until the group is closed.
func (g *group[T]) runAll() {
	var items []T
	for range g.came {
		runtime.Gosched() // callers that are about to call come along
		for tickets := g.take(&items); len(tickets) > 0; tickets = g.take(&items) {
			g.run(items)
			for _, t := range tickets {
				close(t.done)
			}
			clear(items)
			runtime.Gosched()
		}
	}
}

// take takes what runs next, in items, too.
func (g *group[T]) take(items *[]T) []*ticket[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	tickets := g.waiting
	*items = (*items)[:0]
	for _, t := range tickets {
		*items = append(*items, t.item)
	}
	if len(tickets) > 0 {
		n := g.fits(*items)
		*items, tickets = (*items)[:n], tickets[:n]
	}
	// What is left keeps its own memory, so that what ran can be let go.
	g.waiting = append([]*ticket[T](nil), g.waiting[len(tickets):]...)
	return tickets
}

// close waits for what runs. No call may come after it.
func (g *group[T]) close() {
	g.closing.Do(func() { close(g.came) })
	g.loop.Wait()
}
