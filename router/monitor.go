package router

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// monitor measures every shard's lag and Redis's memory, once a second, whoever
// owns the shard: it is why a publish is refused before the log is full. It never
// touches an event.
type monitor struct {
	cfg     *Config
	redis   redis.UniversalClient
	metrics *metrics
	log     *slog.Logger

	mu   sync.Mutex
	lags map[string]int64 // by shard key
	// full is how full the fullest master is, 0–1.
	full float64
}

const (
	monitorInterval = time.Second
	// FullRatio of maxmemory is left for what must go on when publishing stops:
	// projection, leases, marks.
	FullRatio = 0.85
	// retryAfter is told to a publisher that is refused.
	retryAfter = time.Second
)

func newMonitor(cfg *Config, c redis.UniversalClient, m *metrics, log *slog.Logger) *monitor {
	return &monitor{cfg: cfg, redis: c, metrics: m, log: log, lags: make(map[string]int64)}
}

// admit refuses a publish while the shard's readers are too far behind, or Redis
// is nearly full.
func (m *monitor) admit(ref shardRef, key string) error {
	m.mu.Lock()
	lag, full := m.lags[key], m.full
	m.mu.Unlock()
	if lag > int64(m.cfg.MaxLag) {
		err := event.Errorf(event.Exhausted, "the bus is behind: shard %s:%d has %d unread entries, more than MAX_LAG %d; wait", ref.domain, ref.shard, lag, m.cfg.MaxLag)
		err.RetryAfter = retryAfter
		return err
	}
	if full > FullRatio {
		err := event.Errorf(event.Exhausted, "the log is full: Redis uses %.0f %% of its memory, more than %.0f %%; wait", full*100, FullRatio*100)
		err.RetryAfter = retryAfter
		return err
	}
	return nil
}

func (m *monitor) run(ctx context.Context) {
	tick := time.NewTicker(monitorInterval)
	defer tick.Stop()
	for {
		m.measureLags(ctx)
		m.measureMemory(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *monitor) measureLags(ctx context.Context) {
	type probe struct {
		domain, shard string
		key           string
		groups        *redis.XInfoGroupsCmd
	}
	var probes []probe
	pipe := m.redis.Pipeline()
	for _, d := range m.cfg.Domains {
		for s := range m.cfg.ShardCount {
			key := shardKey(d, s)
			probes = append(probes, probe{d, strconv.Itoa(s), key, pipe.XInfoGroups(ctx, key)})
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, p := range probes {
		groups, err := p.groups.Result()
		if err != nil {
			continue // no stream yet, or Redis is away: what was known stays
		}
		for _, g := range groups {
			if g.Name != m.cfg.ConsumerGroup {
				continue
			}
			lag := m.lag(ctx, p.key, g)
			m.mu.Lock()
			m.lags[p.key] = lag
			m.mu.Unlock()
			m.metrics.lag.WithLabelValues(p.domain, p.shard).Set(float64(lag))
			m.metrics.pending.WithLabelValues(p.domain, p.shard).Set(float64(g.Pending))
		}
	}
}

// lag is how many entries the group has not read. Redis does not always know: then
// they are counted, up to MaxLag + 1.
func (m *monitor) lag(ctx context.Context, key string, g redis.XInfoGroup) int64 {
	if g.Lag >= 0 && !m.cfg.Embedded {
		return g.Lag
	}
	var n int64
	start := "(" + g.LastDeliveredID
	for n <= int64(m.cfg.MaxLag) {
		entries, err := m.redis.XRangeN(ctx, key, start, "+", 200).Result()
		if err != nil || len(entries) == 0 {
			break
		}
		n += int64(len(entries))
		start = "(" + entries[len(entries)-1].ID
	}
	return n
}

func (m *monitor) measureMemory(ctx context.Context) {
	var mu sync.Mutex
	worst, seen := 0.0, false
	one := func(ctx context.Context, c *redis.Client) error {
		info, err := ReadInfo(ctx, c, "memory")
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		worst, seen = max(worst, info.MemoryRatio()), true
		return nil
	}
	switch c := m.redis.(type) {
	case *redis.ClusterClient:
		_ = c.ForEachMaster(ctx, one) // what the others say still counts
	case *redis.Client:
		_ = one(ctx, c) // what was known stays
	}
	if !seen {
		return
	}
	m.metrics.memory.Set(worst)
	m.mu.Lock()
	defer m.mu.Unlock()
	if was := m.full > FullRatio; was != (worst > FullRatio) {
		m.log.Warn("streams Redis memory", "ratio", worst, "refusing", !was)
	}
	m.full = worst
}
