package event_test

import (
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

func TestShardOf_IsWhatLegacyProducersCompute(t *testing.T) {
	for job, want := range map[string]int{
		"904fb02f-3e06-482c-b271-e641d3275d6b": 1,
		"fc052f15-449f-4ce4-aa96-99d400ed7865": 0,
		"11111111-aaaa-bbbb-cccc-000000000001": 3,
	} {
		if got := event.ShardOf(job, 4); got != want {
			t.Errorf("%s: shard %d, want %d", job, got, want)
		}
	}
}

func TestShardOf_IsWithinTheShardsAndUsesAll(t *testing.T) {
	for _, shards := range []int{1, 2, 3, 4, 7, 1024} {
		used := make(map[int]bool)
		for i := range 20 * shards {
			got := event.ShardOf(event.ID{Ms: uint64(i)}.String(), shards)
			if got < 0 || got >= shards {
				t.Fatalf("shard %d of %d", got, shards)
			}
			used[got] = true
		}
		if len(used) < shards*9/10 {
			t.Errorf("%d jobs use %d of %d shards", 20*shards, len(used), shards)
		}
	}
}
