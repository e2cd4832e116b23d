package router

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// Routers die, freeze at any step, and come back; clocks jump. Whatever happens, in
// whatever order: only the lease's owner takes entries, a batch begins with the
// oldest entry that is not acknowledged, and no job's log ever has a hole, a
// repetition or a disorder. When the trouble is over, one router has each shard and
// everything is projected.
//
// The shards, the bridge and their scripts are the real ones, on a real Redis; only
// their loops are not: each step is a move of the model. A router that is not moved
// is frozen. Time passes by taking it off what Redis has yet to wait for.
func TestLeases_NoOrderOfDeathsPausesAndJumpsInterleavesAJob(t *testing.T) {
	server := redistest.New(t)
	var routers []*modelRouter
	for i := range 3 {
		cfg := testConfig(server.URL(), "")
		cfg.Domains, cfg.ShardCount, cfg.PodName = []string{"scan"}, modelShards, "router-"+strconv.Itoa(i)
		cfg.LeaseTTL, cfg.Retention, cfg.IdempotencyWindow = modelTTL, 100*time.Hour, 200*time.Hour
		b, err := New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.close(); err != nil {
				t.Error(err)
			}
		})
		routers = append(routers, &modelRouter{name: cfg.PodName, bus: b})
	}
	rapid.Check(t, func(t *rapid.T) {
		m := newLeaseModel(t, server.Client(), routers)
		defer m.end()
		t.Repeat(map[string]func(*rapid.T){
			"publish": m.publish, "publish more": m.publish, "round": m.round, "claim": m.claim, "project": m.project, "settle": m.settle,
			"die": m.die, "leave": m.leave, "time passes": m.pass, "Redis's clock jumps": m.jumpRedis, "a router's clock jumps": m.jumpRouter,
			"": m.disjoint,
		})
		m.recover()
	})
}

const (
	modelShards = 2
	// modelTTL is so long that the time that the test takes does not count.
	modelTTL  = time.Hour
	modelStep = 10 * time.Minute
)

// leaseModel is what must be true.
type leaseModel struct {
	t       *rapid.T
	redis   *redis.Client
	routers []*modelRouter
	// logs are the entries of each shard log that are not acknowledged, in order.
	logs [modelShards][]string
	// published counts the events of each job.
	published map[string]int
}

// modelRouter is a router, or several lives of one.
type modelRouter struct {
	name    string
	bus     *Bus
	bridges [modelShards]*modelBridge
}

// modelBridge is a bridge between two of its steps.
type modelBridge struct {
	*bridge
	carrier   *carrier
	batch     *batch // nil: none
	projected bool
	busy      sync.Mutex // held while there is a batch
}

func newLeaseModel(t *rapid.T, c *redis.Client, routers []*modelRouter) *leaseModel {
	m := &leaseModel{t: t, redis: c, routers: routers, published: make(map[string]int)}
	m.must(c.FlushAll(m.ctx()).Err())
	for i := range modelShards {
		m.must(c.XGroupCreateMkStream(m.ctx(), shardKey("scan", i), "eventrouter", "0").Err())
	}
	for _, r := range routers {
		r.live()
	}
	return m
}

func (m *leaseModel) ctx() context.Context { return context.Background() }

func (m *leaseModel) must(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

// live begins a life, with a name that no life had before.
func (r *modelRouter) live() {
	s := r.bus.shards
	s.token, s.owned = rand.Text(), make(map[shardRef]*ownedShard)
	r.bus.deps.token = s.token
	for i := range r.bridges {
		r.bridges[i] = &modelBridge{carrier: newCarrier(r.bus.deps)}
		r.bridges[i].join(i)
	}
	bridges := r.bridges
	s.start = func(ctx context.Context, _ string, shard int) {
		<-ctx.Done()
		bridges[shard].busy.Lock() // it finishes what it has
		bridges[shard].busy.Unlock()
	}
}

// stopped waits for the bridges that stop and have nothing left to do.
func (r *modelRouter) stopped() {
	for ref, own := range r.bus.shards.owned {
		if own.stopping && r.bridges[ref.shard].batch == nil {
			<-own.done
		}
	}
}

// die ends a life without a word.
func (r *modelRouter) die() {
	for _, own := range r.bus.shards.owned {
		own.stop()
	}
	for _, b := range r.bridges {
		b.drop()
		b.carrier.disconnect()
	}
	for _, own := range r.bus.shards.owned {
		<-own.done
	}
}

// join is what a router does that gets the lease.
func (b *modelBridge) join(shard int) {
	b.bridge = newBridge(context.Background(), b.carrier.bridgeDeps, "scan", shard)
	b.carrier.bridges, b.carrier.watching = []*bridge{b.bridge}, false
}

// turn settles what was projected, and claims unless it ends. It tells whether the
// lease was its own.
func (b *modelBridge) turn(m *leaseModel, ending bool) (own bool) {
	b.ending, b.done, b.bridge.batch = ending, b.batch, nil
	_, err := b.carrier.turn(m.ctx())
	m.must(err)
	if own = len(b.carrier.bridges) > 0; !own {
		claimed := b.bridge.batch
		b.join(b.shard)
		b.bridge.batch = claimed
	}
	return own
}

func (b *modelBridge) take(bt *batch) {
	b.batch, b.projected = bt, false
	b.busy.Lock()
}

func (b *modelBridge) drop() {
	if b.batch != nil {
		b.batch = nil
		b.busy.Unlock()
	}
}

func (m *leaseModel) router(t *rapid.T) *modelRouter {
	return rapid.SampledFrom(m.routers).Draw(t, "router")
}

func (m *leaseModel) bridge(t *rapid.T) (*modelRouter, *modelBridge) {
	r := m.router(t)
	return r, r.bridges[rapid.IntRange(0, modelShards-1).Draw(t, "shard")]
}

func (m *leaseModel) publish(t *rapid.T) {
	for range rapid.IntRange(1, 5).Draw(t, "n") {
		job := "job-" + strconv.Itoa(rapid.IntRange(0, 4).Draw(t, "job"))
		m.published[job]++
		shard := event.ShardOf(job, modelShards)
		id, err := m.redis.XAdd(m.ctx(), &redis.XAddArgs{
			Stream: shardKey("scan", shard), Values: []any{"job_id", job, "stage", "s", "content", m.published[job]},
		}).Result()
		m.must(err)
		m.logs[shard] = append(m.logs[shard], id)
	}
}

// round is one of the router's rounds: it renews, takes and gives back.
func (m *leaseModel) round(t *rapid.T) {
	r := m.router(t)
	r.bus.shards.round(m.ctx())
	r.stopped()
}

// claim is tried by whoever is at it, also by one that was frozen since it had the
// lease. What was projected is settled by it.
func (m *leaseModel) claim(t *rapid.T) {
	r, b := m.bridge(t)
	if b.batch != nil && !b.projected {
		t.Skip("one batch at a time")
	}
	b.size = rapid.IntRange(1, 6).Draw(t, "size")
	if rapid.Bool().Draw(t, "clean") {
		b.cleaned = time.Time{}
	}
	m.claimBy(r, b)
}

func (m *leaseModel) claimBy(r *modelRouter, b *modelBridge) {
	owner, err := m.redis.Get(m.ctx(), leaseKey(b.key)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		m.t.Fatal(err)
	}
	last := b.batch
	own := b.turn(m, false)
	entries := b.claimed()
	if last != nil {
		m.settled(r, b, own)
	}
	if own != (owner == r.bus.deps.token) || !own && len(entries) > 0 {
		m.t.Fatalf("%s took %d entries of shard %d; it is the owner: %t, it thinks so: %t", r.name, len(entries), b.shard, owner == r.bus.deps.token, own)
	}
	if !own {
		return
	}
	open := m.logs[b.shard]
	if len(entries) > len(open) || len(entries) == 0 && len(open) > 0 {
		m.t.Fatalf("%s took %d entries of shard %d; %d are not acknowledged", r.name, len(entries), b.shard, len(open))
	}
	for i, id := range entries {
		if id != open[i] {
			m.t.Fatalf("%s took %s of shard %d as number %d; not acknowledged are %v", r.name, id, b.shard, i, open)
		}
	}
	if len(entries) > 0 {
		b.take(b.bridge.batch)
	}
}

// claimed is what the last turn brought.
func (b *modelBridge) claimed() []string {
	if b.bridge.batch == nil {
		return nil
	}
	return b.bridge.batch.ids
}

func (m *leaseModel) project(t *rapid.T) {
	_, b := m.bridge(t)
	if b.batch == nil {
		t.Skip("no batch")
	}
	m.projectOf(b)
}

func (m *leaseModel) projectOf(b *modelBridge) {
	b.carrier.bridges, b.bridge.batch = []*bridge{b.bridge}, b.batch
	m.must(b.carrier.project(m.ctx()))
	b.projected = true
	for _, job := range b.batch.jobs {
		m.ordered(job.jobID)
	}
}

func (m *leaseModel) settle(t *rapid.T) {
	r, b := m.bridge(t)
	if b.batch == nil || !b.projected {
		t.Skip("nothing projected")
	}
	m.settleOf(r, b)
}

func (m *leaseModel) settleOf(r *modelRouter, b *modelBridge) {
	m.settled(r, b, b.turn(m, true))
}

// settled is told that the batch was, or, where the lease is lost, was not: the next
// owner gets it again.
func (m *leaseModel) settled(r *modelRouter, b *modelBridge, own bool) {
	if open := &m.logs[b.shard]; own {
		*open = slices.DeleteFunc(*open, func(id string) bool { return slices.Contains(b.batch.ids, id) })
	}
	b.drop()
	r.stopped()
}

func (m *leaseModel) die(t *rapid.T) {
	r := m.router(t)
	r.die()
	r.live()
}

// leave is a SIGTERM: batches are finished, leases given back.
func (m *leaseModel) leave(t *rapid.T) {
	r := m.router(t)
	for _, b := range r.bridges {
		if b.batch != nil {
			m.projectOf(b)
			m.settleOf(r, b)
		}
	}
	r.bus.shards.leave()
	for _, b := range r.bridges {
		b.carrier.disconnect()
	}
	r.live()
}

func (m *leaseModel) pass(t *rapid.T) {
	d := modelStep * time.Duration(rapid.IntRange(1, 9).Draw(t, "steps"))
	m.shiftRedis(d)
	for _, r := range m.routers {
		r.shift(d)
	}
}

// jumpRedis is the clock of a Redis host, or that of its successor, forward or
// back.
func (m *leaseModel) jumpRedis(t *rapid.T) {
	m.shiftRedis(modelStep * time.Duration(rapid.IntRange(-9, 9).Draw(t, "steps")))
}

func (m *leaseModel) jumpRouter(t *rapid.T) {
	m.router(t).shift(modelStep * time.Duration(rapid.IntRange(-9, 9).Draw(t, "steps")))
}

// shift moves the router's clock: what it believes to have lasts shorter, or longer.
func (r *modelRouter) shift(d time.Duration) {
	for _, own := range r.bus.shards.owned {
		own.until = own.until.Add(-d)
	}
}

func (m *leaseModel) shiftRedis(d time.Duration) {
	keys := []string{membersKey("eventrouter")}
	for i := range modelShards {
		keys = append(keys, leaseKey(shardKey("scan", i)))
	}
	for _, key := range keys {
		left, err := m.redis.PTTL(m.ctx(), key).Result()
		m.must(err)
		if left > 0 {
			m.must(m.redis.PExpire(m.ctx(), key, left-d).Err()) // at once, where nothing is left
		}
	}
	members, err := m.redis.ZRange(m.ctx(), keys[0], 0, -1).Result()
	m.must(err)
	for _, token := range members {
		m.must(m.redis.ZIncrBy(m.ctx(), keys[0], -float64(d.Milliseconds()), token).Err())
	}
}

// ordered checks that a job's log is a beginning of what was published.
func (m *leaseModel) ordered(job string) (n int) {
	entries, err := m.redis.XRange(m.ctx(), logKey("scan", job), "-", "+").Result()
	m.must(err)
	for i, e := range entries {
		if want := strconv.Itoa(i + 1); e.Values["content"] != want || e.Values["seq"] != want {
			m.t.Fatalf("the log of %s has %v as its event %s", job, e.Values, want)
		}
	}
	return len(entries)
}

// disjoint holds at any moment: what a router has that lost its lease is a repetition.
func (m *leaseModel) disjoint(t *rapid.T) {
	for i := range modelShards {
		owner, err := m.redis.Get(m.ctx(), leaseKey(shardKey("scan", i))).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		for _, r := range m.routers {
			b := r.bridges[i]
			if b.batch == nil || owner == r.bus.deps.token {
				continue
			}
			// A batch of one that lost the lease is a repetition of what the owner
			// gets, or has had: never something that the owner would skip.
			first := b.batch.ids[0]
			if open := m.logs[i]; len(open) > 0 && slices.Contains(open, first) && first != open[0] && !slices.Contains(b.batch.ids, open[0]) {
				t.Fatalf("%s has %s of shard %d, though %s before it is not acknowledged", r.name, first, i, open[0])
			}
		}
	}
}

// recover lets all routers work until nothing is left to do.
func (m *leaseModel) recover() {
	m.shiftRedis(1000 * modelTTL) // leases of the dead end
	for range 4 {
		for _, r := range m.routers {
			r.bus.shards.round(m.ctx())
			r.stopped()
			for i, b := range r.bridges {
				if b.batch == nil && r.bus.shards.owned[shardRef{"scan", i}] != nil {
					m.claimBy(r, b)
				}
				if b.batch != nil {
					m.projectOf(b)
					m.settleOf(r, b)
				}
			}
		}
	}
	owners := 0
	for _, r := range m.routers {
		owners += len(r.bus.shards.owned)
	}
	if owners != modelShards {
		m.t.Fatalf("%d owners of %d shards", owners, modelShards)
	}
	for i, open := range m.logs {
		if len(open) > 0 {
			m.t.Fatalf("%d entries of shard %d are left", len(open), i)
		}
	}
	for job, want := range m.published {
		if got := m.ordered(job); got != want {
			m.t.Fatalf("%s has %d of %d events", job, got, want)
		}
	}
}

// end leaves no goroutine behind.
func (m *leaseModel) end() {
	for _, r := range m.routers {
		r.die()
	}
}
