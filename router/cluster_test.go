package router

import (
	"errors"
	"sync"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

func (tb *testBus) cluster() *Cluster {
	tb.t.Helper()
	c, err := tb.Cluster(testContext(tb.t))
	if err != nil {
		tb.t.Fatal(err)
	}
	return c
}

// clusterWhere waits for a reading; they are a second old at most.
func (tb *testBus) clusterWhere(what string, ok func(*Cluster) bool) *Cluster {
	tb.t.Helper()
	var c *Cluster
	eventually(tb.t, what, func() bool { c = tb.cluster(); return ok(c) })
	return c
}

func (c *Cluster) shard(key string) ShardState {
	for _, s := range c.Shards {
		if shardKey(s.Domain, s.Shard) == key {
			return s
		}
	}
	return ShardState{}
}

func TestCluster_IsWhatIsInRedisAndWhatTheRouterCounts(t *testing.T) {
	tb := newTestBus(t)
	second := startBus(t, tb.streams, tb.pubsub, func(c *Config) { c.PodName = "router-1" })
	sub := tb.subscribe("j", SubscribeOptions{})
	for _, stage := range []string{"queued", "vision", "rule"} {
		tb.publish(event.Event{JobID: "j", Stage: stage})
	}
	sub.take(3)
	tb.xadd("bad", "stage", "")
	key := shardKey("scan", event.ShardOf("j", 4))
	both := func(c *Cluster) bool {
		return len(c.Members) == 2 && c.Members[0].Shards == 4 && c.Members[1].Shards == 4 && len(c.Redis) == 2 && !c.Redis[1].Probed.IsZero() &&
			c.shard(key).Added >= 3 && c.shard(key).Lag+c.shard(key).Pending == 0 && len(c.Domains) == 2 && c.Domains[0].DeadLetters == 1
	}
	c := tb.clusterWhere("both routers share 8 shards", both)
	if c.Members[0].Name != "router-0" || !c.Members[0].Answers || c.Members[1].Answers {
		t.Errorf("members %+v", c.Members)
	}
	if r := c.Router; r.Name != "router-0" || r.Published != 3 || r.Topics != 1 || r.Subscribers != 1 {
		t.Errorf("router %+v", r)
	}
	other := second.clusterWhere("the other sees the same", both)
	if other.Router.Name != "router-1" || other.Router.Published != 0 || other.shard(key).Added != c.shard(key).Added {
		t.Errorf("router %+v, shard %+v", other.Router, other.shard(key))
	}
	eventually(t, "3 are projected and announced", func() bool { // counted after they were read
		p, q := tb.cluster().Router, second.cluster().Router
		return p.Projected+q.Projected == 3 && p.Announced+q.Announced == 3
	})
	for i, use := range []string{"streams", "pubsub"} {
		if n := c.Redis[i]; n.Use != use || n.Err != "" || n.Info["role"] != "master" || n.Ping <= 0 || n.Address == "" {
			t.Errorf("%s: %+v", use, n)
		}
	}
	if n := c.Redis[1]; n.Probe <= 0 || n.Trouble != "" {
		t.Errorf("probe %v, %q", n.Probe, n.Trouble)
	}
	says(t, c.Findings, "1 entry of scan were no events")
	says(t, c.Findings, "no append-only file") // the tests' Redis has none
}

func TestCluster_ManyWhoLookShareOneReading(t *testing.T) {
	tb := newTestBus(t)
	tb.clusterWhere("a reading", func(c *Cluster) bool { return len(c.Members) == 1 })
	seen := make([]*Cluster, 40)
	var all sync.WaitGroup
	for i := range seen {
		all.Go(func() { seen[i], _ = tb.Cluster(testContext(t)) })
	}
	all.Wait()
	different := map[*Cluster]bool{}
	first, last := seen[0].Time, seen[0].Time
	for _, c := range seen {
		different[c] = true
		if c.Time.Before(first) {
			first = c.Time
		}
		if c.Time.After(last) {
			last = c.Time
		}
	}
	if span := last.Sub(first); len(different) > 2+int(span/clusterAge) {
		t.Errorf("%d readings for 40 who asked at once", len(different))
	}
}

func TestCluster_ARedisThatMayNotTellIsNotAway(t *testing.T) {
	tb := newTestBus(t)
	tb.streams.CLI(t, "ACL", "SETUSER", "default", "-info")
	c := tb.clusterWhere("it does not tell", func(c *Cluster) bool { return c.Redis[0].Unknown != "" })
	if c.Redis[0].Err != "" || !c.Shards[0].Known {
		t.Errorf("%+v, shard %+v", c.Redis[0], c.Shards[0])
	}
	says(t, c.Findings, "does not tell how it is: NOPERM")
}

func TestCluster_ARedisThatIsAwayIsAFinding(t *testing.T) {
	tb := newTestBus(t)
	if err := tb.pubsub.Kill(); err != nil {
		t.Fatal(err)
	}
	c := tb.clusterWhere("the probe fails", func(c *Cluster) bool { return c.Redis[1].Trouble != "" && c.Router.Degraded != "" })
	says(t, c.Findings, "does not answer: the head check delivers")
	if err := tb.streams.Kill(); err != nil {
		t.Fatal(err)
	}
	c = tb.clusterWhere("the streams Redis is away", func(c *Cluster) bool { return c.Redis[0].Err != "" })
	says(t, c.Findings, "nothing can be published")
	if c.Shards[0].Known {
		t.Errorf("the shard is known: %+v", c.Shards[0])
	}
	if err := errors.Join(tb.pubsub.Start(), tb.streams.Start()); err != nil {
		t.Fatal(err)
	}
	tb.clusterWhere("all is well again", func(c *Cluster) bool {
		return c.Redis[0].Err == "" && c.Redis[1].Trouble == "" && c.Router.Degraded == "" && c.Shards[0].Owner != ""
	})
}
