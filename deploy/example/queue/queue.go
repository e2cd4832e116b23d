// Package queue is RabbitMQ between the Scan API and its workers: what the queues are
// (this file), putting a scan in (publisher.go), taking scans out (consumer.go).
//
// Its promise is at least once: a scan that Publish returned without an error for stays
// in a queue until a worker has acknowledged it, and may be handed out more than once.
// What makes that once for browsers is the bus and its idempotency keys.
//
//	API → Publisher → Jobs → Consume → worker; expired, or tried too often → Dead → Consume
package queue

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The queues. All are durable.
const (
	// Jobs is for workers that publish by gRPC, of any language: whoever is free takes
	// the next.
	Jobs = "scan.jobs"
	// Legacy is for old workers, which take each scan off before they work on it.
	Legacy = "scan.legacy"
	// Dead has what was tried too often, or waited too long.
	Dead = "scan.dead"
)

const (
	// maxWait is how long a scan may wait, retries included. It is shorter than the
	// bus's IDEMPOTENCY_WINDOW (2 h): a repeat after that would be a second scan.
	maxWait = time.Hour
	// DefaultTries bounds how often a scan is handed out again.
	DefaultTries = 10
	// connectTimeout bounds a dial and a handshake.
	connectTimeout = 10 * time.Second
	heartbeat      = 10 * time.Second
)

// Scan is one message.
type Scan struct {
	JobID       string
	Picture     []byte
	ContentType string
	// Traceparent is the request's W3C trace context, if it had one.
	Traceparent string
}

const traceparent = "traceparent"

// dial connects, declares the queues and puts the channel's user in charge. Everybody
// declares the same: whoever is first makes them.
func dial(ctx context.Context, url string, tries int) (*amqp.Connection, *amqp.Channel, error) {
	conn, err := amqp.DialConfig(url, amqp.Config{Heartbeat: heartbeat, Dial: amqp.DefaultDial(connectTimeout)})
	if err != nil {
		return nil, nil, fmt.Errorf("connect to RabbitMQ: %w", err)
	}
	ch, err := conn.Channel()
	if err == nil {
		err = declare(ch, tries)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close() // the error above says why
		return nil, nil, fmt.Errorf("declare the queues: %w", err)
	}
	return conn, ch, nil
}

// declare makes the queues. Quorum queues count deliveries by themselves, a worker that
// dies included, and keep a dead letter until its queue has confirmed it.
func declare(ch *amqp.Channel, tries int) error {
	work := amqp.Table{
		amqp.QueueTypeArg:           amqp.QueueTypeQuorum,
		amqp.QueueMessageTTLArg:     maxWait.Milliseconds(),
		amqp.QueueOverflowArg:       amqp.QueueOverflowRejectPublish,
		"x-delivery-limit":          int32(tries), //nolint:gosec // checked by the flag
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": Dead,
		"x-dead-letter-strategy":    "at-least-once",
	}
	for name, args := range map[string]amqp.Table{
		Dead: {amqp.QueueTypeArg: amqp.QueueTypeQuorum}, Jobs: work, Legacy: work,
	} {
		if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
