package router

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// watchHub holds a topic for every shard that somebody here watches. Its items are
// the entries of the shard log, by their place there; an entry that is not shown
// (dropped, a dead letter) is an item without an event, so that cursors move on.
//
// announcer.go → here → Watch → server.
type watchHub struct {
	streams   redis.UniversalClient
	listeners []*listener
	cfg       *Config
	metrics   *metrics
	log       *slog.Logger
	checkNow  chan struct{}
	// joined: somebody began to watch a shard. A batch whose bridge asked for
	// watchers just before is not announced to it, so it looks soon.
	joined chan struct{}

	mu     sync.Mutex
	topics map[shardRef]*shardTopic
}

// shardTopic is one shard with watchers.
type shardTopic struct {
	*hub.Topic[*event.Event]
	ref    shardRef
	reader handler
	refs   int // guarded by watchHub.mu
}

func newWatchHub(cfg *Config, streams redis.UniversalClient, m *metrics, log *slog.Logger) *watchHub {
	return &watchHub{
		cfg: cfg, streams: streams, metrics: m, log: log,
		checkNow: make(chan struct{}, 1), joined: make(chan struct{}, 1), topics: make(map[shardRef]*shardTopic),
	}
}

func (h *watchHub) listener(shard int) *listener { return h.listeners[shard%len(h.listeners)] }

func (h *watchHub) acquire(ctx context.Context, ref shardRef) *shardTopic {
	h.mu.Lock()
	t := h.topics[ref]
	if t == nil {
		defer signal(h.joined)
		t = &shardTopic{Topic: hub.NewTopic[*event.Event](hub.DefaultLimits()), ref: ref}
		t.reader.handle = func(payload string) { h.hear(t, payload) }
		h.topics[ref] = t
	}
	t.refs++
	h.mu.Unlock()
	h.listener(ref.shard).join(ctx, watchChannel(ref.domain, ref.shard), &t.reader)
	return t
}

func (h *watchHub) release(t *shardTopic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.refs--; t.refs > 0 {
		return
	}
	delete(h.topics, t.ref)
	h.listener(t.ref.shard).leave(watchChannel(t.ref.domain, t.ref.shard), &t.reader)
}

// shardMessage is what a shard's channel carries: the events of one batch, their
// places in the shard log, and what the batch follows.
type shardMessage struct {
	// Prev is the last entry of the batch before; empty: not known.
	Prev string `json:"prev"`
	// Last is the last entry of the batch, shown or not.
	Last   string         `json:"last"`
	At     []string       `json:"at"`
	Events []*event.Event `json:"events"`
}

// watchMessages tell a shard's watchers of a batch: one message, unless it is very
// large.
func (b *bridge) watchMessages(bt *batch) []message {
	type shown struct {
		at event.ID
		e  *event.Event
	}
	var all []shown
	for _, job := range bt.jobs {
		for i, at := range job.at {
			all = append(all, shown{at, job.mine[i]})
		}
	}
	slices.SortStableFunc(all, func(x, y shown) int { return x.at.Compare(y.at) })
	channel := watchChannel(b.domain, b.shard)
	var out []message
	m := shardMessage{At: []string{}, Events: []*event.Event{}}
	if !b.announced.IsZero() {
		m.Prev = b.announced.String()
	}
	size := 0
	flush := func(last event.ID) {
		m.Last = last.String()
		out = append(out, message{channel, encodeShardMessage(m)})
		m, size = shardMessage{Prev: m.Last, At: []string{}, Events: []*event.Event{}}, 0
	}
	for i, s := range all {
		if size > 0 && size+s.e.Size() > announceBytes {
			flush(all[i-1].at)
		}
		m.At, m.Events = append(m.At, s.at.String()), append(m.Events, s.e)
		size += s.e.Size()
	}
	flush(bt.last)
	return out
}

func encodeShardMessage(m shardMessage) []byte {
	b := fmt.Appendf(nil, `{"prev":%q,"last":%q,"at":[`, m.Prev, m.Last)
	for i, at := range m.At {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, "%q", at)
	}
	b = append(b, `],"events":[`...)
	for i, e := range m.Events {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.AppendJSON(b)
	}
	return append(b, "]}"...)
}

// hear takes a shard's announcement.
func (h *watchHub) hear(t *shardTopic, payload string) {
	prev, items, err := parseShardMessage([]byte(payload))
	if err != nil {
		h.log.Warn("announcement ignored", "domain", t.ref.domain, "shard", t.ref.shard, "error", err)
		return
	}
	switch t.Append(prev, items) {
	case hub.Hole:
		h.metrics.holes.Inc()
	case hub.Duplicate:
		h.metrics.duplicates.Inc()
	case hub.Appended:
	}
}

func parseShardMessage(data []byte) (prev event.ID, items []item, err error) {
	var m shardMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return prev, nil, fmt.Errorf("announcement: %w", err)
	}
	prev = event.MaxID() // what is not known follows nothing
	if m.Prev != "" {
		if prev, err = event.ParseID(m.Prev); err != nil {
			return prev, nil, fmt.Errorf("announcement: prev: %w", err)
		}
	}
	last, err := event.ParseID(m.Last)
	if err != nil {
		return prev, nil, fmt.Errorf("announcement: last: %w", err)
	}
	if len(m.At) != len(m.Events) {
		return prev, nil, fmt.Errorf("announcement: %d places for %d events", len(m.At), len(m.Events))
	}
	for i, text := range m.At {
		at, err := event.ParseID(text)
		if err != nil || m.Events[i] == nil {
			return prev, nil, fmt.Errorf("announcement: event %d is bad", i)
		}
		items = append(items, shardItem(at, m.Events[i]))
	}
	if n := len(items); n == 0 || items[n-1].ID != last {
		items = append(items, shardItem(last, nil))
	}
	return prev, items, nil
}

// shardItem is an entry of a shard: never final, because a shard never ends.
func shardItem(at event.ID, e *event.Event) item {
	if e == nil {
		return item{ID: at, Size: 64}
	}
	return item{ID: at, Size: e.Size(), Value: e}
}

// rejoined is called when a channel was subscribed again.
func (h *watchHub) rejoined(channel string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ref := range h.topics {
		if watchChannel(ref.domain, ref.shard) == channel {
			signal(h.checkNow)
			return
		}
	}
}

// joinCheck after a shard was joined its batches of before are settled, as a rule.
const joinCheck = 50 * time.Millisecond

// run compares what was announced with what the group has acknowledged.
func (h *watchHub) run(ctx context.Context) {
	tick := time.NewTicker(h.cfg.HeadCheckInterval / 2)
	defer tick.Stop()
	// last is where a topic stood at the last check: one that has moved since gets
	// its announcements.
	last := make(map[*shardTopic]event.ID)
	var soon <-chan time.Time // nil: nobody has joined
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.joined:
			if soon == nil {
				soon = time.After(joinCheck)
			}
			continue
		case <-tick.C:
		case <-soon:
			soon = nil
			clear(last)
		case <-h.checkNow:
			clear(last)
		}
		h.mu.Lock()
		topics := make([]*shardTopic, 0, len(h.topics))
		for _, t := range h.topics {
			topics = append(topics, t)
		}
		h.mu.Unlock()
		now := make(map[*shardTopic]event.ID, len(topics))
		for _, t := range topics {
			id, ok := t.Last()
			if !ok {
				continue
			}
			now[t] = id
			if before, known := last[t]; known && before != id {
				continue
			}
			h.check(ctx, t, id)
		}
		last = now
	}
}

func (h *watchHub) check(ctx context.Context, t *shardTopic, known event.ID) {
	log := shardLog{redis: h.streams, cfg: h.cfg, ref: t.ref}
	done, err := log.boundary(ctx)
	if err != nil || done.Compare(known) <= 0 {
		return
	}
	if now, ok := t.Last(); ok && now.Compare(done) < 0 {
		t.Reset()
		h.metrics.repairs.Inc()
	}
}
