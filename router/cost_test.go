package router

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// What an event costs Redis is counted in commands, which no busy machine changes:
// more of them is a regression, whatever the clock says.

// redisCalls is how often each command ran, those that scripts call included.
func redisCalls(t *testing.T, s *redistest.Server) map[string]int {
	t.Helper()
	info, err := s.Client().Info(context.Background(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	calls := make(map[string]int)
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok {
			continue
		}
		n, _, _ := strings.Cut(rest, ",")
		if calls[name], err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	return calls
}

// costOf is how often commands ran while f did.
func costOf(t *testing.T, s *redistest.Server, f func()) map[string]int {
	t.Helper()
	before := redisCalls(t, s)
	f()
	cost := redisCalls(t, s)
	for name, n := range before {
		cost[name] -= n
	}
	return cost
}

func wantCost(t *testing.T, got, most map[string]int) {
	t.Helper()
	for name, n := range most {
		if got[name] > n {
			t.Errorf("%s ran %d times, at most %d are needed", name, got[name], n)
		}
	}
}

// An event with a key is one XADD and one SET; what its call shares with others is
// the script and one MGET.
func TestCost_Publish(t *testing.T) {
	streams := redistest.New(t)
	tb := newBus(t, testConfig(streams.URL(), "")) // not started: nothing else asks Redis
	reqs := make([]Request, 100)
	for i := range reqs {
		reqs[i] = Request{Event: &event.Event{Domain: "scan", JobID: "job", Stage: "s"}, Key: strconv.Itoa(i)}
	}
	publish := func() {
		if _, err := tb.Publish(testContext(t), reqs); err != nil {
			t.Fatal(err)
		}
	}
	publish() // the script is known now
	for i := range reqs {
		reqs[i].Key += "-again"
	}
	wantCost(t, costOf(t, streams, publish), map[string]int{"evalsha": 1, "mget": 1, "xadd": 100, "set": 100, "get": 0, "exists": 0})
}

// A batch is three round trips, whatever is in it: it is taken in a transaction, projected
// in another (in a script, a call for 64 events, those of jobs whose log's end is not
// known, and those behind the first 128), and settled with the next one's taking. A job
// that the bridge wrote just now costs its entries and one SET for its state.
func TestCost_Bridge(t *testing.T) {
	streams, pubsub := redistest.New(t), redistest.New(t)
	tb := newBus(t, testConfig(streams.URL(), pubsub.URL()))
	const jobs, each = 16, 8
	c, key, ctx := streams.Client(), shardKey("scan", 0), testContext(t)
	if err := c.Set(ctx, leaseKey(key), tb.deps.token, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	b := newBridge(ctx, tb.deps, "scan", 0)
	carrier := newCarrier(tb.deps)
	carrier.bridges = []*bridge{b}
	t.Cleanup(carrier.disconnect)
	b.size, b.cleaned = batchEntries, time.Now()
	b.tails.slack = time.Hour
	round := func(want int) {
		t.Helper()
		n, err := carrier.round()
		if err != nil || n != want {
			t.Fatalf("a round of %d entries, want %d: %v", n, want, err)
		}
	}
	add := func() {
		for i := range jobs * each {
			e := &event.Event{JobID: fmt.Sprintf("job-%d", i%jobs), Stage: "s"}
			values := appendShardFields(nil, e, timestamp(time.Now()))
			if err := c.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: values}).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	add()
	round(jobs * each) // makes the group, too
	round(0)           // settles it
	add()
	cost := costOf(t, streams, func() {
		round(jobs * each)
		round(0)
	})
	wantCost(t, cost, map[string]int{
		"evalsha": 0, "multi": 3, "exec": 3, "watch": 3, "mget": 3, "xreadgroup": 2, "xautoclaim": 0, "xack": 1, "xadd": jobs * each,
		"xlen": 0, "xrevrange": 0, "set": jobs, "pexpire": 0, "time": 0, "xrange": 0,
	})
	b.tails.clear()
	add()
	cost = costOf(t, streams, func() { round(jobs * each) })
	wantCost(t, cost, map[string]int{
		"evalsha": jobs * each / projectEvents, "multi": 1, "xadd": jobs * each, "xlen": 0, "xrevrange": jobs, "set": jobs, "pexpire": 2 * jobs, "xrange": 0,
	})
	add()
	cost = costOf(t, pubsub, func() { round(jobs * each) })
	wantCost(t, cost, map[string]int{"publish": jobs, "pubsub|numsub": 1})
}
