package router

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// topicHub holds a topic for every job that somebody here watches. It feeds them
// from Pub/Sub, and compares the ones that got nothing with their log: Pub/Sub is
// only a hint.
//
// announce (in the owner of the shard) → here → Subscription → server.
type topicHub struct {
	streams   redis.UniversalClient
	listeners []*listener
	cfg       *Config
	metrics   *metrics
	log       *slog.Logger
	trace     *trace.Tracer // nil: nobody wants to know
	// checkNow asks for a head check before its time.
	checkNow chan struct{}
	began    time.Time
	// names are the shard logs' names, each one there once.
	names map[shardRef]string

	mu     sync.Mutex
	topics map[topicKey]*topic // guarded by mu
	came   uint64              // guarded by mu; how many topics there ever were
}

type topicKey struct{ domain, jobID string }

// topic is one job with subscribers.
type topic struct {
	*hub.Topic[*Shown]
	key     topicKey
	shard   string // its shard log
	reader  handler
	refs    int           // guarded by topicHub.mu
	checked time.Duration // as of topicHub.since
	renewed time.Duration // the same
	// suspect: the head is to be compared at the next check, whatever the time.
	suspect bool // guarded by topicHub.mu
}

func newTopicHub(cfg *Config, streams redis.UniversalClient, m *metrics, log *slog.Logger) *topicHub {
	h := &topicHub{
		cfg: cfg, streams: streams, metrics: m, log: log,
		checkNow: make(chan struct{}, 1), began: time.Now(), names: make(map[shardRef]string), topics: make(map[topicKey]*topic),
	}
	for _, d := range cfg.Domains {
		for i := range cfg.ShardCount {
			h.names[shardRef{d, i}] = shardKey(d, i)
		}
	}
	return h
}

// since is a time without what a topic does not need of it.
func (h *topicHub) since(t time.Time) time.Duration { return t.Sub(h.began) }

// listener is the one that carries a job's channel.
func (h *topicHub) listener(jobID string) *listener {
	return h.listeners[event.HashJob(jobID)%uint64(len(h.listeners))]
}

// acquire returns the job's topic, subscribed to its channel as far as Pub/Sub
// allows. The caller gives it back by release.
func (h *topicHub) acquire(ctx context.Context, key topicKey) *topic {
	t := h.hold(key)
	h.listener(key.jobID).join(ctx, liveChannel(key.jobID), &t.reader)
	return t
}

// hold is acquire without the channel; see join.
func (h *topicHub) hold(key topicKey) *topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[key]
	if t == nil {
		t = &topic{
			Topic: hub.NewTopic[*Shown](hub.DefaultLimits()), key: key,
			shard: h.names[shardRef{key.domain, event.ShardOf(key.jobID, h.cfg.ShardCount)}], renewed: h.since(time.Now()),
		}
		t.reader.handle = func(payload string) { h.hear(t, payload) }
		h.topics[key] = t
		h.came++
		h.metrics.topics.Inc()
	}
	t.refs++
	h.metrics.subscribers.Inc()
	return t
}

// join subscribes the channels of topics that are held, and returns what to wait
// for, in the same order.
func (h *topicHub) join(ctx context.Context, topics []*topic) []*channel {
	out := make([]*channel, len(topics))
	for _, l := range h.listeners {
		var mine []int
		var wants []want
		for i, t := range topics {
			if h.listener(t.key.jobID) == l {
				mine, wants = append(mine, i), append(wants, want{liveChannel(t.key.jobID), &t.reader})
			}
		}
		for i, ch := range l.enter(ctx, wants) {
			out[mine[i]] = ch
		}
	}
	return out
}

// all is every topic that is held.
func (h *topicHub) all() []*hub.Topic[*Shown] {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*hub.Topic[*Shown], 0, len(h.topics))
	for _, t := range h.topics {
		out = append(out, t.Topic)
	}
	return out
}

func (h *topicHub) release(t *topic) {
	h.metrics.subscribers.Dec()
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.refs--; t.refs > 0 {
		return
	}
	delete(h.topics, t.key)
	h.metrics.topics.Dec()
	h.listener(t.key.jobID).leave(liveChannel(t.key.jobID), &t.reader)
}

// hear takes an announcement. One of another domain's job of the same name is
// ignored, and so is one that nobody can read: the log has it.
func (h *topicHub) hear(t *topic, payload string) {
	a, err := parseAnnouncement(payload)
	if err != nil {
		h.log.Warn("announcement ignored", "job", t.key.jobID, "error", err)
		return
	}
	if a.domain != t.key.domain || a.jobID != t.key.jobID {
		return
	}
	items := make([]shown, len(a.events))
	for i, text := range a.events {
		items[i] = shownText(text)
	}
	began, outcome := time.Now(), t.Append(a.prev, items)
	if h.trace != nil {
		h.heard(t, &a, began, outcome)
	}
	switch outcome {
	case hub.Hole:
		h.metrics.holes.Inc()
	case hub.Duplicate:
		h.metrics.duplicates.Inc()
	case hub.Appended:
	}
}

// rejoined is called when a channel was subscribed again: what was published
// meanwhile is found by a head check at once.
func (h *topicHub) rejoined(channel string) {
	h.mu.Lock()
	jobID := strings.TrimPrefix(channel, liveChannels)
	for _, domain := range h.cfg.Domains {
		if t := h.topics[topicKey{domain, jobID}]; t != nil {
			t.suspect = true
		}
	}
	h.mu.Unlock()
	signal(h.checkNow)
}

// run compares heads until ctx ends.
func (h *topicHub) run(ctx context.Context) {
	// A topic is checked when it was quiet for three ticks of four, so that a lost
	// announcement is delivered within one interval.
	tick := time.NewTicker(h.cfg.HeadCheckInterval / 4)
	defer tick.Stop()
	losses := make(map[string]string)
	var sweeper hub.Sweeper
	var sweeping sync.WaitGroup
	defer sweeping.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if sweeper.Due(h.ever()) {
				sweeping.Go(debug.FreeOSMemory)
			}
		case <-h.checkNow:
		}
		h.check(ctx)
		h.findLosses(ctx, losses)
	}
}

// ever is how many topics there ever were.
func (h *topicHub) ever() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.came
}

// due lists the topics whose head is to be compared now.
func (h *topicHub) due(now time.Time) []*topic {
	wait := h.cfg.HeadCheckInterval * 3 / 4
	h.mu.Lock()
	defer h.mu.Unlock()
	var due []*topic
	at := h.since(now)
	for _, t := range h.topics {
		if t.suspect || (t.Quiet(now) >= wait && at-t.checked >= wait) || at-t.renewed >= h.renewal() {
			t.suspect, t.checked = false, at
			due = append(due, t)
		}
	}
	return due
}

// renewal is how often the life of a watched job's log is renewed.
func (h *topicHub) renewal() time.Duration { return h.cfg.Retention / 4 }

// checkChunk bounds one pipeline of head checks.
const checkChunk = 500

func (h *topicHub) check(ctx context.Context) {
	for chunk := range slices.Chunk(h.due(time.Now()), checkChunk) {
		h.checkHeads(ctx, chunk)
	}
}

// checkHeads compares the heads of topics, all in one round trip, and renews the
// life of what is watched.
func (h *topicHub) checkHeads(ctx context.Context, topics []*topic) {
	pipe := h.streams.Pipeline()
	heads := make([]*redis.Cmd, len(topics))
	known := make([]event.ID, len(topics))
	placed := make([]bool, len(topics))
	for i, t := range topics {
		// Read before the head: an announcement in between makes a needless repair at
		// most, never a missed one.
		known[i], placed[i] = t.Last()
		heads[i] = pipe.Do(ctx, "XREVRANGE", logKey(t.key.domain, t.key.jobID), "+", "-", "COUNT", 1)
		if now := h.since(time.Now()); now-t.renewed >= h.renewal() {
			t.renewed = now
			pipe.PExpire(ctx, logKey(t.key.domain, t.key.jobID), h.cfg.Retention)
			pipe.PExpire(ctx, stateKey(t.key.domain, t.key.jobID), h.cfg.Retention)
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, t := range topics {
		reply, err := heads[i].Result()
		if err != nil {
			h.markSuspect(t)
			continue
		}
		ens, err := parseEntries(reply)
		if err != nil {
			continue
		}
		var head event.ID
		if len(ens) > 0 {
			head = ens[0].id
		}
		if placed[i] && head != known[i] {
			if now, _ := t.Last(); now != head { // not announced meanwhile
				t.Reset()
				h.metrics.repairs.Inc()
			}
		}
	}
}

func (h *topicHub) markSuspect(t *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.suspect = true
}

// findLosses tells the subscribers of a shard that lost entries unread. Which
// jobs had them is not known, so all are told.
func (h *topicHub) findLosses(ctx context.Context, seen map[string]string) {
	shards := make(map[string][]*topic)
	h.mu.Lock()
	for _, t := range h.topics {
		shards[t.shard] = append(shards[t.shard], t)
	}
	h.mu.Unlock()
	keys := slices.Collect(maps.Keys(shards))
	pipe := h.streams.Pipeline()
	marks := make([]*redis.StringCmd, len(keys))
	for i, s := range keys {
		marks[i] = pipe.Get(ctx, lossKey(s))
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, s := range keys {
		mark, err := marks[i].Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			continue
		}
		if before, ok := seen[s]; ok && mark != "" && mark != before {
			for _, t := range shards[s] {
				t.Lose(event.Gap{Reason: event.LogReset})
			}
		}
		seen[s] = mark
	}
	for s := range seen {
		if _, ok := shards[s]; !ok {
			delete(seen, s)
		}
	}
}
