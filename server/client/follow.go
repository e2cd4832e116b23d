package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

const (
	// openTimeout bounds the wait for a router's first word.
	openTimeout = 10 * time.Second
	// defaultSilence is four of the routers' default heartbeats.
	defaultSilence = time.Minute
	// lived is how long a stream must last to be a success: one that breaks at once,
	// again and again, is none.
	lived = maxRetry
)

// errSilent: a router said nothing for too long, as one behind a proxy that is gone.
var errSilent = errors.New("client: no word from a router in time")

// errLeft: the caller left its loop.
var errLeft = errors.New("client: the caller left")

// Message is what a subscriber gets: an event, or a gap.
type Message struct {
	// Event is nil where this is a gap.
	Event *eventbusv1.Event
	// Gap: events were lost to this subscriber before the next message. It goes on
	// with the oldest that is retained, so what it has of the job may come again:
	// forget it.
	Gap *eventbusv1.Gap
	// Cursor resumes after this message in another call: SubscribeOptions.After, or
	// WatchOptions.Cursor, where it may repeat events, but skips none.
	Cursor string
}

// follower keeps a stream open: where it breaks it opens another, after the last
// message.
type follower[M any] struct {
	log     *slog.Logger
	what    []any // for the log
	silence time.Duration
	open    func(context.Context) (grpc.ServerStreamingClient[M], error)
	// take hands a message to the caller; false: who left its loop.
	take func(*M) bool
}

// run returns nil when the job is over, errLeft when the caller left, and else why
// there is no use in trying again; ctx's cause where that ended.
func (f *follower[M]) run(ctx context.Context) error {
	pause := newBackoff()
	away := false
	for {
		began := time.Now()
		spoke, err := f.once(ctx, func() {
			if away {
				away = false
				f.log.Info("subscription goes on", f.what...)
			}
		})
		switch {
		case errors.Is(err, errLeft):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF), status.Code(err) == codes.OutOfRange:
			return nil
		// A token ends in mid-stream; the next stream has another. One that is refused
		// at once is for good.
		case !f.worth(err, spoke):
			return err
		}
		// Routers end streams in the course of things; one that cannot be opened again
		// at once is worth a line.
		if !away && !spoke {
			away = true
			f.log.Warn("subscription cannot be opened; it is tried again", append(f.what, "error", err)...)
		}
		if time.Since(began) > lived {
			pause.Reset()
		}
		if !sleep(ctx, max(pause.NextBackOff(), wish(err))) {
			return context.Cause(ctx)
		}
	}
}

func (f *follower[M]) worth(err error, spoke bool) bool {
	switch status.Code(err) {
	case codes.Internal, codes.Unknown, codes.Canceled: // a proxy's, or a connection's
		return true
	case codes.Unauthenticated:
		return spoke
	default:
		return passes(err)
	}
}

// once follows one stream to its end. spoke: it had a first message.
func (f *follower[M]) once(parent context.Context, opened func()) (spoke bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	watchdog := time.AfterFunc(openTimeout, func() { cancel(errSilent) })
	defer watchdog.Stop()
	stream, err := f.open(ctx)
	for err == nil {
		var m *M
		if m, err = stream.Recv(); err != nil {
			break
		}
		if !spoke {
			spoke = true
			opened()
		}
		watchdog.Stop() // the caller may take its time
		if !f.take(m) {
			return true, errLeft
		}
		watchdog.Reset(f.silence)
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		err = status.Error(codes.Unavailable, errSilent.Error())
	}
	return spoke, err
}

// sleep returns false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
