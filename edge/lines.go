package edge

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eco2-team/eventbus/router/hub"
)

// lines are the connections that an edge took over from net/http: all of what
// net/http and a goroutine did for each of them is done here for all together.
// It is safe for concurrent use.
type lines struct {
	client    *client
	pace      *pace
	heartbeat time.Duration
	// write is writeNow; tests count its calls.
	write func(fd int, b []byte) (n int, err error)
	began time.Time
	// joined counts the lines that became members, again and again.
	joined atomic.Int64

	poll *poller
	pool sync.Pool      // of *scratch
	stop chan struct{}  // closed by close
	work sync.WaitGroup // all goroutines

	mu       sync.Mutex
	running  bool             // guarded by mu
	draining bool             // guarded by mu
	last     uint64           // guarded by mu; the newest id
	all      map[uint64]*line // guarded by mu
	// count has those, too, that are not yet or no more in all. guarded by mu
	count int
	// idle is closed when the last one has left a draining edge.
	idle chan struct{}
}

func newLines(c *client, p *pace, heartbeat time.Duration) *lines {
	return &lines{
		client: c, pace: p, heartbeat: heartbeat, write: writeNow, began: time.Now(),
		pool: sync.Pool{New: func() any { return new(scratch) }},
		stop: make(chan struct{}), all: map[uint64]*line{}, idle: make(chan struct{}),
	}
}

// start begins to take lines. Where that is impossible, streams stay with
// net/http, a goroutine each.
func (s *lines) start() error {
	var err error
	if s.poll, err = newPoller(); err != nil {
		return err
	}
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	s.work.Go(func() { s.poll.wait(s.gone) })
	s.work.Go(s.tick)
	return nil
}

// close waits for all goroutines, after the last line has ended.
func (s *lines) close() {
	s.mu.Lock()
	running := s.running
	s.running = false
	s.mu.Unlock()
	if running {
		close(s.stop)
		s.poll.close()
	}
	s.work.Wait()
}

func (s *lines) now() int64 { return int64(time.Since(s.began)) }

func (s *lines) borrow() *scratch { return s.pool.Get().(*scratch) }

func (s *lines) giveBack(b *scratch) {
	clear(b.items)
	if cap(b.buf) <= maxPooled {
		s.pool.Put(b)
	}
}

// tcpKey marks requests whose connection is plain TCP.
type tcpKey struct{}

// markTCP is http.Server's ConnContext.
func markTCP(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(*net.TCPConn); ok {
		return context.WithValue(ctx, tcpKey{}, true)
	}
	return ctx
}

// takes tells whether a stream may become a line: HTTP/1 without TLS.
func (s *lines) takes(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running && !s.draining && r.ProtoMajor == 1 && r.Context().Value(tcpKey{}) != nil
}

// takeOver makes a line of a call that has filled its first body and not written it.
// It returns false where the call must go on by itself.
func (s *lines) takeOver(c *call, f *jobFeed) bool {
	if !s.reserve() {
		return false
	}
	lead := c.lead()
	conn, _, err := c.out.w.control.Hijack() // what the browser sent after its request is nothing to us
	if err != nil {
		s.release()
		return false
	}
	c.out.w.err = http.ErrHijacked // it is no longer the call's
	fd := -1
	if tcp, ok := conn.(*net.TCPConn); ok {
		fd = duplicate(tcp)
	}
	_ = conn.Close()
	if fd < 0 {
		s.release()
		return true
	}
	l := &line{topic: f.topic, leave: c.leave, fd: int32(fd), chunked: c.chunked, at: -1, since: f.reading.since}
	if t := c.identity.Until; !t.IsZero() {
		l.until = s.now() + int64(time.Until(t))
	}
	c.leave, c.release = nil, nil // they are the line's
	s.client.metrics.streams.WithLabelValues(kindJob, transportHTTP1).Dec()
	s.client.metrics.streams.WithLabelValues(kindJob, transportLine).Inc()
	l.begin(f, lead)
	return true
}

// reserve counts a line that is about to be.
func (s *lines) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running || s.draining {
		return false
	}
	s.count++
	return true
}

// release is the end of what reserve began.
func (s *lines) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count--; s.count == 0 && s.draining {
		close(s.idle)
	}
}

func (s *lines) remember(l *line) {
	s.mu.Lock()
	s.last++
	l.id = s.last
	s.all[l.id] = l
	s.poll.add(int(l.fd), l.id) // within mu: until then nobody finds the line, and closes it
	late := s.draining
	s.mu.Unlock()
	if late {
		l.topic.crowd.dismiss(l, errDraining)
	}
}

func (s *lines) forget(l *line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, l.id)
}

// gone is told by the poller.
func (s *lines) gone(id uint64) {
	s.mu.Lock()
	l := s.all[id]
	s.mu.Unlock()
	if l != nil {
		l.topic.crowd.gone(l)
	}
}

// every is how often the lines are looked at, all of them.
func (s *lines) every() time.Duration {
	return min(max(s.heartbeat/16, time.Millisecond), time.Second)
}

// silence is after what time a member gets a heartbeat: the next look would be too
// late.
func (s *lines) silence() time.Duration { return s.heartbeat - s.every() }

// tick looks after heartbeats and tokens: one ticker for all.
func (s *lines) tick() {
	t := time.NewTicker(s.every())
	defer t.Stop()
	keepalive := newPacket("", func(b []byte) []byte { return appendKeepalive(b, true) })
	var all []*line
	var sweeper hub.Sweeper // net/http leaves 12 KiB of buffers for each line
	for {
		select {
		case <-t.C:
		case <-s.stop:
			return
		}
		var last uint64
		all, last = s.list(all)
		if sweeper.Due(last) {
			s.work.Go(debug.FreeOSMemory)
		}
		now := s.now()
		for _, l := range all {
			l.topic.crowd.tick(l, now, &keepalive)
		}
		clear(all)
	}
}

// list is all lines, in buf, and the last one's ID.
func (s *lines) list(buf []*line) (all []*line, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.AppendSeq(buf[:0], maps.Values(s.all)), s.last
}

// drain sends all lines away, one after the other within the given time, and
// waits for them until ctx ends; then it cuts them off.
func (s *lines) drain(ctx context.Context, most time.Duration) error {
	s.mu.Lock()
	if !s.draining {
		if s.draining = true; s.count == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()
	all, _ := s.list(nil)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	spread := min(time.Duration(len(all))*drainPace, most)
	begun := time.Now()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for i, l := range all {
		wait.Reset(spread*time.Duration(i)/time.Duration(len(all)) - time.Since(begun))
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		l.topic.crowd.dismiss(l, errDraining)
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	all, _ = s.list(nil)
	for _, l := range all {
		l.topic.crowd.gone(l)
	}
	return ctx.Err()
}
