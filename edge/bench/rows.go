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
	// asked are the events a second of an open loop.
	asked int
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
	return t.openLoop(ctx, load{jobs: t.jobs(1), browsers: t.cfg.FanoutBrowsers, rate: t.cfg.FanoutRate, callers: 1, unit: "delivery"})
}

func jobs(ctx context.Context, t *test) ([]Measure, error) {
	return t.openLoop(ctx, load{jobs: t.jobs(t.cfg.JobsCount), browsers: t.cfg.JobsCount, rate: t.cfg.JobsRate, callers: t.cfg.JobsCallers, unit: "event"})
}

// load is an open loop: events at a fixed rate.
type load struct {
	jobs []*job
	// browsers watch the first jobs, all of them in turn.
	browsers, rate, callers int
	// unit is what CPU time is told for: a delivery or an event.
	unit string
	// weigh is what memory is told for, a browser or a job; then each job has an event
	// before the warm-up. Empty: neither.
	weigh string
}

// openLoop warms up and then measures. Where jobs are not watched, what they were
// sent is read in the end.
func (t *test) openLoop(ctx context.Context, l load) ([]Measure, error) {
	for _, j := range l.jobs {
		j.inOrder = true
	}
	out, err := t.watched(ctx, l)
	if rest := l.jobs[min(l.browsers, len(l.jobs)):]; err == nil && len(rest) > 0 {
		err = t.readBack(ctx, rest)
	}
	return out, err
}

// watched is openLoop while the browsers are there.
func (t *test) watched(ctx context.Context, l load) ([]Measure, error) {
	var before map[string]int64
	if l.weigh != "" {
		var err error
		if before, err = t.footing(ctx); err != nil {
			return nil, err
		}
	}
	c, err := t.gather(ctx, l.jobs[:min(l.browsers, len(l.jobs))], l.browsers)
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, stop := guarded(ctx, c)
	defer stop()
	t.tell("%d browsers are connected; warming up", l.browsers)
	var memory []Measure
	if l.weigh != "" {
		if err := t.oneEach(ctx, l.jobs); err != nil {
			return nil, err
		}
	}
	if err := t.pace(ctx, c, l, t.cfg.Warmup); err != nil {
		return nil, err
	}
	if l.weigh != "" {
		after, err := memoryOf(t.target.processes)
		if err != nil {
			return nil, err
		}
		memory = memoryPer(before, after, l.weighed(), l.weigh)
	}
	out, err := t.measured(ctx, c, l)
	return append(out, memory...), err
}

// weighed is how many there are of what memory is told for.
func (l load) weighed() int {
	if l.weigh == "job" {
		return len(l.jobs)
	}
	return l.browsers
}

// pace publishes for a time, and waits until all has arrived.
func (t *test) pace(ctx context.Context, c *crowd, l load, d time.Duration) error {
	if err := t.pub.paced(ctx, l.jobs, l.rate, l.callers, d); err != nil {
		return err
	}
	return c.settle(ctx)
}

func (t *test) measured(ctx context.Context, c *crowd, l load) ([]Measure, error) {
	t.tell("measuring")
	c.restart()
	delivered, events := c.delivered(), acked(l.jobs)
	s, err := t.begin()
	if err != nil {
		return nil, err
	}
	if err := t.pace(ctx, c, l, t.cfg.Duration); err != nil {
		return nil, err
	}
	if err := errors.Join(s.end(), c.verify()); err != nil {
		return nil, err
	}
	delivered, events = c.delivered()-delivered, acked(l.jobs)-events
	out := []Measure{rate("events/s", "events/s", events, s.seconds), rate("deliveries/s", "deliveries/s", delivered, s.seconds)}
	if l.unit == "delivery" {
		out = append(out, s.perUnit(delivered, l.unit)...)
	} else {
		out = append(out, s.perUnit(events, l.unit)...)
	}
	if short(out[0].Value, l.rate) {
		t.tell("only %.0f of %d events/s could be published: latency is that of too much load", out[0].Value, l.rate)
	}
	return append(out, milliseconds("", "arrival", c.latency())...), nil
}

// short tells whether less could be published than was asked.
func short(have float64, asked int) bool { return have < float64(asked)*0.95 }

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
	before, err := t.footing(ctx)
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
	if err := t.oneEach(ctx, jobs); err != nil {
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	return append(memoryPer(before, after, t.cfg.IdleBrowsers, "browser"), percent(s)...), c.verify()
}

// footing is the memory of the processes once they have what the first browsers need.
func (t *test) footing(ctx context.Context) (map[string]int64, error) {
	if len(t.target.processes) == 0 {
		return nil, nil
	}
	first, err := t.gather(ctx, t.jobs(1), 10)
	if err != nil {
		return nil, err
	}
	first.close()
	if err := pause(ctx, quiet/5); err != nil {
		return nil, err
	}
	return memoryOf(t.target.processes)
}

// oneEach publishes an event for each job.
func (t *test) oneEach(ctx context.Context, jobs []*job) error {
	callers := min(len(jobs), t.cfg.JobsCallers)
	_, err := t.pub.callers(ctx, callers, func(ctx context.Context, i int, k *caller) error {
		for ; i < len(jobs); i += callers {
			if err := k.one(ctx, jobs[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// memoryPer is what came with n of a unit.
func memoryPer(before, after map[string]int64, n int, unit string) []Measure {
	if len(after) == 0 {
		return nil
	}
	m := Measure{Key: "memory", Name: "KB per " + unit, Digits: 1, Less: true, Parts: map[string]float64{}}
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
