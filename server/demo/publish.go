package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

const (
	// callTimeout bounds one attempt: a call to a host that vanished would wait
	// for ever.
	callTimeout = 10 * time.Second
	// retryFor is shorter than the bus's IDEMPOTENCY_WINDOW (2 h): a repeat after
	// it would be a second event.
	retryFor = time.Hour
	// firstRetry and maxRetry bound the pause between two attempts.
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// request makes e an event of the job. The key names the step within the job
// and nothing else (no time, no random part): whoever plays the same job again
// after a crash repeats the same keys, and the bus keeps one event of each.
func (j job) request(key string, e *eventbusv1.Event) *eventbusv1.PublishRequest {
	e.Domain, e.JobId = j.domain, j.id
	return &eventbusv1.PublishRequest{Event: e, IdempotencyKey: key}
}

// publish returns when the bus has acknowledged the event.
func (j job) publish(ctx context.Context, key string, e *eventbusv1.Event) error {
	req := j.request(key, e)
	return j.retry(ctx, func(ctx context.Context) error {
		_, err := j.client.Publish(ctx, req)
		return err
	})
}

// publishBatch returns when the bus has acknowledged all events. A failed call
// may have written some: repeating all of them is right, because of the keys.
func (j job) publishBatch(ctx context.Context, requests []*eventbusv1.PublishRequest) error {
	return j.retry(ctx, func(ctx context.Context) error {
		_, err := j.client.PublishBatch(ctx, &eventbusv1.PublishBatchRequest{Requests: requests})
		return err
	})
}

// retry repeats call until it succeeds, fails for good, or retryFor is over.
func (j job) retry(ctx context.Context, call func(context.Context) error) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstRetry, maxRetry

	told := false
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return struct{}{}, classify(call(callCtx))
	},
		backoff.WithBackOff(pause),
		backoff.WithMaxElapsedTime(retryFor),
		backoff.WithNotify(func(err error, next time.Duration) {
			if !told {
				told = true
				j.logger.Warn("publishing failed, repeating it", "domain", j.domain, "job_id", j.id, "in", next, "error", err)
			}
		}),
	)
	return err
}

// classify tells backoff what an error means: try again (after the pause that
// the bus asks for, where it does), or give up.
func classify(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
	default:
		return backoff.Permanent(err)
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok && info.GetRetryDelay().AsDuration() > 0 {
			return errors.Join(err, &backoff.RetryAfterError{Duration: info.GetRetryDelay().AsDuration()})
		}
	}
	return err
}

// jsonValue turns what json.Marshal takes into an event's result.
func jsonValue(v any) (*structpb.Value, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	value := new(structpb.Value)
	if err := value.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	return value, nil
}
