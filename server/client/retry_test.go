package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func nothing(error) {}

func TestRetry_WaitsAsLongAsTheBusAsksAndALittleLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, err := status.New(codes.ResourceExhausted, "log full").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(80 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		begin, calls := time.Now(), 0
		err = retry(t.Context(), time.Hour, func(context.Context) error {
			if calls++; calls == 1 {
				return full.Err()
			}
			return nil
		}, nothing)
		if took := time.Since(begin); err != nil || took < 80*time.Second || took > 100*time.Second {
			t.Errorf("repeated after %v, want 80-100 s: %v", took, err)
		}
	})
}

func TestRetry_BacksOffAndGivesUpBeforeTheBusForgetsTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, calls := time.Now(), 0
		err := retry(t.Context(), time.Hour, func(context.Context) error {
			calls++
			return status.Error(codes.Unavailable, "away")
		}, nothing)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%v; want the bus's own error", err)
		}
		if took := time.Since(begin); took > time.Hour || took < time.Hour-2*maxRetry {
			t.Errorf("gave up after %v, want just under an hour", took)
		}
		if calls < 480 || calls > 1450 { // 5 s apart, jittered by half
			t.Errorf("%d calls in an hour", calls)
		}
	})
}

func TestRetry_ACallThatHangsIsRepeatedARefusalIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := retry(t.Context(), time.Hour, func(ctx context.Context) error {
			if calls++; calls > 1 {
				return status.Error(codes.FailedPrecondition, "the job is over")
			}
			<-ctx.Done() // the host vanished
			return status.FromContextError(ctx.Err()).Err()
		}, nothing)
		if status.Code(err) != codes.FailedPrecondition || calls != 2 {
			t.Errorf("%d calls, error %v", calls, err)
		}
	})
}

func TestRetry_EndsWithItsContextAndSaysBothReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		err := retry(ctx, time.Hour, func(context.Context) error {
			return status.Error(codes.Unavailable, "away")
		}, func(error) { cancel(enough) })
		if !errors.Is(err, enough) || status.Code(err) != codes.Unavailable {
			t.Errorf("%v (%v)", err, status.Code(err))
		}
	})
}

func TestAfter_ComparesIDsAsNumbers(t *testing.T) {
	for _, c := range []struct {
		id, than string
		want     bool
	}{{"1-0", "", true}, {"10-0", "9-0", true}, {"9-10", "9-9", true}, {"9-9", "9-9", false}, {"9-1", "10-0", false}} {
		if got := after(c.id, c.than); got != c.want {
			t.Errorf("%s after %q is %v", c.id, c.than, got)
		}
	}
}
