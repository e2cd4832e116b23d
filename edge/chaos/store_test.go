package chaos

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// store is one Redis of the bus, of one of the three shapes: exactly one of the
// fields is set.
type store struct {
	t        testing.TB
	single   *redistest.Server
	sentinel *redistest.Sentinel
	cluster  *redistest.Cluster
	// door is in front of a single server: nothing else has one address.
	door *door
	// relay, where there is one, is the address instead.
	relay *relay
}

// newSingle starts one server behind a door.
func newSingle(t testing.TB, opts ...redistest.Option) *store {
	t.Helper()
	s := redistest.New(t, opts...)
	return &store{t: t, single: s, door: newDoor(t, address(t, "127.0.0.1"), s.Addr())}
}

func (s *store) url() string {
	switch {
	case s.sentinel != nil:
		return s.sentinel.URL()
	case s.cluster != nil:
		return s.cluster.URL()
	}
	if s.relay != nil {
		return "redis://" + s.relay.addr + "/0"
	}
	return "redis://" + s.door.proxy.Listen + "/0"
}

// replicas is how many each master has.
func (s *store) replicas() int {
	switch {
	case s.sentinel != nil:
		return len(s.sentinel.Servers()) - 1
	case s.cluster != nil:
		return 1
	}
	return 0
}

// master is the server that has a key now.
func (s *store) master(key string) *redistest.Server {
	s.t.Helper()
	switch {
	case s.sentinel != nil:
		return s.sentinel.Master(s.t)
	case s.cluster != nil:
		return s.cluster.MasterFor(s.t, key)
	}
	return s.single
}

// masters are all servers that take writes now.
func (s *store) masters() []*redistest.Server {
	s.t.Helper()
	if s.cluster == nil {
		return []*redistest.Server{s.master("")}
	}
	var out []*redistest.Server
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for _, server := range s.cluster.Servers() {
		if !server.Running() {
			continue
		}
		role, err := server.Client().Do(ctx, "ROLE").Slice()
		if err == nil && len(role) > 0 && role[0] == "master" {
			out = append(out, server)
		}
	}
	return out
}

// kill kills the master of a key. A single one stays down until revive.
func (s *store) kill(key string) *redistest.Server {
	s.t.Helper()
	m := s.master(key)
	_ = m.Kill() // a fault that does not happen fails the test by itself
	return m
}

// revive starts a killed server: a single one at once, another when its successor
// reigns.
func (s *store) revive(dead *redistest.Server) {
	s.t.Helper()
	if s.sentinel != nil {
		s.sentinel.WaitFailover(s.t, dead)
	}
	if s.cluster != nil {
		s.cluster.WaitFailover(s.t, dead)
	}
	_ = dead.Start()
	s.waitReady()
}

// failover moves the master's role to a replica.
func (s *store) failover(key string) {
	s.t.Helper()
	if s.sentinel != nil {
		s.sentinel.Failover(s.t)
	}
	if s.cluster != nil {
		s.cluster.Failover(s.t, key)
	}
}

// waitReady waits until every server has its place and its data.
func (s *store) waitReady() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var err error
	switch {
	case s.sentinel != nil:
		err = s.sentinel.WaitReady(ctx)
	case s.cluster != nil:
		err = s.cluster.WaitReady(ctx)
	default:
		err = s.single.WaitReady(ctx)
	}
	if err != nil {
		s.t.Errorf("Redis is not well: %v", err)
	}
}

// each runs a command on every master. That one of them is away is no failure.
func (s *store) each(args ...any) {
	s.t.Helper()
	for _, m := range s.masters() {
		s.on(m, args...)
	}
}

func (s *store) on(server *redistest.Server, args ...any) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := server.Client().Do(ctx, args...).Err(); err != nil {
		s.t.Logf("%v at %s: %v", args, server.Addr(), err)
	}
}

// shardKey is the shard log of a job.
func shardKey(j *job) string {
	return fmt.Sprintf("%s:events:%d", j.domain, event.ShardOf(j.id, 4))
}

// topology is what the streams and the announcements stand on.
type topology struct {
	name            string
	streams, pubsub *store
	// minReplicas is PUBLISH_MIN_REPLICAS: all that there are.
	minReplicas int
}

// newTopology starts real servers.
func newTopology(t testing.TB, name string) *topology {
	t.Helper()
	replicated := []redistest.Option{
		redistest.WithAppendOnly(), redistest.WithConfig("min-replicas-to-write", "1"), redistest.WithConfig("min-replicas-max-lag", "5"),
	}
	top := &topology{name: name}
	began := time.Now()
	switch name {
	case "standalone":
		top.streams, top.pubsub = newSingle(t, redistest.WithAppendOnly()), newSingle(t)
	case "sentinel":
		top.streams = &store{t: t, sentinel: redistest.NewSentinel(t, 2, 3, replicated...)}
		top.pubsub = &store{t: t, sentinel: redistest.NewSentinel(t, 1, 3)}
	case "cluster":
		top.streams = &store{t: t, cluster: redistest.NewCluster(t, 3, 1, replicated...)}
		top.pubsub = newSingle(t)
	default:
		t.Fatal(errors.New("unknown topology " + name))
	}
	top.minReplicas = top.streams.replicas()
	t.Logf("%s: Redis is ready after %v", name, time.Since(began).Round(time.Millisecond))
	return top
}
