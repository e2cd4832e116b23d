package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// run is the load of one round: jobs, who publishes them and who watches them.
type run struct {
	*world
	t       *testing.T
	answers *answers
	acked   atomic.Int64
	padding string
	// since is when the fault began, in nanoseconds.
	since  atomic.Int64
	finish chan struct{}
	// short jobs come and end while the fault is on.
	stopShort chan struct{}

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	views []*view
	// steady are the views of subscribers that stay, of jobs that last.
	steady []*view
	jobs   []*job
}

// load is how much of it there is.
type load struct {
	jobs  int
	pace  time.Duration
	short bool
}

func usual() load { return load{jobs: 4, pace: 25 * time.Millisecond, short: true} }

// result is a row of the table, or a part of one.
type result struct {
	runs    int
	acked   int
	tally   tally
	silence time.Duration
}

func newRun(t *testing.T, w *world) *run {
	t.Helper()
	r := &run{
		world: w, t: t, answers: newAnswers(), padding: strings.Repeat("x", 1024),
		finish: make(chan struct{}), stopShort: make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(t.Context())
	t.Cleanup(func() {
		r.cancel()
		r.wg.Wait()
	})
	return r
}

func newJob(domain string) *job {
	return &job{domain: domain, id: fmt.Sprintf("job-%016x", rand.Uint64())}
}

// watch lets one more subscriber follow the job.
func (r *run) watch(j *job, name string, restless bool, connect func(context.Context, *subscriber) bool) *view {
	v := newView(name, j, &r.since)
	r.mu.Lock()
	r.views = append(r.views, v)
	r.mu.Unlock()
	s := &subscriber{run: r, view: v, restless: restless, connect: connect}
	r.wg.Go(func() { s.follow(r.ctx) })
	return v
}

// start begins the load and waits until it flows.
func (r *run) start(l load) {
	r.t.Helper()
	for i := range l.jobs {
		j := newJob([]string{"scan", "chat"}[i%2])
		r.jobs = append(r.jobs, j)
		r.steady = append(r.steady, r.watch(j, "gRPC", false, byGRPC), r.watch(j, "SSE", false, bySSE))
		r.watch(j, "restless gRPC", true, byGRPC)
		r.watch(j, "restless SSE", true, bySSE)
		p := &publisher{run: r, job: j, pace: l.pace, batch: 1 + i%3, finish: r.finish, size: 64 << i % 4}
		r.wg.Go(func() { p.publish(r.ctx) })
	}
	if l.short {
		r.wg.Go(r.shortJobs)
	}
	r.await("the load flows", func() bool { return r.allPast(func(*job) int64 { return 5 }) })
}

// shortJobs makes jobs that end while the fault is on, one after the other.
func (r *run) shortJobs() {
	for i := 0; ; i++ {
		select {
		case <-r.stopShort:
			return
		case <-r.ctx.Done():
			return
		default:
		}
		j := newJob("chat")
		r.mu.Lock()
		r.jobs = append(r.jobs, j)
		r.mu.Unlock()
		if i%2 == 0 {
			r.watch(j, "gRPC of a short job", i%3 == 0, byGRPC)
		} else {
			r.watch(j, "SSE of a short job", i%3 == 0, bySSE)
		}
		p := &publisher{run: r, job: j, pace: 10 * time.Millisecond, n: 10, batch: 1 + i%2, size: 32}
		p.publish(r.ctx)
	}
}

// allPast tells whether every steady subscriber has got beyond a number.
func (r *run) allPast(number func(*job) int64) bool {
	for _, v := range r.steady {
		if int64(v.number()) < number(v.job) {
			return false
		}
	}
	return true
}

// await waits for a condition, for one patience.
func (r *run) await(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			r.t.Errorf("after %v not yet: %s", patience, what)
			return
		case <-r.ctx.Done():
			r.t.Errorf("not any more: %s", what)
			return
		case <-tick.C:
		}
	}
}

// hold lets time pass: the fault's own.
func (r *run) hold(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}

// flows waits until each steady subscriber got something that was published from
// now on.
func (r *run) flows() {
	r.t.Helper()
	now := map[*job]int64{}
	for _, v := range r.steady {
		now[v.job] = v.job.sent.Load() + 1
	}
	r.await("events flow again", func() bool { return r.allPast(func(j *job) int64 { return now[j] }) })
}

// end lets the jobs end, and judges what everybody saw. Late ones come when all is
// over, and must get all of it.
func (r *run) end(late bool) result {
	r.t.Helper()
	close(r.stopShort)
	close(r.finish)
	r.await("every job is over for its publisher", func() bool {
		for _, j := range r.allJobs() {
			if j.final.Load() == 0 {
				return false
			}
		}
		return true
	})
	if late {
		for i, j := range r.allJobs() {
			if i%2 == 0 {
				r.watch(j, "late gRPC", false, byGRPC)
			} else {
				r.watch(j, "late SSE", false, bySSE)
			}
		}
	}
	r.await("every job is over for its subscribers", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, v := range r.views {
			if !v.ended() {
				return false
			}
		}
		return true
	})
	r.drain()
	return r.judge()
}

// drain gives streams that have seen the final event the time to end by
// themselves; what a subscriber gets after the end is wrong.
func (r *run) drain() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		r.t.Error("subscribers were not told that their job is over")
		r.cancel()
		<-done
	}
}

func (r *run) allJobs() []*job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*job(nil), r.jobs...)
}

func (r *run) judge() result {
	r.t.Helper()
	res := result{runs: 1, acked: int(r.acked.Load())}
	shown := 0
	for _, v := range r.views {
		tally, notes := v.judge()
		res.tally.add(tally)
		for _, n := range notes {
			if shown++; shown <= 20 {
				r.t.Log(n)
			}
		}
	}
	for _, v := range r.steady {
		res.silence = max(res.silence, v.silence)
	}
	counts, wrong := r.answers.report()
	for _, text := range wrong {
		r.t.Errorf("an answer that no client should get: %s", text)
	}
	r.t.Logf("%d acknowledged, %d checked in %d views, silence %v, errors %s",
		res.acked, res.tally.events, len(r.views), res.silence.Round(time.Millisecond), counts)
	return res
}
