package router

import (
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/router/redistest"
)

// fill has Redis refuse what takes memory.
func (s *shardByHand) fill() {
	s.t.Helper()
	ctx := testContext(s.t)
	if err := s.redis.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.redis.Set(ctx, "x", "y", 0).Err(); err == nil {
		s.t.Fatal("Redis is not full: the test shows nothing")
	}
}

// A full Redis refuses to queue any command of a transaction. What was acknowledged gets
// out and is settled all the same, and makes room.
func TestFull_WhatWasAcknowledgedGetsOut(t *testing.T) {
	s := newShardByHand(t, redistest.New(t), "router-0")
	s.own()
	s.bridge.size = 2 // several rounds
	s.add("job_id", "j", "stage", "one")
	s.rounds() // the log's end is known: appending is tried, too
	for _, stage := range []string{"two", "", "three", "done"} {
		final := "0"
		if stage == "done" {
			final = "1"
		}
		s.add("job_id", "j", "stage", stage, "final", final)
	}
	s.add("job_id", "other", "stage", "one")
	s.fill()
	s.rounds()
	ctx := testContext(t)
	if got := s.projected("j"); len(got) != 5 || !strings.Contains(got[4], `"seq":4,"stage":"done"`) {
		t.Errorf("%q, want four entries and the state done", got)
	}
	if got := s.projected("other"); len(got) != 2 {
		t.Errorf("%q, want an entry and a state", got)
	}
	if n := s.redis.XLen(ctx, deadKey("scan")).Val(); n != 1 {
		t.Errorf("%d dead letters, want the one without a stage", n)
	}
	if n := s.redis.Exists(ctx, finalKey(s.key, "j")).Val(); n != 1 {
		t.Error("nothing marks the job as over")
	}
	if pending := s.redis.XPending(ctx, s.key, s.cfg.ConsumerGroup).Val(); pending == nil || pending.Count != 0 {
		t.Errorf("pending %+v, want all settled", pending)
	}
	if err := s.redis.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	s.add("job_id", "other", "stage", "two")
	before := s.ran("evalsha")
	s.rounds()
	if got := s.projected("other"); len(got) != 3 || s.ran("evalsha") > before+1 { // the turn that finds room
		t.Errorf("with room again: %q after %d script calls", got, s.ran("evalsha")-before)
	}
}

// The script is fenced as the transaction is.
func TestFull_AFrozenOwnerTakesNothing(t *testing.T) {
	streams := redistest.New(t)
	one, two := newShardByHand(t, streams, "router-0"), newShardByHand(t, streams, "router-1")
	one.own()
	one.add("job_id", "j", "stage", "one")
	one.rounds()
	one.add("job_id", "j", "stage", "two")
	two.own()
	one.fill()
	one.rounds()
	if got := one.projected("j"); len(got) != 2 || len(one.carrier.bridges) != 0 {
		t.Errorf("%q with %d shards, want it to have let go with an entry and a state", got, len(one.carrier.bridges))
	}
	two.rounds()
	if got := two.projected("j"); len(got) != 3 {
		t.Errorf("%q, want two entries and a state by the new owner", got)
	}
}
