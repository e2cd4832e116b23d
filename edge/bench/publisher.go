package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/HdrHistogram/hdrhistogram-go"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// publisher is the workers' side: gRPC connections shared by many callers. It is
// safe for concurrent use.
type publisher struct {
	conns   []*grpc.ClientConn
	clients []eventbusv1.EventBusServiceClient
	token   string
	payload int
	// refused counts calls that the bus told to wait.
	refused atomic.Int64
}

const (
	// stage is that of every event of a test.
	stage = "tick"
	// callTimeout bounds one publish; a bus that takes so long has no measure.
	callTimeout = 10 * time.Second
	// maxRefusals bounds how often one event may be refused.
	maxRefusals = 60
)

// dial connects, at least conns times and to all addresses alike; the caller closes it.
func dial(addrs []string, token string, conns, payload int) (*publisher, error) {
	p := &publisher{token: token, payload: payload}
	for i := range (conns + len(addrs) - 1) / len(addrs) * len(addrs) {
		c, err := grpc.NewClient(addrs[i%len(addrs)], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--grpc: %w", err), p.close())
		}
		p.conns = append(p.conns, c)
		p.clients = append(p.clients, eventbusv1.NewEventBusServiceClient(c))
	}
	return p, nil
}

func (p *publisher) close() error {
	var err error
	for _, c := range p.conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// request is the next event of a job.
func (p *publisher) request(j *job, scratch *[]byte) (*eventbusv1.PublishRequest, uint64) {
	n := j.numbers.Add(1)
	*scratch = appendStamp((*scratch)[:0], time.Now().UnixNano(), n, p.payload)
	return &eventbusv1.PublishRequest{
		Event: &eventbusv1.Event{Domain: j.domain, JobId: j.id, Stage: stage, Status: "streaming", Content: string(*scratch)},
	}, n
}

// caller is one worker: it publishes one call after the other.
type caller struct {
	p       *publisher
	client  eventbusv1.EventBusServiceClient
	scratch []byte
	// calls are the times of its calls, in µs.
	calls *hdrhistogram.Histogram
	// patient: a refused call is repeated, as a worker does; else it is an error.
	patient bool
}

func (p *publisher) caller(i int) *caller {
	return &caller{p: p, client: p.clients[i%len(p.clients)], calls: newHistogram(), patient: true}
}

// one publishes one event and returns when it is acknowledged. A key makes its
// repeats harmless.
func (c *caller) one(ctx context.Context, j *job) error {
	req, n := c.p.request(j, &c.scratch)
	req.IdempotencyKey = strconv.FormatUint(n, 10)
	err := c.call(ctx, func(ctx context.Context) error {
		_, err := c.client.Publish(ctx, req)
		return err
	})
	if err == nil {
		j.acked.Add(1)
		j.sum.Add(n)
	}
	return err
}

// batch publishes size events of one job in one call. No other caller publishes that
// job. After a refusal nothing was written.
func (c *caller) batch(ctx context.Context, j *job, size int) error {
	reqs := make([]*eventbusv1.PublishRequest, size)
	sum := uint64(0)
	for i := range reqs {
		var n uint64
		reqs[i], n = c.p.request(j, &c.scratch)
		sum += n
	}
	err := c.call(ctx, func(ctx context.Context) error {
		_, err := c.client.PublishBatch(ctx, &eventbusv1.PublishBatchRequest{Requests: reqs})
		return err
	})
	if err != nil {
		j.numbers.Add(-uint64(size)) // nothing is written: the next batch has these numbers
		return err
	}
	j.acked.Add(uint64(size))
	j.sum.Add(sum)
	return nil
}

// call makes a call, and makes it again while the bus says wait: the key makes that
// safe. Only calls that were not refused count as calls.
func (c *caller) call(ctx context.Context, do func(context.Context) error) error {
	if c.p.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.p.token)
	}
	for try := 0; ; try++ {
		start := time.Now()
		limited, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(limited)
		cancel()
		if err == nil {
			_ = c.calls.RecordValue(min(max(time.Since(start).Microseconds(), 1), maxLatency)) // it is within
			return nil
		}
		wait, ok := refusal(err)
		if !ok || try == maxRefusals {
			return fmt.Errorf("publish: %w", err)
		}
		c.p.refused.Add(1)
		if !c.patient {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// refusal tells whether the bus asks to come again, and when.
func refusal(err error) (time.Duration, bool) {
	st, _ := status.FromError(err)
	if st.Code() != codes.ResourceExhausted && st.Code() != codes.Unavailable {
		return 0, false
	}
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return r.GetRetryDelay().AsDuration(), true
		}
	}
	return 100 * time.Millisecond, true
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// callers runs f for n callers at the same time and joins what they say; calls of
// all of them come back in one histogram. The first error ends the others.
func (p *publisher) callers(ctx context.Context, n int, f func(ctx context.Context, i int, c *caller) error) (*hdrhistogram.Histogram, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all := make([]*caller, n)
	var wg sync.WaitGroup
	for i := range all {
		all[i] = p.caller(i)
		wg.Go(func() {
			if err := f(ctx, i, all[i]); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	calls := newHistogram()
	for _, c := range all {
		calls.Merge(c.calls)
	}
	return calls, context.Cause(ctx)
}

// paced publishes rate events a second for a time, caller i the jobs i, i+callers …
// in turn. It is an open loop: who is late sends at once, and the clock goes on.
func (p *publisher) paced(ctx context.Context, jobs []*job, rate, callers int, d time.Duration) error {
	callers = min(callers, len(jobs), rate)
	start, each := time.Now(), time.Second*time.Duration(callers)/time.Duration(rate)
	count := int(d / each)
	_, err := p.callers(ctx, callers, func(ctx context.Context, i int, c *caller) error {
		phase := each * time.Duration(i) / time.Duration(callers)
		at := i
		for k := range count {
			if err := pause(ctx, time.Until(start.Add(phase+each*time.Duration(k)))); err != nil {
				return err
			}
			if err := c.one(ctx, jobs[at]); err != nil {
				return err
			}
			if at += callers; at >= len(jobs) {
				at = i
			}
		}
		return nil
	})
	return err
}
