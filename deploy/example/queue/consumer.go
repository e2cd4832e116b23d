package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	amqp "github.com/rabbitmq/amqp091-go"
)

// Delivery is a scan in a worker's hands.
type Delivery struct {
	Scan
	// Attempt is 1 for the first delivery, as far as RabbitMQ knows.
	Attempt int
	// Reason is why it is in Dead; empty elsewhere.
	Reason string
}

// Handler works on a scan. nil: it is done, and never comes again. An error: again later,
// here or elsewhere. ctx ends when the work must be given up.
type Handler func(ctx context.Context, d Delivery) error

// Consumer takes scans out of a queue.
type Consumer struct {
	URL   string
	Queue string
	Tries int
	// Jobs is how many are worked on at a time: RabbitMQ hands out no more.
	Jobs int
	// RetryPause is what a failed scan waits before it is given back, times its attempts.
	RetryPause time.Duration
	Handle     Handler
	Log        *slog.Logger
}

// Run works until ctx ends. Then it takes nothing more, finishes what it has for as long
// as patience, and gives the rest back. It connects again whenever RabbitMQ is lost: what
// was not acknowledged by then comes again.
func (c Consumer) Run(ctx context.Context, patience time.Duration) {
	work, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-timer.C:
			giveUp()
		case <-work.Done():
		}
	})
	defer stop()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		err := c.consume(ctx, work, pause.Reset)
		if ctx.Err() != nil {
			return
		}
		next := pause.NextBackOff()
		c.Log.Warn("RabbitMQ is lost, connecting again", "queue", c.Queue, "in", next, "error", err)
		sleep(ctx, next)
	}
}

// consume works on one connection. All its handlers have returned when it returns.
func (c Consumer) consume(ctx, work context.Context, connected func()) error {
	conn, ch, err := dial(ctx, c.URL, c.Tries)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // after the last acknowledgement
	if err := ch.Qos(c.Jobs, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.ConsumeWithContext(context.WithoutCancel(ctx), c.Queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	lost := conn.NotifyClose(make(chan *amqp.Error, 1))
	connected()
	c.Log.Info("taking scans", "queue", c.Queue, "jobs", c.Jobs)

	// On a lost connection there is nobody to acknowledge to: others have the scans.
	work, giveUp := context.WithCancel(work)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		select {
		case d, open := <-deliveries:
			if !open {
				giveUp()
				return errors.New("the channel is closed")
			}
			handlers.Go(func() { c.handle(work, d) })
		case err := <-lost:
			giveUp()
			return fmt.Errorf("the connection is closed: %w", err)
		case <-ctx.Done():
			handlers.Wait()
			giveUp()
			return nil
		}
	}
}

func (c Consumer) handle(ctx context.Context, d amqp.Delivery) {
	err := c.Handle(ctx, delivery(d))
	if err == nil {
		if err := d.Ack(false); err != nil {
			c.Log.Warn("not acknowledged, it comes again", "job_id", d.MessageId, "error", err)
		}
		return
	}
	attempt := attempts(d)
	c.Log.Warn("scan failed for now", "job_id", d.MessageId, "attempt", attempt, "error", err)
	sleep(ctx, time.Duration(attempt)*c.RetryPause)
	if err := d.Nack(false, true); err != nil {
		c.Log.Warn("not given back, it comes again", "job_id", d.MessageId, "error", err)
	}
}

func delivery(d amqp.Delivery) Delivery {
	trace, _ := d.Headers[traceparent].(string)
	out := Delivery{
		Scan:    Scan{JobID: d.MessageId, Picture: d.Body, ContentType: d.ContentType, Traceparent: trace},
		Attempt: attempts(d),
	}
	out.Reason, _ = d.Headers["x-first-death-reason"].(string)
	return out
}

// attempts is what a quorum queue counted; it says nothing on the first delivery.
func attempts(d amqp.Delivery) int {
	n, _ := d.Headers["x-delivery-count"].(int64)
	return int(n) + 1
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
