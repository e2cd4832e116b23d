package router

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/count"
	"github.com/eco2-team/eventbus/router/event"
)

// Cluster is the bus at one moment, as one router sees it. What is in Redis is the
// same for all; what a router counts is its own.
type Cluster struct {
	Time     time.Time
	Router   Counts
	Members  []Member
	Shards   []ShardState
	Redis    []Node
	Domains  []DomainState
	Settings []SettingValue
	Findings []Finding
}

// Counts is what this router counted since it started, and what it has open.
type Counts struct {
	Name                                           string
	Published, Projected, Announced, Gaps, Repairs float64
	Topics, Subscribers                            float64
	Degraded                                       string
}

// Member is a living router.
type Member struct {
	Name    string
	Shards  int
	Answers bool
	Lives   time.Duration
}

// ShardState is a shard log and its readers.
type ShardState struct {
	Domain string
	Shard  int
	// Owner is empty where nobody has the lease.
	Owner                  string
	Length, Added          int64
	Lag, Pending           int64
	Known                  bool // Redis answered
	AddedKnown, HasBacklog bool
	Oldest                 time.Duration // where HasBacklog
}

// Node is one Redis.
type Node struct {
	// Use is streams or pubsub.
	Use     string
	Address string
	Info    Info
	Ping    time.Duration
	// Err is why it does not answer, Unknown why it does not tell how it is.
	Err, Unknown string
	Embedded     bool
	// Probe, Probed and Trouble are of a Pub/Sub Redis.
	Probe   time.Duration
	Probed  time.Time
	Trouble string
}

// DomainState is what is known of a domain as a whole.
type DomainState struct {
	Name        string
	DeadLetters int64
	DeadReason  string
	DeadTime    time.Time
}

// SettingValue is a setting as an operator knows it.
type SettingValue struct{ Name, Value string }

// clusterView lets many who look share one reading.
type clusterView struct {
	// turn holds one token: who has it may read or change what follows.
	turn chan struct{}
	last *Cluster
}

const (
	// clusterAge is how old a reading may be.
	clusterAge = time.Second
	// clusterTimeout bounds one: a Redis that hangs is a finding.
	clusterTimeout = 3 * time.Second
	// pings are how many round trips are tried; the quickest counts.
	pings = 3
)

func newClusterView() *clusterView {
	v := &clusterView{turn: make(chan struct{}, 1)}
	v.turn <- struct{}{}
	return v
}

// Cluster tells how the bus is; callers share it and must not change it. A Redis that
// is away is no error, but a finding: an error is the end of ctx.
func (b *Bus) Cluster(ctx context.Context) (*Cluster, error) {
	select {
	case <-b.view.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { b.view.turn <- struct{}{} }()
	if last := b.view.last; last != nil && time.Since(last.Time) < clusterAge {
		return last, nil
	}
	reading, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	c := b.readCluster(reading)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	b.view.last = c
	return c, nil
}

func (b *Bus) readCluster(ctx context.Context) *Cluster {
	c := &Cluster{Time: time.Now(), Router: b.counts(), Settings: b.cfg.shown()}
	var parts sync.WaitGroup
	parts.Go(func() { c.Shards = b.shardStates(ctx, b.shards.all()) })
	parts.Go(func() { c.Redis = b.nodes(ctx) })
	parts.Go(func() { c.Domains = b.domainStates(ctx) })
	parts.Go(func() { c.Members = b.members(ctx) })
	parts.Wait()
	for i := range c.Members {
		for _, s := range c.Shards {
			if s.Owner == c.Members[i].Name {
				c.Members[i].Shards++
			}
		}
	}
	c.Findings = findings(c, &b.cfg)
	return c
}

func (b *Bus) counts() Counts {
	m := b.metrics
	return Counts{
		Name: b.cfg.PodName, Degraded: b.probe.degraded(),
		Published: count.Total(m.published), Projected: count.Total(m.projected), Announced: count.Total(m.delay),
		Gaps: count.Total(m.gaps), Repairs: count.Total(m.repairs), Topics: count.Total(m.topics), Subscribers: count.Total(m.subscribers),
	}
}

// shown are the settings that explain what an operator sees.
func (c *Config) shown() []SettingValue {
	return []SettingValue{
		{"DOMAINS", strings.Join(c.Domains, ",")}, {"SHARD_COUNT", strconv.Itoa(c.ShardCount)}, {"CONSUMER_GROUP", c.ConsumerGroup},
		{"RETENTION", c.Retention.String()}, {"IDEMPOTENCY_WINDOW", c.IdempotencyWindow.String()}, {"LEASE_TTL", c.LeaseTTL.String()},
		{"HEAD_CHECK_INTERVAL", c.HeadCheckInterval.String()}, {"PROBE_INTERVAL", c.ProbeInterval.String()},
		{"PUBLISH_MIN_REPLICAS", strconv.Itoa(c.MinReplicas)}, {"MAX_EVENT_BYTES", strconv.Itoa(c.MaxEventBytes)}, {"MAX_LAG", strconv.Itoa(c.MaxLag)},
	}
}

// members are the living routers, by name.
func (b *Bus) members(ctx context.Context) []Member {
	now, err := b.streams.Time(ctx).Result()
	if err != nil {
		return nil // the Redis itself is a finding
	}
	all, err := b.streams.ZRangeWithScores(ctx, membersKey(b.cfg.ConsumerGroup), 0, -1).Result()
	if err != nil {
		return nil
	}
	var out []Member
	for _, z := range all {
		token, _ := z.Member.(string)
		if lives := time.UnixMilli(int64(z.Score)).Sub(now); lives > 0 {
			out = append(out, Member{Name: PodOf(token), Answers: token == b.shards.token, Lives: lives})
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// shardStates reads shards in two round trips.
func (b *Bus) shardStates(ctx context.Context, refs []shardRef) []ShardState {
	type reading struct {
		groups *redis.XInfoGroupsCmd
		length *redis.IntCmd
		info   *redis.XInfoStreamCmd
		owner  *redis.StringCmd
		oldest *redis.Cmd
	}
	all := make([]reading, len(refs))
	pipe := b.streams.Pipeline()
	for i, ref := range refs {
		all[i] = reading{groups: pipe.XInfoGroups(ctx, ref.key()), length: pipe.XLen(ctx, ref.key()), owner: pipe.Get(ctx, leaseKey(ref.key()))}
		if !b.cfg.Embedded {
			all[i].info = pipe.XInfoStream(ctx, ref.key())
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	out := make([]ShardState, len(refs))
	pipe = b.streams.Pipeline()
	for i, ref := range refs {
		s, r := &out[i], &all[i]
		*s = ShardState{Domain: ref.domain, Shard: ref.shard, Owner: PodOf(r.owner.Val()), Length: r.length.Val()}
		s.Known = r.length.Err() == nil && (r.owner.Err() == nil || errors.Is(r.owner.Err(), redis.Nil))
		if r.info != nil && r.info.Err() == nil {
			s.Added, s.AddedKnown = r.info.Val().EntriesAdded, true
		}
		for _, g := range r.groups.Val() {
			if g.Name != b.cfg.ConsumerGroup {
				continue
			}
			s.Lag, s.Pending = b.monitor.lag(ctx, ref.key(), g), g.Pending
			switch {
			case s.Pending > 0:
				r.oldest = pipe.Do(ctx, "XPENDING", ref.key(), b.cfg.ConsumerGroup, "-", "+", 1)
			case s.Lag > 0:
				r.oldest = pipe.Do(ctx, "XRANGE", ref.key(), "("+g.LastDeliveredID, "+", "COUNT", 1)
			}
		}
	}
	_, _ = pipe.Exec(ctx)
	now := time.Now()
	for i := range out {
		if id, ok := firstID(all[i].oldest); ok {
			out[i].HasBacklog, out[i].Oldest = true, max(now.Sub(id.Time()), 0)
		}
	}
	return out
}

// firstID is the id that a list of entries, or of what is pending, begins with.
func firstID(cmd *redis.Cmd) (event.ID, bool) {
	if cmd == nil {
		return event.ID{}, false
	}
	list, err := cmd.Slice()
	if err != nil || len(list) == 0 {
		return event.ID{}, false
	}
	first, _ := list[0].([]any)
	if len(first) == 0 {
		return event.ID{}, false
	}
	text, _ := first[0].(string)
	id, err := event.ParseID(text)
	return id, err == nil
}

func (b *Bus) domainStates(ctx context.Context) []DomainState {
	type reading struct {
		length *redis.IntCmd
		last   *redis.XMessageSliceCmd
	}
	all := make([]reading, len(b.cfg.Domains))
	pipe := b.streams.Pipeline()
	for i, d := range b.cfg.Domains {
		all[i] = reading{pipe.XLen(ctx, deadKey(d)), pipe.XRevRangeN(ctx, deadKey(d), "+", "-", 1)}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	out := make([]DomainState, len(all))
	for i, r := range all {
		out[i] = DomainState{Name: b.cfg.Domains[i], DeadLetters: r.length.Val()}
		for _, m := range r.last.Val() {
			out[i].DeadReason, _ = m.Values["reason"].(string)
			if id, err := event.ParseID(m.ID); err == nil {
				out[i].DeadTime = id.Time()
			}
		}
	}
	return out
}

// nodes asks each Redis how it is, all at once.
func (b *Bus) nodes(ctx context.Context) []Node {
	var clients []*redis.Client
	switch c := b.streams.(type) {
	case *redis.Client:
		clients = []*redis.Client{c}
	case *redis.ClusterClient:
		var mu sync.Mutex
		err := c.ForEachMaster(ctx, func(_ context.Context, one *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			clients = append(clients, one)
			return nil
		})
		if err != nil && len(clients) == 0 {
			return append(b.pubsubNodes(ctx), Node{Use: "streams", Err: err.Error()})
		}
		slices.SortFunc(clients, func(a, b *redis.Client) int { return cmp.Compare(a.Options().Addr, b.Options().Addr) })
	}
	out := make([]Node, len(clients))
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() { out[i] = b.node(ctx, "streams", c) })
	}
	var pubsub []Node
	all.Go(func() { pubsub = b.pubsubNodes(ctx) })
	all.Wait()
	return slices.Concat(out, pubsub)
}

func (b *Bus) pubsubNodes(ctx context.Context) []Node {
	out := make([]Node, len(b.listeners))
	var all sync.WaitGroup
	for i := range out {
		all.Go(func() {
			if c, ok := b.announcer.client(i).(*redis.Client); ok { // connectPubSub takes no Cluster
				out[i] = b.node(ctx, "pubsub", c)
			}
			last, trouble := b.probe.state(i)
			out[i].Probe, out[i].Probed, out[i].Trouble = last.took, last.at, trouble
		})
	}
	all.Wait()
	return out
}

func (b *Bus) node(ctx context.Context, use string, c *redis.Client) Node {
	n := Node{Use: use, Embedded: b.cfg.Embedded}
	var err error
	for i := 0; i < pings && err == nil; i++ { // the first may have to connect
		began := time.Now()
		err = c.Ping(ctx).Err()
		if took := time.Since(began); i == 0 || took < n.Ping {
			n.Ping = took
		}
	}
	n.Address = Address(ctx, c)
	if err != nil {
		n.Err = err.Error()
		return n
	}
	if n.Info, err = ReadInfo(ctx, c); err != nil {
		n.Unknown = err.Error()
	}
	return n
}
