package chaos

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/router/redistest"
)

// anyShard is the shard log of one of the jobs that go on.
func anyShard(r *run, rnd *rand.Rand) string { return shardKey(r.steady[rnd.IntN(len(r.steady))].job) }

// killStreams kills a master of the streams Redis that is in use.
type killStreams struct{ dead *redistest.Server }

func (f *killStreams) Apply(r *run, rnd *rand.Rand) {
	f.dead = r.topology.streams.kill(anyShard(r, rnd))
}

func (f *killStreams) Heal(r *run) { r.topology.streams.revive(f.dead) }

// failoverStreams makes a replica the master: SENTINEL FAILOVER or CLUSTER FAILOVER.
type failoverStreams struct{}

func (f *failoverStreams) Apply(r *run, rnd *rand.Rand) {
	r.topology.streams.failover(anyShard(r, rnd))
}

func (f *failoverStreams) Heal(r *run) { r.topology.streams.waitReady() }

// killPubSub kills the master of the Pub/Sub Redis.
type killPubSub struct{ dead *redistest.Server }

func (f *killPubSub) Apply(r *run, _ *rand.Rand) { f.dead = r.topology.pubsub.kill("") }

func (f *killPubSub) Heal(r *run) { r.topology.pubsub.revive(f.dead) }

// failoverPubSub makes its replica the master.
type failoverPubSub struct{}

func (f *failoverPubSub) Apply(r *run, _ *rand.Rand) { r.topology.pubsub.failover("") }

func (f *failoverPubSub) Heal(r *run) { r.topology.pubsub.waitReady() }

// migrateSlots moves the slots of a shard log and of a job log to other masters,
// and back: keys that are used at that moment.
type migrateSlots struct{}

func (f *migrateSlots) Apply(r *run, rnd *rand.Rand) {
	c := r.topology.streams.cluster
	j := r.steady[rnd.IntN(len(r.steady))].job
	for _, key := range []string{shardKey(j), j.domain + ":state:" + j.id} {
		home := c.MasterFor(r.t, key)
		for _, to := range r.topology.streams.masters() {
			if to != home {
				c.MigrateSlot(r.t, c.Slot(r.t, key), to)
				r.hold(300 * time.Millisecond)
				break
			}
		}
		c.MigrateSlot(r.t, c.Slot(r.t, key), home)
	}
}

func (f *migrateSlots) Heal(r *run) { r.topology.streams.waitReady() }

// stallStreams makes the masters answer nobody for a while.
type stallStreams struct{ how stall }

type stall int

const (
	pause stall = iota // CLIENT PAUSE: commands wait
	sleep              // DEBUG SLEEP: nothing at all happens
)

func (f *stallStreams) Apply(r *run, rnd *rand.Rand) {
	switch f.how {
	case pause:
		r.topology.streams.each("CLIENT", "PAUSE", 2500, []string{"ALL", "WRITE"}[rnd.IntN(2)])
	case sleep:
		r.topology.streams.on(r.topology.streams.master(anyShard(r, rnd)), "DEBUG", "SLEEP", "2.5")
	}
}

func (f *stallStreams) Heal(r *run) { r.topology.streams.waitReady() }

// stallPubSub makes the Pub/Sub Redis answer and deliver nothing for a while.
type stallPubSub struct{}

func (f *stallPubSub) Apply(r *run, _ *rand.Rand) {
	r.topology.pubsub.each("CLIENT", "PAUSE", 2500, "ALL")
}

func (f *stallPubSub) Heal(r *run) { r.topology.pubsub.waitReady() }

// flush deletes the logs, and all that the bus knows.
type flush struct{}

func (f *flush) Apply(r *run, _ *rand.Rand) { r.topology.streams.each("FLUSHALL") }

func (f *flush) Heal(*run) {}

// fill leaves the streams Redis no memory.
type fill struct{}

func (f *fill) Apply(r *run, _ *rand.Rand) {
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	for _, m := range r.topology.streams.masters() {
		info, err := m.Client().Info(ctx, "memory").Result()
		r.check(err)
		_, rest, _ := strings.Cut(info, "used_memory:")
		used, err := strconv.ParseInt(strings.TrimSpace(rest[:strings.IndexByte(rest, '\r')]), 10, 64)
		r.check(err)
		r.topology.streams.on(m, "CONFIG", "SET", "maxmemory", used)
	}
}

func (f *fill) Heal(r *run) { r.topology.streams.each("CONFIG", "SET", "maxmemory", 0) }

// killClients closes connections of both Redis, ten times.
type killClients struct{ typ string }

func (f *killClients) Apply(r *run, _ *rand.Rand) {
	for range 10 {
		for _, s := range []*store{r.topology.streams, r.topology.pubsub} {
			s.each("CLIENT", "KILL", "TYPE", f.typ)
		}
		r.hold(150 * time.Millisecond)
	}
}

func (f *killClients) Heal(*run) {}
