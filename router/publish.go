package router

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	// redis never retries: a repeated script without key would append twice.
	redis   redis.UniversalClient
	monitor *monitor
	metrics *metrics
	lanes   map[shardRef]*lane
}

// lane appends to one shard log. Calls that come while a script runs share the
// next one: what Redis takes for a script and its round trip is most of what an
// event costs there.
type lane struct {
	*publisher
	ref       shardRef
	key       string
	published prometheus.Counter
	calls     *group[*appendCall]
}

// appendCall is what one call appends to one shard.
type appendCall struct {
	// keys and args are the script's, for these requests.
	keys []string
	args []any
	// at are the indices of the requests.
	at    []int
	bytes int
	// reply has a string for each request.
	reply []string
	err   error
}

const (
	// waitTimeout is how long an event may take to reach its replicas.
	waitTimeout = time.Second
	// appendTimeout bounds a script and its WAIT, connecting included.
	appendTimeout = dialTimeout + readTimeout + waitTimeout
	// appendRequests and appendBytes bound what shares a script, so that it does not
	// hold Redis up for long; a single call may be larger.
	appendRequests = 512
	appendBytes    = 1 << 20
)

// How publish.lua is told about a request.
const (
	flagKey   = 1 // it has an idempotency key
	flagFinal = 2
	flagFirst = 4 // it is the first of its call
)

func newPublisher(cfg *Config, s scripts, c redis.UniversalClient, m *monitor, mt *metrics) *publisher {
	p := &publisher{cfg: cfg, scripts: s, redis: c, monitor: m, metrics: mt, lanes: make(map[shardRef]*lane)}
	for _, d := range cfg.Domains {
		for i := range cfg.ShardCount {
			l := &lane{publisher: p, ref: shardRef{d, i}, key: shardKey(d, i), published: mt.published.WithLabelValues(d)}
			l.calls = newGroup(l.run, fitAppends)
			p.lanes[l.ref] = l
		}
	}
	return p
}

func fitAppends(calls []*appendCall) int {
	requests, bytes := 0, 0
	for i, c := range calls {
		requests += len(c.at)
		bytes += c.bytes
		if i > 0 && (requests > appendRequests || bytes > appendBytes) {
			return i
		}
	}
	return len(calls)
}

// close waits for the scripts under way. No Publish may come after it.
func (p *publisher) close() error {
	for _, l := range p.lanes {
		l.calls.close()
	}
	return nil
}

// Publish appends events in order, those of a shard together. The errors are
// Over, Exhausted and Unavailable; after one, a part may be written. Where ctx
// ends first, all may be.
func (b *Bus) Publish(ctx context.Context, reqs []Request) ([]Receipt, error) {
	if b.trace != nil {
		return b.publishTraced(ctx, reqs)
	}
	return b.publisher.publish(ctx, reqs)
}

func (p *publisher) publish(ctx context.Context, reqs []Request) ([]Receipt, error) {
	lanes, calls := p.split(reqs)
	for i, l := range lanes {
		if err := p.monitor.admit(l.ref, l.key); err != nil {
			l.refused(calls[i], err)
			return nil, err
		}
	}
	tickets := make([]*ticket[*appendCall], len(calls))
	for i, l := range lanes {
		tickets[i] = l.calls.submit(calls[i])
	}
	out := make([]Receipt, len(reqs))
	var failed error
	for i, l := range lanes {
		if err := tickets[i].wait(ctx); err != nil {
			return nil, err
		}
		if err := l.receipts(calls[i], reqs, out); err != nil && failed == nil {
			failed = err
		}
	}
	if failed != nil {
		return nil, failed
	}
	return out, nil
}

// split sorts the requests by shard and keeps their order.
func (p *publisher) split(reqs []Request) ([]*lane, []*appendCall) {
	var lanes []*lane
	var calls []*appendCall
	ts := timestamp(time.Now())
	for i, r := range reqs {
		ref := shardRef{r.Event.Domain, event.ShardOf(r.Event.JobID, p.cfg.ShardCount)}
		at := slices.IndexFunc(lanes, func(l *lane) bool { return l.ref == ref })
		if at < 0 {
			at = len(lanes)
			lanes, calls = append(lanes, p.lanes[ref]), append(calls, &appendCall{})
		}
		calls[at].add(i, r, lanes[at].key, ts)
	}
	return lanes, calls
}

// add adds a request; ts is when it came.
func (c *appendCall) add(at int, r Request, shardKey, ts string) {
	flags := 0
	if len(c.at) == 0 {
		flags = flagFirst
	}
	c.keys = append(c.keys, finalKey(shardKey, r.Event.JobID))
	if r.Key != "" {
		flags |= flagKey
		c.keys = append(c.keys, publishedKey(shardKey, r.Event.JobID, r.Key))
	}
	if r.Event.Final {
		flags |= flagFinal
	}
	c.args = appendShardValues(append(c.args, flags), r.Event, ts)
	c.at = append(c.at, at)
	c.bytes += r.Event.Size()
}

// run is one script call for all of the calls.
func (l *lane) run(calls []*appendCall) {
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	requests, strings := 0, 2
	for _, c := range calls {
		requests += len(c.at)
		strings += len(c.args)
	}
	keys := append(make([]string, 0, 1+2*requests), l.key)
	args := append(make([]any, 0, strings), l.cfg.IdempotencyWindow.Milliseconds(), boolText(l.cfg.MinReplicas > 0))
	for _, c := range calls {
		keys, args = append(keys, c.keys...), append(args, c.args...)
	}
	reply, err := l.append(ctx, keys, args)
	if err == nil && len(reply) != requests {
		err = fmt.Errorf("publish: %d answers to %d requests", len(reply), requests)
	} else if err != nil {
		err = unavailable(err)
	}
	for _, c := range calls {
		if c.err = err; err == nil {
			c.reply, reply = reply[:len(c.at)], reply[len(c.at):]
		}
	}
}

// receipts reads what a call was answered.
func (l *lane) receipts(c *appendCall, reqs []Request, out []Receipt) error {
	if c.err != nil {
		l.refused(c, c.err)
		return c.err
	}
	added := 0
	defer func() { l.published.Add(float64(added)) }()
	for i, text := range c.reply {
		at := c.at[i]
		if text == "!" {
			return overError(reqs, at)
		}
		duplicate := text[0] == '='
		if duplicate {
			text = text[1:]
		} else {
			added++
		}
		id, err := event.ParseID(text)
		if err != nil {
			return fmt.Errorf("publish: reply: %w", err)
		}
		out[at] = Receipt{ID: id, Duplicate: duplicate}
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

// append runs the script. With MinReplicas script and WAIT go down one connection:
// WAIT speaks of the writes of its own connection only.
func (l *lane) append(ctx context.Context, keys []string, args []any) ([]string, error) {
	s := l.scripts.publish
	if l.cfg.MinReplicas == 0 {
		reply, err := s.EvalSha(ctx, l.redis, keys, args...).StringSlice()
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			reply, err = s.Eval(ctx, l.redis, keys, args...).StringSlice()
		}
		return reply, err
	}
	node, err := nodeOf(ctx, l.redis, l.key)
	if err != nil {
		return nil, err
	}
	cmd, replicas, err := runAndWait(ctx, node, l.cfg.MinReplicas, call{s, keys, args})
	if cluster, ok := l.redis.(*redis.ClusterClient); ok && err != nil {
		// A node's own client follows nobody: without this it would ask a master that
		// is none any more for up to a minute.
		cluster.ReloadState(ctx)
	}
	if err == nil && replicas < int64(l.cfg.MinReplicas) {
		err = event.Errorf(event.Unavailable, "%d of %d replicas have the event; repeat it with the same idempotency key", replicas, l.cfg.MinReplicas)
	}
	if err != nil {
		return nil, err
	}
	return cmd.StringSlice()
}

// nodeOf is the master that holds the key.
func nodeOf(ctx context.Context, c redis.UniversalClient, key string) (redis.UniversalClient, error) {
	if cluster, ok := c.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key)
	}
	return c, nil
}

func (l *lane) refused(c *appendCall, err error) {
	reason := "unavailable"
	if event.KindOf(err) == event.Exhausted {
		reason = "exhausted"
	}
	l.metrics.publishErrors.WithLabelValues(l.ref.domain, reason).Add(float64(len(c.at)))
}

// timestamp is the legacy field ts: seconds since 1970.
func timestamp(now time.Time) string {
	return strconv.FormatFloat(float64(now.UnixMicro())/1e6, 'f', 6, 64)
}
