package router

import (
	"context"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/redistest"
)

// A shard that changes hands waits for nobody's next round, which here is minutes away:
// its bridge's end gives the lease back, and who is to have it asks again and again.
func TestShards_AHandoverWaitsForNoRound(t *testing.T) {
	streams := redistest.New(t)
	long := func(c *Config) { c.LeaseTTL = time.Hour }
	one := newBus(t, testConfig(streams.URL(), streams.URL()), long).shards
	two := newBus(t, testConfig(streams.URL(), streams.URL()), long, func(c *Config) { c.PodName = "router-1" }).shards
	began := make(chan shardRef, 100)
	one.start = func(ctx context.Context, _ string, _ int) { <-ctx.Done() }
	two.start = func(ctx context.Context, domain string, shard int) {
		began <- shardRef{domain, shard}
		<-ctx.Done()
	}
	ctx, stop := context.WithCancel(testContext(t))
	one.round(ctx)
	all := len(one.owned)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		two.run(ctx)
	}()
	defer func() { <-ended }()
	defer stop()
	eventually(t, "the second lives", func() bool {
		n, err := streams.Client().ZCard(ctx, membersKey(one.cfg.ConsumerGroup)).Result()
		return err == nil && n == 2
	})
	one.round(ctx) // it learns of the second
	for len(one.owned) > all/2 {
		select {
		case <-one.ended:
			one.reap()
		case <-ctx.Done():
			t.Fatal("nothing tells that the bridges have ended")
		}
	}
	for range all - all/2 {
		select {
		case ref := <-began:
			if one.owned[ref] != nil {
				t.Errorf("both have %v", ref)
			}
		case <-ctx.Done():
			t.Fatal("the second does not get its shards")
		}
	}
	one.leave()
}
