package edge

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// topics holds the jobs that browsers of this edge follow. It is safe for
// concurrent use. Streams are shared by all browsers of a job, so nothing of a
// browser's request goes upstream with them.
type topics struct {
	router    eventbusv1.EventBusServiceClient
	heartbeat time.Duration
	metrics   *metrics
	lines     *lines
	log       *slog.Logger
	// lostLog: a router that stops breaks every stream at once, and one line says
	// it.
	lostLog rate.Sometimes

	ctx  context.Context // ends with close
	stop context.CancelFunc

	mu    sync.Mutex
	byJob map[jobKey]*topic // guarded by mu
}

func newTopics(router eventbusv1.EventBusServiceClient, heartbeat time.Duration, m *metrics, log *slog.Logger) *topics {
	s := &topics{
		router: router, heartbeat: heartbeat, metrics: m, log: log,
		lostLog: rate.Sometimes{First: 1, Interval: 10 * time.Second}, byJob: map[jobKey]*topic{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
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
		select {
		case <-t.opened:
		case <-ctx.Done():
			s.leave(t)
			return nil, context.Cause(ctx)
		}
		err := t.openErr
		if err == nil {
			if !t.over(after) {
				return t, nil
			}
			err = status.Error(codes.OutOfRange, "nothing follows the final event")
		}
		s.leave(t)
		// That the job is over for the cursor of the browser that opened the topic
		// says nothing about another cursor.
		if t.openErr != nil && status.Code(err) == codes.OutOfRange && t.at != after {
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
		ctx, cancel := context.WithCancel(s.ctx)
		t = &topic{
			owner: s, key: key, at: after, after: after,
			opened: make(chan struct{}), done: make(chan struct{}), cancel: cancel,
		}
		t.crowd.lines = s.lines
		t.log = &pages{ctx: ctx, key: key, owner: s}
		t.ring.Store(hub.NewTopicAt[frame](limits(), after))
		s.byJob[key] = t
		s.metrics.topics.Inc()
		go t.run(ctx)
	}
	t.refs++
	return t
}

// leave lets go of a topic. The last browser ends the stream from the router and
// waits for its goroutine.
func (s *topics) leave(t *topic) {
	s.mu.Lock()
	t.refs--
	last := t.refs == 0
	if last {
		s.remove(t)
	}
	s.mu.Unlock()
	if last {
		t.cancel()
		<-t.done
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
	s.mu.Lock()
	rest := slices.Collect(maps.Values(s.byJob))
	s.mu.Unlock()
	for _, t := range rest {
		<-t.done
	}
}

// upstreamLost counts a stream that broke before it is resumed. One that only had
// its age at its router is no trouble.
func (s *topics) upstreamLost(key jobKey, err error) {
	if moved(err) {
		s.metrics.moves.Inc()
		return
	}
	s.metrics.reconnects.Inc()
	s.lostLog.Do(func() {
		s.log.Warn("streams from a router broke; resuming", "domain", key.domain, "job_id", key.job, "error", err)
	})
}
