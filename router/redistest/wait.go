package redistest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	pollEvery = 10 * time.Millisecond
	// opTimeout bounds every wait of this package. It is long because a loaded machine is not a failure.
	opTimeout = 60 * time.Second
	// tryTimeout bounds one try: a server that hangs must not keep a wait from looking again.
	tryTimeout = 2 * time.Second
)

// poll repeats op until it succeeds, fails for good (backoff.Permanent) or ctx ends. Its error says what was waited for
// and what op said last.
func poll(ctx context.Context, what string, op func(context.Context) error) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, tryTimeout)
		defer cancel()
		last = op(ctx)
		return struct{}{}, last
	}, backoff.WithBackOff(backoff.NewConstantBackOff(pollEvery)), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return nil
	}
	if permanent := new(backoff.PermanentError); errors.As(last, &permanent) {
		return fmt.Errorf("wait until %s: %w", what, err)
	}
	return fmt.Errorf("wait until %s: %w; last: %w", what, err, last)
}

// withTimeout is the context of an operation that has none from its caller.
func withTimeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), opTimeout)
}

// do runs op with the usual timeout and fails tb if it fails.
func do(tb testing.TB, what string, op func(context.Context) error) {
	tb.Helper()
	ctx, cancel := withTimeout()
	defer cancel()
	if err := op(ctx); err != nil {
		tb.Fatalf("redistest: %s: %v", what, err)
	}
}
