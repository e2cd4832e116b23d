package doctor_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/doctor"
	"github.com/eco2-team/eventbus/router/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(streams, pubsub string) router.Config {
	return router.Config{
		StreamsURL: streams, PubSubURL: pubsub, Domains: []string{"scan", "chat"}, ShardCount: 4, ConsumerGroup: "eventrouter",
		PodName: "router-0", Retention: time.Hour, IdempotencyWindow: 2 * time.Hour, LeaseTTL: time.Second,
		HeadCheckInterval: time.Second, ProbeInterval: time.Second, MaxEventBytes: 262144, MaxLag: 5000,
	}
}

// good is a Redis with nothing to complain of.
func good() []redistest.Option {
	return []redistest.Option{redistest.WithAppendOnly(), redistest.WithConfig("maxmemory", "100mb"), redistest.WithConfig("maxmemory-policy", "noeviction")}
}

// findings are those of a Redis, as text.
type findings []doctor.Finding

func examine(t *testing.T, cfg router.Config) findings {
	t.Helper()
	var all findings
	doctor.Examine(t.Context(), cfg, func(f doctor.Finding) { all = append(all, f) })
	return all
}

// want fails the test unless one of the findings is so bad and says that.
func (all findings) want(t *testing.T, level doctor.Level, subject, text, mend string) {
	t.Helper()
	for _, f := range all {
		if f.Level == level && strings.HasPrefix(f.Subject, subject) && strings.Contains(f.Text, text) && strings.Contains(f.Mend, mend) {
			return
		}
	}
	t.Errorf("no %s of %s that says %q and %q:\n%s", level, subject, text, mend, all)
}

// atMost fails the test where a finding is worse.
func (all findings) atMost(t *testing.T, worst doctor.Level) {
	t.Helper()
	rank := map[doctor.Level]int{doctor.OK: 0, doctor.Note: 1, doctor.Warn: 2, doctor.Fail: 3}
	for _, f := range all {
		// The speed of a busy machine is no fault of the examiner.
		if rank[f.Level] > rank[worst] && !strings.Contains(f.Text, "round trip") {
			t.Errorf("%+v", f)
		}
	}
}

func (all findings) String() string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "%+v\n", f)
	}
	return b.String()
}

// bus runs a router for the time of the test, until it owns its shards.
func bus(t *testing.T, cfg router.Config, c redis.UniversalClient) {
	t.Helper()
	b, err := router.New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	b.Start()
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, d := range cfg.Domains {
		for s := range cfg.ShardCount {
			deadline := time.Now().Add(time.Minute)
			for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
				groups, err := c.XInfoGroups(t.Context(), router.ShardKey(d, s)).Result()
				if err == nil && len(groups) > 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("nobody reads %s", router.ShardKey(d, s))
				}
			}
		}
	}
}

func TestExamine_AHealthyBusHasNothingToMend(t *testing.T) {
	t.Parallel()
	streams, pubsub := redistest.New(t, good()...), redistest.New(t)
	cfg := config(streams.URL(), pubsub.URL())
	bus(t, cfg, streams.Client())
	got := examine(t, cfg)
	got.atMost(t, doctor.Note)
	got.want(t, doctor.OK, "bus chat", "each of the 4 shards is read: router-0 4", "")
	got.want(t, doctor.OK, "pubsub", "an announcement arrives", "")
	got.want(t, doctor.OK, "streams "+streams.Addr(), "keeps an append-only file", "")
	got.want(t, doctor.Note, "bus", "one router runs: router-0", "")
	if keys, err := streams.Client().Keys(t.Context(), "router:check:*").Result(); err != nil || len(keys) > 0 {
		t.Errorf("it left %v: %v", keys, err)
	}
}

func TestExamine_ARedisThatMayLoseEvents(t *testing.T) {
	t.Parallel()
	redis := redistest.New(t, redistest.WithConfig("maxmemory-policy", "volatile-lru"))
	cfg := config(redis.URL(), "")
	cfg.MinReplicas = 1
	got := examine(t, cfg)
	got.want(t, doctor.Warn, "streams", "no append-only file", "appendonly yes")
	got.want(t, doctor.Warn, "streams", "maxmemory-policy is volatile-lru", "noeviction")
	got.want(t, doctor.Warn, "streams", "has no maxmemory", "maxmemory")
	got.want(t, doctor.Fail, "streams", "has 0 replicas, and PUBLISH_MIN_REPLICAS is 1", "lower PUBLISH_MIN_REPLICAS")
	got.want(t, doctor.Warn, "bus", "no router runs", "start `eventbus router`")
	got.want(t, doctor.Note, "pubsub", "the streams Redis carries the announcements, too", "")
}

func TestExamine_ARedisThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	down := redistest.New(t)
	if err := down.Kill(); err != nil {
		t.Fatal(err)
	}
	examine(t, config(down.URL(), "")).want(t, doctor.Fail, "streams "+down.Addr(), "does not answer", "start it")

	locked := redistest.New(t, append(good(), redistest.WithPassword("right"))...)
	wrong := strings.Replace(locked.URL(), "right", "wrong", 1)
	examine(t, config(wrong, "")).want(t, doctor.Fail, "streams", "WRONGPASS", "right user and password")

	narrow := redistest.New(t, good()...)
	if err := narrow.Client().Do(t.Context(), "ACL", "SETUSER", "few", "on", ">secret", "~scan:*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	few := strings.Replace(narrow.URL(), "redis://", "redis://few:secret@", 1)
	examine(t, config(few, "")).want(t, doctor.Fail, "streams", "a router cannot work: XADD", "ACL SETUSER")

	full := redistest.New(t, redistest.WithAppendOnly(), redistest.WithConfig("maxmemory", "1mb"), redistest.WithConfig("maxmemory-policy", "noeviction"))
	got := examine(t, config(full.URL(), ""))
	got.want(t, doctor.Fail, "streams", "of its memory: a router refuses", "raise maxmemory")

	examine(t, config("http://nowhere", "")).want(t, doctor.Fail, "settings", "REDIS_STREAMS_URL", "eventbus router --help")
	bad := config(narrow.URL(), "")
	bad.ShardCount, bad.MaxLag = 0, 10_000
	got = examine(t, bad)
	got.want(t, doctor.Fail, "settings", "SHARD_COUNT", "must be 1-1024")
	got.want(t, doctor.Fail, "settings", "MAX_LAG", "must be 1-9999")
}

// R1 of what broke before: the address led to a replica, and PUBLISH said OK.
func TestExamine_AnAddressThatLeadsToAReplica(t *testing.T) {
	t.Parallel()
	s := redistest.NewSentinel(t, 1, 1, good()...)
	replica := s.Replicas(t)[0]
	got := examine(t, config(replica.URL(), replica.URL()))
	got.want(t, doctor.Fail, "streams", "is a replica of", "redis+sentinel://")
	got.want(t, doctor.Fail, "streams", "a router cannot work: XADD", "name the master")
	got.want(t, doctor.Fail, "pubsub", "is a replica of", "redis+sentinel://")

	cfg := config(s.URL(), s.URL())
	cfg.MinReplicas = 1
	got = examine(t, cfg)
	got.atMost(t, doctor.Warn)
	got.want(t, doctor.OK, "streams "+s.Master(t).Addr(), "is a master with 1 replicas", "")
	got.want(t, doctor.Warn, "streams", "min-replicas-to-write is 0", "CONFIG SET min-replicas-to-write 1")
}

func TestExamine_ACluster(t *testing.T) {
	t.Parallel()
	c := redistest.NewCluster(t, 3, 0, good()...)
	pubsub := redistest.New(t)
	got := examine(t, config(c.URL(), pubsub.URL()))
	got.atMost(t, doctor.Warn)
	got.want(t, doctor.OK, "streams", "serves all slots", "")
	for _, s := range c.Servers() {
		got.want(t, doctor.OK, "streams "+s.Addr(), "is a master", "")
	}
}

func TestExamine_WhatABusLeftInRedis(t *testing.T) {
	t.Parallel()
	redis := redistest.New(t, good()...)
	cfg := config(redis.URL(), "")
	c := redis.Client()
	// A producer with eight shards, one that writes nonsense, and a key of somebody else.
	redis.CLI(t, "XADD", router.ShardKey("scan", 6), "*", "job_id", "j", "stage", "s")
	redis.CLI(t, "XADD", router.DeadKey("scan"), "*", "id", "1-0", "reason", "no stage", "entry", "{}")
	redis.CLI(t, "SET", router.ShardKey("chat", 0), "mine")
	redis.CLI(t, "XADD", router.ShardKey("chat", 1), "*", "job_id", "j", "stage", "s")
	got := examine(t, cfg)
	got.want(t, doctor.Fail, "bus scan", "there is a shard log scan:events:6, which nobody reads: SHARD_COUNT is 4", "that of all producers")
	got.want(t, doctor.Warn, "bus scan", "1 entries were no events; the last one: no stage", "XRANGE scan:events:dead - +")
	got.want(t, doctor.Fail, "bus chat:events:0", "is a string, not a stream", "")
	got.want(t, doctor.Warn, "bus chat:events:1", "no group eventrouter reads it", "start a router")

	redis.CLI(t, "DEL", router.ShardKey("chat", 0))
	bus(t, cfg, c)
	// Another group that fell asleep two hours ago.
	old := fmt.Sprintf("%d-0", time.Now().Add(-2*time.Hour).UnixMilli())
	t.Run("a sleeping group", func(t *testing.T) {
		redis.CLI(t, "XGROUP", "CREATE", router.ShardKey("chat", 2), "archive", old)
		redis.CLI(t, "XADD", router.ShardKey("chat", 2), "*", "job_id", "j", "stage", "s")
		examine(t, cfg).want(t, doctor.Warn, "bus chat:events:2", "the group archive is behind for longer than RETENTION", "XGROUP DESTROY chat:events:2 archive")
	})
}
