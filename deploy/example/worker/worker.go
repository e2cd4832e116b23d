// Package worker plays scans: it takes one out of the queue, works through its stages, and
// publishes what it does. python/worker.py is another one, beside it on the same queue.
//
// What it promises, and how:
//
//   - A scan is acknowledged to RabbitMQ after the bus has acknowledged its final event,
//     and not before: a worker that dies gives its scans to others.
//   - Whoever gets it again plays it again from the start, with the same keys: the bus
//     keeps one event of each step (play.go). Workers that play one job at the same time
//     do no harm for the same reason.
//   - What was published stands: where another worker has published a stage's result,
//     this one goes on with that.
//   - A picture that cannot be read ends its job as failed. What may go better next time is
//     given back; after QUEUE_TRIES it comes here as a dead letter, and ends as failed, too.
package worker

import (
	"context"
	"crypto/md5" //nolint:gosec // spreads, hides nothing
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"

	"github.com/eco2-team/eventbus/deploy/example/bus"
	"github.com/eco2-team/eventbus/deploy/example/queue"
)

// Config is a worker's settings.
type Config struct {
	AMQPURL    string        `name:"amqp-url" env:"AMQP_URL" required:"" help:"RabbitMQ, amqp://user:password@host:5672/vhost."`
	RouterAddr string        `name:"router-addr" env:"ROUTER_ADDR" required:"" help:"The bus, host:port or dns:///host:port."`
	Tries      int           `name:"queue-tries" env:"QUEUE_TRIES" default:"10" help:"How often a scan is handed out again before it is a dead letter; the same for everybody who uses the queues."`
	Name       string        `name:"worker-name" env:"WORKER_NAME" default:"go" help:"Stands in the attributes of each event."`
	Jobs       int           `name:"worker-jobs" env:"WORKER_JOBS" default:"4" help:"Scans at a time."`
	Pace       time.Duration `name:"pace" env:"PACE" default:"40ms" help:"The time of a token; other stages take about ten. It stands for the work of real models."`
	FailRate   float64       `name:"fail-rate" env:"FAIL_RATE" default:"0" help:"Share of the stages that fail for now, 0-1: the scan is given back and tried again."`
	FailSeed   uint64        `name:"fail-seed" env:"FAIL_SEED" default:"1" help:"Which ones fail."`
	Drain      time.Duration `name:"drain-timeout" env:"DRAIN_TIMEOUT" default:"30s" help:"How long scans under way may take after SIGTERM."`
}

// Check names what is out of bounds.
func (c Config) Check() error {
	var errs []error
	if c.Jobs < 1 || c.Jobs > 1000 {
		errs = append(errs, errors.New("WORKER_JOBS is "+strconv.Itoa(c.Jobs)+", want 1 to 1000"))
	}
	if c.Tries < 1 || c.Tries > 1000 {
		errs = append(errs, errors.New("QUEUE_TRIES is "+strconv.Itoa(c.Tries)+", want 1 to 1000"))
	}
	if c.FailRate < 0 || c.FailRate > 1 {
		errs = append(errs, errors.New("FAIL_RATE is "+strconv.FormatFloat(c.FailRate, 'g', -1, 64)+", want 0 to 1"))
	}
	return errors.Join(errs...)
}

const retryPause = 200 * time.Millisecond

// Run works until ctx ends.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	if err := c.Check(); err != nil {
		return err
	}
	b, err := bus.Dial(c.RouterAddr, log)
	if err != nil {
		return err
	}
	defer closeAll(log, b)
	p := player{bus: b, config: c, log: log}
	scans := queue.Consumer{
		URL: c.AMQPURL, Queue: queue.Jobs, Tries: c.Tries, Jobs: c.Jobs, RetryPause: retryPause, Handle: p.play, Log: log,
	}
	dead := scans
	dead.Queue, dead.Jobs, dead.Handle = queue.Dead, 1, p.bury
	var both sync.WaitGroup
	both.Go(func() { scans.Run(ctx, c.Drain) })
	both.Go(func() { dead.Run(ctx, c.Drain) })
	both.Wait()
	return nil
}

func closeAll(log *slog.Logger, c io.Closer) {
	if err := c.Close(); err != nil {
		log.Warn("close", "error", err)
	}
}

// bury ends the job of a dead letter: nobody else will.
func (p player) bury(ctx context.Context, d queue.Delivery) error {
	reason := map[string]string{
		"delivery_limit": "it was tried too often", "expired": "it waited too long", "rejected": "nobody could do it",
	}[d.Reason]
	if reason == "" {
		reason = "dead letter: " + d.Reason
	}
	p.log.Warn("dead letter", "job_id", d.JobID, "reason", d.Reason)
	return p.fail(ctx, d, reason)
}

// fail publishes a job's end. It is no error that the job has ended.
func (p player) fail(ctx context.Context, d queue.Delivery, reason string) error {
	_, err := p.bus.Publish(ctx, p.event(d, &eventbusv1.Event{Stage: "failed", Status: "failed", Message: reason, Final: true}), "failed")
	if errors.Is(err, bus.ErrOver) {
		return nil
	}
	return err
}

// fails is whether a stage fails at an attempt: the same each time one looks.
func (c Config) fails(jobID, stage string, attempt int) bool {
	sum := md5.Sum(fmt.Appendf(nil, "%d/%s/%s/%d", c.FailSeed, jobID, stage, attempt)) //nolint:gosec // spreads, hides nothing
	const parts = 1 << 32
	return float64(binary.BigEndian.Uint32(sum[:4]))/parts < c.FailRate
}
