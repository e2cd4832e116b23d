package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/eco2-team/eventbus/router/event"
)

// Incoming is a context for Publish that has the caller's traceparent, of a call's
// metadata, unless it has a span itself.
func (t *Tracer) Incoming(ctx context.Context, traceparent string) context.Context {
	if c := parse(traceparent); c.IsValid() && !trace.SpanContextFromContext(ctx).IsValid() {
		return trace.ContextWithRemoteSpanContext(ctx, c)
	}
	return ctx
}

// Publishing is an event that is being published.
type Publishing struct {
	tracer *Tracer
	span   trace.Span // nil: it is not sampled
	event  *event.Event
	began  time.Time
	events int
}

// Publish begins the step that takes an event in, one of so many in a call. It
// continues the event's trace, else that of ctx, else it begins one, if the sampler
// wants to; an event that has no traceparent gets that of this step, so that the steps
// that follow are in the same trace.
func (t *Tracer) Publish(ctx context.Context, e *event.Event, events int) Publishing {
	p := Publishing{tracer: t, event: e, began: time.Now(), events: events}
	if !t.exports {
		return p
	}
	if e.Traceparent != "" {
		c, ok := t.parent(e.Traceparent)
		if !ok {
			return p // not sampled, or not a traceparent: not ours to change
		}
		ctx = trace.ContextWithRemoteSpanContext(ctx, c)
	}
	_, span := t.spans.Start(ctx, "publish", trace.WithTimestamp(p.began), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(Of(e).attributes()...), trace.WithAttributes(attribute.String("eventbus.stage", e.Stage)))
	if !span.IsRecording() {
		return p
	}
	p.span = span
	if e.Traceparent == "" {
		e.Traceparent = format(span.SpanContext())
	}
	return p
}

// End says what came of it: the id in the log, or an error. It must be called once.
func (p Publishing) End(id event.ID, duplicate bool, err error) {
	t, e := p.tracer, Of(p.event)
	e.ID = id
	about := []attribute.KeyValue{attribute.Int("eventbus.batch_events", p.events), attribute.Bool("eventbus.duplicate", duplicate)}
	if p.span != nil {
		if err == nil {
			about = append(about, attribute.String("eventbus.event_id", id.String()))
		}
		p.span.SetAttributes(about...)
		fail(p.span, err)
		p.span.End()
	}
	if t.log != nil {
		t.line(e, &Step{Name: "publish", Began: p.began, Err: err, About: about})
	}
}
