package edge

import (
	"context"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// topics holds the jobs that browsers of this edge follow. It is safe for
// concurrent use. Streams are shared by all browsers, so nothing of a browser's
// request goes upstream with them.
type topics struct {
	router    eventbusv1.EventBusServiceClient
	relays    []*relay
	seed      maphash.Seed // shares the jobs among the relays
	heartbeat time.Duration
	metrics   *metrics
	lines     *lines
	trace     *trace.Tracer // nil: nobody wants to know
	log       *slog.Logger
	// lostLog: a router that stops breaks many streams at once, and one line says
	// it.
	lostLog rate.Sometimes

	ctx     context.Context // ends with close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	byJob map[jobKey]*topic // guarded by mu
}

// newTopics makes topics that share so many streams; start opens them.
func newTopics(router eventbusv1.EventBusServiceClient, client relayv1.RelayServiceClient, streams int, heartbeat time.Duration, m *metrics, log *slog.Logger) *topics {
	s := &topics{
		router: router, seed: maphash.MakeSeed(), heartbeat: heartbeat, metrics: m, log: log,
		lostLog: rate.Sometimes{First: 1, Interval: 10 * time.Second}, byJob: map[jobKey]*topic{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for range streams {
		s.relays = append(s.relays, newRelay(s, client))
	}
	return s
}

// start opens the streams from routers, and keeps them open.
func (s *topics) start() {
	for _, r := range s.relays {
		s.running.Go(func() { r.run(s.ctx) })
	}
}

// up tells whether a router speaks.
func (s *topics) up() bool {
	return slices.ContainsFunc(s.relays, func(r *relay) bool { return r.up.Load() })
}

// subscribe opens a stream from a router and waits for its first message, at most
// openTimeout.
func (s *topics) subscribe(ctx context.Context, r *eventbusv1.SubscribeRequest) (*upstream[eventbusv1.SubscribeResponse], error) {
	return openUpstream(ctx, missedHeartbeats*s.heartbeat, func(ctx context.Context) (grpc.ServerStreamingClient[eventbusv1.SubscribeResponse], error) {
		return s.router.Subscribe(ctx, r)
	})
}

// join returns the job's topic, opened at the cursor where there is none; leave it.
// It waits for the router's first word, at most openTimeout. Errors are gRPC
// statuses, OUT_OF_RANGE where nothing will ever follow the cursor, or ctx's cause.
func (s *topics) join(ctx context.Context, key jobKey, after event.ID) (*topic, error) {
	for {
		t := s.hold(key, after)
		refused, cause := t.opened(ctx)
		if cause != nil {
			s.leave(t)
			return nil, cause
		}
		err := refused
		if err == nil {
			if !t.over(after) {
				return t, nil
			}
			err = status.Error(codes.OutOfRange, "nothing follows the final event")
		}
		s.leave(t)
		// That the job is over for the cursor of the browser that opened the topic
		// says nothing about another cursor.
		if refused != nil && status.Code(err) == codes.OutOfRange && t.at != after {
			continue
		}
		return nil, err
	}
}

// hold returns the job's topic, new where there is none.
func (s *topics) hold(key jobKey, after event.ID) *topic {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.byJob[key]
	if t == nil {
		key = key.clone() // parts of the request, which need not live as long
		t = &topic{
			owner: s, key: key, at: after, after: after,
			relay: s.relays[maphash.String(s.seed, key.job)%uint64(len(s.relays))],
		}
		t.crowd.lines, t.crowd.since = s.lines, uint64(time.Now().UnixMilli())
		t.log.topic = t
		t.ring.Store(hub.NewTopicAt[frame](limits(), after))
		o := &opening{done: make(chan struct{})}
		t.opening.Store(o)
		o.late = time.AfterFunc(openTimeout, func() { t.settle(errNoWord) })
		s.byJob[key] = t
		s.metrics.topics.Inc()
		t.relay.add(t)
	}
	t.refs++
	return t
}

// rings is the ring of every job that is followed.
func (s *topics) rings() []*hub.Topic[frame] {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*hub.Topic[frame], 0, len(s.byJob))
	for _, t := range s.byJob {
		out = append(out, t.ring.Load())
	}
	return out
}

// leave lets go of a topic. It does not block.
func (s *topics) leave(t *topic) {
	s.mu.Lock()
	t.refs--
	last := t.refs == 0
	if last {
		s.remove(t)
	}
	s.mu.Unlock()
	if last {
		t.relay.drop(t)
		if o := t.opening.Load(); o != nil {
			o.late.Stop()
		}
		t.log.end()
		s.metrics.topics.Dec()
	}
}

// forget lets the next browser of the job open a new topic.
func (s *topics) forget(t *topic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(t)
}

func (s *topics) remove(t *topic) {
	if s.byJob[t.key] == t {
		delete(s.byJob, t.key)
	}
}

// close ends all streams from routers and waits for their goroutines. Browsers
// should have left before.
func (s *topics) close() {
	s.stop()
	s.running.Wait()
}

// upstreamLost counts a stream, or a job in one, that broke before it is resumed.
// One that only had its age at its router is no trouble.
func (s *topics) upstreamLost(err error, about ...any) {
	if moved(err) {
		s.metrics.moves.Inc()
		return
	}
	s.metrics.reconnects.Inc()
	s.sayLost(err, about...)
}

func (s *topics) sayLost(err error, about ...any) {
	s.lostLog.Do(func() {
		s.log.Warn("streams from a router broke; resuming", append(about, "error", err)...)
	})
}
