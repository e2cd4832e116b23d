// Package floor is what Redis alone costs: one XADD and one PUBLISH for each event,
// many of them in a pipeline. It has no log to read, no order, no repeats: it is no
// bus, but what `eventbus bench` compares the bus with.
//
//	edge/bench floor.go → here → Redis → here → edge/bench floor.go
package floor

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

// The names in Redis. They are none of the bus's.
const (
	stream  = "bench:floor"
	channel = "bench:floor"
	// keep is how much of the stream stays.
	keep = 100_000
)

// Event is one to publish.
type Event struct {
	Job     string
	Payload []byte
}

// Floor is a connection to Redis. It is safe for concurrent use.
type Floor struct {
	client *redis.Client
	sub    *redis.PubSub
	queue  chan *call
	stop   chan struct{}
	all    sync.WaitGroup
}

// call is one caller's events, answered by done.
type call struct {
	events []Event
	ids    []string
	done   chan error
}

const (
	// pipelines run at the same time: while one waits for Redis the next is filled.
	pipelines = 2
	// maxPipeline is how many events one takes at most.
	maxPipeline = 512
)

// Open connects and subscribes. deliver is called for each event as it comes from
// Redis, by one goroutine; the payload is its to keep.
func Open(ctx context.Context, url string, deliver func(job string, payload []byte)) (*Floor, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("floor: the URL of Redis: %w", err)
	}
	o.MaxRetries = -1
	f := &Floor{client: redis.NewClient(o), queue: make(chan *call, maxPipeline), stop: make(chan struct{})}
	f.sub = f.client.Subscribe(ctx, channel)
	if _, err := f.sub.Receive(ctx); err != nil {
		_ = f.sub.Close()
		_ = f.client.Close()
		return nil, fmt.Errorf("floor: subscribe: %w", err)
	}
	f.all.Go(func() { f.receive(deliver) })
	for range pipelines {
		f.all.Go(f.work)
	}
	return f, nil
}

// Close ends it; callers must be gone.
func (f *Floor) Close() error {
	close(f.stop)
	err := f.sub.Close()
	f.all.Wait()
	if e := f.client.Close(); err == nil {
		err = e
	}
	return err
}

// Publish writes events and returns their ids in the stream.
func (f *Floor) Publish(ctx context.Context, events ...Event) ([]string, error) {
	c := &call{events: events, done: make(chan error, 1)}
	select {
	case f.queue <- c:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-c.done:
		return c.ids, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// work fills pipelines with what waits and runs them.
func (f *Floor) work() {
	for {
		select {
		case <-f.stop:
			return
		case c := <-f.queue:
			f.run(f.fill(c))
		}
	}
}

// fill takes what waits behind the first call.
func (f *Floor) fill(first *call) []*call {
	calls, n := []*call{first}, len(first.events)
	for n < maxPipeline {
		select {
		case c := <-f.queue:
			calls = append(calls, c)
			n += len(c.events)
		default:
			return calls
		}
	}
	return calls
}

func (f *Floor) run(calls []*call) {
	ctx := context.Background()
	pipe := f.client.Pipeline()
	var adds []*redis.StringCmd
	for _, c := range calls {
		for _, e := range c.events {
			adds = append(adds, pipe.XAdd(ctx, &redis.XAddArgs{Stream: stream, MaxLen: keep, Approx: true, Values: []any{"job_id", e.Job, "event", e.Payload}}))
			pipe.Publish(ctx, channel, append(append([]byte(e.Job), '\n'), e.Payload...))
		}
	}
	_, err := pipe.Exec(ctx)
	for _, c := range calls {
		for range c.events {
			c.ids = append(c.ids, adds[0].Val())
			adds = adds[1:]
		}
		c.done <- err
	}
}

// receive hands on what Redis announces, until Close.
func (f *Floor) receive(deliver func(job string, payload []byte)) {
	for {
		m, err := f.sub.ReceiveMessage(context.Background())
		if err != nil {
			return // closed, or the connection broke: the floor promises nothing
		}
		if job, payload, ok := bytes.Cut([]byte(m.Payload), []byte{'\n'}); ok {
			deliver(string(job), payload)
		}
	}
}
