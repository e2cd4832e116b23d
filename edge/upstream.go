package edge

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// upstream is one stream from a router that has said its first word. It belongs
// to one goroutine; close it.
type upstream[M any] struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream grpc.ServerStreamingClient[M]
	// watchdog ends the stream of a router that says nothing: heartbeats are due.
	watchdog *time.Timer
	silence  time.Duration
	first    *M
	opened   time.Time
}

// openUpstream opens a stream and waits for its first message, at most
// openTimeout. Later a silence of the given length ends it.
func openUpstream[M any](ctx context.Context, silence time.Duration,
	open func(context.Context) (grpc.ServerStreamingClient[M], error),
) (*upstream[M], error) {
	u := &upstream[M]{silence: silence, opened: time.Now()}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	u.watchdog = time.AfterFunc(openTimeout, func() { u.cancel(errSilent) })
	var err error
	if u.stream, err = open(u.ctx); err == nil {
		u.first, err = u.stream.Recv()
	}
	if err != nil {
		err = u.explain(err)
		u.close()
		return nil, err
	}
	u.watchdog.Reset(silence)
	return u, nil
}

// recv returns the next message, the first one included, and io.EOF or a gRPC
// status at the end.
func (u *upstream[M]) recv() (*M, error) {
	if m := u.first; m != nil {
		u.first = nil
		return m, nil
	}
	m, err := u.stream.Recv()
	if err != nil {
		return nil, u.explain(err)
	}
	u.watchdog.Reset(u.silence)
	return m, nil
}

// explain gives the watchdog's Canceled its right name.
func (u *upstream[M]) explain(err error) error {
	if errors.Is(context.Cause(u.ctx), errSilent) {
		return status.Error(codes.Unavailable, "no word from a router in time")
	}
	return err
}

func (u *upstream[M]) close() {
	u.watchdog.Stop()
	u.cancel(nil)
}

// patience spaces the attempts to reach a router: 50 ms to 2 s, with jitter, for
// ever.
type patience struct{ backoff.ExponentialBackOff }

const maxPatience = 2 * time.Second

func newPatience() *patience {
	return &patience{backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 1.6, MaxInterval: maxPatience,
	}}
}

// lived begins anew after a stream that lasted: one that breaks at once, again and
// again, is no success.
func (p *patience) lived(since time.Time) {
	if time.Since(since) > maxPatience {
		p.Reset()
	}
}

// wait returns false where ctx ended first.
func (p *patience) wait(ctx context.Context) bool {
	t := time.NewTimer(p.NextBackOff())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
