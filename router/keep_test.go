package router

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// Redis before 7.2.5 does not write into its AOF, nor tell its replicas, how far a group
// has read: after a restart or a failover all that was ever read counts as unread.
// Publishing would be refused from then on, and subscribers told of losses that are none.
func TestKeep_WhatWasReadBeforeARestartIsNoLag(t *testing.T) {
	streams, pubsub := redistest.New(t, redistest.WithAppendOnly()), redistest.New(t)
	tb := startBus(t, streams, pubsub, func(c *Config) { c.MaxLag = 50 })
	key := shardKey("scan", event.ShardOf("job", 4))
	tb.waitGroup(key)
	s := tb.subscribe("job", SubscribeOptions{})
	for range 3 {
		for range 40 {
			tb.publish(event.Event{JobID: "job", Stage: "s", Status: "streaming"})
		}
		s.take(40)
	}
	if err := streams.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shard's lag is right", func() bool { return tb.lagOf(key) == 0 && tb.metric("eventbus_shard_lag") == 0 })
	if _, err := tb.Publish(testContext(t), []Request{{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "s"}, Key: "k"}}); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	s.take(1)
	// What has been read goes, as it does after 10 minutes.
	trimmed, err := streams.Client().XTrimMinID(testContext(t), key, tb.groupOf(key).LastDeliveredID).Result()
	if err != nil || trimmed < 100 {
		t.Fatalf("%d entries trimmed, %v", trimmed, err)
	}
	b := &bridge{bridgeDeps: tb.deps, domain: "scan", shard: event.ShardOf("job", 4), key: key}
	if err := b.recount(testContext(t)); err != nil {
		t.Fatal(err)
	}
	dense(t, s.events)
	if lost := tb.metric("eventbus_lost_total"); lost > 0 || len(s.gaps) > 0 {
		t.Errorf("%v events are said to be lost, gaps %v", lost, s.gaps)
	}
}

// What a producer trimmed unread is told, though Redis was restarted since and counts
// wrongly.
func TestKeep_ALossBeforeARestartIsTold(t *testing.T) {
	streams, pubsub := redistest.New(t, redistest.WithAppendOnly()), redistest.New(t)
	key := shardKey("scan", event.ShardOf("job", 4))
	before := startBus(t, streams, pubsub)
	before.waitGroup(key)
	s := before.subscribe("job", SubscribeOptions{})
	before.publish(event.Event{JobID: "job", Stage: "first"})
	s.take(1)
	s.close()
	eventually(t, "all is acknowledged", func() bool { g := before.groupOf(key); return g.Pending == 0 && g.EntriesRead == 1 })
	before.halt()
	for range 30 {
		before.xadd("job", "stage", "legacy")
	}
	if err := streams.Client().XTrimMaxLen(testContext(t), key, 10).Err(); err != nil {
		t.Fatal(err)
	}
	if err := streams.Restart(); err != nil {
		t.Fatal(err)
	}
	after := startBus(t, streams, pubsub)
	eventually(t, "the loss is counted", func() bool { return after.metric("eventbus_lost_total") > 0 })
	eventually(t, "what is left is read", func() bool { return after.lagOf(key) == 0 })
}

// The last entry that was read stays, however old: it shows that nothing after it was
// trimmed. All else goes after 10 minutes.
func TestKeep_TheLastReadEntryStays(t *testing.T) {
	tb := newTestBus(t)
	key := shardKey("scan", event.ShardOf("job", 4))
	tb.waitGroup(key)
	old := uint64(time.Now().Add(-2 * shardLogAge).UnixMilli())
	for i := range uint64(5) {
		id := event.ID{Ms: old + i}.String()
		if err := tb.streams.Client().XAdd(testContext(t), &redis.XAddArgs{Stream: key, ID: id, Values: []string{"job_id", "job", "stage", "s"}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// The group begins 10 minutes back; this one began earlier.
	if err := tb.streams.Client().XGroupSetID(testContext(t), key, "eventrouter", "0").Err(); err != nil {
		t.Fatal(err)
	}
	last := strconv.FormatUint(old+4, 10) + "-0"
	left := func() []redis.XMessage {
		m, err := tb.streams.Client().XRange(testContext(t), key, "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	eventually(t, "what was read is trimmed", func() bool { return len(left()) <= 1 })
	b := &bridge{bridgeDeps: tb.deps, domain: "scan", shard: event.ShardOf("job", 4), key: key}
	if err := b.keep(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := left(); len(got) != 1 || got[0].ID != last {
		t.Errorf("left: %v, want %s", got, last)
	}
}

// Entries that are acknowledged between two looks at the group are no error.
func TestKeep_NothingIsPendingAnyMore(t *testing.T) {
	tb := newTestBus(t)
	key := shardKey("scan", event.ShardOf("job", 4))
	tb.waitGroup(key)
	tb.publish(event.Event{JobID: "job", Stage: "s"})
	eventually(t, "all is acknowledged", func() bool {
		g := tb.groupOf(key)
		return g.Pending == 0 && g.EntriesRead == 1
	})
	b := &bridge{bridgeDeps: tb.deps, domain: "scan", shard: event.ShardOf("job", 4), key: key}
	g := tb.groupOf(key)
	g.Pending = 1
	need, err := b.held(testContext(t), g, event.ID{}, time.Now())
	if err != nil || need.String() != g.LastDeliveredID {
		t.Errorf("needs %s, %v, want %s", need, err, g.LastDeliveredID)
	}
}

// waitGroup waits for the group: one that is made after the first entry does not know
// how far it has read.
func (tb *testBus) waitGroup(key string) {
	eventually(tb.t, "the group is made", func() bool { return tb.groupOf(key).Name != "" })
}

// groupOf is what Redis says of the bus's group.
func (tb *testBus) groupOf(key string) redis.XInfoGroup {
	groups, err := tb.streams.Client().XInfoGroups(context.Background(), key).Result()
	if err == nil {
		for _, g := range groups {
			if g.Name == "eventrouter" {
				return g
			}
		}
	}
	return redis.XInfoGroup{Lag: -1}
}

// lagOf is the group's lag as Redis has it; -1: it does not know.
func (tb *testBus) lagOf(key string) int64 { return tb.groupOf(key).Lag }
