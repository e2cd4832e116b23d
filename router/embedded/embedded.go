// Package embedded is the Redis of `eventbus dev`: miniredis, in this process.
// It keeps nothing over a restart, and is for trying things out only; tests and
// everything else use a real Redis.
package embedded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Redis is a running miniredis.
type Redis struct {
	server  *miniredis.Miniredis
	stop    context.CancelFunc
	running sync.WaitGroup
}

// clockTick is how often keys may expire: miniredis's clock for them stands still
// unless it is pushed.
const clockTick = 100 * time.Millisecond

// Start listens on a free loopback port. The caller closes it.
func Start() (*Redis, error) {
	s := miniredis.NewMiniRedis()
	if err := s.Start(); err != nil {
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Redis{server: s, stop: stop}
	r.running.Go(func() { r.tick(ctx) })
	return r, nil
}

func (r *Redis) tick(ctx context.Context) {
	t := time.NewTicker(clockTick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			r.server.FastForward(clockTick)
		case <-ctx.Done():
			return
		}
	}
}

// URL is where it listens.
func (r *Redis) URL() string { return "redis://" + r.server.Addr() + "/0" }

// Close stops it; what it held is gone.
func (r *Redis) Close() {
	r.stop()
	r.running.Wait()
	r.server.Close()
}
