package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/trace"
)

// bridge is one shard on its way from the shard log to the job logs and to the
// announcements. One router has it at a time; where two do for a moment, the fence
// (turn.go) keeps the older from taking anything new, and what it has already it can
// only repeat. Its rounds are the carrier's, which has all shards of a router.
//
// One batch is under way at a time. A crash anywhere leaves it pending; whoever owns
// the shard next does it again from the start.
type bridge struct {
	*bridgeDeps
	domain string
	shard  int
	key    string // of the shard log
	// stop: the shard is to be given back; the batch that is there is finished first.
	stop context.Context
	// ending: stop was seen; the bridge takes nothing more.
	ending bool
	// claims: the turn under way claims for it.
	claims bool
	// restUntil is when a shard whose log is broken is tried again; zero: it works.
	restUntil time.Time
	// left is closed when the carrier has let go of it.
	left chan struct{}
	// seen is the last entry that a wake-up need not tell of; empty: not known yet.
	seen string
	// size is how many entries the next batch may have.
	size int
	// pending: entries may have been taken and not acknowledged, by whomever. They
	// come first: a lost reply leaves some that reading on would skip.
	pending bool
	// batch is what was claimed in this round; nil: nothing.
	batch *batch
	// done is the batch that was announced and is not settled yet; nil: none.
	done *batch
	// announced is the shard log's ID up to which watchers were told; zero: unknown.
	announced event.ID
	// watched: somebody listened to the shard's channel when done was announced.
	watched bool
	tails   tails
	// cleaned is when pending entries were last looked for.
	cleaned time.Time

	projectedCount prometheus.Counter
	delay          prometheus.Observer
}

func newBridge(stop context.Context, d *bridgeDeps, domain string, shard int) *bridge {
	return &bridge{
		bridgeDeps: d, domain: domain, shard: shard, key: shardKey(domain, shard), stop: stop, left: make(chan struct{}),
		size: firstBatch, pending: true, tails: newTails(d.cfg.Retention),
		projectedCount: d.metrics.projected.WithLabelValues(domain), delay: d.metrics.delay.WithLabelValues(domain),
	}
}

// bridgeDeps is what all bridges of a router share.
type bridgeDeps struct {
	cfg     *Config
	token   string
	streams redis.UniversalClient
	// own is for the carriers' own connections: it blocks, and never retries.
	own       redis.UniversalClient
	announcer *announcer
	scripts   scripts
	runs      *runs
	metrics   *metrics
	log       *slog.Logger
	trace     *trace.Tracer // nil: nobody wants to know
	// step is called before each step of a round that has a batch, in tests that crash
	// there; an error is the crash.
	step func(name string) error
}

const (
	// batchEntries is the most entries of a batch, roundEntries of all of a round, so that
	// a shard with a backlog does not hold up the others for long; batchBytes is about how
	// large a round may be, judged by the batches before.
	batchEntries = 512
	roundEntries = 2048
	batchBytes   = 8 << 20
	// firstBatch is the size of the first.
	firstBatch = 32
	// cleanInterval is how often a bridge looks for entries that others took and left,
	// and for consumers of dead routers.
	cleanInterval = 10 * time.Second
	keepInterval  = time.Second
	brokenRest    = time.Second
)

// errCrash is what tests crash a bridge with.
var errCrash = errors.New("crash")

// forget is for a new connection: what was under way on the one before may be at
// another master, or nowhere, and is taken again.
func (b *bridge) forget() {
	b.batch, b.done, b.pending = nil, nil, true
	b.tails.clear()
}

// fail has the shard rest: its log is broken, and those that share its rounds are not to
// wait for it.
func (b *bridge) fail(err error) {
	b.metrics.bridgeErrors.WithLabelValues(b.domain).Inc()
	if b.restUntil.IsZero() {
		b.log.Warn("bridge: the shard log is broken, trying again every second", "domain", b.domain, "shard", b.shard, "error", err)
	}
	b.forget()
	b.restUntil = time.Now().Add(brokenRest)
}

func (b *bridge) rests() bool { return time.Now().Before(b.restUntil) }

// claimed takes over what the claim brought; gone counts entries that were trimmed
// while pending.
func (b *bridge) claimed(entries []entry, gone, bridges int) {
	if !b.restUntil.IsZero() {
		b.log.Info("bridge: the shard log works again", "domain", b.domain, "shard", b.shard)
		b.restUntil = time.Time{}
	}
	b.pending = b.pending && len(entries)+gone > 0
	if len(entries) == 0 {
		return
	}
	bytes := 0
	for _, en := range entries {
		bytes += en.size()
	}
	b.size = max(min(batchBytes/bridges*len(entries)/(bytes+1), batchEntries, roundEntries/bridges), 1)
	b.batch = b.sort(entries)
	b.seen = b.batch.last.String()
}

// createGroup makes the group anew, so far back that nothing acknowledged is
// skipped; what is in a job log already is not shown again.
func (b *bridge) createGroup(ctx context.Context) error {
	node, err := nodeOf(ctx, b.streams, b.key)
	if err != nil {
		return err
	}
	now, err := node.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("bridge: time: %w", err)
	}
	from := strconv.FormatInt(now.Add(-shardLogAge).UnixMilli(), 10) + "-0"
	create := []any{"XGROUP", "CREATE", b.key, b.cfg.ConsumerGroup, from, "MKSTREAM"}
	if n, err := b.streams.Exists(ctx, b.key).Result(); err == nil && n == 0 && !b.cfg.Embedded {
		// Redis need not guess then how far the group has read; where it cannot, the lag has
		// to be counted.
		create = append(create, "ENTRIESREAD", 0)
	}
	err = node.Do(ctx, create...).Err()
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return fmt.Errorf("bridge: group: %w", err)
	}
	b.seen, b.announced = "", event.ID{}
	b.log.Warn("consumer group created", "domain", b.domain, "shard", b.shard, "from", from)
	return nil
}

// keepUntilLeft keeps the shard's log tidy until the carrier lets go of it. It is beside
// the rounds, because nobody waits for it.
func (b *bridge) keepUntilLeft() {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	failing := false
	cleaned := time.Now()
	for {
		select {
		case <-b.left:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
		err := b.keep(ctx)
		if err == nil && time.Since(cleaned) >= cleanInterval {
			cleaned = time.Now()
			err = b.clean(ctx)
		}
		cancel()
		if err != nil && !failing {
			b.log.Warn("bridge: the shard log is not kept", "domain", b.domain, "shard", b.shard, "error", err)
		}
		failing = err != nil
	}
}

// clean deletes the group's other consumers that have nothing pending: routers that
// are dead.
func (b *bridge) clean(ctx context.Context) error {
	err := b.scripts.clean.Run(ctx, b.streams, []string{b.key}, b.cfg.ConsumerGroup, b.cfg.PodName).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("bridge: clean: %w", err)
	}
	return nil
}

// noteLoss counts entries that are gone unread, and leaves a mark that every
// router's hub finds and tells its subscribers.
func (b *bridge) noteLoss(ctx context.Context, n int64) error {
	b.metrics.lost.WithLabelValues(b.domain).Add(float64(n))
	b.log.Error("entries lost: trimmed by a producer before they were read", "domain", b.domain, "shard", b.shard, "entries", n)
	mark := strconv.FormatInt(time.Now().UnixNano(), 10)
	key := lossKey(b.key)
	if err := b.scripts.evenFull(ctx, b.streams, key, command{"SET", key, mark, "PX", b.cfg.Retention.Milliseconds()}); err != nil {
		return fmt.Errorf("bridge: loss mark: %w", err)
	}
	return nil
}
