package router

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"
	"go.opentelemetry.io/otel/attribute"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// What is written down of an event's way, step by step. Each step calls a function
// of this file only where somebody wants to know.

// TraceTo has the bus write down the way of its events; nil is nowhere. Call it
// before Start.
func (b *Bus) TraceTo(t *trace.Tracer) {
	b.trace, b.deps.trace, b.hub.trace = t, t, t
}

// Trace is where the bus writes its events' way down; nil is nowhere.
func (b *Bus) Trace() *trace.Tracer { return b.trace }

func (b *Bus) publishTraced(ctx context.Context, reqs []Request) ([]Receipt, error) {
	steps := make([]trace.Publishing, len(reqs))
	for i, r := range reqs {
		steps[i] = b.trace.Publish(ctx, r.Event, len(reqs))
	}
	receipts, err := b.publisher.publish(ctx, reqs)
	for i, s := range steps {
		var r Receipt
		if err == nil {
			r = receipts[i]
		}
		s.End(r.ID, r.Duplicate, err)
	}
	return receipts, err
}

// traced writes down what the batches of a round went through, and returns err.
func (c *carrier) traced(name string, began time.Time, err error) error {
	if c.trace == nil {
		return err
	}
	s := trace.Step{Name: name, Began: began, Err: err}
	for b := range c.laden() {
		for _, job := range b.batch.jobs {
			for _, e := range job.events {
				wait := max(began.Sub(e.PublishTime()), 0)
				s.About = []attribute.KeyValue{
					attribute.Float64("eventbus.wait_seconds", wait.Seconds()), attribute.Int64("eventbus.seq", int64(e.Seq)), attribute.Int("eventbus.shard", b.shard),
					attribute.Int("eventbus.batch_events", len(b.batch.ids)), attribute.Int("eventbus.batch_jobs", len(b.batch.jobs)),
				}
				b.trace.Step(trace.Of(e), &s)
			}
		}
	}
	return err
}

// observeDelay counts an event's way from its log entry to its announcement.
func (b *bridge) observeDelay(seconds float64, e *event.Event) {
	if b.trace != nil {
		if labels := b.trace.Exemplar(trace.Of(e)); labels != nil {
			b.delay.(prometheus.ExemplarObserver).ObserveWithExemplar(seconds, labels)
			return
		}
	}
	b.delay.Observe(seconds)
}

// heard writes down what came of an announcement here.
func (h *topicHub) heard(t *topic, a *heard, began time.Time, o hub.Outcome) {
	h.mu.Lock()
	subscribers := t.refs
	h.mu.Unlock()
	outcomes := [...]string{hub.Appended: "appended", hub.Duplicate: "duplicate", hub.Hole: "hole"}
	s := trace.Step{Name: "hear", Began: began, About: []attribute.KeyValue{
		attribute.Int("eventbus.subscribers", subscribers), attribute.String("eventbus.outcome", outcomes[o]),
	}}
	for i := range a.events {
		text := &a.events[i]
		h.trace.Step(trace.Subject{
			ID: text.ID, Domain: a.domain, JobID: a.jobID, Traceparent: gjson.GetBytes(text.JSON, "traceparent").Str,
		}, &s)
	}
}
