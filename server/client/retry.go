package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// firstRetry and maxRetry bound the pause between two attempts.
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff() // with jitter
	b.InitialInterval, b.MaxInterval = firstRetry, maxRetry
	return b
}

// passes tells whether an error may be gone with the next attempt.
func passes(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted:
		return true
	default:
		return false
	}
}

// wish is the pause that the bus asks for, a little longer so that not all come back
// at once; 0 where it names none.
func wish(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			if w := info.GetRetryDelay().AsDuration(); w > 0 {
				return w + rand.N(w/4+1)
			}
		}
	}
	return 0
}

// retry repeats a call until it succeeds, fails for good, or the time is over. It
// returns the call's last error; where ctx ended, its cause, too.
func retry(ctx context.Context, most time.Duration, call func(context.Context) error, failed func(error)) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		last = call(callCtx)
		switch w := wish(last); {
		case last == nil:
			return struct{}{}, nil
		case !passes(last):
			return struct{}{}, backoff.Permanent(last)
		case w > 0:
			return struct{}{}, &backoff.RetryAfterError{Duration: w}
		}
		return struct{}{}, last
	},
		backoff.WithBackOff(newBackoff()),
		backoff.WithMaxElapsedTime(most),
		backoff.WithNotify(func(error, time.Duration) { failed(last) }),
	)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("%w; the last answer was: %w", cause, last)
	}
	if err != nil {
		return last
	}
	return nil
}
