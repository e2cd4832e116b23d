package chaos

import (
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// fault is something that breaks.
type fault interface {
	// Apply breaks it.
	Apply(r *run, rnd *rand.Rand)
	// Heal makes it whole and returns when it is. Processes and doors that are left
	// are healed by the round.
	Heal(r *run)
}

// kind is a fault and what is known about it.
type kind struct {
	name string
	// make makes one; it may keep what it broke.
	make func() fault
	// hold is the time between Apply and Heal.
	hold time.Duration
	// target is what breaks: combinations take different ones.
	target string
	// on tells whether the topology has what breaks; nil: all have.
	on func(*topology) bool
	// mayGap: what a subscriber has seen may be rolled back, and it is told.
	mayGap bool
	// wipes: acknowledged events are gone, and subscribers must be told.
	wipes bool
	// expect is an answer that publishers must have got; OK: any.
	expect codes.Code
	// quick ones are in the 60-second cut.
	quick bool
}

func hasReplicas(t *topology) bool       { return t.minReplicas > 0 }
func hasSentinelPubSub(t *topology) bool { return t.pubsub.sentinel != nil }
func hasCluster(t *topology) bool        { return t.streams.cluster != nil }
func hasStreamsDoor(t *topology) bool    { return t.streams.door != nil }
func hasPubSubDoor(t *topology) bool     { return t.pubsub.door != nil }

// kinds are all faults, in the order of the table.
func kinds() []kind {
	const s = time.Second
	return []kind{
		{name: "router SIGKILL", make: func() fault { return &killRouters{n: 1} }, hold: 2 * s, target: "router", quick: true},
		{name: "all routers SIGKILL", make: func() fault { return &killRouters{n: 3} }, hold: s, target: "router"},
		{name: "router SIGSTOP beyond its lease", make: func() fault { return new(freezeRouter) }, hold: 2 * leaseTTL, target: "router", quick: true},
		{name: "routers rolled by SIGTERM", make: func() fault { return new(rollRouters) }, target: "router"},
		{name: "routers scaled 3-1-3-1-3", make: func() fault { return new(scaleRouters) }, target: "router"},
		{name: "edge SIGKILL", make: func() fault { return new(killEdge) }, hold: s, target: "edge", quick: true},
		{name: "edge SIGSTOP", make: func() fault { return new(freezeEdge) }, hold: 4 * s, target: "edge"},
		{name: "edges rolled by SIGTERM", make: func() fault { return new(rollEdges) }, target: "edge"},
		{name: "streams Redis SIGKILL", make: func() fault { return new(killStreams) }, hold: s, target: "streams", mayGap: true, quick: true},
		{name: "streams Redis failover", make: func() fault { return new(failoverStreams) }, target: "streams", on: hasReplicas, mayGap: true, quick: true},
		{name: "Cluster slots migrated", make: func() fault { return new(migrateSlots) }, target: "streams", on: hasCluster},
		{name: "streams Redis CLIENT PAUSE", make: func() fault { return &stallStreams{how: pause} }, hold: 3 * s, target: "streams", mayGap: true},
		{name: "streams Redis DEBUG SLEEP", make: func() fault { return &stallStreams{how: sleep} }, hold: s, target: "streams", mayGap: true},
		{name: "streams Redis FLUSHALL", make: func() fault { return new(flush) }, hold: s, target: "streams", mayGap: true, wipes: true},
		{name: "streams Redis at maxmemory", make: func() fault { return new(fill) }, hold: 3 * s, target: "streams", expect: codes.ResourceExhausted},
		{name: "CLIENT KILL TYPE normal", make: func() fault { return &killClients{typ: "normal"} }, target: "clients"},
		{name: "CLIENT KILL TYPE pubsub", make: func() fault { return &killClients{typ: "pubsub"} }, target: "clients", quick: true},
		{name: "Pub/Sub Redis SIGKILL", make: func() fault { return new(killPubSub) }, hold: 2 * s, target: "pubsub"},
		{name: "Pub/Sub Redis CLIENT PAUSE", make: func() fault { return new(stallPubSub) }, hold: 3 * s, target: "pubsub"},
		{name: "Pub/Sub Redis failover", make: func() fault { return new(failoverPubSub) }, target: "pubsub", on: hasSentinelPubSub},
		{name: "latency 50-150 ms", make: func() fault { return new(slowNetwork) }, hold: 4 * s, target: "network"},
		{name: "router cut off one way", make: func() fault { return new(cutRouter) }, hold: 5 * s, target: "network"},
		{name: "streams Redis cut off one way", make: func() fault { return new(cutStreams) }, hold: 4 * s, target: "network", on: hasStreamsDoor},
		{name: "Pub/Sub Redis cut off one way", make: func() fault { return new(cutPubSub) }, hold: 4 * s, target: "network", on: hasPubSubDoor},
		{name: "connections reset", make: func() fault { return new(resetAll) }, target: "network"},
	}
}

// killRouters kills n routers at once.
type killRouters struct{ n int }

func (f *killRouters) Apply(r *run, rnd *rand.Rand) {
	for _, i := range rnd.Perm(len(r.routers))[:min(f.n, len(r.routers))] {
		r.check(r.routers[i].kill())
	}
}

func (f *killRouters) Heal(*run) {}

// freezeRouter stops a router for longer than its lease lasts: it wakes up as an
// owner that is none.
type freezeRouter struct{ node *node }

func (f *freezeRouter) Apply(r *run, rnd *rand.Rand) {
	f.node = r.routers[rnd.IntN(len(r.routers))]
	r.check(f.node.signal(sigStop))
}

func (f *freezeRouter) Heal(r *run) { r.check(f.node.signal(sigCont)) }

// stopPatience is more than DRAIN_TIMEOUT.
const stopPatience = 30 * time.Second

// rollRouters ends and starts one router after the other.
type rollRouters struct{}

func (f *rollRouters) Apply(r *run, _ *rand.Rand) { roll(r, r.routers) }

func (f *rollRouters) Heal(*run) {}

func roll(r *run, nodes []*node) {
	for _, n := range nodes {
		r.check(n.stop(stopPatience))
		r.world.start(n)
	}
}

// scaleRouters takes all but one away, twice, and brings them back.
type scaleRouters struct{}

func (f *scaleRouters) Apply(r *run, rnd *rand.Rand) {
	for range 2 {
		stay := rnd.IntN(len(r.routers))
		var others []*node
		for i, n := range r.routers {
			if i != stay {
				r.check(n.stop(stopPatience))
				others = append(others, n)
			}
		}
		r.hold(500 * time.Millisecond)
		r.world.start(others...)
		r.hold(500 * time.Millisecond)
	}
}

func (f *scaleRouters) Heal(*run) {}

// killEdge kills an edge.
type killEdge struct{}

func (f *killEdge) Apply(r *run, rnd *rand.Rand) { r.check(r.edges[rnd.IntN(len(r.edges))].kill()) }

func (f *killEdge) Heal(*run) {}

// freezeEdge stops an edge: its browsers and its routers see open connections.
type freezeEdge struct{ node *node }

func (f *freezeEdge) Apply(r *run, rnd *rand.Rand) {
	f.node = r.edges[rnd.IntN(len(r.edges))]
	r.check(f.node.signal(sigStop))
}

func (f *freezeEdge) Heal(r *run) { r.check(f.node.signal(sigCont)) }

// rollEdges ends and starts one edge after the other.
type rollEdges struct{}

func (f *rollEdges) Apply(r *run, _ *rand.Rand) { roll(r, r.edges) }

func (f *rollEdges) Heal(*run) {}

// slowNetwork makes every way slow and uneven.
type slowNetwork struct{}

func (f *slowNetwork) Apply(r *run, _ *rand.Rand) {
	for _, d := range r.allDoors() {
		for _, way := range []direction{toServer, toClient} {
			d.poison("latency", way, map[string]int{"latency": 50, "jitter": 25})
		}
	}
}

func (f *slowNetwork) Heal(*run) {}

// cutRouter lets nothing pass one way between a router and its clients, which see
// an open connection.
type cutRouter struct{}

func (f *cutRouter) Apply(r *run, rnd *rand.Rand) { cut(r.doors[rnd.IntN(len(r.doors))], rnd) }

func (f *cutRouter) Heal(*run) {}

func cut(d *door, rnd *rand.Rand) {
	d.poison("timeout", []direction{toServer, toClient}[rnd.IntN(2)], map[string]int{"timeout": 0})
}

// cutStreams does it to the streams Redis.
type cutStreams struct{}

func (f *cutStreams) Apply(r *run, rnd *rand.Rand) { cut(r.topology.streams.door, rnd) }

func (f *cutStreams) Heal(*run) {}

// cutPubSub does it to the Pub/Sub Redis.
type cutPubSub struct{}

func (f *cutPubSub) Apply(r *run, rnd *rand.Rand) { cut(r.topology.pubsub.door, rnd) }

func (f *cutPubSub) Heal(*run) {}

// resetAll resets every connection that carries something, five times.
type resetAll struct{}

func (f *resetAll) Apply(r *run, rnd *rand.Rand) {
	for range 5 {
		for _, d := range r.allDoors() {
			d.poison("reset_peer", []direction{toServer, toClient}[rnd.IntN(2)], map[string]int{"timeout": 0})
		}
		r.hold(200 * time.Millisecond)
		for _, d := range r.allDoors() {
			d.heal()
		}
		r.hold(300 * time.Millisecond)
	}
}

func (f *resetAll) Heal(*run) {}
