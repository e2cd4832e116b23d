package router

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// predecessor does with Redis what the router that eventbus replaces does: it reads every
// shard in the group eventrouter, writes its own form of the state under the key that we use,
// too, and publishes its own form of the event on the channel that we use, too. It returns
// the entries that it has read, as job/ID, once it has n.
func (tb *testBus) predecessor(ctx context.Context, n int) (map[string]bool, error) {
	r, read := tb.streams.Client(), map[string]bool{}
	var streams []string
	for shard := range 4 {
		key := shardKey("scan", shard)
		if err := r.XGroupCreateMkStream(ctx, key, "eventrouter", "0").Err(); err != nil {
			return nil, err
		}
		streams = append(streams, key)
	}
	streams = append(streams, ">", ">", ">", ">")
	for len(read) < n {
		got, err := r.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "eventrouter", Consumer: "predecessor-0", Streams: streams, Count: 7, Block: 50 * time.Millisecond}).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		for _, s := range got {
			for _, m := range s.Messages {
				job := fmt.Sprint(m.Values["job_id"])
				text := fmt.Sprintf(`{"job_id": %q, "stage": %q, "status": %q, "seq": %v, "ts": "1766830000.5", "progress": 0}`, job, m.Values["stage"], m.Values["status"], m.Values["seq"])
				if err := errors.Join(
					r.Set(ctx, stateKey("scan", job), text, time.Hour).Err(),
					tb.pubsub.Client().Publish(ctx, liveChannel(job), text).Err(),
					r.XAck(ctx, s.Stream, "eventrouter", m.ID).Err(),
				); err != nil {
					return nil, err
				}
				read[job+"/"+m.ID] = true
			}
		}
	}
	return read, nil
}

// Both systems run side by side on the same Redis while browsers move from one to the other
// (docs/deploy.md): with a consumer group of its own the bus delivers everything once and in
// order, takes nothing away, and is not led astray by what the other one writes.
func TestMigration_BesideThePredecessorBothGetEverything(t *testing.T) {
	tb := newTestBus(t, func(c *Config) { c.ConsumerGroup = "eventbus" })
	ctx := testContext(t)
	const jobs, each = 5, 40
	type result struct {
		read map[string]bool
		err  error
	}
	done := make(chan result, 1)
	go func() {
		read, err := tb.predecessor(ctx, jobs*each)
		done <- result{read, err}
	}()

	var subs []*testSub
	for j := range jobs {
		subs = append(subs, tb.subscribe("job-"+strconv.Itoa(j), SubscribeOptions{}))
	}
	var ids []string
	for i := range each {
		stage := "stage-" + strconv.Itoa(i)
		if i == each-1 {
			stage = "done"
		}
		for j := range jobs {
			job := "job-" + strconv.Itoa(j)
			ids = append(ids, job+"/"+tb.xadd(job, "stage", stage, "status", "started", "seq", strconv.Itoa(10*(i+1)), "ts", "1766830000.5"))
		}
	}
	for _, s := range subs {
		events := s.drain()
		if dense(t, events); len(events) != each || len(s.gaps) > 0 {
			t.Errorf("%d events and %d gaps, want %d and 0", len(events), len(s.gaps), each)
		}
	}
	other := <-done
	if other.err != nil {
		t.Fatal(other.err)
	}
	for _, id := range ids {
		if !other.read[id] {
			t.Errorf("the other system did not get %s", id)
		}
	}
	// The key of the state is the one thing that both write: what is there is ours, or nobody's.
	for j := range jobs {
		job := "job-" + strconv.Itoa(j)
		state, err := tb.State(ctx, "scan", job)
		if err == nil && (state.Stage != "done" || !state.Final) || err != nil && event.KindOf(err) != event.NotFound {
			t.Errorf("state of %s: %+v, %v", job, state, err)
		}
	}
}
