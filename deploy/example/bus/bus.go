// Package bus is what this example says to eventbus, by gRPC: publish a step of a scan,
// and ask what is there already.
package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// Domain is that of all scans.
const Domain = "scan"

const (
	callTimeout = 10 * time.Second
	// retryFor is how long a call is repeated. Then the scan goes back to its queue,
	// which keeps it for an hour.
	retryFor = time.Minute
)

// ErrOver is what publishing after a job's final event says.
var ErrOver = errors.New("the job is over")

// Bus is a connection to the bus. It is safe for concurrent use.
type Bus struct {
	conn   *grpc.ClientConn
	client eventbusv1.EventBusServiceClient
}

// Dial connects in the background. The caller closes it.
func Dial(addr string) (*Bus, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	return &Bus{conn, eventbusv1.NewEventBusServiceClient(conn)}, nil
}

// Close closes the connection.
func (b *Bus) Close() error { return b.conn.Close() }

// Publish returns when the bus has acknowledged the event, whose key is its stage and
// step: whoever plays the job again repeats the keys, and the bus keeps one event of
// each. known: it had it already.
func (b *Bus) Publish(ctx context.Context, e *eventbusv1.Event, step string) (known bool, err error) {
	e.Domain = Domain
	req := &eventbusv1.PublishRequest{Event: e, IdempotencyKey: e.GetStage() + "/" + step}
	resp, err := retry(ctx, func(ctx context.Context) (*eventbusv1.PublishResponse, error) {
		return b.client.Publish(ctx, req)
	})
	if status.Code(err) == codes.FailedPrecondition {
		return false, ErrOver
	}
	if err != nil {
		return false, fmt.Errorf("publish %s/%s: %w", e.GetStage(), step, err)
	}
	return resp.GetDuplicate(), nil
}

// Find waits for an event of a job that has been published: the log has it a moment
// later.
func (b *Bus) Find(ctx context.Context, jobID, stage, state string) (*eventbusv1.Event, error) {
	return retry(ctx, func(ctx context.Context) (*eventbusv1.Event, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream
		stream, err := b.client.Subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: Domain, JobId: jobID})
		if err != nil {
			return nil, err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				return nil, fmt.Errorf("%s %s of %s is not in the log: %w", stage, state, jobID, err)
			}
			for _, e := range m.GetEvents() {
				if e.GetStage() == stage && e.GetStatus() == state {
					return e, nil
				}
			}
		}
	})
}

// State is a job's latest event but its tokens, nil where there is none.
func (b *Bus) State(ctx context.Context, jobID string) (*eventbusv1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := b.client.GetState(ctx, &eventbusv1.GetStateRequest{Domain: Domain, JobId: jobID})
	if status.Code(err) == codes.NotFound {
		return nil, nil //nolint:nilnil // as said
	}
	return resp.GetEvent(), err
}

// retry repeats what may go better the next time.
func retry[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	return backoff.Retry(ctx, func() (T, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		v, err := call(ctx)
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
			return v, err
		default:
			return v, permanent(err)
		}
	}, backoff.WithMaxElapsedTime(retryFor))
}

func permanent(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}

// Value is what json.Marshal takes as an event's result.
func Value(v any) (*structpb.Value, error) {
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

// Read is the inverse of Value.
func Read(value *structpb.Value, into any) error {
	text, err := value.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}
