package router

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
)

// listener holds one subscriber connection to one Pub/Sub Redis, and hands its
// messages to whoever joined their channel. Receiving never blocks on a reader:
// handlers only put what they get into a topic.
type listener struct {
	log *slog.Logger
	// rejoined is told each channel that was confirmed anew: messages may have been
	// lost before.
	rejoined func(channel string)

	mu       sync.Mutex
	client   redis.UniversalClient
	pubsub   *redis.PubSub
	channels map[string]*channel
	// unconfirmed counts the SUBSCRIBEs of each channel that Redis has yet to
	// confirm: leaving and joining again quickly makes two.
	unconfirmed map[string]int
	up          bool
}

// channel is one Redis channel and its readers.
type channel struct {
	// handlers is replaced, never changed: dispatch reads it without the lock.
	handlers []*handler
	// confirmed is closed, and then nil, once Redis confirmed the subscription for the
	// first time.
	confirmed chan struct{}
	joined    bool
	// late: somebody did not wait for the confirmation.
	late bool
}

// handler is one reader of a channel; its identity is the pointer.
type handler struct {
	handle func(payload string)
}

// joinTimeout is how long a join waits for Redis; after it the head check
// delivers.
const joinTimeout = 3 * time.Second

func newListener(client redis.UniversalClient, log *slog.Logger, rejoined func(string)) *listener {
	return &listener{
		client: client, log: log, rejoined: rejoined,
		pubsub:   client.Subscribe(context.Background()),
		channels: make(map[string]*channel), unconfirmed: make(map[string]int), up: true,
	}
}

// want is a reader and its channel.
type want struct {
	name    string
	handler *handler
}

// join adds a reader and returns when Redis has confirmed the subscription, when
// it is known to be away, or after joinTimeout. What is published after the
// confirmation is heard.
func (l *listener) join(ctx context.Context, name string, h *handler) {
	ch := l.enter(ctx, []want{{name, h}})[0]
	if ch == nil {
		return
	}
	timeout := time.NewTimer(joinTimeout)
	defer timeout.Stop()
	l.confirmed(ctx, ch, timeout)
}

// enterChunk bounds one SUBSCRIBE.
const enterChunk = 500

// enter adds readers and does not wait: the channels, in the same order, are to be
// given to confirmed; nil where Redis is known to be away.
func (l *listener) enter(ctx context.Context, wants []want) []*channel {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*channel, len(wants))
	var names []string
	for i, w := range wants {
		ch := l.channels[w.name]
		if ch == nil {
			ch = &channel{confirmed: make(chan struct{})}
			l.channels[w.name] = ch
			names = append(names, w.name)
		}
		if !slices.Contains(ch.handlers, w.handler) {
			ch.handlers = append(slices.Clip(ch.handlers), w.handler)
		}
		out[i] = ch
	}
	for chunk := range slices.Chunk(names, enterChunk) {
		if !l.up {
			break
		}
		for _, name := range chunk {
			l.unconfirmed[name]++
		}
		// The connection is everybody's: a caller that gives up must not break it.
		if err := l.pubsub.Subscribe(context.WithoutCancel(ctx), chunk...); err != nil {
			l.up = false
			_ = l.pubsub.Close() // run makes a new one, with all channels
		}
	}
	if !l.up {
		for i, ch := range out {
			ch.late, out[i] = true, nil
		}
	}
	return out
}

// confirmed waits for the confirmation of what enter returned, until timeout or
// the end of ctx. The timer may serve for several channels.
func (l *listener) confirmed(ctx context.Context, ch *channel, timeout *time.Timer) {
	l.mu.Lock()
	done := ch.confirmed
	l.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
		return
	default:
	}
	select {
	case <-done:
	case <-timeout.C:
		timeout.Reset(0)
		l.mu.Lock()
		ch.late = true
		l.mu.Unlock()
	case <-ctx.Done():
	}
}

// leave takes a reader away.
func (l *listener) leave(name string, h *handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.channels[name]
	if ch == nil {
		return
	}
	ch.handlers = slices.DeleteFunc(slices.Clone(ch.handlers), func(x *handler) bool { return x == h })
	if len(ch.handlers) > 0 {
		return
	}
	delete(l.channels, name)
	if l.up {
		_ = l.pubsub.Unsubscribe(context.Background(), name) // a broken connection has no subscriptions either
	}
}

// reconnect gives up the present connection, for one that does not deliver, and
// uses the client from now on.
func (l *listener) reconnect(client redis.UniversalClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = false
	_ = l.pubsub.Close() // run sees the error and makes a new one
	l.client = client
}

// run receives until ctx ends.
func (l *listener) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, l.drop)
	defer stop()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, time.Second
	for ctx.Err() == nil {
		l.mu.Lock()
		pubsub := l.pubsub
		l.mu.Unlock()
		msg, err := pubsub.Receive(ctx)
		if err == nil {
			pause.Reset()
			l.dispatch(msg)
			continue
		}
		if ctx.Err() != nil {
			break
		}
		l.down(err)
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
		}
		l.resubscribe(ctx)
	}
}

// drop closes the present connection, which wakes Receive.
func (l *listener) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.pubsub.Close()
}

// down notes that the connection is gone.
func (l *listener) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.up && !errors.Is(err, redis.ErrClosed) {
		l.log.Warn("pub/sub connection lost", "error", err)
	}
	l.up = false
	_ = l.pubsub.Close()
}

// resubscribe makes a new connection with all channels.
func (l *listener) resubscribe(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.pubsub.Close()
	if ctx.Err() != nil {
		return
	}
	l.pubsub = l.client.Subscribe(ctx)
	clear(l.unconfirmed)
	names := make([]string, 0, len(l.channels))
	for name := range l.channels {
		names = append(names, name)
		l.unconfirmed[name] = 1
	}
	err := l.pubsub.Ping(ctx)
	if err == nil && len(names) > 0 {
		err = l.pubsub.Subscribe(ctx, names...)
	}
	if err == nil {
		l.up = true
		l.log.Info("pub/sub connection made", "channels", len(names))
	}
}

func (l *listener) dispatch(msg any) {
	switch m := msg.(type) {
	case *redis.Message:
		for _, h := range l.readers(m.Channel) {
			h.handle(m.Payload)
		}
	case *redis.Subscription:
		if m.Kind != "subscribe" {
			return
		}
		if l.confirm(m.Channel) {
			l.rejoined(m.Channel)
		}
	}
}

// confirm notes that Redis subscribed a channel; it tells whether its readers may
// have missed something before.
func (l *listener) confirm(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unconfirmed[name]--; l.unconfirmed[name] > 0 {
		return false
	}
	if delete(l.unconfirmed, name); len(l.unconfirmed) == 0 {
		l.unconfirmed = make(map[string]int) // one that had many keeps their room
	}
	ch := l.channels[name]
	if ch == nil {
		return false
	}
	missed := ch.joined || ch.late
	if !ch.joined {
		ch.joined = true
		close(ch.confirmed)
		ch.confirmed = nil
	}
	ch.late = false
	return missed
}

func (l *listener) readers(name string) []*handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.channels[name]
	if ch == nil {
		return nil
	}
	return ch.handlers
}
