package router

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// turn settles the last batch and takes the next, of up to most entries, in one
// step that is fenced by the lease: the jobs that ended are marked, the entries
// acknowledged, the next entries claimed. gone counts entries that were trimmed
// while pending. The last batch is done with even where there is no next: watchers
// are told of it then.
func (b *bridge) turn(ctx context.Context, most int) (entries []entry, gone int, err error) {
	if b.done != nil {
		if err := b.at("settle"); err != nil {
			return nil, 0, err
		}
	}
	reply, err := b.runTurn(ctx, b.turnCall(most))
	noGroup := err != nil && strings.Contains(err.Error(), "NOGROUP") // miniredis has a text before it
	if err != nil && !noGroup {
		return nil, 0, fmt.Errorf("bridge: settle and claim: %w", err)
	}
	if last := b.done; last != nil {
		b.done = nil
		switch {
		case noGroup || len(reply) > 1 && reply[1] == int64(1):
			b.announceShard(ctx, last)
		default: // a failover: what was believed of the job logs is, too
			b.tails.clear()
			b.log.Warn("bridge: there was a failover, the last batch is projected again", "domain", b.domain, "shard", b.shard, "entries", len(last.ids))
		}
	}
	switch {
	case noGroup:
		return nil, 0, b.createGroup(ctx)
	case len(reply) != 5:
		return nil, 0, errNotOwner
	}
	b.history, _ = reply[4].(string)
	if entries, err = parseEntries(reply[2]); err != nil {
		return nil, 0, err
	}
	if len(entries) > 0 {
		bytes := 0
		for _, en := range entries {
			bytes += en.size()
		}
		b.size = min(max(batchBytes*len(entries)/(bytes+1), 1), batchEntries)
	}
	ids, _ := reply[3].([]any)
	return entries, len(ids), nil
}

func (b *bridge) turnCall(most int) call {
	clean := "0"
	if time.Since(b.cleaned) >= cleanInterval {
		clean, b.cleaned = "1", time.Now()
	}
	history := b.history
	if b.cfg.Embedded {
		history = "-"
	}
	keys := []string{leaseKey(b.key), b.key}
	args := []any{b.token, b.cfg.ConsumerGroup, b.cfg.PodName, most, clean, b.cfg.IdempotencyWindow.Milliseconds(), history}
	if b.done != nil {
		for _, job := range b.done.jobs {
			for _, e := range job.shown {
				if e.Final {
					keys, args = append(keys, finalKey(b.key, job.jobID)), append(args, e.ID.String())
				}
			}
		}
		for _, id := range b.done.ids {
			args = append(args, id)
		}
	}
	return call{b.scripts.turn, keys, args}
}

// runTurn runs the script. With MinReplicas it gives the replicas the time to get
// what was claimed: an entry that only a dying master has is published anew at its
// successor, and must not be projected there as well. Where replicas are missing
// it goes on after waitTimeout, because readers are not to wait for them.
func (b *bridge) runTurn(ctx context.Context, c call) ([]any, error) {
	if b.cfg.MinReplicas == 0 {
		return b.shared.run(ctx, []call{c})[0].Slice()
	}
	node, err := nodeOf(ctx, b.streams, b.key)
	if err != nil {
		return nil, err
	}
	cmd, _, err := runAndWait(ctx, node, b.cfg.MinReplicas, c)
	if cluster, ok := b.streams.(*redis.ClusterClient); ok && err != nil {
		cluster.ReloadState(ctx) // as in lane.append
	}
	if err != nil {
		return nil, err // where the connection broke it may have been a failover
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
