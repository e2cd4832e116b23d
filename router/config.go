package router

import (
	"fmt"
	"slices"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// Config is what a router process can be told about the bus. The tags are the
// reference of `eventbus router --help`.
type Config struct {
	StreamsURL string `name:"redis-streams-url" env:"REDIS_STREAMS_URL" placeholder:"URL" help:"Redis of the logs: redis://[user:password@]host:port/db, rediss:// for TLS, redis+sentinel://[user:password@]host:26379,host:26379/master-name/db[?sentinel_password=…], redis+cluster://host:port,host:port. Required."`
	PubSubURL  string `name:"redis-pubsub-url" env:"REDIS_PUBSUB_URL" placeholder:"URL,…" help:"Redis of the live announcements, standalone or Sentinel; several URLs share the jobs. Default: the streams Redis, unless that is a Cluster."`

	Domains       []string `env:"DOMAINS" default:"scan,chat" help:"Kinds of jobs, each [a-z][a-z0-9-]{0,31}."`
	ShardCount    int      `env:"SHARD_COUNT" default:"4" help:"Shard logs of each domain, 1-1024. Producers that XADD must agree; never change it while jobs run."`
	ConsumerGroup string   `env:"CONSUMER_GROUP" default:"eventrouter" help:"Consumer group of the routers."`
	PodName       string   `env:"POD_NAME" default:"${hostname}" help:"This router's name among the routers."`

	Retention         time.Duration `env:"RETENTION" default:"1h" help:"How long a job's events and state live after the last one; at least 1s."`
	IdempotencyWindow time.Duration `env:"IDEMPOTENCY_WINDOW" default:"2h" help:"How long an idempotency key, and the end of a job, is remembered; longer than RETENTION."`
	LeaseTTL          time.Duration `name:"lease-ttl" env:"LEASE_TTL" default:"5s" help:"A router that is silent for so long loses its shards to the others; at least 500ms."`
	HeadCheckInterval time.Duration `env:"HEAD_CHECK_INTERVAL" default:"5s" help:"A lost announcement is found after so long at most; at least 100ms."`
	ProbeInterval     time.Duration `env:"PROBE_INTERVAL" default:"5s" help:"How often a message of its own proves that announcements arrive; at least 100ms."`

	MinReplicas   int `name:"publish-min-replicas" env:"PUBLISH_MIN_REPLICAS" default:"0" help:"Replicas that must have an event before it is acknowledged, 0-16. Above 0 every publish needs an idempotency key."`
	MaxEventBytes int `env:"MAX_EVENT_BYTES" default:"262144" help:"Largest event, as a protobuf message, in bytes; 1024-4194304."`
	MaxLag        int `env:"MAX_LAG" default:"5000" help:"Unread entries of a shard above which publishing to it is refused; 1-9999, because legacy producers trim at 10000."`

	// Embedded: Redis is miniredis, which knows no script flags, no ROLE and no
	// right lag.
	Embedded bool `kong:"-"`
}

// shardLogAge and shardLogEntries bound what every group has read; unread
// entries are never trimmed.
const (
	shardLogAge     = 10 * time.Minute
	shardLogEntries = 100_000
	jobLogEntries   = 10_000
	jobLogBytes     = 16 << 20
	deadEntries     = 10_000
)

// Check tells of every setting that is out of bounds, with its value.
func (c *Config) Check() error {
	var bad []event.Violation
	check := func(ok bool, name string, value any, rule string) {
		if !ok {
			bad = append(bad, event.Violate(name, value, rule))
		}
	}
	check(c.StreamsURL != "", "REDIS_STREAMS_URL", nil, "must be set")
	check(len(c.Domains) > 0, "DOMAINS", nil, "must name a domain")
	for i, d := range c.Domains {
		check(event.ValidDomain(d), "DOMAINS", d, event.DomainRule)
		check(!slices.Contains(c.Domains[:i], d), "DOMAINS", d, "must be named once")
	}
	check(c.ShardCount >= 1 && c.ShardCount <= 1024, "SHARD_COUNT", c.ShardCount, "must be 1-1024")
	check(c.ConsumerGroup != "", "CONSUMER_GROUP", nil, "must be set")
	check(c.PodName != "", "POD_NAME", nil, "must be set")
	check(c.Retention >= time.Second, "RETENTION", c.Retention, "must be at least 1s")
	check(c.IdempotencyWindow > c.Retention, "IDEMPOTENCY_WINDOW", c.IdempotencyWindow,
		fmt.Sprintf("must be longer than RETENTION, %s", c.Retention))
	check(c.LeaseTTL >= 500*time.Millisecond, "LEASE_TTL", c.LeaseTTL, "must be at least 500ms")
	check(c.HeadCheckInterval >= 100*time.Millisecond, "HEAD_CHECK_INTERVAL", c.HeadCheckInterval, "must be at least 100ms")
	check(c.ProbeInterval >= 100*time.Millisecond, "PROBE_INTERVAL", c.ProbeInterval, "must be at least 100ms")
	check(c.MinReplicas >= 0 && c.MinReplicas <= 16, "PUBLISH_MIN_REPLICAS", c.MinReplicas, "must be 0-16")
	check(c.MaxEventBytes >= 1024 && c.MaxEventBytes <= 4<<20, "MAX_EVENT_BYTES", c.MaxEventBytes, "must be 1024-4194304")
	check(c.MaxLag >= 1 && c.MaxLag < 10_000, "MAX_LAG", c.MaxLag, "must be 1-9999")
	if len(bad) > 0 {
		return event.Refuse(bad...)
	}
	return nil
}
