package router

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// WatchOptions says what to watch, and from where.
type WatchOptions struct {
	// Jobs are the only ones shown; empty: all of the domain.
	Jobs []string
	// Stages are the only ones shown; empty: all.
	Stages []string
	// Cursor is where to resume; empty: live only; "0-0": all that is retained.
	Cursor string
}

// WatchBatch is what a Watch delivers at once; without events and gap it is a
// heartbeat.
type WatchBatch struct {
	Events []*event.Event
	Gap    *event.Gap
	// GapJob is the job of the gap; empty: any job of the domain.
	GapJob string
	// Cursor is where to resume after this batch.
	Cursor string
}

// Watch is many jobs as one watcher sees them, in order within each job. It
// belongs to one goroutine, which closes it.
type Watch struct {
	bus    *Bus
	domain string
	// open are the jobs asked for that are not final yet; nil: the whole domain.
	open   map[string]bool
	jobs   map[string]bool
	stages []string
	// cursors has an ID for each shard.
	cursors []event.ID
	topics  []*shardTopic
	batches chan shardBatchOrError
	stop    context.CancelFunc
	readers sync.WaitGroup
	timer   *time.Timer
}

type shardBatchOrError struct {
	shard  int
	gap    *event.Gap
	items  []item
	cursor event.ID
	err    error
}

// Watch begins a watch. It returns when what is published from now on will be
// seen. OutOfRange: all the jobs have ended, and nothing follows the cursor.
func (b *Bus) Watch(ctx context.Context, domain string, o WatchOptions) (*Watch, error) {
	w := &Watch{bus: b, domain: domain, stages: o.Stages, cursors: make([]event.ID, b.cfg.ShardCount), batches: make(chan shardBatchOrError)}
	w.stop = func() {}
	if len(o.Jobs) > 0 {
		w.open, w.jobs = make(map[string]bool), make(map[string]bool)
		for _, j := range o.Jobs {
			w.open[j], w.jobs[j] = true, true
		}
	}
	b.metrics.subscribers.Inc()
	if err := w.begin(ctx, o); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *Watch) begin(ctx context.Context, o WatchOptions) error {
	if o.Cursor != "" {
		ids, err := parseCursor(o.Cursor, len(w.cursors))
		if err != nil {
			return err
		}
		w.cursors = ids
	}
	var subs []*hub.Subscription[*event.Event]
	for shard := range w.cursors {
		if w.jobs != nil && !w.hasJobIn(shard) {
			continue
		}
		t := w.bus.watches.acquire(ctx, shardRef{w.domain, shard})
		w.topics = append(w.topics, t)
		log := &shardLog{redis: w.bus.streams, cfg: &w.bus.cfg, ref: t.ref, jobs: w.jobs, gaps: func(r event.Reason) {
			w.bus.metrics.gaps.WithLabelValues(r.String()).Inc()
		}}
		if o.Cursor == "" {
			tail, err := log.tail(ctx) // after the join
			if err != nil {
				return unavailable(err)
			}
			w.cursors[shard] = tail
		}
		subs = append(subs, t.Subscribe(w.cursors[shard], log))
	}
	if err := w.closeEnded(ctx); err != nil {
		return err
	}
	run, stop := context.WithCancel(context.Background())
	w.stop = stop
	for i, sub := range subs {
		shard := w.topics[i].ref.shard
		w.readers.Go(func() { w.read(run, shard, sub) })
	}
	return nil
}

func (w *Watch) hasJobIn(shard int) bool {
	for j := range w.jobs {
		if event.ShardOf(j, len(w.cursors)) == shard {
			return true
		}
	}
	return false
}

// closeEnded takes out the jobs whose final event is not after the cursor.
func (w *Watch) closeEnded(ctx context.Context) error {
	for j := range w.open {
		tail, err := w.bus.jobLog(w.domain, j).tail(ctx, event.MaxID())
		if err != nil {
			return err
		}
		if tail != nil && tail.Final && tail.ID.Compare(w.cursors[event.ShardOf(j, len(w.cursors))]) <= 0 {
			delete(w.open, j)
		}
	}
	if w.open != nil && len(w.open) == 0 {
		return event.Errorf(event.OutOfRange, "all jobs have ended")
	}
	return nil
}

// closeLost takes out the jobs of a shard whose final event was in the gap.
func (w *Watch) closeLost(ctx context.Context, shard int, oldest event.ID) error {
	for j := range w.open {
		if event.ShardOf(j, len(w.cursors)) != shard {
			continue
		}
		tail, err := w.bus.jobLog(w.domain, j).tail(ctx, event.MaxID())
		if err != nil {
			return err
		}
		if tail != nil && tail.Final && (oldest.IsZero() || tail.ID.Compare(oldest) < 0) {
			delete(w.open, j)
		}
	}
	return nil
}

// read passes one shard's batches on. It waits for the watcher, so a slow one
// falls out of the ring and reads the log.
func (w *Watch) read(ctx context.Context, shard int, sub *hub.Subscription[*event.Event]) {
	for {
		b, err := sub.Next(ctx, time.Hour)
		if ctx.Err() != nil {
			return
		}
		out := shardBatchOrError{shard: shard, gap: b.Gap, items: slices.Clone(b.Items), cursor: sub.Cursor(), err: err}
		select {
		case w.batches <- out:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// Next waits for events. It returns an empty batch where nothing came for idle,
// io.EOF after the final event of the last of the jobs, or ctx's error.
func (w *Watch) Next(ctx context.Context, idle time.Duration) (WatchBatch, error) {
	if w.open != nil && len(w.open) == 0 {
		return WatchBatch{}, io.EOF
	}
	if w.timer == nil {
		w.timer = time.NewTimer(idle)
	} else {
		w.timer.Reset(idle)
	}
	for {
		select {
		case sb := <-w.batches:
			if sb.err != nil {
				return WatchBatch{}, sb.err
			}
			w.cursors[sb.shard] = sb.cursor
			if sb.gap != nil {
				if err := w.closeLost(ctx, sb.shard, sb.gap.Oldest); err != nil {
					return WatchBatch{}, err
				}
			}
			out := WatchBatch{Gap: sb.gap, Events: w.filter(sb.items)}
			if out.Gap != nil || len(out.Events) > 0 || len(w.open) == 0 && w.open != nil {
				out.Cursor = w.Cursor()
				return out, nil
			}
		case <-w.timer.C:
			return WatchBatch{Cursor: w.Cursor()}, nil
		case <-ctx.Done():
			return WatchBatch{}, context.Cause(ctx)
		}
	}
}

func (w *Watch) filter(items []item) []*event.Event {
	var out []*event.Event
	for _, it := range items {
		e := it.Value
		if e == nil || (w.jobs != nil && !w.jobs[e.JobID]) {
			continue
		}
		if len(w.stages) == 0 || slices.Contains(w.stages, e.Stage) {
			out = append(out, e)
		}
		if e.Final && w.open != nil {
			delete(w.open, e.JobID)
		}
	}
	return out
}

// Cursor is where a watch that has seen nothing yet resumes.
func (w *Watch) Cursor() string { return event.JoinIDs(w.cursors) }

// Close ends the watch. It must be called once.
func (w *Watch) Close() {
	w.stop()
	w.readers.Wait()
	for _, t := range w.topics {
		w.bus.watches.release(t)
	}
	w.bus.metrics.subscribers.Dec()
}
