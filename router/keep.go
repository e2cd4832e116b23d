package router

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// keep trims the shard log: never what a group has not acknowledged, then what is
// older than shardLogAge or beyond shardLogEntries. Other groups read the same
// stream; one that stays behind longer than RETENTION no longer holds it.
func (b *bridge) keep(ctx context.Context) error {
	if err := b.recount(ctx); err != nil {
		return err
	}
	pipe := b.streams.Pipeline()
	groupsCmd := pipe.XInfoGroups(ctx, b.key)
	firstCmd := pipe.XRangeN(ctx, b.key, "-", "+", 1)
	lenCmd := pipe.XLen(ctx, b.key)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("bridge: trim: %w", err)
	}
	if len(firstCmd.Val()) == 0 {
		return nil
	}
	first, err := event.ParseID(firstCmd.Val()[0].ID)
	if err != nil {
		return err
	}
	now := time.Now()
	hold := event.MaxID()
	for _, g := range groupsCmd.Val() {
		id, err := b.held(ctx, g, first, now)
		if err != nil {
			return err
		}
		if id.Compare(hold) < 0 {
			hold = id
		}
	}
	return b.trim(ctx, first, hold, lenCmd.Val(), now)
}

// held is the oldest entry that a group needs.
func (b *bridge) held(ctx context.Context, g redis.XInfoGroup, first event.ID, now time.Time) (event.ID, error) {
	last, err := event.ParseID(g.LastDeliveredID)
	if err != nil {
		return event.ID{}, err
	}
	need := event.ID{Ms: last.Ms, Seq: last.Seq + 1}
	if g.Name == b.cfg.ConsumerGroup {
		need = last // that it is still there shows that nothing unread was trimmed (recount.lua)
	}
	if g.Pending > 0 {
		p, err := b.streams.XPending(ctx, b.key, g.Name).Result()
		if err != nil {
			return event.ID{}, fmt.Errorf("bridge: pending of %s: %w", g.Name, err)
		}
		if p.Count > 0 { // else they were acknowledged since
			if need, err = event.ParseID(p.Lower); err != nil {
				return event.ID{}, err
			}
		}
	}
	if need.Compare(first) < 0 {
		need = first
	}
	behind := time.Duration(0)
	if g.Pending > 0 || g.Lag != 0 {
		behind = max(now.Sub(need.Time()), 0)
	}
	b.metrics.behind.WithLabelValues(b.domain, strconv.Itoa(b.shard), g.Name).Set(behind.Seconds())
	if behind > b.cfg.Retention && g.Name != b.cfg.ConsumerGroup {
		b.log.Warn("a group is behind for longer than the retention and no longer holds the log",
			"group", g.Name, "domain", b.domain, "shard", b.shard, "behind", behind)
		return event.MaxID(), nil
	}
	return need, nil
}

func (b *bridge) trim(ctx context.Context, first, hold event.ID, length int64, now time.Time) error {
	minID := event.ID{Ms: uint64(now.Add(-shardLogAge).UnixMilli())}
	if hold.Compare(minID) < 0 {
		minID = hold
	}
	if first.Compare(minID) < 0 {
		if err := b.streams.XTrimMinID(ctx, b.key, minID.String()).Err(); err != nil {
			return fmt.Errorf("bridge: trim: %w", err)
		}
	}
	// Redis trims by ID or by number; both at once is an ID with a limit.
	if over := length - shardLogEntries; over > 0 && hold.Compare(first) > 0 {
		if err := b.streams.XTrimMinIDApprox(ctx, b.key, hold.String(), over).Err(); err != nil {
			return fmt.Errorf("bridge: trim: %w", err)
		}
	}
	return nil
}

// recount looks for entries that a producer trimmed before they were read.
func (b *bridge) recount(ctx context.Context) error {
	if b.cfg.Embedded {
		return nil // its lag is wrong
	}
	answer, err := b.scripts.recount.Run(ctx, b.streams, []string{b.key}, b.cfg.ConsumerGroup, b.runs.of(b.key)).Slice()
	if err != nil {
		return fmt.Errorf("bridge: recount: %w", err)
	}
	if len(answer) != 2 {
		return fmt.Errorf("bridge: recount: %d answers, want 2", len(answer))
	}
	lost, _ := answer[0].(int64)
	run, _ := answer[1].(string)
	b.runs.set(b.key, run)
	if lost > 0 {
		return b.noteLoss(ctx, lost)
	}
	return nil
}

// recountFirst does it before anything is read: reading on hides what was trimmed, where
// Redis's own count is wrong.
func (b *bridge) recountFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_ = b.recount(ctx) // no log yet, or Redis is away: it is kept every second
}

// runs are the runs of Redis in which each shard's count of what was read is right. They
// outlive the bridges.
type runs struct {
	mu sync.Mutex
	by map[string]string // guarded by mu; by shard key
}

func newRuns() *runs { return &runs{by: make(map[string]string)} }

func (r *runs) of(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[key]
}

func (r *runs) set(key, run string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by[key] = run
}
