package router

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
)

// carrier carries the batches of all shards that a router owns, in rounds: claim →
// project → announce; the next round's claim settles, too (turn.go). All shards share a
// round's three round trips, so that what a round costs is shared by what came
// meanwhile: the more there is, the cheaper is each. In a Cluster, whose transactions
// are of one node, each shard has a carrier of its own.
type carrier struct {
	*bridgeDeps
	// conn claims, projects and settles (see turn); nil: none yet.
	conn *redis.Conn
	// watching: conn watches the leases of all bridges.
	watching bool
	// full: Redis was, at the last turn.
	full bool
	// bridges are those of this round.
	bridges []*bridge
	pace    pace

	mu sync.Mutex
	// joining begin with the next round. Guarded by mu.
	joining []*bridge
	running bool // guarded by mu: loop runs
	// news is that somebody joins or stops.
	news chan struct{}
	loop sync.WaitGroup
}

func newCarrier(d *bridgeDeps) *carrier { return &carrier{bridgeDeps: d, news: make(chan struct{}, 1)} }

// wakeBlock is how long a wait for entries blocks: so long takes a handover at most.
const wakeBlock = 100 * time.Millisecond

// carry carries a bridge's batches until its ctx ends or its lease is lost. A batch
// that it has is finished first.
func (c *carrier) carry(ctx context.Context, domain string, shard int) {
	b := newBridge(ctx, c.bridgeDeps, domain, shard)
	b.recountFirst(ctx)
	c.mu.Lock()
	c.joining = append(c.joining, b)
	if !c.running {
		c.running = true
		c.loop.Go(c.run)
	}
	c.mu.Unlock()
	c.tell()
	defer context.AfterFunc(ctx, c.tell)()
	b.keepUntilLeft()
}

func (c *carrier) tell() { signal(c.news) }

// run makes rounds while there is a bridge.
func (c *carrier) run() {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, time.Second
	failing := false
	for c.gather() {
		n, err := c.round()
		switch {
		case err == nil:
			if failing {
				c.log.Info("bridge works again")
			}
			failing = false
			pause.Reset()
			if busy, rest := c.pace.round(n); rest > 0 {
				c.rest(rest)
			} else if !busy && n == 0 && len(c.bridges) > 0 {
				c.sleep()
			}
			c.pace.began = time.Now()
		case errors.Is(err, errCrash):
			c.end()
			return
		default:
			c.failed(err, !failing)
			failing = true
			c.rest(pause.NextBackOff())
		}
	}
}

// gather takes in who joins and notes who stops. It returns false, and is over, where
// nobody is left.
func (c *carrier) gather() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.joining) > 0 {
		c.bridges, c.joining, c.watching = append(c.bridges, c.joining...), nil, false
	}
	for _, b := range c.bridges {
		b.ending = b.stop.Err() != nil
	}
	if len(c.bridges) == 0 {
		c.running = false
		c.disconnect()
		return false
	}
	return true
}

// end lets go of everybody, as they are.
func (c *carrier) end() {
	for {
		for len(c.bridges) > 0 {
			c.letGo(c.bridges[0])
		}
		if !c.gather() {
			return
		}
	}
}

// failed begins anew, on another connection. What was under way is still pending.
func (c *carrier) failed(err error, first bool) {
	domains := make(map[string]bool)
	for _, b := range c.bridges {
		if !domains[b.domain] {
			domains[b.domain] = true
			c.metrics.bridgeErrors.WithLabelValues(b.domain).Inc()
		}
	}
	if first {
		c.log.Warn("bridge: a round failed, doing it again", "shards", len(c.bridges), "error", err)
	}
	c.disconnect()
	if cluster, ok := c.own.(*redis.ClusterClient); ok {
		// A node's own client follows nobody: without this it would ask a master that is
		// none any more for up to a minute.
		cluster.ReloadState(context.Background())
	}
	for _, b := range slices.Clone(c.bridges) {
		if b.ending {
			c.log.Warn("bridge: the last batch is left for the next owner", "domain", b.domain, "shard", b.shard)
			c.letGo(b)
		}
	}
}

func (c *carrier) disconnect() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing waits for it
	}
	c.conn, c.watching = nil, false
}

// letGo ends a bridge.
func (c *carrier) letGo(b *bridge) {
	c.bridges = slices.DeleteFunc(c.bridges, func(other *bridge) bool { return other == b })
	close(b.left)
}

// round settles the last batches, takes the next and carries them up to the settling.
// It returns how many entries those had. It does not end with anybody's context: a
// batch is finished.
func (c *carrier) round() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout+c.cfg.HeadCheckInterval)
	defer cancel()
	n, err := c.turn(ctx)
	if err != nil {
		return 0, err
	}
	for _, b := range slices.Clone(c.bridges) {
		if b.ending {
			c.letGo(b)
		}
	}
	if n == 0 {
		return 0, nil
	}
	began := time.Now()
	if err := c.at("project"); err != nil {
		return 0, err
	}
	if err := c.traced("project", began, c.project(ctx)); err != nil {
		return 0, err
	}
	began = time.Now()
	if err := c.at("announce"); err != nil {
		return 0, err
	}
	if err := c.traced("announce", began, c.announce(ctx)); err != nil {
		return 0, err
	}
	for b := range c.laden() {
		if err := b.keepDead(ctx, b.batch); err != nil {
			return 0, err
		}
		b.done, b.batch = b.batch, nil
	}
	return n, nil
}

// laden are the bridges that have a batch in this round.
func (c *carrier) laden() iter.Seq[*bridge] {
	return func(yield func(*bridge) bool) {
		for _, b := range c.bridges {
			if b.batch != nil && !yield(b) {
				return
			}
		}
	}
}

func (c *carrier) at(step string) error {
	if c.step == nil {
		return nil
	}
	return c.step(step)
}

// rest waits, at most until somebody joins or stops.
func (c *carrier) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.news:
	}
}

// sleep waits for entries, without taking any.
func (c *carrier) sleep() {
	var streams, seen []string
	for _, b := range c.bridges {
		if !b.rests() {
			streams, seen = append(streams, b.key), append(seen, b.seen)
		}
	}
	if streams = append(streams, seen...); len(streams) == 0 {
		c.rest(wakeBlock)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	got, err := c.own.XRead(ctx, &redis.XReadArgs{Streams: streams, Count: 1, Block: wakeBlock}).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		// Redis is away, or a stream is: the claim will tell.
		c.rest(50 * time.Millisecond)
		return
	}
	for _, s := range got {
		for _, b := range c.bridges {
			if b.key == s.Stream && len(s.Messages) > 0 {
				// The claim takes it; if another did, it must not wake again.
				b.seen = s.Messages[0].ID
			}
		}
	}
}
