package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// publisher sends a job's events. It is a worker that gives up nothing.
type publisher struct {
	run *run
	job *job
	// pace is the time between events.
	pace time.Duration
	// n is how many events the job has; 0: until finish is closed.
	n int
	// batch is how many events one call carries at most.
	batch  int
	finish <-chan struct{}
	size   int
}

// publish sends 1, 2, 3 … and the final event, each until it is acknowledged. It
// ends early with ctx.
func (p *publisher) publish(ctx context.Context) {
	tick := time.NewTicker(p.pace)
	defer tick.Stop()
	for next := 1; ctx.Err() == nil; {
		select {
		case <-tick.C:
		case <-p.finish:
			if p.n == 0 {
				p.n = next
			}
		case <-ctx.Done():
			return
		}
		last := next + p.batch - 1
		if p.n > 0 {
			last = min(last, p.n)
		}
		if !p.send(ctx, next, last) {
			return
		}
		p.job.acked.Store(int64(last))
		if last == p.n {
			p.job.final.Store(int64(last))
			return
		}
		next = last + 1
	}
}

// attempt bounds one call: a frozen router answers nothing.
const attempt = 2 * time.Second

// send repeats a call until it is acknowledged; false: ctx ended first.
func (p *publisher) send(ctx context.Context, from, to int) bool {
	var reqs []*eventbusv1.PublishRequest
	for n := from; n <= to; n++ {
		reqs = append(reqs, p.request(n))
	}
	p.job.sent.Store(int64(to))
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, attempt)
		var err error
		if len(reqs) == 1 {
			_, err = p.run.client.Publish(call, reqs[0])
		} else {
			_, err = p.run.client.PublishBatch(call, &eventbusv1.PublishBatchRequest{Requests: reqs})
		}
		cancel()
		if err == nil {
			p.run.acked.Add(int64(len(reqs)))
			return true
		}
		if ctx.Err() == nil {
			p.run.answers.add("publish", err)
		}
		select {
		case <-time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return false
}

func (p *publisher) request(n int) *eventbusv1.PublishRequest {
	e := &eventbusv1.Event{
		Domain: p.job.domain, JobId: p.job.id, Stage: "step", Status: "streaming",
		Content: strconv.Itoa(n), Message: p.run.padding[:p.size],
	}
	if n == p.n {
		e.Stage, e.Status, e.Final = "end", "completed", true
	}
	return &eventbusv1.PublishRequest{Event: e, IdempotencyKey: strconv.Itoa(n)}
}

// answers counts what calls were answered, by call and code. Codes that the
// contract does not have for a fault are wrong.
type answers struct {
	mu     sync.Mutex
	counts map[string]int
	wrong  []string
}

func newAnswers() *answers { return &answers{counts: map[string]int{}} }

func (a *answers) add(call string, err error) {
	st := status.Convert(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[call+" "+st.Code().String()]++
	switch st.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
	default:
		if len(a.wrong) < 5 {
			a.wrong = append(a.wrong, fmt.Sprintf("%s: %v: %s", call, st.Code(), st.Message()))
		}
	}
}

// has tells whether a call was answered so.
func (a *answers) has(call string, code codes.Code) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[call+" "+code.String()] > 0
}

func (a *answers) report() (string, []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(a.counts), a.wrong
}

// note counts something that is no status.
func (a *answers) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[what]++
}
