package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// target is a bus, or the floor, that is running.
type target struct {
	name      string
	http      string
	grpc      []string
	processes []process
	// floor: no log, so nothing comes back to who was away, and no promise.
	floor bool
}

// test is one row on one target.
type test struct {
	cfg    *Config
	target *target
	site   site
	pub    *publisher
	tell   func(format string, args ...any)
	// faults and refused are what went wrong so far, also where the row fails.
	faults []*faults
}

// newTest connects to the target; the caller closes it.
func newTest(ctx context.Context, cfg *Config, t *target, tell func(string, ...any)) (*test, error) {
	s, err := resolve(ctx, t.http, cfg.Token)
	if err != nil {
		return nil, err
	}
	p, err := dial(t.grpc, cfg.Token, cfg.Connections, cfg.Payload)
	if err != nil {
		return nil, err
	}
	return &test{cfg: cfg, target: t, site: s, pub: p, tell: tell}, nil
}

func (t *test) close() error { return t.pub.close() }

// jobs are new ones, that no other run has.
func (t *test) jobs(n int) []*job {
	return nameJobs(t.cfg.Domain, "bench-"+uuid.NewString()[:13], n, t.cfg.Shards)
}

// connectAtOnce is how many connections are under way where that is not what is
// measured.
const connectAtOnce = 256

// gather connects n browsers to jobs. The caller closes the crowd.
func (t *test) gather(ctx context.Context, jobs []*job, n int) (*crowd, error) {
	c, err := newCrowd(t.site, jobs, n, t.cfg.Readers)
	if err != nil {
		return nil, err
	}
	t.faults = append(t.faults, c.faults)
	if err := c.open(ctx, connectAtOnce, t.connecting()); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// connecting tells how far the connecting is, once a second.
func (t *test) connecting() func(done, of int64) {
	next := time.Now().Add(time.Second)
	return func(done, of int64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			t.tell("%d of %d browsers are connected", done, of)
		}
	}
}

// span is the time and the CPU time between two moments.
type span struct {
	all     []process
	start   time.Time
	before  usage
	seconds float64
	cpu     usage
}

func (t *test) begin() (*span, error) {
	u, err := cpuOf(t.target.processes)
	return &span{all: t.target.processes, start: time.Now(), before: u}, err
}

// mark ends the time, not the CPU time.
func (s *span) mark() { s.seconds = time.Since(s.start).Seconds() }

func (s *span) end() error {
	if s.seconds == 0 {
		s.mark()
	}
	u, err := cpuOf(s.all)
	if err == nil {
		s.cpu = u.since(s.before)
	}
	return err
}

// perUnit is CPU time in µs for each of n units of work, all processes together.
func (s *span) perUnit(n int64, unit string) []Measure {
	if len(s.all) == 0 || n == 0 {
		return nil
	}
	m := Measure{Key: "cpu", Name: "CPU µs per " + unit, Digits: 1, Less: true, Parts: map[string]float64{}}
	for name, d := range s.cpu {
		v := float64(d.Microseconds()) / float64(n)
		m.Parts[name] = v
		m.Value += v
	}
	return []Measure{m}
}

func rate(key, name string, n int64, seconds float64) Measure {
	return Measure{Key: key, Name: name, Value: float64(n) / seconds}
}

// milliseconds are the percentiles of a histogram of µs.
func milliseconds(key, what string, h *hdrhistogram.Histogram) []Measure {
	at := func(q float64, suffix string) Measure {
		return Measure{
			Key: key + suffix, Name: fmt.Sprintf("%s %s ms", what, suffix), Digits: 2, Less: true,
			Value: float64(h.ValueAtQuantile(q)) / 1000,
		}
	}
	return []Measure{at(50, "p50"), at(99, "p99")}
}

// guarded is ctx until the crowd has its first fault, which is then its cause: a
// load does not go on for nothing.
func guarded(ctx context.Context, c *crowd) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := c.faults.err(); err != nil {
					cancel(err)
				}
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}
