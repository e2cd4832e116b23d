package router

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// Bounds of a relay.
const (
	// MaxRelayJobs is how many jobs one relay has at once, with those that are
	// dropped and not gone yet.
	MaxRelayJobs = 1 << 16
	// relayBytes bounds what one Next returns, and relayTurn what one job has in it,
	// so that a job with a long past does not hold up the others.
	relayBytes = 1 << 20
	relayTurn  = 128 << 10
)

// Word is what one job of a relay has to say.
type Word struct {
	Handle uint64
	// Opened: the first word; what is published from now on will be seen.
	Opened bool
	// Gap: events before Items are lost.
	Gap *event.Gap
	// Items is valid until the next call of Next.
	Items []hub.Item[*Shown]
	// Err is why there will be no more words: io.EOF after the final event; else as
	// of Subscribe.
	Err error
}

// Relay is many jobs for one reader, each as a Subscription has it, with three
// kinds of goroutines in all: open waits for channels, read reads logs, and the
// reader's own delivers. A job whose turn it is waits in ready; one that has
// nothing costs nothing but its place. Who reads slowly holds nothing up: each job
// is only a cursor.
//
// Add, Drop and Close may be called at any time; Next belongs to one goroutine.
type Relay struct {
	bus     *Bus
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	jobs   map[uint64]*relayJob
	held   int // jobs that are not released, dropped ones among them
	closed bool
	// opening is for open; behind is who waits for one of relayReads; ready is who
	// waits for Next.
	opening []*relayJob
	behind  jobQueue
	reads   int
	readers int
	ready   jobQueue

	// toOpen and wake are signals; they hold one.
	toOpen, wake chan struct{}

	// What follows belongs to Next.
	words []Word
	items []hub.Item[*Shown]
	timer *time.Timer
}

// Relay begins a relay without jobs. Close it.
func (b *Bus) Relay() *Relay {
	r := &Relay{bus: b, jobs: make(map[uint64]*relayJob), toOpen: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.running.Go(r.open)
	return r
}

// Add opens a job after the cursor, zero for its start. It does not wait. The error
// is the reader's fault: it uses a handle twice, or does not take what its jobs say.
func (r *Relay) Add(handle uint64, domain, jobID string, after event.ID) error {
	log := jobLog{jobLogs: r.bus.logs, domain: domain, jobID: jobID, bytes: relayTurn}
	return r.add(&relayJob{relay: r, handle: handle, log: log, after: after}, &r.opening)
}

// Refuse ends a job that never was one.
func (r *Relay) Refuse(handle uint64, err error) error {
	return r.add(&relayJob{relay: r, handle: handle, read: &logRead{err: err}}, nil)
}

func (r *Relay) add(j *relayJob, opening *[]*relayJob) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil
	case r.jobs[j.handle] != nil:
		return event.Errorf(event.Invalid, "handle %d is in use", j.handle)
	case r.held >= 2*MaxRelayJobs:
		return event.Errorf(event.Exhausted, "%d jobs that were added are not taken", r.held)
	}
	if r.held >= MaxRelayJobs && opening != nil {
		j.read = &logRead{err: event.Errorf(event.Exhausted, "a stream carries at most %d jobs", MaxRelayJobs)}
		opening = nil
	}
	r.held++
	r.jobs[j.handle] = j
	if opening == nil {
		r.enqueue(j)
		return nil
	}
	*opening = append(*opening, j)
	signal(r.toOpen)
	return nil
}

// Drop forgets a job. Words that are under way may still come.
func (r *Relay) Drop(handle uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.jobs[handle]
	if j == nil {
		return
	}
	delete(r.jobs, handle)
	j.dropped = true
	if j.place == atRest {
		r.enqueue(j)
	}
}

// enqueue gives the job its turn. The relay is locked.
func (r *Relay) enqueue(j *relayJob) {
	j.place = atReady
	r.ready.push(j)
	signal(r.wake)
}

// open subscribes the channels of what was added, all in one, and passes each job
// on when Redis has confirmed its own.
func (r *Relay) open() {
	for {
		select {
		case <-r.toOpen:
		case <-r.ctx.Done():
			return
		}
		r.mu.Lock()
		jobs := r.opening
		r.opening = nil
		r.mu.Unlock()
		topics := make([]*topic, len(jobs))
		for i, j := range jobs {
			j.topic = r.bus.hub.hold(topicKey{j.log.domain, j.log.jobID})
			topics[i] = j.topic
		}
		channels := r.bus.hub.join(r.ctx, topics)
		timeout := time.NewTimer(joinTimeout)
		for i, j := range jobs {
			if ch := channels[i]; ch != nil {
				r.bus.hub.listener(j.log.jobID).confirmed(r.ctx, ch, timeout)
			}
			j.sub = j.topic.Subscribe(j.after, &j.log)
			r.mu.Lock()
			r.enqueue(j)
			r.mu.Unlock()
		}
		timeout.Stop()
	}
}

// Next waits for words, at most relayBytes of them, save a larger event; nothing
// came for idle where there are none. Its error is ctx's.
func (r *Relay) Next(ctx context.Context, idle time.Duration) ([]Word, error) {
	clear(r.items)
	clear(r.words)
	r.items, r.words = r.items[:0], r.words[:0]
	if r.timer == nil {
		r.timer = time.NewTimer(idle)
	} else {
		r.timer.Reset(idle)
	}
	for {
		for bytes := 0; bytes < relayBytes; {
			j, dropped := r.take()
			if j == nil {
				break
			}
			if dropped {
				r.release(j)
				continue
			}
			bytes += r.serve(j)
		}
		if len(r.words) > 0 {
			return r.words, nil
		}
		select {
		case <-r.wake:
		case <-r.timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (r *Relay) take() (j *relayJob, dropped bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j = r.ready.pop(); j == nil {
		return nil, false
	}
	j.place, j.woken = atServe, false
	return j, j.dropped
}

// serve lets a job speak, and tells how many bytes it said.
func (r *Relay) serve(j *relayJob) (bytes int) {
	var b hub.Batch[*Shown]
	var next hub.Progress
	var err error
	if j.read != nil {
		b, next, err = j.read.page, hub.More, j.read.err
		j.read = nil
		if j.sub != nil {
			r.readDone()
		}
	} else {
		b, next, err = j.sub.Poll(&r.items, relayTurn, j)
	}
	w := Word{Handle: j.handle, Gap: b.Gap, Items: b.Items, Err: err}
	if !j.opened && next != hub.Behind {
		if errors.Is(err, io.EOF) {
			w.Err = overAt(j.log.jobID, j.after)
		}
		// A page without anything is followed by the word that says so.
		w.Opened = w.Err == nil && (next == hub.Parked || b.Gap != nil || len(b.Items) > 0)
		j.opened = w.Opened
	}
	if w.Opened || w.Gap != nil || len(w.Items) > 0 || w.Err != nil {
		r.words = append(r.words, w)
		bytes = 64
	}
	for _, it := range w.Items {
		bytes += it.Size
	}
	if w.Err != nil {
		r.forget(j)
		return bytes
	}
	r.pass(j, next)
	return bytes
}

// pass gives a job that was served to who has it next.
func (r *Relay) pass(j *relayJob, next hub.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case j.dropped, j.woken && next == hub.Parked, next == hub.More:
		r.enqueue(j)
	case next == hub.Behind:
		j.place = atRead
		r.behind.push(j)
		r.startReads()
	default:
		j.place = atRest
	}
}

// forget releases a job that has said its last word.
func (r *Relay) forget(j *relayJob) {
	r.mu.Lock()
	if !j.dropped {
		delete(r.jobs, j.handle)
		j.dropped = true
	}
	r.mu.Unlock()
	r.release(j)
}

// release gives up what the job holds; it must be dropped, and with Next.
func (r *Relay) release(j *relayJob) {
	if j.read != nil && j.sub != nil {
		r.readDone()
	}
	r.mu.Lock()
	r.held--
	r.mu.Unlock()
	j.letGo()
}

// Close ends the relay and all its jobs. It must be called once, when Next has
// returned; Add and Drop do nothing afterwards.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.running.Wait()
	// Nobody but the topics knows the jobs now.
	r.mu.Lock()
	rest := r.opening
	for _, q := range []*jobQueue{&r.ready, &r.behind} {
		for j := q.pop(); j != nil; j = q.pop() {
			rest = append(rest, j)
		}
	}
	for _, j := range r.jobs {
		if j.place == atRest {
			rest = append(rest, j)
		}
	}
	r.mu.Unlock()
	for _, j := range rest {
		j.letGo()
	}
}
