package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// crowd is all browsers of a row, spread over the readers.
type crowd struct {
	readers  []reader
	parts    [][]*browser
	browsers []*browser
	faults   *faults
}

// newCrowd makes n browsers; browser i watches jobs[i % len(jobs)]. None is
// connected yet. The caller closes it.
func newCrowd(s site, jobs []*job, n, readers int) (*crowd, error) {
	c := &crowd{faults: &faults{}}
	if readers == 0 {
		c.readers = []reader{newGoroutines(s, c.faults)}
	}
	for range min(readers, n) {
		r, err := newReader(s, c.faults)
		if err != nil {
			c.close()
			return nil, err
		}
		c.readers = append(c.readers, r)
	}
	c.parts = make([][]*browser, len(c.readers))
	for i := range n {
		b := &browser{job: jobs[i%len(jobs)], from: i, fd: -1}
		c.browsers = append(c.browsers, b)
		at := i % len(c.readers)
		c.parts[at] = append(c.parts[at], b)
	}
	return c, nil
}

func (c *crowd) close() {
	for _, r := range c.readers {
		r.stop()
	}
}

// open connects all and waits until each has its first frame.
func (c *crowd) open(ctx context.Context, atOnce int, progress func(done, of int64)) error {
	for i, r := range c.readers {
		r.open(c.parts[i], max(atOnce/len(c.readers), 1))
	}
	want := int64(len(c.browsers))
	return c.wait(ctx, "all browsers are connected", func() bool {
		have := c.sum(func(n *counts) int64 { return n.opened.Load() })
		progress(have, want)
		return have == want
	})
}

// cut resets all connections at once.
func (c *crowd) cut() {
	for i, r := range c.readers {
		r.cut(c.parts[i])
	}
}

func (c *crowd) sum(of func(*counts) int64) int64 {
	n := int64(0)
	for _, r := range c.readers {
		n += of(r.counts())
	}
	return n
}

func (c *crowd) delivered() int64 {
	return c.sum(func(n *counts) int64 { return n.delivered.Load() })
}

// expected is how many deliveries the acknowledged events make.
func (c *crowd) expected() int64 {
	n := uint64(0)
	for _, b := range c.browsers {
		n += b.job.acked.Load()
	}
	return int64(n)
}

// settle waits until everything acknowledged is at every browser that watches it.
// What is missing then is lost.
func (c *crowd) settle(ctx context.Context) error {
	return c.wait(ctx, "everything acknowledged is delivered", func() bool { return c.delivered() >= c.expected() })
}

// patience is how long one step may take that is not the measurement itself; many
// browsers have more.
const patience = 60 * time.Second

// wait polls a condition; it ends with the first fault.
func (c *crowd) wait(ctx context.Context, what string, done func() bool) error {
	start, limit := time.Now(), patience+10*time.Millisecond*time.Duration(len(c.browsers))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if err := c.faults.err(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not after %v: %s (%d of %d deliveries, %d of %d browsers%s): %w", time.Since(start).Round(time.Second), what,
				c.delivered(), c.expected(), c.sum(func(n *counts) int64 { return n.opened.Load() }), len(c.browsers), c.behind(), context.Cause(ctx))
		case <-tick.C:
		}
	}
	return c.faults.err()
}

// behind names a job whose browser waits.
func (c *crowd) behind() (text string) {
	for i, r := range c.readers {
		r.do(func(*tally) {
			for _, b := range c.parts[i] {
				if acked := b.job.acked.Load(); text == "" && uint64(b.seq) < acked {
					text = fmt.Sprintf(", one of job %s has %d of %d", b.job.id, b.seq, acked)
				}
			}
		})
	}
	return text
}

// restart begins to measure latency anew.
func (c *crowd) restart() {
	now := time.Now().UnixNano()
	for _, r := range c.readers {
		r.do(func(t *tally) { t.restart(now) })
	}
}

// latency is that of all browsers, since restart.
func (c *crowd) latency() *hdrhistogram.Histogram {
	all := newHistogram()
	for _, r := range c.readers {
		r.do(func(t *tally) { all.Merge(t.latency) })
	}
	return all
}

// last is when the last event was read.
func (c *crowd) last() time.Time {
	at := int64(0)
	for _, r := range c.readers {
		r.do(func(t *tally) { at = max(at, t.last) })
	}
	return time.Unix(0, at)
}

// watchLaps makes every event tell when all browsers have it.
func (c *crowd) watchLaps(inFlight int) <-chan struct{} {
	board := &lapBoard{readers: uint32(len(c.readers)), done: make(chan struct{}, inFlight)}
	for i, r := range c.readers {
		r.do(func(t *tally) { t.laps = &laps{browsers: uint32(len(c.parts[i])), shared: board} })
	}
	return board.done
}

// verify compares what each browser has with what was acknowledged: nothing less,
// nothing else.
func (c *crowd) verify() error {
	for i, r := range c.readers {
		r.do(func(*tally) {
			for _, b := range c.parts[i] {
				acked, sum := b.job.acked.Load(), b.job.sum.Load()
				if uint64(b.seq) != acked || b.sum != sum {
					c.faults.add(&c.faults.Lost, "job %s: a browser's last seq is %d, %d events were acknowledged; their numbers add up to %d, not %d",
						b.job.id, b.seq, acked, b.sum, sum)
				}
			}
		})
	}
	return c.faults.err()
}
