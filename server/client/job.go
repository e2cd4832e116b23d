package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"

	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// Well-known statuses of events.
const (
	Started   = "started"
	Streaming = "streaming"
	Completed = "completed"
	Failed    = "failed"
	Waiting   = "waiting"
)

const (
	tokenStage = "token"
	doneStage  = "done"
	failStage  = "failed"
	hundred    = 100
)

// ErrOver is what a job says after Done or Fail.
var ErrOver = errors.New("client: the job had its last event")

// Job publishes the events of one job. What it says is buffered, as Publisher.Send
// does, so that a worker does not wait for the bus; Done and Fail wait until all of
// it is acknowledged. An event that was refused or given up is the job's error from
// then on: every method but Fail returns it, so that it is enough to look at the
// error of Done. Its methods are safe for concurrent use, but the order of a job's
// events is that of its calls.
type Job struct {
	publisher  *Publisher
	domain, id string

	mu    sync.Mutex
	err   error  // guarded by mu; the first
	told  bool   // guarded by mu; the caller knows err
	over  bool   // guarded by mu
	stage string // guarded by mu; the latest of Progress
	// latest was sent last; guarded by mu. All before it are done when it is.
	latest *Ack
}

// Job is the helper for a job, which may have events already. It costs nothing.
func (p *Publisher) Job(domain, jobID string) *Job {
	return &Job{publisher: p, domain: domain, id: jobID}
}

// WithStatus is the event's status.
func WithStatus(s string) SendOption {
	return func(r *eventbusv1.PublishRequest) { r.GetEvent().Status = s }
}

// WithStage is the event's stage.
func WithStage(s string) SendOption {
	return func(r *eventbusv1.PublishRequest) { r.GetEvent().Stage = s }
}

// WithMessage is the event's text for people.
func WithMessage(text string) SendOption {
	return func(r *eventbusv1.PublishRequest) { r.GetEvent().Message = text }
}

// WithResult is the event's result; see Value.
func WithResult(v *structpb.Value) SendOption {
	return func(r *eventbusv1.PublishRequest) { r.GetEvent().Result = v }
}

// WithAttribute is one of the event's further fields.
func WithAttribute(name, value string) SendOption {
	return func(r *eventbusv1.PublishRequest) {
		e := r.GetEvent()
		if e.GetAttributes() == nil {
			e.Attributes = map[string]string{}
		}
		e.Attributes[name] = value
	}
}

// Value is anything that json.Marshal takes, as an event's result. Numbers become
// doubles: integers beyond 2^53 belong in strings.
func Value(v any) (*structpb.Value, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("client: result: %w", err)
	}
	out := new(structpb.Value)
	if err := out.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("client: result: %w", err)
	}
	return out, nil
}

// Publish says anything of the job; its domain and job_id are the job's.
func (j *Job) Publish(ctx context.Context, e *eventbusv1.Event, opts ...SendOption) error {
	if err := j.check(e.GetFinal()); err != nil {
		return err
	}
	_, err := j.send(ctx, e, opts)
	return err
}

// Progress says what the job is at, and how far it is, in per cent. Its status is
// Started unless an option says otherwise.
func (j *Job) Progress(ctx context.Context, stage string, percent int, opts ...SendOption) error {
	j.mu.Lock()
	j.stage = stage
	j.mu.Unlock()
	return j.Publish(ctx, &eventbusv1.Event{Stage: stage, Status: Started, Progress: new(clip(percent))}, opts...)
}

// clip keeps a percentage that a computation carried too far.
func clip(percent int) int32 { return int32(min(max(percent, 0), hundred)) } //nolint:gosec // 0-100

// Token says a chunk of text, in the stage "token" unless an option says otherwise.
// While the bus is slower than the text, chunks go to it together.
func (j *Job) Token(ctx context.Context, text string, opts ...SendOption) error {
	return j.Publish(ctx, &eventbusv1.Event{Stage: tokenStage, Status: Streaming, Content: text}, opts...)
}

// Tokens says each chunk of a sequence, and returns the number of those that it
// took.
func (j *Job) Tokens(ctx context.Context, chunks iter.Seq[string], opts ...SendOption) (int, error) {
	n := 0
	for text := range chunks {
		if err := j.Token(ctx, text, opts...); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Done ends the job in the stage "done", with a result that json.Marshal takes, or
// nil, after the bus has acknowledged every other event of the job, and waits for
// the last one's acknowledgement, too. The error is the job's, and then its last event
// was not sent; or that of the last event. A ctx that ends first leaves open whether
// the job has ended: Flush and Close tell.
func (j *Job) Done(ctx context.Context, result any, opts ...SendOption) error {
	if err := j.settled(ctx); err != nil {
		return err
	}
	e := &eventbusv1.Event{Stage: doneStage, Status: Completed, Progress: new(int32(hundred)), Final: true}
	if result != nil {
		var err error
		if e.Result, err = Value(result); err != nil {
			return err
		}
	}
	return j.end(ctx, e, opts)
}

// settled waits until all that the job said before is acknowledged: one that lost an
// event must not end as if it had not.
func (j *Job) settled(ctx context.Context) error {
	j.mu.Lock()
	before := j.latest
	j.mu.Unlock()
	if before != nil {
		select {
		case <-before.done:
		case <-ctx.Done():
			return fmt.Errorf("client: %s/%s: not acknowledged yet: %w", j.domain, j.id, context.Cause(ctx))
		}
	}
	return j.check(false)
}

// Fail ends the job because of an error, whose text is for people, in the stage that
// the job was at, or "failed". It waits as Done does, and works for a job that has an
// error of its own; its error is that of this last event only.
func (j *Job) Fail(ctx context.Context, reason error, opts ...SendOption) error {
	j.mu.Lock()
	over, stage := j.over, j.stage
	j.told = j.told || j.err != nil
	j.mu.Unlock()
	if over {
		return ErrOver
	}
	if stage == "" {
		stage = failStage
	}
	return j.end(ctx, &eventbusv1.Event{Stage: stage, Status: Failed, Message: reason.Error(), Final: true}, opts)
}

func (j *Job) end(ctx context.Context, e *eventbusv1.Event, opts []SendOption) error {
	a, err := j.send(ctx, e, opts)
	if err != nil {
		return err
	}
	j.mu.Lock()
	j.over = true
	j.mu.Unlock()
	_, err = a.Wait(ctx)
	return err
}

func (j *Job) send(ctx context.Context, e *eventbusv1.Event, opts []SendOption) (*Ack, error) {
	e.Domain, e.JobId = j.domain, j.id
	a, err := j.publisher.send(ctx, e, j, opts)
	if err == nil {
		j.mu.Lock()
		j.latest = a
		j.mu.Unlock()
	}
	return a, err
}

// Err is why an event of the job is lost; nil where none is.
func (j *Job) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.told = j.told || j.err != nil
	return j.err
}

func (j *Job) check(final bool) error {
	if err := j.Err(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return ErrOver
	}
	j.over = final
	return nil
}

// lose remembers why an event is lost.
func (j *Job) lose(e *eventbusv1.Event, err error) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = fmt.Errorf("client: %s/%s: event %s: %w", j.domain, j.id, e.GetStage(), err)
	}
}

func (j *Job) isTold() bool {
	if j == nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.told
}
