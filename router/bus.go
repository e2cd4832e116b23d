// Package router is the bus itself: it takes events into the log, and gets every
// one of them, once and in order, to whoever watches its job.
//
// An event's way, a file each:
//
//	publish.go    a request → the shard log (Streams Redis)
//	carrier.go    rounds of all shards that a router owns, a bridge.go each:
//	turn.go       a batch is taken, fenced by the lease (shards.go)
//	project.go    → the job log and the state
//	announcer.go  → the job's channel (Pub/Sub Redis)
//	listener.go   the channel → hub.go: the topic of each watched job
//	subscribe.go  topic, or the log (joblog.go) → a subscriber
//
// The log is the truth and Pub/Sub only a hint; every step may be repeated; reads
// of the shard log are fenced. Beside the way stand entry.go (the entry format),
// keep.go (trimming), monitor.go (lag and memory), probe.go (do announcements
// arrive?), watch.go (many jobs), traced.go (where was the time spent?), keys.go
// (every key) and redis.go (every client); and for who operates it cluster.go (how is it?) and diagnose.go (why did this job
// stop?), with what follows in findings.go and conclude.go.
//
// The package never speaks gRPC or HTTP, and never deletes what a consumer group
// has not acknowledged.
package router

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// Bus is one router. Its methods are safe for concurrent use.
type Bus struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	streams   redis.UniversalClient
	closers   []func() error
	publisher *publisher
	hub       *topicHub
	logs      *jobLogs
	watches   *watchHub
	shards    *shards
	monitor   *monitor
	probe     *probe
	announcer *announcer
	listeners []*listener
	deps      *bridgeDeps
	trace     *trace.Tracer // nil: nobody wants to know
	view      *clusterView
	// diagnosing has a place for each diagnosis that may run at once.
	diagnosing chan struct{}
	// carrier is that of all shards, but in a Cluster.
	carrier *carrier

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Status is what health checks ask for.
type Status struct {
	// Err: events cannot be taken now.
	Err error
	// Degraded: announcements may not arrive; the head check delivers. Empty where
	// all is well.
	Degraded string
}

// New makes a bus. It does not dial; an error is a bad setting. Close it, or Start
// and Stop it.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Bus, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	scripts, err := loadScripts(!cfg.Embedded)
	if err != nil {
		return nil, err
	}
	b := &Bus{cfg: cfg, log: log, metrics: newMetrics(reg), view: newClusterView(), diagnosing: make(chan struct{}, maxDiagnoses)}
	token := cfg.PodName + "/" + rand.Text()
	if err := b.connect(scripts); err != nil {
		return nil, errors.Join(err, b.close())
	}
	reg.MustRegister(hub.Collector("eventbus_hub", b.hub.all))
	b.hub.listeners, b.watches.listeners = b.listeners, b.listeners
	b.probe.token = token
	b.deps.token, b.deps.scripts = token, scripts
	starting := errStarting
	b.shards = &shards{
		cfg: &b.cfg, token: token, redis: b.streams, scripts: scripts, metrics: b.metrics, log: log,
		owned: make(map[shardRef]*ownedShard), ended: make(chan struct{}, 1),
		start: b.carry,
	}
	b.shards.failure.Store(&starting)
	return b, nil
}

// connect makes the clients, and what stands on them. Blocking reads and publishing
// have clients of their own: the first would eat the pool, the second must not
// retry.
func (b *Bus) connect(s scripts) error {
	client := func(url string, t tuning) (redis.UniversalClient, error) {
		c, err := connect(url, t)
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, c.Close)
		return c, nil
	}
	streams := func(t tuning) (redis.UniversalClient, error) {
		c, err := client(b.cfg.StreamsURL, t)
		if err != nil {
			return nil, fmt.Errorf("REDIS_STREAMS_URL: %w", err)
		}
		return c, nil
	}
	shards := len(b.cfg.Domains) * b.cfg.ShardCount
	var err error
	if b.streams, err = streams(tuning{retries: 2, pool: 64, read: readTimeout}); err != nil {
		return err
	}
	own, err := streams(tuning{retries: -1, pool: 2*shards + 1, read: readTimeout + waitTimeout})
	if err != nil {
		return err
	}
	appender, err := streams(tuning{retries: -1, pool: shards + 1, read: readTimeout + waitTimeout})
	if err != nil {
		return err
	}
	b.monitor = newMonitor(&b.cfg, b.streams, b.metrics, b.log)
	b.publisher = newPublisher(&b.cfg, s, appender, b.monitor, b.metrics)
	b.closers = append(b.closers, b.publisher.close) // before its client
	b.logs = &jobLogs{
		redis: b.streams, retention: b.cfg.Retention,
		gaps: func(r event.Reason) { b.metrics.gaps.WithLabelValues(r.String()).Inc() },
	}
	b.hub = newTopicHub(&b.cfg, b.streams, b.metrics, b.log)
	b.watches = newWatchHub(&b.cfg, b.streams, b.metrics, b.log)
	b.deps = &bridgeDeps{cfg: &b.cfg, streams: b.streams, own: own, runs: newRuns(), metrics: b.metrics, log: b.log}
	b.carrier = newCarrier(b.deps)
	return b.connectPubSub()
}

func (b *Bus) connectPubSub() error {
	urls := splitURLs(b.cfg.PubSubURL)
	if b.cfg.PubSubURL == "" {
		urls = []string{b.cfg.StreamsURL}
	}
	for _, u := range urls {
		if strings.Contains(u, "+cluster://") {
			return errors.New("REDIS_PUBSUB_URL: must be standalone or Sentinel: a subscription follows one node of a Cluster only")
		}
	}
	// A hint is not worth a retry: the announcer has its own.
	dial := func(i int) (redis.UniversalClient, error) {
		return connect(urls[i], tuning{retries: -1, pool: 16, read: time.Second})
	}
	b.announcer = newAnnouncer(&b.cfg, len(urls), b.log)
	b.closers = append(b.closers, b.announcer.close)
	for i := range urls {
		c, err := dial(i)
		if err != nil {
			return fmt.Errorf("REDIS_PUBSUB_URL: %w", err)
		}
		b.announcer.clients = append(b.announcer.clients, c)
		b.listeners = append(b.listeners, newListener(c, b.log, b.rejoined))
	}
	b.deps.announcer = b.announcer
	b.probe = &probe{
		cfg: &b.cfg, announcer: b.announcer, listeners: b.listeners, dial: dial,
		metrics: b.metrics, log: b.log, trouble: make([]string, len(urls)), echoes: make([]roundTrip, len(urls)),
	}
	return nil
}

// carry carries a shard's entries until ctx ends or its lease is lost.
func (b *Bus) carry(ctx context.Context, domain string, shard int) {
	c := b.carrier
	if c.cluster() {
		c = newCarrier(b.deps)
		defer c.loop.Wait()
	}
	c.carry(ctx, domain, shard)
}

func (b *Bus) rejoined(channel string) {
	b.hub.rejoined(channel)
	b.watches.rejoined(channel)
}

// Start lets the bus work. It does not wait for Redis; Status tells.
func (b *Bus) Start() {
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	for _, l := range b.listeners {
		b.running.Go(func() { l.run(ctx) })
	}
	for _, run := range []func(context.Context){b.hub.run, b.watches.run, b.monitor.run, b.probe.run, b.shards.run} {
		b.running.Go(func() { run(ctx) })
	}
}

// Stop finishes the batches under way, hands the shards over and closes the
// connections. Subscriptions must be closed before.
func (b *Bus) Stop() error {
	if b.stop != nil {
		b.stop()
	}
	b.running.Wait()
	b.carrier.loop.Wait()
	return b.close()
}

func (b *Bus) close() error {
	var err error
	for _, c := range slices.Backward(b.closers) {
		err = errors.Join(err, c())
	}
	return err
}

// Status tells whether the bus can serve.
func (b *Bus) Status() Status {
	return Status{Err: b.shards.err(), Degraded: b.probe.degraded()}
}

// HasDomain tells whether the bus serves the domain.
func (b *Bus) HasDomain(d string) bool { return slices.Contains(b.cfg.Domains, d) }

// Domains are the domains that the bus serves.
func (b *Bus) Domains() []string { return slices.Clone(b.cfg.Domains) }

// ShardCount is how many shards a domain has.
func (b *Bus) ShardCount() int { return b.cfg.ShardCount }

// MaxEventBytes is the size of the largest event.
func (b *Bus) MaxEventBytes() int { return b.cfg.MaxEventBytes }

// KeyRequired tells whether every publish needs an idempotency key.
func (b *Bus) KeyRequired() bool { return b.cfg.MinReplicas > 0 }
