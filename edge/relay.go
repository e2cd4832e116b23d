package edge

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
)

// relayAdds bounds one request: 1,000 jobs with the longest names are 200 KiB.
const relayAdds = 1000

// relay is one stream from a router, with a part of the jobs of this edge. When it
// breaks it is opened anew, maybe from another router, and each job goes on after
// the last event that came. It has two goroutines, however many jobs: run receives
// and puts what came into the topics, send asks.
type relay struct {
	owner  *topics
	client relayv1.RelayServiceClient

	mu sync.Mutex
	// jobs are those that the router streams, or will once there is a stream, by
	// handle. Handles are never used twice.
	jobs   map[uint64]*topic // guarded by mu
	handle uint64            // guarded by mu; the last one given
	// connected: there is a stream, and adds and drops are what it has yet to be
	// told. Else the next stream begins with all jobs.
	connected bool     // guarded by mu
	adds      []*topic // guarded by mu
	drops     []uint64 // guarded by mu

	// changed holds one signal: for send, or for run between two streams.
	changed chan struct{}
	// up: a router speaks.
	up atomic.Bool
}

type relayStream = grpc.BidiStreamingClient[relayv1.RelayRequest, relayv1.RelayResponse]

func newRelay(owner *topics, client relayv1.RelayServiceClient) *relay {
	return &relay{owner: owner, client: client, jobs: map[uint64]*topic{}, changed: make(chan struct{}, 1)}
}

// add asks for the job's events after t.after. The topic hears from run's goroutine
// only.
func (r *relay) add(t *topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.left {
		return
	}
	r.handle++
	t.handle = r.handle
	r.jobs[t.handle] = t
	if r.connected {
		r.adds = append(r.adds, t)
	}
	r.signal()
}

// drop asks for no more.
func (r *relay) drop(t *topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.left = true
	if t.again != nil {
		t.again.Stop()
	}
	if r.jobs[t.handle] != t {
		return
	}
	delete(r.jobs, t.handle)
	if r.connected {
		r.drops = append(r.drops, t.handle)
		r.signal()
	}
}

func (r *relay) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// run keeps a stream until ctx ends.
func (r *relay) run(ctx context.Context) {
	retry := newPatience()
	for {
		begun := time.Now()
		spoke, err := r.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if spoke {
			r.owner.upstreamLost(err)
		} else {
			r.owner.sayLost(err)
		}
		retry.lived(begun)
		if moved(err) {
			continue // there is a router, perhaps another one
		}
		wait := time.NewTimer(retry.NextBackOff())
		select {
		case <-wait.C:
		case <-r.changed: // a browser waits
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// session is the life of one stream. spoke: a router said its first word.
func (r *relay) session(ctx context.Context) (spoke bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(openTimeout, func() { cancel(errSilent) })
	defer watchdog.Stop()
	stream, err := r.client.Relay(ctx)
	if err != nil {
		err = explainRelay(ctx, err)
		r.refuse(err)
		return false, err
	}
	r.begin()
	var sending sync.WaitGroup
	sending.Go(func() { r.send(ctx, stream) })
	defer sending.Wait()
	defer cancel(nil)
	defer r.end()
	for {
		m, err := stream.Recv()
		if err != nil {
			err = explainRelay(ctx, err)
			if !spoke {
				r.refuse(err)
			}
			return spoke, err
		}
		if !spoke {
			spoke = true
			r.up.Store(true)
		}
		watchdog.Reset(missedHeartbeats * r.owner.heartbeat)
		for _, w := range m.GetWords() {
			r.hear(w)
		}
	}
}

// explainRelay gives the end of a stream a status that may pass: it says nothing of
// a job.
func explainRelay(ctx context.Context, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errSilent):
		return errNoWord
	case status.Code(err) == codes.Unimplemented:
		return status.Error(codes.Unavailable, "the router is older than this edge; routers are upgraded first")
	case !transient(err):
		return status.Errorf(codes.Unavailable, "the stream from the router ended: %v", err)
	}
	return err
}

var errNoWord = status.Error(codes.Unavailable, "no word from a router in time")

// begin: the stream is to be told of all jobs.
func (r *relay) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected = true
	for _, t := range r.jobs {
		r.adds = append(r.adds, t)
	}
	r.signal()
}

func (r *relay) end() {
	r.up.Store(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connected, r.adds, r.drops = false, nil, nil
}

// refuse answers who waits for a first word: there is no router.
func (r *relay) refuse(err error) {
	r.mu.Lock()
	jobs := make([]*topic, 0, len(r.jobs))
	for _, t := range r.jobs {
		jobs = append(jobs, t)
	}
	r.mu.Unlock()
	for _, t := range jobs {
		t.settle(err)
	}
}

// send tells the stream what is added and dropped, until it ends.
func (r *relay) send(ctx context.Context, stream relayStream) {
	for {
		m := r.request()
		if m == nil {
			select {
			case <-r.changed:
			case <-ctx.Done():
				return
			}
			continue
		}
		if stream.Send(m) != nil {
			return // Recv tells why
		}
	}
}

// request is what the stream has yet to be told; nil where that is nothing.
func (r *relay) request() *relayv1.RelayRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.adds), relayAdds)
	if n == 0 && len(r.drops) == 0 {
		return nil
	}
	m := &relayv1.RelayRequest{Adds: make([]*relayv1.Add, n)}
	for i, t := range r.adds[:n] {
		m.Adds[i] = &relayv1.Add{Handle: t.handle, Domain: t.key.domain, JobId: t.key.job, AfterId: idText(t.after)}
	}
	if r.adds = r.adds[n:]; len(r.adds) == 0 {
		r.adds = nil
		// A job is dropped after it was added.
		m.Drops, r.drops = r.drops, nil
	}
	return m
}

// hear gives a word to its job.
func (r *relay) hear(w *relayv1.Word) {
	r.mu.Lock()
	t := r.jobs[w.GetHandle()]
	if t != nil && w.GetEnd() != nil {
		delete(r.jobs, t.handle)
	}
	r.mu.Unlock()
	if t == nil {
		return // dropped meanwhile
	}
	if err := t.take(w); err != nil {
		r.forget(t)
		t.ended(err)
		return
	}
	if w.GetOpened() {
		t.settle(nil)
	}
	if end := w.GetEnd(); end != nil {
		t.ended(endOf(end))
	}
}

// forget is drop for a topic that may be added again.
func (r *relay) forget(t *topic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs[t.handle] == t {
		delete(r.jobs, t.handle)
		r.drops = append(r.drops, t.handle)
		r.signal()
	}
}

// endOf is why a job has no further words: io.EOF after its final event. That the
// edge may not read it is no browser's fault, and may pass.
func endOf(end *relayv1.End) error {
	st := new(spb.Status)
	if err := proto.Unmarshal(end.GetStatus(), st); err != nil {
		return status.Errorf(codes.Internal, "the router sent a status: %v", err)
	}
	switch err := status.ErrorProto(st); status.Code(err) {
	case codes.OK:
		return io.EOF
	case codes.Unauthenticated, codes.PermissionDenied:
		return status.Errorf(codes.Unavailable, "the routers do not accept this edge: %v", err)
	default:
		return err
	}
}
