package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// perJob is after how many events a caller takes its next job: less than a job's
// log keeps, so that all can be read in the end.
const perJob = 2000

// publishJobs is how many jobs the callers need, at a fast caller's perJob a second.
func (c *Config) publishJobs() int {
	return c.PublishCallers * (2 + int((c.Warmup + c.Duration).Seconds()))
}

// publish is as many events as so many callers get acknowledged, one a call. Nobody
// watches; afterwards browsers read what was acknowledged, all of it.
func publish(ctx context.Context, t *test) ([]Measure, error) {
	callers := t.cfg.PublishCallers
	jobs := t.jobs(t.cfg.publishJobs())
	for _, j := range jobs {
		j.inOrder = true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var over atomic.Bool
	ended := make(chan error, 1)
	measured := new(atomic.Bool)
	calls := newHistogram()
	go func() {
		all, err := t.pub.callers(ctx, callers, func(ctx context.Context, i int, k *caller) error {
			fresh := false
			for n := 0; !over.Load(); n++ {
				if !fresh && measured.Load() {
					k.calls.Reset()
					fresh = true
				}
				if err := k.one(ctx, jobs[(i+n/perJob*callers)%len(jobs)]); err != nil {
					return err
				}
			}
			return nil
		})
		calls.Merge(all)
		ended <- err
	}()
	t.tell("%d callers publish; warming up", callers)
	s, events, err := t.publishWindow(ctx, jobs, measured)
	over.Store(true)
	if err := errors.Join(err, <-ended); err != nil {
		return nil, err
	}
	events = acked(jobs) - events
	if err := errors.Join(t.projected(ctx), s.end()); err != nil {
		return nil, err
	}
	out := append([]Measure{rate("events/s", "events/s accepted", events, s.seconds)}, s.perUnit(events, "event")...)
	out = append(out, milliseconds("", "call", calls)...)
	return out, t.readBack(ctx, jobs)
}

// publishWindow waits for the warm-up and the duration. The span's CPU time is open:
// the bus has not yet done all its work.
func (t *test) publishWindow(ctx context.Context, jobs []*job, measured *atomic.Bool) (*span, int64, error) {
	if err := pause(ctx, t.cfg.Warmup); err != nil {
		return nil, 0, err
	}
	t.tell("measuring")
	measured.Store(true)
	events := acked(jobs)
	s, err := t.begin()
	if err != nil {
		return nil, 0, err
	}
	if err := pause(ctx, t.cfg.Duration); err != nil {
		return nil, 0, err
	}
	s.mark()
	return s, events, nil
}

// projected waits until what was published so far is in the jobs' logs: a last event
// in each shard is then its job's state.
func (t *test) projected(ctx context.Context) error {
	if t.target.floor {
		return nil
	}
	client := t.pub.clients[0]
	if t.cfg.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+t.cfg.Token)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := t.jobs(t.cfg.Shards)
	for _, j := range last {
		e := &eventbusv1.Event{Domain: j.domain, JobId: j.id, Stage: stage, Status: "completed"}
		for {
			_, err := client.Publish(ctx, &eventbusv1.PublishRequest{Event: e, IdempotencyKey: "last"})
			if err == nil {
				break
			}
			wait, again := refusal(err)
			if !again {
				return fmt.Errorf("publish: %w", err)
			}
			if err := pause(ctx, wait); err != nil {
				return err
			}
		}
	}
	for _, j := range last {
		for {
			_, err := client.GetState(ctx, &eventbusv1.GetStateRequest{Domain: j.domain, JobId: j.id})
			if err == nil {
				break
			}
			if status.Code(err) != codes.NotFound {
				return fmt.Errorf("the bus projects what was published: %w", err)
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBack lets a browser for each job read all that was acknowledged.
func (t *test) readBack(ctx context.Context, jobs []*job) error {
	if t.target.floor {
		return nil
	}
	var used []*job
	for _, j := range jobs {
		if j.acked.Load() > 0 {
			used = append(used, j)
		}
	}
	t.tell("reading back %d events of %d jobs", acked(used), len(used))
	for some := range slices.Chunk(used, readAtOnce) {
		if err := t.readAll(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// readAtOnce is how many jobs are read back at the same time: open files.
const readAtOnce = 10_000

func (t *test) readAll(ctx context.Context, jobs []*job) error {
	c, err := t.gather(ctx, jobs, len(jobs))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.settle(ctx); err != nil {
		return err
	}
	return c.verify()
}

// jobsPerCaller is how many jobs one caller's batches go to in turn.
const jobsPerCaller = 8

// publishBatch publishes bursts: each as fast as it is accepted, and the next when
// all of it has arrived. One browser watches each job.
func publishBatch(ctx context.Context, t *test) ([]Measure, error) {
	jobs := t.jobs(t.cfg.BatchCallers * jobsPerCaller)
	for _, j := range jobs {
		j.inOrder = true
	}
	c, err := t.gather(ctx, jobs, len(jobs))
	if err != nil {
		return nil, err
	}
	defer c.close()
	ctx, stop := guarded(ctx, c)
	defer stop()
	b := &bursts{t: t, jobs: jobs, crowd: c}
	t.tell("%d browsers are connected; warming up", len(jobs))
	if err := b.run(ctx, t.cfg.Warmup); err != nil {
		return nil, err
	}
	*b = bursts{t: t, jobs: jobs, crowd: c}
	t.tell("measuring")
	s, err := t.begin()
	if err != nil {
		return nil, err
	}
	if err := b.run(ctx, t.cfg.Duration); err != nil {
		return nil, err
	}
	if err := errors.Join(s.end(), c.verify()); err != nil {
		return nil, err
	}
	out := []Measure{
		rate("accepted/s", "events/s accepted", b.events, b.accepting.Seconds()),
		rate("delivered/s", "events/s delivered", b.events, b.delivering.Seconds()),
		rate("sustained/s", "events/s with the waits that the bus asks for", b.events, s.seconds),
	}
	return append(out, s.perUnit(b.events, "event")...), nil
}

// bursts adds up.
type bursts struct {
	t     *test
	jobs  []*job
	crowd *crowd

	events int64
	// accepting is the time until a burst was accepted, delivering until all of it
	// had arrived.
	accepting, delivering time.Duration
}

func (b *bursts) run(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); {
		before, start := acked(b.jobs), time.Now()
		wait, err := b.publish(ctx)
		if err != nil {
			return err
		}
		accepted := time.Now()
		if err := b.crowd.settle(ctx); err != nil {
			return err
		}
		if n := acked(b.jobs) - before; n > 0 {
			b.events += n
			b.accepting += accepted.Sub(start)
			b.delivering += max(b.crowd.last().Sub(start), 0)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	if b.events == 0 {
		return errors.New("the bus accepted nothing: " + b.t.target.name)
	}
	return nil
}

// publish is one burst. It ends early where the bus says wait, and tells how long.
func (b *bursts) publish(ctx context.Context) (time.Duration, error) {
	cfg := b.t.cfg
	var wait atomic.Int64
	each := cfg.BatchBurst / cfg.BatchCallers / cfg.BatchSize
	_, err := b.t.pub.callers(ctx, cfg.BatchCallers, func(ctx context.Context, i int, k *caller) error {
		k.patient = false
		for n := range each {
			err := k.batch(ctx, b.jobs[i+n%jobsPerCaller*cfg.BatchCallers], cfg.BatchSize)
			if d, refused := refusal(err); refused && status.Code(err) == codes.ResourceExhausted {
				wait.Store(int64(d))
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return time.Duration(wait.Load()), err
}
