// Package demo is a worker written as one should be written: it talks to the
// bus over gRPC like any other, and shows what a worker owes the bus.
//
//   - Every publish carries an idempotency key, so that it may be repeated.
//   - What failed for now is repeated, with backoff, for less time than the bus
//     remembers a key; what was refused for good is not.
//   - Text that streams is published in batches of what is ready: a slow bus
//     makes the batches larger, not the text slower.
//   - The last event is final.
//
// It plays two jobs over and over, so that `eventbus dev` has something to show.
// It owns no connection and knows nothing of Redis or HTTP. Retries, batches and the
// flush at the end are the client's (server/client); the keys are the worker's: they
// name the step within the job and nothing else (no time, no random part), so that
// whoever plays the same job again after a crash repeats the same keys, and the bus
// keeps one event of each.
//
//	scan.go, chat.go (the jobs) → server/client → gRPC Publish → router
package demo

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/client"
)

// DefaultPace plays about 25 tokens a second and a scan in about four seconds.
const DefaultPace = 40 * time.Millisecond

// restPaces is the rest between two jobs of a kind: two seconds at DefaultPace.
const restPaces = 50

// flushTimeout bounds the flush at the end.
const flushTimeout = 2 * time.Second

// Options are the worker's settings.
type Options struct {
	// Pace is the time from one token to the next; a stage of a scan takes about
	// twenty. 0 waits for nothing and loads the bus as fast as it can: for tests.
	Pace time.Duration
}

// Worker plays the jobs.
type Worker struct {
	client    eventbusv1.EventBusServiceClient
	publisher *client.Publisher // of one Run
	logger    *slog.Logger
	pace      time.Duration
}

// New returns a worker that publishes through api, which stays the caller's.
func New(api eventbusv1.EventBusServiceClient, logger *slog.Logger, opts Options) *Worker {
	return &Worker{client: api, logger: logger, pace: opts.Pace}
}

// Run plays a scan and a chat, each again and again, side by side. It blocks
// until ctx ends and then returns nil. An error means that the bus refused an
// event for good (a bad one, an unknown domain, no permission) or was away for
// an hour.
func (w *Worker) Run(ctx context.Context) error {
	w.publisher = client.New(w.client, w.logger).Publisher(client.PublisherOptions{})
	defer w.flush()
	g, groupCtx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.repeat(groupCtx, "scan", scan) })
	g.Go(func() error { return w.repeat(groupCtx, "chat", chat) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil // it was asked to end
}

// flush publishes what is left.
func (w *Worker) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := w.publisher.Close(ctx); err != nil {
		w.logger.Warn("demo worker leaves events behind", "error", err)
	}
}

// repeat plays one new job after the other until ctx ends.
func (w *Worker) repeat(ctx context.Context, domain string, play func(context.Context, job) error) error {
	for {
		id := uuid.NewString()
		j := job{w.publisher.Job(domain, id), w.pace}
		if err := play(ctx, j); err != nil {
			return fmt.Errorf("demo: %s job %s: %w", domain, id, err)
		}
		if err := j.work(ctx, restPaces); err != nil {
			return err
		}
	}
}

// job is one job under way.
type job struct {
	*client.Job
	pace time.Duration
}

// work stands for the work that a real worker does here.
func (j job) work(ctx context.Context, paces int) error {
	if j.pace <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(time.Duration(paces) * j.pace)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
