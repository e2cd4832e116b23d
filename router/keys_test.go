package router

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

func TestKeys_AreThoseOfTheContract(t *testing.T) {
	const job = "904fb02f-3e06-482c-b271-e641d3275d6b"
	shard := shardKey("scan", 1)
	got := map[string]string{
		"shard log": shard, "job log": logKey("scan", job), "state": stateKey("scan", job),
		"idempotency": publishedKey(shard, job, "k/1 {x}"), "final mark": finalKey(shard, job), "lease": leaseKey(shard),
		"loss": lossKey(shard), "members": membersKey("eventrouter"), "dead letters": deadKey("scan"),
		"live": liveChannel(job), "domain watch": watchChannel("scan", 1), "probe": probeChannel("t"),
	}
	want := map[string]string{
		"shard log":    "scan:events:1",
		"job log":      "log:{scan:state:904fb02f-3e06-482c-b271-e641d3275d6b}",
		"state":        "scan:state:904fb02f-3e06-482c-b271-e641d3275d6b",
		"idempotency":  "published:{scan:events:1}:904fb02f-3e06-482c-b271-e641d3275d6b/k/1 {x}",
		"final mark":   "final:{scan:events:1}:904fb02f-3e06-482c-b271-e641d3275d6b",
		"lease":        "router:lease:{scan:events:1}",
		"loss":         "router:loss:{scan:events:1}",
		"members":      "router:members:eventrouter",
		"dead letters": "scan:events:dead",
		"live":         "sse:events:904fb02f-3e06-482c-b271-e641d3275d6b",
		"domain watch": "watch:scan:1",
		"probe":        "router:probe:t",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestKeys_OfOneScriptShareASlot asks Redis itself.
func TestKeys_OfOneScriptShareASlot(t *testing.T) {
	r := redistest.New(t, redistest.WithConfig("cluster-enabled", "yes"))
	ctx := testContext(t)
	slot := func(key string) int64 {
		n, err := r.Client().ClusterKeySlot(ctx, key).Result()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	jobs := []string{"904fb02f-3e06-482c-b271-e641d3275d6b", "a", ":", "a:b.c_d-e", "scan:events:0"}
	for _, job := range jobs {
		shard := shardKey("video-encode", 3)
		groups := map[string][]string{
			"project": {logKey("video-encode", job), stateKey("video-encode", job)},
			// The fence reads the lease, publishing and settling set marks.
			"shard": {
				shard, leaseKey(shard), lossKey(shard), finalKey(shard, job), publishedKey(shard, job, "k"),
				publishedKey(shard, job, "}{"), publishedKey(shard, job, "{a}"), publishedKey(shard, job, " "),
			},
		}
		for name, keys := range groups {
			for _, k := range keys {
				if !event.ValidJobID(job) || slot(k) != slot(keys[0]) {
					t.Errorf("%s: %q and %q are in slots %d and %d", name, keys[0], k, slot(keys[0]), slot(k))
				}
			}
		}
	}
	// Jobs and shards spread over the Cluster.
	if slot(logKey("scan", jobs[0])) == slot(logKey("scan", jobs[1])) || slot(shardKey("scan", 0)) == slot(shardKey("scan", 1)) {
		t.Error("all in one slot")
	}
}
