package doctor

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/redis/go-redis/v9"
)

// delivery publishes on a channel of its own and expects the message back, on another
// connection: PUBLISH succeeds on a replica, too, and reaches nobody else.
func (e *examiner) delivery(ctx context.Context, name string, c redis.UniversalClient) {
	ctx, cancel := context.WithTimeout(ctx, tooLong)
	defer cancel()
	const mend = "let publishers and subscribers reach the same master: with Sentinel use redis+sentinel://, and no address that leads to several servers. Until then events wait for the head check"
	channel := "router:check:" + rand.Text()
	sub := c.Subscribe(ctx, channel)
	defer func() { _ = sub.Close() }() // it was only for this
	if _, err := sub.Receive(ctx); err != nil {
		e.say(Fail, name, mend, "SUBSCRIBE: %v", err)
		return
	}
	began := time.Now()
	reached, err := c.Publish(ctx, channel, "check").Result()
	if err != nil {
		e.say(Fail, name, mend, "PUBLISH: %v", err)
		return
	}
	if _, err := sub.ReceiveMessage(ctx); err != nil {
		e.say(Fail, name, mend, "an announcement did not arrive; PUBLISH says that it reached %d: %v", reached, err)
		return
	}
	e.say(OK, name, "", "an announcement arrives within %v", time.Since(began).Round(time.Microsecond))
}
