package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// Request is one event to publish; it was validated.
type Request struct {
	Event *event.Event
	// Key makes a repeat harmless; empty: none.
	Key string
}

// Receipt acknowledges one event.
type Receipt struct {
	ID        event.ID
	Duplicate bool
}

// publisher appends events to the shard logs. An event is acknowledged once the
// script that appended it has answered, and, with MinReplicas, once so many
// replicas have it.
//
// server → here → shard log → bridge.
type publisher struct {
	cfg     *Config
	scripts scripts
	// pipe shares the round trips of concurrent calls. Its client never retries: a
	// retried script without key would append twice.
	pipe *redis.AutoPipeliner
	// durable is for WAIT, which must follow the script on the same connection.
	durable redis.UniversalClient
	monitor *monitor
	metrics *metrics
}

// waitTimeout is how long an event may take to reach its replicas.
const waitTimeout = time.Second

// shardBatch is what one script call appends.
type shardBatch struct {
	domain string
	shard  int
	keys   []string
	args   []any
	// at are the indices of the requests.
	at []int
}

// Publish appends events in order, one script call for each shard. The errors
// are Over, Exhausted and Unavailable; after one, a part may be written.
func (b *Bus) Publish(ctx context.Context, reqs []Request) ([]Receipt, error) {
	return b.publisher.publish(ctx, reqs)
}

func (p *publisher) publish(ctx context.Context, reqs []Request) ([]Receipt, error) {
	batches := p.split(reqs, time.Now())
	for _, sb := range batches {
		if err := p.monitor.admit(sb.domain, sb.shard); err != nil {
			p.refused(sb, err)
			return nil, err
		}
	}
	out := make([]Receipt, len(reqs))
	if len(batches) == 1 {
		return out, p.append(ctx, batches[0], reqs, out)
	}
	errs := make(chan error, len(batches))
	for _, sb := range batches {
		go func() { errs <- p.append(ctx, sb, reqs, out) }()
	}
	var err error
	for range batches {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return nil, firstOf(err)
	}
	return out, nil
}

// firstOf keeps one kind and one text of several failures.
func firstOf(err error) error {
	if e, ok := errors.AsType[*event.Error](err); ok {
		return e
	}
	return err
}

// split sorts the requests by shard and keeps their order.
func (p *publisher) split(reqs []Request, now time.Time) []*shardBatch {
	var batches []*shardBatch
	for i, r := range reqs {
		e := r.Event
		shard := event.ShardOf(e.JobID, p.cfg.ShardCount)
		var sb *shardBatch
		for _, have := range batches {
			if have.shard == shard && have.domain == e.Domain {
				sb = have
			}
		}
		if sb == nil {
			sb = &shardBatch{domain: e.Domain, shard: shard, keys: []string{shardKey(e.Domain, shard)}}
			touch := boolText(p.cfg.MinReplicas > 0)
			sb.args = append(sb.args, p.cfg.IdempotencyWindow.Milliseconds(), touch)
			batches = append(batches, sb)
		}
		mark := finalKey(sb.keys[0], e.JobID)
		key := mark
		if r.Key != "" {
			key = publishedKey(sb.keys[0], e.JobID, r.Key)
		}
		sb.keys = append(sb.keys, mark, key)
		fields := shardFields(e, now)
		sb.args = append(sb.args, boolText(r.Key != ""), boolText(e.Final), len(fields))
		for _, f := range fields {
			sb.args = append(sb.args, f)
		}
		sb.at = append(sb.at, i)
	}
	return batches
}

// append runs one shard's script and reads its answer.
func (p *publisher) append(ctx context.Context, sb *shardBatch, reqs []Request, out []Receipt) error {
	var reply []string
	var err error
	if p.cfg.MinReplicas > 0 {
		reply, err = p.appendDurably(ctx, sb)
	} else {
		reply, err = p.appendFast(ctx, sb)
	}
	if err != nil {
		err = unavailable(err)
		p.refused(sb, err)
		return err
	}
	for i, text := range reply {
		if i >= len(sb.at) {
			break
		}
		at := sb.at[i]
		if text == "!" {
			return overError(reqs, at)
		}
		duplicate := text[0] == '='
		if duplicate {
			text = text[1:]
		}
		id, err := event.ParseID(text)
		if err != nil {
			return fmt.Errorf("publish: reply: %w", err)
		}
		out[at] = Receipt{ID: id, Duplicate: duplicate}
		if !duplicate {
			p.metrics.published.WithLabelValues(sb.domain).Inc()
		}
	}
	if len(reply) != len(sb.at) {
		return fmt.Errorf("publish: %d answers to %d requests", len(reply), len(sb.at))
	}
	return nil
}

func overError(reqs []Request, at int) error {
	where := ""
	if len(reqs) > 1 {
		where = fmt.Sprintf("requests[%d]: ", at)
	}
	return event.Errorf(event.Over, "%sjob %s is over: its final event was published; it takes no more", where, reqs[at].Event.JobID)
}

func (p *publisher) appendFast(ctx context.Context, sb *shardBatch) ([]string, error) {
	reply, err := p.scripts.publish.EvalSha(ctx, p.pipe, sb.keys, sb.args...).StringSlice()
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, err = p.scripts.publish.Eval(ctx, p.pipe, sb.keys, sb.args...).StringSlice()
	}
	return reply, err
}

// appendDurably sends script and WAIT down one connection: WAIT speaks of the
// writes of its own connection only.
func (p *publisher) appendDurably(ctx context.Context, sb *shardBatch) ([]string, error) {
	node, err := nodeOf(ctx, p.durable, sb.keys[0])
	if err != nil {
		return nil, err
	}
	run := func(eval func(pipe redis.Pipeliner) *redis.Cmd) ([]string, int64, error) {
		pipe := node.Pipeline()
		script := eval(pipe)
		wait := pipe.Do(ctx, "WAIT", p.cfg.MinReplicas, waitTimeout.Milliseconds())
		_, _ = pipe.Exec(ctx) // each command has its own error
		reply, err := script.StringSlice()
		if err != nil {
			return nil, 0, err
		}
		replicas, err := wait.Int64()
		return reply, replicas, err
	}
	reply, replicas, err := run(func(pipe redis.Pipeliner) *redis.Cmd {
		return p.scripts.publish.EvalSha(ctx, pipe, sb.keys, sb.args...)
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, replicas, err = run(func(pipe redis.Pipeliner) *redis.Cmd {
			return p.scripts.publish.Eval(ctx, pipe, sb.keys, sb.args...)
		})
	}
	if cluster, ok := p.durable.(*redis.ClusterClient); ok && err != nil {
		// A node's own client follows nobody: without this it would ask a master that
		// is none any more for up to a minute.
		cluster.ReloadState(ctx)
	}
	if err == nil && replicas < int64(p.cfg.MinReplicas) {
		err = event.Errorf(event.Unavailable, "%d of %d replicas have the event; repeat it with the same idempotency key", replicas, p.cfg.MinReplicas)
	}
	return reply, err
}

// nodeOf is the master that holds the key.
func nodeOf(ctx context.Context, c redis.UniversalClient, key string) (redis.UniversalClient, error) {
	if cluster, ok := c.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key)
	}
	return c, nil
}

func (p *publisher) refused(sb *shardBatch, err error) {
	reason := "unavailable"
	if event.KindOf(err) == event.Exhausted {
		reason = "exhausted"
	}
	p.metrics.publishErrors.WithLabelValues(sb.domain, reason).Add(float64(len(sb.at)))
}
