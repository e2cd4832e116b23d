package router

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// handCarrier is a carrier that a test turns by hand, with one bridge.
func handCarrier(t *testing.T, tb *testBus) (*carrier, *bridge) {
	t.Helper()
	c := newCarrier(tb.deps)
	b := newBridge(context.Background(), tb.deps, "scan", 0)
	c.bridges = []*bridge{b}
	t.Cleanup(c.disconnect)
	return c, b
}

// A router can lose a lease and get it back without noticing: it was frozen all the
// while. What the owner in between took and left comes before what is new.
func TestTurn_OwnerThatWasAwayTakesWhatAnotherLeft(t *testing.T) {
	streams := redistest.New(t)
	url := streams.URL()
	one := newBus(t, testConfig(url, url))
	two := newBus(t, testConfig(url, url), func(c *Config) { c.PodName = "router-1" })
	key, ctx, r := shardKey("scan", 0), testContext(t), streams.Client()
	own := func(tb *testBus) {
		if err := r.Set(ctx, leaseKey(key), tb.deps.token, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	take := func(c *carrier, b *bridge) []string {
		t.Helper()
		if _, err := c.turn(ctx); err != nil {
			t.Fatal(err)
		}
		if len(c.bridges) == 0 {
			t.Fatal("the lease was taken for another's")
		}
		if b.batch == nil {
			return nil
		}
		return b.batch.ids
	}
	first, firstBridge := handCarrier(t, one)
	second, secondBridge := handCarrier(t, two)
	own(one)
	if got := take(first, firstBridge); got != nil {
		t.Fatalf("took %v of an empty log", got)
	}
	var ids []string
	for range 3 {
		ids = append(ids, r.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []any{"job_id", "j", "stage", "s"}}).Val())
	}
	own(two)
	secondBridge.size = 2
	if got := take(second, secondBridge); !slices.Equal(got, ids[:2]) {
		t.Fatalf("the second took %v of %v", got, ids)
	}
	own(one)
	if got := take(first, firstBridge); !slices.Equal(got, ids[:2]) {
		t.Fatalf("the first took %v; the second had left %v", got, ids[:2])
	}
}

// A shard log that is no stream stops its own shard, not those that share its rounds.
func TestCarrier_ABrokenShardLogHoldsUpNobodyElse(t *testing.T) {
	streams, pubsub := redistest.New(t), redistest.New(t)
	broken := event.ShardOf("broken", 4)
	if err := streams.Client().Set(testContext(t), shardKey("scan", broken), "no stream", 0).Err(); err != nil {
		t.Fatal(err)
	}
	tb := startBus(t, streams, pubsub)
	other := "job-0"
	for i := 0; event.ShardOf(other, 4) == broken; i++ {
		other = "job-" + string(rune('a'+i))
	}
	tb.publish(event.Event{JobID: other, Stage: "one"})
	tb.publish(event.Event{JobID: other, Stage: "done", Final: true})
	if got := stages(tb.subscribe(other, SubscribeOptions{}).drain()); got != "one done" {
		t.Fatalf("the other shard's job has %q", got)
	}
	if err := streams.Client().Del(testContext(t), shardKey("scan", broken)).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shard works once its log is a stream", func() bool {
		_, err := tb.Publish(testContext(t), []Request{{Event: &event.Event{Domain: "scan", JobID: "broken", Stage: "done", Final: true}, Key: "1"}})
		return err == nil
	})
	if got := stages(tb.subscribe("broken", SubscribeOptions{}).drain()); got != "done" {
		t.Fatalf("the mended shard's job has %q", got)
	}
}
