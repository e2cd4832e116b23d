package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/trace"
)

// bridge carries one shard's entries from the shard log to the job logs and to
// the announcements. One router runs it for a shard at a time; where two do for a
// moment, the fence in turn.lua keeps the older from taking anything new, and what
// it has already it can only repeat.
//
// One batch is under way at a time: claim → project → announce → settle; the claim of
// the next is the same round trip as the settling of the last (turn.go). A crash
// between any two steps leaves the batch pending; whoever owns the shard next does
// it again from the start.
type bridge struct {
	*bridgeDeps
	domain string
	shard  int
	key    string // of the shard log
	// seen is the last entry that a wake-up need not tell of.
	seen string
	// size is how many entries the next batch may have.
	size int
	// done is the batch that was announced and is not settled yet; nil: none.
	done *batch
	// history is the one of the Redis that the last batch was claimed from.
	history string
	// announced is the shard log's ID up to which watchers were told; zero: unknown.
	announced event.ID
	// watched: somebody listened to the shard's channel when done was announced.
	watched bool
	pace    pace
	tails   tails
	// kept and cleaned are when the log was last trimmed and the group cleaned.
	kept    time.Time
	cleaned time.Time

	projectedCount prometheus.Counter
	delay          prometheus.Observer
}

func newBridge(d *bridgeDeps, domain string, shard int) *bridge {
	return &bridge{
		bridgeDeps: d, domain: domain, shard: shard, key: shardKey(domain, shard), size: firstBatch,
		tails: newTails(d.cfg.Retention), projectedCount: d.metrics.projected.WithLabelValues(domain), delay: d.metrics.delay.WithLabelValues(domain),
	}
}

// bridgeDeps is what all bridges of a router share.
type bridgeDeps struct {
	cfg     *Config
	token   string
	streams redis.UniversalClient
	// shared runs the scripts of all bridges, in as few round trips as there can be.
	shared    *sharedScripts
	blocking  redis.UniversalClient
	announcer *announcer
	scripts   scripts
	metrics   *metrics
	log       *slog.Logger
	trace     *trace.Tracer // nil: nobody wants to know
	// step is called before each step of a batch, in tests that crash there; an error
	// is the crash.
	step func(name string) error
}

const (
	// batchEntries is the most entries of a batch; batchBytes is about how large it
	// may be, judged by the batch before.
	batchEntries = 512
	batchBytes   = 8 << 20
	// firstBatch is the size of the first.
	firstBatch = 32
	// wakeBlock is how long a wake-up blocks: so long takes a handover at most.
	wakeBlock = 250 * time.Millisecond
	// roundTimeout bounds a batch against a Redis that hangs, beside the time that an
	// announcement may take.
	roundTimeout  = 10 * time.Second
	cleanInterval = 10 * time.Second
	keepInterval  = time.Second
)

var errNotOwner = errors.New("the lease is another router's")

// run carries batches until ctx ends or the lease is lost. A batch that it has is
// finished first.
func (b *bridge) run(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, time.Second
	failing := false
	for ctx.Err() == nil {
		n, err := b.round(ctx)
		switch {
		case err == nil:
			if failing {
				b.log.Info("bridge works again", "domain", b.domain, "shard", b.shard)
			}
			failing = false
			pause.Reset()
			if !b.pace.beat(ctx, n) && n == 0 {
				b.sleep(ctx)
			}
		case errors.Is(err, errNotOwner):
			b.log.Info("shard lost", "domain", b.domain, "shard", b.shard)
			return
		case errors.Is(err, errCrash):
			return
		default:
			b.metrics.bridgeErrors.WithLabelValues(b.domain).Inc()
			if !failing {
				b.log.Warn("bridge: batch failed, doing it again", "domain", b.domain, "shard", b.shard, "error", err)
			}
			failing = true
			select {
			case <-time.After(pause.NextBackOff()):
			case <-ctx.Done():
			}
		}
	}
	b.finish()
}

// errCrash is what tests crash a bridge with.
var errCrash = errors.New("crash")

func (b *bridge) roundContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), roundTimeout+b.cfg.HeadCheckInterval)
}

// round settles the last batch, takes the next and carries it up to the settling. It
// returns how many entries the next had. It does not end with the bridge's context:
// a batch is finished.
func (b *bridge) round(stop context.Context) (int, error) {
	ctx, cancel := b.roundContext()
	defer cancel()
	if b.seen == "" {
		if err := b.findTail(ctx); err != nil {
			return 0, err
		}
	}
	entries, gone, err := b.turn(ctx, b.size)
	if err != nil {
		return 0, err
	}
	if gone > 0 {
		if err := b.noteLoss(ctx, int64(gone)); err != nil {
			return 0, err
		}
	}
	if len(entries) > 0 {
		if err := b.carry(ctx, entries); err != nil {
			return 0, err
		}
		b.seen = entries[len(entries)-1].id.String()
	}
	if time.Since(b.kept) >= keepInterval && stop.Err() == nil {
		b.kept = time.Now()
		err = b.keep(ctx)
	}
	return len(entries) + gone, err
}

// finish settles the last batch. Where that fails the batch is repeated by the next
// owner.
func (b *bridge) finish() {
	if b.done == nil {
		return
	}
	ctx, cancel := b.roundContext()
	defer cancel()
	if _, _, err := b.turn(ctx, 0); err != nil && !errors.Is(err, errNotOwner) && !errors.Is(err, errCrash) {
		b.log.Warn("bridge: the last batch is left for the next owner", "domain", b.domain, "shard", b.shard, "error", err)
	}
}

// carry does the steps of a batch that come before its settling.
func (b *bridge) carry(ctx context.Context, entries []entry) error {
	began, batch := time.Now(), b.sort(entries)
	if err := b.at("project"); err != nil {
		return err
	}
	if err := b.traced("project", batch, began, b.project(ctx, batch)); err != nil {
		return err
	}
	began = time.Now()
	if err := b.at("announce"); err != nil {
		return err
	}
	if err := b.traced("announce", batch, began, b.announce(ctx, batch)); err != nil {
		return err
	}
	if err := b.keepDead(ctx, batch); err != nil {
		return err
	}
	b.done = batch
	return nil
}

func (b *bridge) at(step string) error {
	if b.step == nil {
		return nil
	}
	return b.step(step)
}

// findTail makes the log's end the place to wake up after. It comes before the
// first claim, so that nothing falls in between.
func (b *bridge) findTail(ctx context.Context) error {
	tail, err := b.streams.XRevRangeN(ctx, b.key, "+", "-", 1).Result()
	if err != nil {
		return fmt.Errorf("bridge: tail: %w", err)
	}
	b.seen = "0-0"
	if len(tail) > 0 {
		b.seen = tail[0].ID
	}
	return nil
}

// sleep waits for news, without taking any.
func (b *bridge) sleep(ctx context.Context) {
	if b.seen == "" {
		return // the group was made just now
	}
	streams, err := b.blocking.XRead(ctx, &redis.XReadArgs{
		Streams: []string{b.key, b.seen}, Count: 1, Block: wakeBlock,
	}).Result()
	switch {
	case err == nil && len(streams) == 1 && len(streams[0].Messages) == 1:
		// The claim takes it; if another did, it must not wake again.
		b.seen = streams[0].Messages[0].ID
	case errors.Is(err, redis.Nil):
	case err != nil && ctx.Err() == nil:
		// Redis is away, or the stream is: the claim will tell.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// noteLoss counts entries that are gone unread, and leaves a mark that every
// router's hub finds and tells its subscribers.
func (b *bridge) noteLoss(ctx context.Context, n int64) error {
	b.metrics.lost.WithLabelValues(b.domain).Add(float64(n))
	b.log.Error("entries lost: trimmed by a producer before they were read", "domain", b.domain, "shard", b.shard, "entries", n)
	mark := strconv.FormatInt(time.Now().UnixNano(), 10)
	if err := b.streams.Set(ctx, lossKey(b.key), mark, b.cfg.Retention).Err(); err != nil {
		return fmt.Errorf("bridge: loss mark: %w", err)
	}
	return nil
}
