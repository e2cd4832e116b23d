package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// Routers come and go under load; every job keeps its order and loses nothing.
func TestSeedH06_RebalancingKeepsOrder(t *testing.T) {
	streams, pubsub := redistest.New(t), redistest.New(t)
	named := func(i int) func(*Config) {
		return func(c *Config) { c.PodName = fmt.Sprintf("router-%d", i) }
	}
	first := startBus(t, streams, pubsub, named(0))
	const jobs, each = 16, 120
	var wg sync.WaitGroup
	subs := make([]*testSub, jobs)
	for j := range jobs {
		subs[j] = first.subscribe(fmt.Sprintf("job-%d", j), SubscribeOptions{})
	}
	half := make(chan struct{})
	var reached sync.WaitGroup
	reached.Add(jobs)
	for j := range jobs {
		wg.Go(func() {
			for i := range each {
				if i == each/3 {
					reached.Done()
					<-half
				}
				first.publish(event.Event{JobID: fmt.Sprintf("job-%d", j), Stage: "s", Status: "streaming", Final: i == each-1})
			}
		})
	}
	owned := func(tb *testBus) float64 { return tb.metric("eventbus_shard_owned") }
	reached.Wait()
	second := startBus(t, streams, pubsub, named(1))
	third := startBus(t, streams, pubsub, named(2))
	close(half)
	eventually(t, "three routers share the shards", func() bool {
		return owned(first)+owned(second)+owned(third) == 8 && owned(first) > 0 && owned(second) > 0 && owned(third) > 0
	})
	second.halt()
	wg.Wait()
	for _, s := range subs {
		if got := s.drain(); len(got) != each || len(s.gaps) > 0 {
			t.Fatalf("got %d of %d, %d gaps", len(got), each, len(s.gaps))
		}
		dense(t, s.events)
	}
	eventually(t, "two routers share the shards", func() bool { return owned(first)+owned(third) == 8 })
}

// What the bus has not carried yet is refused or kept, never trimmed; consumers of
// dead routers are cleaned up.
func TestSeedH13_UnreadIsNeverTrimmed(t *testing.T) {
	streams, pubsub := redistest.New(t), redistest.New(t)
	stuck := newBus(t, testConfig(streams.URL(), pubsub.URL()), func(c *Config) { c.MaxLag, c.PodName = 600, "router-stuck" })
	stuck.streams = streams
	stuck.deps.step = func(string) error { return errors.New("stuck, says the test") }
	stuck.Start()
	stuck.waitReady()
	accepted := 0
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		_, err := stuck.Publish(testContext(t), []Request{{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "s"}}})
		if err != nil {
			if event.KindOf(err) != event.Exhausted {
				t.Fatalf("refused with %v", err)
			}
			break
		}
		accepted++
	}
	if accepted <= 600 {
		t.Fatalf("refused after %d events", accepted)
	}
	stuck.halt()
	tb := startBus(t, streams, pubsub, func(c *Config) { c.PodName = "router-new" })
	s := tb.subscribe("job", SubscribeOptions{})
	dense(t, s.take(accepted))
	key := shardKey("scan", event.ShardOf("job", 4))
	eventually(t, "the dead router's consumer is gone", func() bool {
		consumers, err := streams.Client().XInfoConsumers(testContext(t), key, "eventrouter").Result()
		return err == nil && len(consumers) == 1 && consumers[0].Name == "router-new"
	})
}

// Old entries are not shown as new ones, neither when the group is made anew nor
// when their job's log is gone.
func TestSeedH14_OldEntriesStayOld(t *testing.T) {
	tb := newTestBus(t, func(c *Config) { c.Retention, c.IdempotencyWindow = 3*time.Second, 6*time.Second })
	key := shardKey("scan", event.ShardOf("job", 4))
	tb.publish(event.Event{JobID: "job", Stage: "one"})
	s := tb.subscribe("job", SubscribeOptions{})
	s.take(1)
	regroup := func() {
		if err := tb.streams.Client().XGroupDestroy(testContext(t), key, "eventrouter").Err(); err != nil {
			t.Fatal(err)
		}
	}
	regroup()
	tb.publish(event.Event{JobID: "job", Stage: "two"})
	if got := stages(s.take(2)); got != "one two" || len(s.gaps) > 0 {
		t.Fatalf("after the group was made anew: %q, gaps %v", got, s.gaps)
	}
	s.close()
	eventually(t, "the job's log has expired", func() bool {
		n, err := tb.streams.Client().Exists(testContext(t), logKey("scan", "job")).Result()
		return err == nil && n == 0
	})
	regroup()
	tb.publish(event.Event{JobID: "job", Stage: "three"})
	late := tb.subscribe("job", SubscribeOptions{})
	if got := stages(late.take(1)); got != "three" {
		t.Fatalf("after the log expired: %q", got)
	}
	if tb.metric("eventbus_dropped_total") < 2 {
		t.Fatal("the old entries were not counted as dropped")
	}
}

// Every key has a life: after a job's, nothing of it is left, and what stays is
// bounded.
func TestSeedH16_EveryKeyHasALife(t *testing.T) {
	tb := newTestBus(t, func(c *Config) { c.Retention, c.IdempotencyWindow = time.Second, 2*time.Second })
	ctx := testContext(t)
	for i := range 20 {
		_, err := tb.Publish(ctx, []Request{
			{Event: &event.Event{Domain: "scan", JobID: fmt.Sprintf("job-%d", i), Stage: "s"}, Key: "k1"},
			{Event: &event.Event{Domain: "scan", JobID: fmt.Sprintf("job-%d", i), Stage: "done", Final: true}, Key: "k2"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tb.xadd("bad job id", "stage", "x")
	watch, err := tb.Watch(ctx, "scan", WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watch.Close()
	bounded := func(key string) bool { // trimmed streams
		return strings.HasPrefix(key, "scan:events:") || strings.HasPrefix(key, "chat:events:")
	}
	eventually(t, "only trimmed streams and leases are left", func() bool {
		keys, err := tb.streams.Client().Keys(ctx, "*").Result()
		if err != nil {
			return false
		}
		for _, key := range keys {
			ttl, err := tb.streams.Client().PTTL(ctx, key).Result()
			if err == nil && ttl == -1 && !bounded(key) {
				t.Fatalf("key %q lives for ever", key)
			}
			if strings.Contains(key, "job-") {
				return false
			}
		}
		return true
	})
}

// Nothing follows the final event: a publish is refused; a legacy entry is counted
// and not shown.
func TestSeedH17_NothingAfterTheFinalEvent(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job", SubscribeOptions{})
	tb.xadd("job", "stage", "reward", "status", "started")
	tb.xadd("job", "stage", "done", "status", "completed")
	tb.xadd("job", "stage", "reward", "status", "completed")
	if got := stages(s.drain()); got != "reward done" {
		t.Fatalf("got %q", got)
	}
	eventually(t, "the legacy entry after the end is counted", func() bool { return tb.metric("eventbus_dropped_total") == 1 })
	eventually(t, "the end is marked", func() bool { // after it was shown
		key := finalKey(shardKey("scan", event.ShardOf("job", 4)), "job")
		n, err := tb.streams.Client().Exists(testContext(t), key).Result()
		return err == nil && n == 1
	})
	_, err := tb.Publish(testContext(t), []Request{{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "x"}}})
	if event.KindOf(err) != event.Over {
		t.Fatalf("publish after a legacy end: %v", err)
	}
	late := tb.subscribe("job", SubscribeOptions{})
	if got := stages(late.drain()); got != "reward done" {
		t.Fatalf("replay %q", got)
	}
}

// Duplicates, repairs, gaps and drops are counted apart.
func TestSeedH18_SeparateMetrics(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job", SubscribeOptions{})
	tb.publish(event.Event{JobID: "job", Stage: "one"})
	s.take(1)
	counts := func() string {
		return fmt.Sprint(tb.metric("eventbus_announcement_duplicates_total"), tb.metric("eventbus_announcement_holes_total"),
			tb.metric("eventbus_gaps_total"), tb.metric("eventbus_dropped_total"))
	}
	if got := counts(); got != "0 0 0 0" {
		t.Fatalf("duplicates, holes, gaps, drops: %s", got)
	}
	// The same announcement again: a duplicate, and nothing else.
	e := s.events[0]
	again := announcement{domain: "scan", jobID: "job", events: []*event.Event{e}}
	tb.pubsub.Client().Publish(testContext(t), liveChannel("job"), again.append(nil))
	eventually(t, "the duplicate is counted", func() bool { return counts() == "1 0 0 0" })
	// An announcement whose predecessor was lost: a hole, repaired from the log.
	next := *e
	next.ID.Seq, next.Seq = e.ID.Seq+7, 9
	hole := announcement{domain: "scan", jobID: "job", prev: event.ID{Ms: e.ID.Ms, Seq: e.ID.Seq + 6}, events: []*event.Event{&next}}
	tb.pubsub.Client().Publish(testContext(t), liveChannel("job"), hole.append(nil))
	eventually(t, "the hole is counted", func() bool { return counts() == "1 1 0 0" })
	tb.xadd("job", "stage", "done")
	tb.xadd("job", "stage", "late")
	eventually(t, "the drop is counted", func() bool { return tb.metric("eventbus_dropped_total") == 1 })
	if n := tb.metric("eventbus_gaps_total"); n != 0 {
		t.Fatalf("%v gaps", n)
	}
}

// Without Pub/Sub events arrive within the head check interval and the bus says
// that it is degraded; without Streams Redis it says that it cannot serve.
func TestSeedR04_ReadinessTellsTheTruth(t *testing.T) {
	tb := newTestBus(t)
	s := tb.subscribe("job", SubscribeOptions{})
	eventually(t, "the probe has passed", func() bool { return tb.Status() == Status{} })
	if err := tb.pubsub.Kill(); err != nil {
		t.Fatal(err)
	}
	tb.publish(event.Event{JobID: "job", Stage: "one"})
	began := time.Now()
	s.take(1)
	// Generous: the machine may be busy. The interval is 1 s.
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("delivered after %s without Pub/Sub", took)
	}
	eventually(t, "degraded", func() bool { return tb.Status().Degraded != "" && tb.Status().Err == nil })
	if err := tb.streams.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready", func() bool { return tb.Status().Err != nil })
	if err := errors.Join(tb.pubsub.Start(), tb.streams.Start()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is well again", func() bool { return tb.Status() == Status{} })
	s.close()
	// Streams Redis kept nothing: the job begins anew.
	fresh := tb.subscribe("job-2", SubscribeOptions{})
	tb.publish(event.Event{JobID: "job-2", Stage: "done", Final: true})
	fresh.drain()
}

// A finished subscription leaves nothing behind.
func TestSeedH08_FinishedSubscriptionsLeaveNothing(t *testing.T) {
	tb := newTestBus(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	for i := range 1000 {
		id := fmt.Sprintf("job-%d", i)
		s, err := tb.Subscribe(ctx, "scan", id, SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		tb.publish(event.Event{JobID: id, Stage: "done", Final: true})
		for err == nil {
			_, err = s.Next(ctx, patience)
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		s.Close()
	}
	if n := tb.metric("eventbus_topics") + tb.metric("eventbus_subscribers"); n != 0 {
		t.Fatalf("%v topics and subscribers are left", n)
	}
	eventually(t, "Redis has no channel but the probe's", func() bool {
		channels, err := tb.pubsub.Client().PubSubChannels(ctx, "sse:*").Result()
		return err == nil && len(channels) == 0
	})
}
