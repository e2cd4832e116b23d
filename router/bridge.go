package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// bridge carries one shard's entries from the shard log to the job logs and to
// the announcements. One router runs it for a shard at a time; where two do for a
// moment, the fence in claim.lua keeps the older from taking anything new, and what
// it has already it can only repeat.
//
// One batch is under way at a time: claim → project → announce → settle. A crash
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
	// announced is the shard log's ID up to which watchers were told; zero: unknown.
	announced event.ID
	// kept and cleaned are when the log was last trimmed and the group cleaned.
	kept    time.Time
	cleaned time.Time
}

// bridgeDeps is what all bridges of a router share.
type bridgeDeps struct {
	cfg       *Config
	token     string
	streams   redis.UniversalClient
	blocking  redis.UniversalClient
	announcer *announcer
	scripts   scripts
	metrics   *metrics
	log       *slog.Logger
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
			if n == 0 {
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
}

// errCrash is what tests crash a bridge with.
var errCrash = errors.New("crash")

// round does one batch and returns how many entries it had.
func (b *bridge) round(stop context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stop), roundTimeout+b.cfg.HeadCheckInterval)
	defer cancel()
	if b.seen == "" {
		if err := b.findTail(ctx); err != nil {
			return 0, err
		}
	}
	entries, gone, err := b.claim(ctx)
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
	if time.Since(b.kept) >= keepInterval {
		b.kept = time.Now()
		err = b.keep(ctx)
	}
	return len(entries) + gone, err
}

// carry does the steps of a batch.
func (b *bridge) carry(ctx context.Context, entries []entry) error {
	batch := b.sort(entries)
	if err := b.at("project"); err != nil {
		return err
	}
	if err := b.project(ctx, batch); err != nil {
		return err
	}
	if err := b.at("announce"); err != nil {
		return err
	}
	if err := b.announce(ctx, batch); err != nil {
		return err
	}
	if err := b.at("settle"); err != nil {
		return err
	}
	if err := b.settle(ctx, batch); err != nil {
		return err
	}
	b.announceShard(ctx, batch)
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

// claim takes the next batch, fenced by the lease; gone counts entries that were
// trimmed while pending.
func (b *bridge) claim(ctx context.Context) (entries []entry, gone int, err error) {
	clean := "0"
	if time.Since(b.cleaned) >= cleanInterval {
		clean, b.cleaned = "1", time.Now()
	}
	reply, err := b.runClaim(ctx, b.token, b.cfg.ConsumerGroup, b.cfg.PodName, b.size, clean)
	if err != nil && strings.Contains(err.Error(), "NOGROUP") { // miniredis has a text before it
		return nil, 0, b.createGroup(ctx)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("bridge: claim: %w", err)
	}
	if len(reply) != 3 {
		return nil, 0, errNotOwner
	}
	if entries, err = parseEntries(reply[1]); err != nil {
		return nil, 0, err
	}
	if len(entries) > 0 {
		bytes := 0
		for _, en := range entries {
			bytes += en.size()
		}
		b.size = min(max(batchBytes*len(entries)/(bytes+1), 1), batchEntries)
	}
	ids, _ := reply[2].([]any)
	return entries, len(ids), nil
}

// runClaim runs the script. With MinReplicas it gives the replicas the time to get
// what was claimed: an entry that only a dying master has is published anew at its
// successor, and must not be projected there as well. Where replicas are missing
// it goes on after waitTimeout, because readers are not to wait for them.
func (b *bridge) runClaim(ctx context.Context, args ...any) ([]any, error) {
	keys := []string{leaseKey(b.key), b.key}
	if b.cfg.MinReplicas == 0 {
		return b.scripts.claim.Run(ctx, b.streams, keys, args...).Slice()
	}
	node, err := nodeOf(ctx, b.streams, b.key)
	if err != nil {
		return nil, err
	}
	cmd, _, err := runAndWait(ctx, node, b.cfg.MinReplicas, call{b.scripts.claim, keys, args})
	if cluster, ok := b.streams.(*redis.ClusterClient); ok && err != nil {
		cluster.ReloadState(ctx) // as in lane.append
	}
	if err != nil {
		return nil, err // the connection broke, perhaps: it may have been a failover
	}
	return cmd.Slice()
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
	err = b.streams.XGroupCreateMkStream(ctx, b.key, b.cfg.ConsumerGroup, from).Err()
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return fmt.Errorf("bridge: group: %w", err)
	}
	b.seen, b.announced = "", event.ID{}
	b.log.Warn("consumer group created", "domain", b.domain, "shard", b.shard, "from", from)
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
