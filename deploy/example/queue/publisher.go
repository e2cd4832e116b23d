package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// confirmTimeout bounds the wait for a confirm: a quorum that is gone gives none.
const confirmTimeout = 10 * time.Second

// Publisher puts scans into a queue. It is safe for concurrent use; one is under way at a
// time, so that a returned message is that of the confirm beside it.
type Publisher struct {
	url   string
	tries int
	// turn holds the connection; it is nil until it is needed, and after an error.
	turn chan *link
}

type link struct {
	conn    *amqp.Connection
	channel *amqp.Channel
	// returns has what no queue wanted. RabbitMQ sends it before the confirm.
	returns chan amqp.Return
}

// NewPublisher connects when it is needed. The caller closes it.
func NewPublisher(url string, tries int) *Publisher {
	p := &Publisher{url: url, tries: tries, turn: make(chan *link, 1)}
	p.turn <- nil
	return p
}

// Publish returns when RabbitMQ has the scan on disk. After an error it may have it, too.
func (p *Publisher) Publish(ctx context.Context, queue string, s Scan) error {
	return p.with(ctx, func(ctx context.Context, l *link) error {
		confirm, err := l.channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{
			MessageId: s.JobID, ContentType: s.ContentType, Body: s.Picture, Timestamp: time.Now(),
			DeliveryMode: amqp.Persistent, Headers: amqp.Table{traceparent: s.Traceparent},
		})
		if err != nil {
			return err
		}
		ok, err := confirm.WaitContext(ctx)
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("RabbitMQ did not take it")
		}
		select {
		case r := <-l.returns:
			return fmt.Errorf("returned: %s", r.ReplyText)
		default:
			return nil
		}
	})
}

// Ready tells whether RabbitMQ can be reached.
func (p *Publisher) Ready(ctx context.Context) error {
	return p.with(ctx, func(context.Context, *link) error { return nil })
}

// with runs what one at a time may do. After an error the connection is made anew: what
// is still under way on it would be taken for the next one's.
func (p *Publisher) with(ctx context.Context, do func(context.Context, *link) error) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	var l *link
	select {
	case l = <-p.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	var err error
	if l == nil || l.conn.IsClosed() || l.channel.IsClosed() {
		l.close()
		l, err = p.connect(ctx)
	}
	if err == nil {
		err = do(ctx, l)
	}
	if err != nil {
		l.close()
		l = nil
	}
	p.turn <- l
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

func (p *Publisher) connect(ctx context.Context) (*link, error) {
	conn, ch, err := dial(ctx, p.url, p.tries)
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		_ = conn.Close() // the error above says why
		return nil, err
	}
	return &link{conn, ch, ch.NotifyReturn(make(chan amqp.Return, 1))}, nil
}

// Close waits for what is under way and closes the connection.
func (p *Publisher) Close() {
	(<-p.turn).close()
	p.turn <- nil
}

func (l *link) close() {
	if l != nil {
		_ = l.conn.Close() // closed by RabbitMQ, or now
	}
}
