package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// shards decides which shards this router owns: every living router tells the
// others that it lives, and all of them come to the same division. It starts a
// bridge for each lease that it gets, and stops it when the lease is lost or
// another router is to have it.
type shards struct {
	cfg     *Config
	token   string
	redis   redis.UniversalClient
	scripts scripts
	metrics *metrics
	log     *slog.Logger
	// start runs a bridge until its ctx ends or its lease is lost.
	start func(ctx context.Context, domain string, shard int)

	owned map[shardRef]*ownedShard
	// missing are those that this router is to have, and another has yet.
	missing []shardRef
	// ended is that a bridge has. It holds one.
	ended chan struct{}
	// failure is why the streams Redis cannot be written to; nil while it can.
	failure atomic.Pointer[error]
}

type shardRef struct {
	domain string
	shard  int
}

func (r shardRef) key() string { return shardKey(r.domain, r.shard) }

// ownedShard is a lease and its bridge. A bridge that stops finishes the batch
// that it has; until then the shard stays here and the lease is renewed.
type ownedShard struct {
	stop context.CancelFunc
	done chan struct{}
	// until is when the lease runs out unless it is renewed.
	until time.Time
	// stopping: stop was called. give: the lease is given back once it is done.
	stopping, give bool
}

// errStarting is the failure before the first round.
var errStarting = errors.New("streams Redis was not reached yet")

// handoverInterval is how often a router asks for a shard that it is to have: nobody
// carries its events meanwhile.
const handoverInterval = 200 * time.Millisecond

// run holds leases until ctx ends, then gives them back.
func (s *shards) run(ctx context.Context) {
	tick := time.NewTicker(s.cfg.LeaseTTL / 5)
	defer tick.Stop()
	handover := time.NewTicker(handoverInterval)
	defer handover.Stop()
	s.round(ctx)
	for {
		select {
		case <-ctx.Done():
			s.leave()
			return
		case <-tick.C:
			s.round(ctx)
		case <-s.ended:
			s.reap() // somebody waits for the lease
		case <-handover.C:
			s.missing = s.hold(ctx, s.missing)
		}
	}
}

// round renews what this router should own and takes or gives back the rest.
func (s *shards) round(ctx context.Context) {
	members, err := s.scripts.members.Run(ctx, s.redis, []string{membersKey(s.cfg.ConsumerGroup)},
		s.token, s.cfg.LeaseTTL.Milliseconds()).StringSlice()
	if err != nil {
		if ctx.Err() == nil {
			s.fail(fmt.Errorf("streams Redis cannot be written: %w", err))
		}
		s.expire()
		return
	}
	s.fail(nil)
	s.reap()
	me := slices.Index(members, s.token)
	var hold []shardRef
	for i, ref := range s.all() {
		mine, own := i%len(members) == me, s.owned[ref]
		if own != nil && !mine {
			own.end(true)
		}
		if mine || own != nil {
			hold = append(hold, ref)
		}
	}
	s.missing = s.hold(ctx, hold)
	s.expire()
}

func (s *shards) fail(err error) {
	before := s.failure.Load()
	if err == nil {
		s.failure.Store(nil)
		if before != nil {
			s.log.Info("streams Redis can be written")
		}
		return
	}
	if before == nil {
		s.log.Error("streams Redis is away", "error", err)
	}
	s.failure.Store(&err)
}

// err is why nothing can be appended now.
func (s *shards) err() error {
	if e := s.failure.Load(); e != nil {
		return *e
	}
	return nil
}

func (s *shards) all() []shardRef {
	var refs []shardRef
	for _, d := range s.cfg.Domains {
		for i := range s.cfg.ShardCount {
			refs = append(refs, shardRef{d, i})
		}
	}
	return refs
}

// hold takes or renews the leases of refs in one round trip. It returns those that it
// did not have, and another has.
func (s *shards) hold(ctx context.Context, refs []shardRef) (missing []shardRef) {
	if len(refs) == 0 {
		return nil
	}
	calls := make([]call, len(refs))
	for i, ref := range refs {
		calls[i] = call{s.scripts.lease, []string{leaseKey(ref.key())}, []any{s.token, s.cfg.LeaseTTL.Milliseconds()}}
	}
	now := time.Now() // before the call: the lease lives at least until now + TTL
	for i, cmd := range evalAll(ctx, s.redis, s.redis.Pipeline(), calls) {
		own := s.owned[refs[i]]
		switch got, err := cmd.Int(); {
		case err != nil:
		case got == 1 && own == nil:
			s.begin(refs[i], now)
		case got == 1:
			own.until = now.Add(s.cfg.LeaseTTL)
		case own != nil:
			own.end(false)
		default:
			missing = append(missing, refs[i])
		}
	}
	return missing
}

func (s *shards) begin(ref shardRef, now time.Time) {
	ctx, stop := context.WithCancel(context.Background())
	own := &ownedShard{stop: stop, done: make(chan struct{}), until: now.Add(s.cfg.LeaseTTL)}
	s.owned[ref] = own
	s.metrics.owned.WithLabelValues(ref.domain, strconv.Itoa(ref.shard)).Set(1)
	s.log.Info("shard taken", "domain", ref.domain, "shard", ref.shard)
	go func() {
		s.start(ctx, ref.domain, ref.shard)
		close(own.done)
		signal(s.ended)
	}()
}

// end stops the bridge, without waiting for it.
func (o *ownedShard) end(give bool) {
	if !o.stopping {
		o.stopping, o.give = true, give
		o.stop()
	}
}

// expire stops the bridges whose lease ran out while Redis was away. The fence
// keeps them from harm anyhow; this keeps them from trying.
func (s *shards) expire() {
	for _, own := range s.owned {
		if time.Now().After(own.until) {
			own.end(false)
		}
	}
}

// reap forgets the shards whose bridge has ended, and gives their leases back.
func (s *shards) reap() {
	for ref, own := range s.owned {
		select {
		case <-own.done:
			s.forget(ref, own)
		default:
		}
	}
}

func (s *shards) forget(ref shardRef, own *ownedShard) {
	own.stop()
	delete(s.owned, ref)
	s.metrics.owned.WithLabelValues(ref.domain, strconv.Itoa(ref.shard)).Set(0)
	if !own.give {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	if err := s.scripts.release.Run(ctx, s.redis, []string{leaseKey(ref.key())}, s.token).Err(); err != nil {
		s.log.Warn("lease not given back; it expires", "domain", ref.domain, "shard", ref.shard, "error", err)
		return
	}
	s.log.Info("shard handed over", "domain", ref.domain, "shard", ref.shard)
}

// leave gives everything back, and tells the others that this router is gone.
func (s *shards) leave() {
	for _, own := range s.owned {
		own.end(true)
	}
	for ref, own := range s.owned {
		<-own.done
		s.forget(ref, own)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	if err := s.scripts.members.Run(ctx, s.redis, []string{membersKey(s.cfg.ConsumerGroup)}, s.token, 0).Err(); err != nil {
		s.log.Warn("could not say goodbye to the other routers; they wait for the lease", "error", err)
	}
}
