package router

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// probe proves that announcements arrive: it publishes on a channel of its own
// and expects the message back, and it asks whether the connection that publishes
// leads to a master. PUBLISH on a replica succeeds and reaches nobody else, and a
// demoted master answers PING: nothing else would tell.
type probe struct {
	cfg       *Config
	token     string
	announcer *announcer
	listeners []*listener
	// dial makes a new client for the Pub/Sub Redis i.
	dial    func(i int) (redis.UniversalClient, error)
	metrics *metrics
	log     *slog.Logger

	mu sync.Mutex
	// trouble is why announcements may not arrive, by Redis; empty: they do.
	trouble []string
	// echoes are the last probes that came back, by Redis.
	echoes []roundTrip
}

// roundTrip is a probe that came back.
type roundTrip struct {
	took time.Duration
	at   time.Time
}

// state is the last probe over the Redis i, and why announcements may not arrive.
func (p *probe) state(i int) (last roundTrip, trouble string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.echoes[i], p.trouble[i]
}

func (p *probe) heard(i int, took time.Duration) {
	p.metrics.probeSeconds.Observe(took.Seconds())
	p.announcer.works(i)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.echoes[i] = roundTrip{took, time.Now()}
}

// degraded is empty while announcements arrive.
func (p *probe) degraded() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.trouble {
		if t != "" {
			return t
		}
	}
	return ""
}

// run probes until ctx ends.
func (p *probe) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range p.listeners {
		wg.Go(func() { p.watch(ctx, i) })
	}
	wg.Wait()
}

func (p *probe) watch(ctx context.Context, i int) {
	channel := probeChannel(p.token)
	echo := make(chan string, 1)
	h := &handler{handle: func(payload string) {
		select {
		case echo <- payload:
		default: // an old one that nobody waited for
		}
	}}
	p.listeners[i].join(ctx, channel, h)
	defer p.listeners[i].leave(channel, h)
	tick := time.NewTicker(p.cfg.ProbeInterval)
	defer tick.Stop()
	for n := 0; ; n++ {
		trouble := p.once(ctx, i, channel, strconv.Itoa(n), echo)
		if ctx.Err() != nil {
			return
		}
		p.note(i, trouble)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// once publishes a message until it comes back, for most of an interval: with the
// wait before it, what does not deliver is found within two. A connection that was
// made a moment ago may miss the first ones.
func (p *probe) once(ctx context.Context, i int, channel, payload string, echo <-chan string) (trouble string) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ProbeInterval*3/5)
	defer cancel()
	began := time.Now()
	again := time.NewTicker(p.cfg.ProbeInterval / 5)
	defer again.Stop()
	trouble = p.send(ctx, i, channel, payload)
	for {
		select {
		case got := <-echo:
			if got != payload {
				continue
			}
			p.heard(i, time.Since(began))
			return ""
		case <-again.C:
			trouble = p.send(ctx, i, channel, payload)
		case <-ctx.Done():
			if trouble == "" {
				trouble = "pub/sub: the probe did not come back"
			}
			p.renew(i)
			return trouble
		}
	}
}

// send publishes the message, and asks whom it went to.
func (p *probe) send(ctx context.Context, i int, channel, payload string) (trouble string) {
	pipe := p.announcer.client(i).Pipeline()
	var role *redis.Cmd
	if !p.cfg.Embedded {
		role = pipe.Do(ctx, "ROLE")
	}
	pipe.Publish(ctx, channel, payload)
	if _, err := pipe.Exec(ctx); err != nil {
		return "pub/sub Redis is away"
	}
	if role != nil && !isMaster(role) {
		p.renew(i)
		return "pub/sub: announcements went to a replica"
	}
	return ""
}

func isMaster(role *redis.Cmd) bool {
	reply, err := role.Slice()
	if err != nil || len(reply) == 0 {
		return false
	}
	name, _ := reply[0].(string)
	return name == "master"
}

// renew replaces both connections by new ones, which resolve the master anew.
func (p *probe) renew(i int) {
	c, err := p.dial(i)
	if err != nil {
		p.log.Error("pub/sub: no new client", "redis", i, "error", err)
		return
	}
	old := p.announcer.replace(i, c)
	p.listeners[i].reconnect(c)
	_ = old.Close() // nothing to do about it
}

func (p *probe) note(i int, trouble string) {
	p.mu.Lock()
	before := p.trouble[i]
	p.trouble[i] = trouble
	p.mu.Unlock()
	if trouble != "" {
		p.metrics.probeFails.Inc()
	}
	if before != trouble {
		if trouble != "" {
			p.log.Warn("degraded: the head check delivers", "redis", i, "trouble", trouble)
		} else {
			p.log.Info("announcements arrive", "redis", i)
		}
	}
	if p.degraded() == "" {
		p.metrics.degraded.Set(0)
	} else {
		p.metrics.degraded.Set(1)
	}
}
