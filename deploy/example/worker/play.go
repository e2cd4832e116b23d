package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/client"

	"github.com/eco2-team/eventbus/deploy/example/bus"
	"github.com/eco2-team/eventbus/deploy/example/queue"
	"github.com/eco2-team/eventbus/deploy/example/scan"
)

// stagePaces is how long a stage works, in paces.
const stagePaces = 10

type player struct {
	bus    *bus.Bus
	config Config
	log    *slog.Logger
}

// badPictureError is an error that the next attempt would have, too.
type badPictureError struct{ error }

// play works through a scan. The order of its events, and their keys, are the same each
// time: an event is published only after all before it, so whoever plays the job at the
// same time cannot put it out of order.
func (p player) play(ctx context.Context, d queue.Delivery) error {
	err := p.stages(ctx, d)
	var bad badPictureError
	switch {
	case errors.Is(err, bus.ErrOver): // by another worker, or as a dead letter
		return nil
	case errors.As(err, &bad):
		return p.fail(ctx, d, bad.Error())
	}
	return err
}

func (p player) stages(ctx context.Context, d queue.Delivery) error {
	// The API has published that it is queued; where that was not acknowledged, this is.
	if err := p.step(ctx, d, "queued", "started"); err != nil {
		return err
	}
	if err := p.step(ctx, d, "queued", "completed"); err != nil {
		return err
	}
	var r scan.Result
	err := stage(ctx, p, d, "vision", &r.Vision, func() (scan.Vision, error) {
		v, err := scan.Look(d.Picture)
		if err != nil {
			return v, badPictureError{err}
		}
		return v, p.work(ctx, stagePaces)
	})
	if err != nil {
		return err
	}
	err = stage(ctx, p, d, "rule", &r.Rule, func() (scan.Rule, error) {
		rule, err := scan.RuleFor(r.Vision)
		return rule, errors.Join(err, p.work(ctx, stagePaces))
	})
	if err != nil {
		return err
	}
	err = stage(ctx, p, d, "answer", &r.Answer, func() (scan.Answer, error) {
		answer := scan.AnswerFor(r.Vision, r.Rule)
		return answer, p.stream(ctx, d, answer)
	})
	if err != nil {
		return err
	}
	err = stage(ctx, p, d, "reward", &r.Reward, func() (scan.Reward, error) {
		return scan.RewardFor(d.JobID), p.work(ctx, stagePaces)
	})
	if err != nil {
		return err
	}
	return p.done(ctx, d, r)
}

// stage starts a stage, works, and completes it. into becomes the result that the bus
// has, which may be another worker's.
func stage[T any](ctx context.Context, p player, d queue.Delivery, name string, into *T, work func() (T, error)) error {
	if err := p.step(ctx, d, name, "started"); err != nil {
		return err
	}
	if p.config.fails(d.JobID, name, d.Attempt) {
		return fmt.Errorf("%s failed at attempt %d: a simulated failure", name, d.Attempt)
	}
	result, err := work()
	if err != nil {
		return err
	}
	*into = result
	value, err := client.Value(result)
	if err != nil {
		return err
	}
	_, end := scan.Progress(name)
	known, err := p.bus.Publish(ctx, p.event(d, &eventbusv1.Event{Stage: name, Status: "completed", Progress: &end, Result: value}), "completed")
	if err != nil || !known {
		return err
	}
	e, err := p.bus.Find(ctx, d.JobID, name, "completed")
	if err != nil {
		return err
	}
	return bus.Read(e.GetResult(), into)
}

// step publishes that a stage has started or is completed.
func (p player) step(ctx context.Context, d queue.Delivery, stage, status string) error {
	progress, end := scan.Progress(stage)
	if status == "completed" {
		progress = end
	}
	_, err := p.bus.Publish(ctx, p.event(d, &eventbusv1.Event{Stage: stage, Status: status, Progress: &progress}), status)
	return err
}

// stream publishes a text as a model says it.
func (p player) stream(ctx context.Context, d queue.Delivery, a scan.Answer) error {
	for i, token := range a.Tokens() {
		e := p.event(d, &eventbusv1.Event{Stage: "answer", Status: "streaming", Content: token})
		if _, err := p.bus.Publish(ctx, e, "token/"+strconv.Itoa(i)); err != nil {
			return err
		}
		if err := p.work(ctx, 1); err != nil {
			return err
		}
	}
	return nil
}

// done publishes the final event: after it the scan is acknowledged.
func (p player) done(ctx context.Context, d queue.Delivery, r scan.Result) error {
	value, err := client.Value(r)
	if err != nil {
		return err
	}
	progress := int32(100)
	e := &eventbusv1.Event{Stage: scan.Done, Status: "completed", Progress: &progress, Result: value, Final: true}
	_, err = p.bus.Publish(ctx, p.event(d, e), "completed")
	return err
}

// event is an event of the job.
func (p player) event(d queue.Delivery, e *eventbusv1.Event) *eventbusv1.Event {
	e.JobId, e.Traceparent = d.JobID, d.Traceparent
	e.Attributes = map[string]string{"worker": p.config.Name, "attempt": strconv.Itoa(d.Attempt)}
	return e
}

// work stands for the work of models that this example does not have.
func (p player) work(ctx context.Context, paces int) error {
	timer := time.NewTimer(time.Duration(paces) * p.config.Pace)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
