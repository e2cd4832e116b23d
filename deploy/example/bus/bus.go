// Package bus is what this example says to eventbus, by its client package: publish a step
// of a scan, and ask what is there already.
package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/client"
)

// Domain is that of all scans.
const Domain = "scan"

// giveUp is how long an event is tried again. Then the scan goes back to its queue, which
// keeps it for an hour.
const giveUp = time.Minute

// ErrOver is what publishing after a job's final event says.
var ErrOver = errors.New("the job is over")

// Bus is a connection to the bus. It is safe for concurrent use.
type Bus struct {
	client    *client.Client
	publisher *client.Publisher
}

// Dial connects in the background. The caller closes it.
func Dial(addr string, log *slog.Logger) (*Bus, error) {
	c, err := client.Dial(addr, client.Options{Log: log})
	if err != nil {
		return nil, err
	}
	return &Bus{c, c.Publisher(client.PublisherOptions{GiveUp: giveUp})}, nil
}

// Close gives up what nobody waits for any more, and closes the connection.
func (b *Bus) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return errors.Join(b.publisher.Close(ctx), b.client.Close())
}

// Publish returns when the bus has acknowledged the event, whose key is its stage and
// step: whoever plays the job again repeats the keys, and the bus keeps one event of
// each. known: it had it already.
func (b *Bus) Publish(ctx context.Context, e *eventbusv1.Event, step string) (known bool, err error) {
	e.Domain = Domain
	receipt, err := b.publisher.Publish(ctx, e, client.WithKey(e.GetStage()+"/"+step))
	if status.Code(err) == codes.FailedPrecondition {
		return false, ErrOver
	}
	if err != nil {
		return false, fmt.Errorf("publish %s/%s: %w", e.GetStage(), step, err)
	}
	return receipt.Duplicate, nil
}

// Find waits for an event of a job that has been published: the log has it a moment
// later.
func (b *Bus) Find(ctx context.Context, jobID, stage, state string) (*eventbusv1.Event, error) {
	for m, err := range b.client.Subscribe(ctx, Domain, jobID, client.SubscribeOptions{}) {
		if err != nil {
			return nil, err
		}
		if e := m.Event; e.GetStage() == stage && e.GetStatus() == state {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%s %s of %s is not in the log", stage, state, jobID)
}

// State is a job's latest event but its tokens, nil where there is none.
func (b *Bus) State(ctx context.Context, jobID string) (*eventbusv1.Event, error) {
	e, err := b.client.State(ctx, Domain, jobID)
	if status.Code(err) == codes.NotFound {
		return nil, nil //nolint:nilnil // as said
	}
	return e, err
}

// Read is the inverse of client.Value.
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
