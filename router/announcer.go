package router

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// announcer publishes to the Pub/Sub Redis, for all bridges of a router. It is a
// hint that makes delivery quick; when it cannot be given, the head check of every
// hub delivers, and the bus goes on.
//
// bridge → here → listener → topicHub.
type announcer struct {
	cfg *Config
	log *slog.Logger

	mu sync.Mutex
	// clients are the Pub/Sub Redis; one carries a job's channel by its hash.
	clients []redis.UniversalClient
	// failing is since when each of them fails; zero: it works. Retrying ends
	// HEAD_CHECK_INTERVAL after it.
	failing []time.Time
}

// announceBytes bounds one message, far below client-output-buffer-limit pubsub.
const announceBytes = 1 << 20

// message is one PUBLISH.
type message struct {
	channel string
	payload []byte
}

func newAnnouncer(cfg *Config, n int, log *slog.Logger) *announcer {
	return &announcer{cfg: cfg, log: log, failing: make([]time.Time, n)}
}

func (a *announcer) client(i int) redis.UniversalClient {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.clients[i]
}

// replace puts a new client in the place of one that publishes to a replica.
func (a *announcer) replace(i int, c redis.UniversalClient) (old redis.UniversalClient) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, a.clients[i] = a.clients[i], c
	return old
}

// publish sends messages through one client in one round trip, and asks how many
// listen to each of the channels. It tries until HEAD_CHECK_INTERVAL after the client
// began to fail, once at least.
func (a *announcer) publish(ctx context.Context, i int, msgs []message, channels []string) (listeners map[string]int64, err error) {
	if len(msgs) == 0 && len(channels) == 0 {
		return nil, nil
	}
	send := func() (map[string]int64, error) { return a.send(ctx, i, msgs, channels) }
	listeners, err = send()
	if err == nil {
		a.works(i)
		return listeners, nil
	}
	left := a.budget(i)
	if left <= 0 {
		return nil, err
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 20*time.Millisecond, 500*time.Millisecond
	listeners, err = backoff.Retry(ctx, send, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(left))
	if err == nil {
		a.works(i)
	}
	return listeners, err
}

func (a *announcer) send(ctx context.Context, i int, msgs []message, channels []string) (map[string]int64, error) {
	pipe := a.client(i).Pipeline()
	for _, m := range msgs {
		pipe.Publish(ctx, m.channel, m.payload)
	}
	var listeners *redis.MapStringIntCmd
	if len(channels) > 0 {
		listeners = pipe.PubSubNumSub(ctx, channels...)
	}
	if _, err := pipe.Exec(ctx); err != nil || listeners == nil {
		return nil, err
	}
	return listeners.Val(), nil
}

// budget is how much longer a failing client is worth waiting for.
func (a *announcer) budget(i int) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failing[i].IsZero() {
		a.failing[i] = time.Now()
		a.log.Warn("pub/sub: announcing fails; the head check delivers meanwhile", "redis", i)
	}
	return a.cfg.HeadCheckInterval - time.Since(a.failing[i])
}

func (a *announcer) works(i int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.failing[i].IsZero() {
		a.log.Info("pub/sub: announcing works again", "redis", i)
	}
	a.failing[i] = time.Time{}
}

// announce tells the hubs of the batches, and asks which shards have watchers. What
// fails is counted, not returned: the batches are in the logs, and must not be held up
// by a hint.
func (c *carrier) announce(ctx context.Context) error {
	n := len(c.announcer.clients)
	msgs, channels := make([][]message, n), make([][]string, n)
	for b := range c.laden() {
		for _, job := range b.batch.jobs {
			if len(job.shown) == 0 {
				continue
			}
			if !job.contiguous {
				if err := b.loadRange(ctx, job); err != nil {
					return err
				}
			}
			i := int(event.HashJob(job.jobID) % uint64(n))
			msgs[i] = append(msgs[i], b.messages(job)...)
		}
		home := b.shard % n
		channels[home] = append(channels[home], watchChannel(b.domain, b.shard))
	}
	now := time.Now()
	for i := range n {
		watchers, err := c.announcer.publish(ctx, i, msgs[i], channels[i])
		for b := range c.laden() {
			if b.shard%n != i {
				continue
			}
			if err != nil {
				c.metrics.announceFails.WithLabelValues(b.domain).Inc()
			}
			b.watched = watchers[watchChannel(b.domain, b.shard)] > 0 || err != nil
		}
	}
	for b := range c.laden() {
		for _, job := range b.batch.jobs {
			for _, e := range job.mine {
				b.observeDelay(now.Sub(e.PublishTime()).Seconds(), e)
			}
		}
	}
	return nil
}

// announceShards tells the watchers of shards, where there are any, of the batches that
// were settled just now. They must be acknowledged: who finds a hole reads the log, and
// that ends where the group has acknowledged. Who began to watch since a batch was
// announced to its jobs looks by itself (watchHub).
func (c *carrier) announceShards(ctx context.Context, settled []*bridge) {
	n := len(c.announcer.clients)
	msgs, domains := make([][]message, n), make([]string, n)
	for _, b := range settled {
		if b.watched {
			i := b.shard % n
			msgs[i], domains[i] = append(msgs[i], b.watchMessages(b.done)...), b.domain
		}
	}
	for i := range n {
		if _, err := c.announcer.publish(ctx, i, msgs[i], nil); err != nil {
			c.metrics.announceFails.WithLabelValues(domains[i]).Inc()
		}
	}
}

// loadRange reads a repeated job's events from its log, from the first to the
// last of the batch: they need not be neighbours there.
func (b *bridge) loadRange(ctx context.Context, job *jobBatch) error {
	first, last := job.shown[0].ID, job.shown[0].ID
	for _, e := range job.shown {
		if e.ID.Compare(first) < 0 {
			first = e.ID
		}
		if e.ID.Compare(last) > 0 {
			last = e.ID
		}
	}
	key := logKey(b.domain, job.jobID)
	pipe := b.streams.Pipeline()
	before := pipe.Do(ctx, "XREVRANGE", key, "("+first.String(), "-", "COUNT", 1)
	entries := pipe.Do(ctx, "XRANGE", key, first.String(), last.String(), "COUNT", 2*batchEntries)
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	prev, err := parseEntries(before.Val())
	if err != nil {
		return err
	}
	list, err := parseEntries(entries.Val())
	if err != nil {
		return err
	}
	job.prev, job.shown = event.ID{}, nil
	for _, en := range list {
		e, err := parseLogEntry(b.domain, job.jobID, en)
		if err != nil {
			return err
		}
		job.shown = append(job.shown, e)
	}
	switch {
	case len(prev) > 0:
		job.prev = prev[0].id
	case len(job.shown) > 0 && job.shown[0].Seq != 1:
		job.prev = job.shown[0].ID.Prev() // trimmed: not the log's start
	}
	return nil
}

// messages are a job's announcements: one, unless it is very large.
func (b *bridge) messages(job *jobBatch) []message {
	var out []message
	a := announcement{domain: b.domain, jobID: job.jobID, prev: job.prev}
	size := 0
	flush := func() {
		if len(a.events) > 0 {
			out = append(out, message{liveChannel(job.jobID), a.append(make([]byte, 0, size+128))})
			a.prev, a.events, size = a.events[len(a.events)-1].ID, nil, 0
		}
	}
	for _, e := range job.shown {
		if size > 0 && size+e.Size() > announceBytes {
			flush()
		}
		a.events = append(a.events, e)
		size += e.Size()
	}
	flush()
	return out
}

func (a *announcer) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	for _, c := range a.clients {
		err = errors.Join(err, c.Close())
	}
	return err
}
