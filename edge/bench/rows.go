package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// row is one kind of work.
type row struct {
	key  string
	work string
	run  func(context.Context, *test) ([]Measure, error)
	// browsers is how many it opens.
	browsers int
	// needsLog: the floor cannot do it.
	needsLog bool
}

// rows are those that the settings ask for. Idle comes first: on a bus that was
// busy before, memory says less.
func (c *Config) rows() []row {
	all := !c.Fanout && !c.FanoutClosed && !c.Jobs && !c.Publish && !c.Idle && !c.Resume
	var out []row
	add := func(want bool, rows ...row) {
		if all || want {
			out = append(out, rows...)
		}
	}
	add(c.Idle,
		row{key: "idle", work: fmt.Sprintf("%d idle browsers on %d jobs", c.IdleBrowsers, c.IdleJobs), run: idleFew, browsers: c.IdleBrowsers},
		row{key: "idle-jobs", work: fmt.Sprintf("%d idle browsers, a job each", c.IdleBrowsers), run: idleEach, browsers: c.IdleBrowsers})
	add(c.Fanout, row{key: "fanout", work: fmt.Sprintf("1 job, %d browsers, %d events/s", c.FanoutBrowsers, c.FanoutRate), run: fanout, browsers: c.FanoutBrowsers})
	add(c.FanoutClosed, row{key: "fanout-closed", work: fmt.Sprintf("the same in a closed loop, %d in flight", c.InFlight), run: fanoutClosed, browsers: c.FanoutBrowsers})
	add(c.Jobs, row{key: "jobs", work: fmt.Sprintf("%d jobs, 1 browser each, %d events/s", c.JobsCount, c.JobsRate), run: jobs, browsers: c.JobsCount})
	add(c.Publish,
		row{key: "publish", work: fmt.Sprintf("publish, %d callers, unary, idempotency key", c.PublishCallers), run: publish, browsers: c.publishJobs()},
		row{key: "publish-batch", work: fmt.Sprintf("publish, %d callers, batches of %d, in bursts of %d", c.BatchCallers, c.BatchSize, c.BatchBurst), run: publishBatch, browsers: c.BatchCallers * jobsPerCaller})
	add(c.Resume, row{
		key: "resume", work: fmt.Sprintf("%d browsers cut, %d events missed each", c.ResumeBrowsers, c.ResumeMissed), run: resume, browsers: c.ResumeBrowsers, needsLog: true,
	})
	return out
}

func fanout(ctx context.Context, t *test) ([]Measure, error) {
	jobs := t.jobs(1)
	return t.openLoop(ctx, jobs, t.cfg.FanoutBrowsers, t.cfg.FanoutRate, 1, "delivery")
}

func jobs(ctx context.Context, t *test) ([]Measure, error) {
	jobs := t.jobs(t.cfg.JobsCount)
	return t.openLoop(ctx, jobs, len(jobs), t.cfg.JobsRate, t.cfg.JobsCallers, "event")
}

// openLoop publishes at a fixed rate, to warm up and then to measure.
func (t *test) openLoop(ctx context.Context, jobs []*job, browsers, rateOf, callers int, unit string) ([]Measure, error) {
	for _, j := range jobs {
		j.inOrder = true
	}
	c, err := t.gather(ctx, jobs, browsers)
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, stop := guarded(ctx, c)
	defer stop()
	run := func(d time.Duration) error {
		if err := t.pub.paced(ctx, jobs, rateOf, callers, d); err != nil {
			return err
		}
		return c.settle(ctx)
	}
	t.tell("%d browsers are connected; warming up", browsers)
	if err := run(t.cfg.Warmup); err != nil {
		return nil, err
	}
	t.tell("measuring")
	c.restart()
	delivered, events := c.delivered(), acked(jobs)
	s, err := t.begin()
	if err != nil {
		return nil, err
	}
	if err := run(t.cfg.Duration); err != nil {
		return nil, err
	}
	if err := errors.Join(s.end(), c.verify()); err != nil {
		return nil, err
	}
	delivered, events = c.delivered()-delivered, acked(jobs)-events
	out := []Measure{rate("events/s", "events/s", events, s.seconds), rate("deliveries/s", "deliveries/s", delivered, s.seconds)}
	if unit == "delivery" {
		out = append(out, s.perUnit(delivered, unit)...)
	} else {
		out = append(out, s.perUnit(events, unit)...)
	}
	if asked := float64(rateOf) * 0.95; out[0].Value < asked {
		t.tell("only %.0f of %d events/s could be published: latency is that of too much load", out[0].Value, rateOf)
	}
	return append(out, milliseconds("", "arrival", c.latency())...), nil
}

func acked(jobs []*job) int64 {
	n := uint64(0)
	for _, j := range jobs {
		n += j.acked.Load()
	}
	return int64(n)
}

// fanoutClosed keeps so many events in flight: published and not yet at all
// browsers.
func fanoutClosed(ctx context.Context, t *test) ([]Measure, error) {
	jobs := t.jobs(1)
	c, err := t.gather(ctx, jobs, t.cfg.FanoutBrowsers)
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, stop := guarded(ctx, c)
	defer stop()
	done := c.watchLaps(t.cfg.InFlight)
	var over atomic.Bool
	ended := make(chan error, 1)
	go func() {
		_, err := t.pub.callers(ctx, t.cfg.InFlight, func(ctx context.Context, _ int, k *caller) error {
			for !over.Load() {
				if err := k.one(ctx, jobs[0]); err != nil {
					return err
				}
				select {
				case <-done:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
		ended <- err
	}()
	t.tell("%d browsers are connected; warming up", t.cfg.FanoutBrowsers)
	s, delivered, err := t.window(ctx, c)
	latency := c.latency()
	over.Store(true)
	if err := errors.Join(err, <-ended); err != nil {
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	if err := c.verify(); err != nil {
		return nil, err
	}
	out := append([]Measure{rate("deliveries/s", "deliveries/s", delivered, s.seconds)}, s.perUnit(delivered, "delivery")...)
	return append(out, milliseconds("", "arrival", latency)...), nil
}

// window measures a load that runs already: after the warm-up, for the duration. It
// tells how much was delivered in it.
func (t *test) window(ctx context.Context, c *crowd) (*span, int64, error) {
	if err := pause(ctx, t.cfg.Warmup); err != nil {
		return nil, 0, err
	}
	t.tell("measuring")
	c.restart()
	before := c.delivered()
	s, err := t.begin()
	if err != nil {
		return nil, 0, err
	}
	if err := pause(ctx, t.cfg.Duration); err != nil {
		return nil, 0, err
	}
	delivered := c.delivered() - before
	err = s.end()
	return s, delivered, err
}

func idleFew(ctx context.Context, t *test) ([]Measure, error) {
	return t.idle(ctx, t.jobs(t.cfg.IdleJobs))
}

func idleEach(ctx context.Context, t *test) ([]Measure, error) {
	return t.idle(ctx, t.jobs(t.cfg.IdleBrowsers))
}

// quiet is how long memory is given to become what it stays: garbage of the
// connecting is collected.
const quiet = 5 * time.Second

// idle compares memory before and after the browsers came, and shows that all of
// them were there: each gets an event in the end.
func (t *test) idle(ctx context.Context, jobs []*job) ([]Measure, error) {
	first, err := t.gather(ctx, t.jobs(1), 10) // what the first browsers need once
	if err != nil {
		return nil, err
	}
	first.close()
	if err := pause(ctx, quiet/5); err != nil {
		return nil, err
	}
	before, err := memoryOf(t.target.processes)
	if err != nil {
		return nil, err
	}
	c, err := t.gather(ctx, jobs, t.cfg.IdleBrowsers)
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, stop := guarded(ctx, c)
	defer stop()
	t.tell("%d browsers are connected; waiting %v", t.cfg.IdleBrowsers, quiet)
	s, err := t.begin()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, quiet); err != nil {
		return nil, err
	}
	after, err := memoryOf(t.target.processes)
	if err := errors.Join(err, s.end()); err != nil {
		return nil, err
	}
	t.tell("one event each")
	_, err = t.pub.callers(ctx, min(len(jobs), t.cfg.JobsCallers), func(ctx context.Context, i int, k *caller) error {
		for ; i < len(jobs); i += t.cfg.JobsCallers {
			if err := k.one(ctx, jobs[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	return append(perBrowser(before, after, t.cfg.IdleBrowsers), percent(s)...), c.verify()
}

func perBrowser(before, after map[string]int64, n int) []Measure {
	if len(after) == 0 {
		return nil
	}
	m := Measure{Key: "memory", Name: "KB per browser", Digits: 1, Less: true, Parts: map[string]float64{}}
	for name, v := range after {
		kb := float64(v-before[name]) / 1024 / float64(n)
		m.Parts[name] = kb
		m.Value += kb
	}
	return []Measure{m}
}

// percent is the CPU that waiting browsers take, of one core.
func percent(s *span) []Measure {
	if len(s.all) == 0 {
		return nil
	}
	m := Measure{Key: "idle-cpu", Name: "CPU % of a core", Digits: 1, Less: true, Parts: map[string]float64{}}
	for name, d := range s.cpu {
		m.Parts[name] = 100 * d.Seconds() / s.seconds
		m.Value += m.Parts[name]
	}
	return []Measure{m}
}

// resume cuts all browsers, publishes what they miss, and lets all come back at the
// same time.
func resume(ctx context.Context, t *test) ([]Measure, error) {
	jobs := t.jobs(1)
	jobs[0].inOrder = true
	c, err := t.gather(ctx, jobs, t.cfg.ResumeBrowsers)
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, stop := guarded(ctx, c)
	defer stop()
	worker := t.pub.caller(0)
	if err := worker.one(ctx, jobs[0]); err != nil {
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	times := newHistogram()
	for round := range t.cfg.ResumeRounds {
		c.cut()
		for range t.cfg.ResumeMissed {
			if err := worker.one(ctx, jobs[0]); err != nil {
				return nil, err
			}
		}
		start := time.Now()
		if err := c.open(ctx, t.cfg.ResumeBrowsers, t.connecting()); err != nil {
			return nil, err
		}
		if err := c.settle(ctx); err != nil {
			return nil, err
		}
		d := c.last().Sub(start)
		t.tell("round %d: all have everything after %v", round+1, d.Round(time.Millisecond))
		_ = times.RecordValue(min(d.Microseconds(), maxLatency)) // it is within
	}
	return []Measure{
		{Key: "median", Name: "seconds, median round", Digits: 3, Less: true, Value: float64(times.ValueAtQuantile(50)) / 1e6},
		{Key: "worst", Name: "seconds, worst round", Digits: 3, Less: true, Value: float64(times.Max()) / 1e6},
	}, c.verify()
}
