// Package trace writes an event's way down: as OpenTelemetry spans in the trace that
// the event's traceparent names, and at debug level as log lines with the same ids.
//
// Each step of the way has one span for each event whose trace is sampled, also where
// a step carries many events at once: who looks for one event's trace sees its whole
// way there, and how many others shared each step.
//
//	publish (server/client, router/publish.go) → project, announce (router/carrier.go)
//	→ hear (router/hub.go) → receive (edge/topic.go) → write (edge/crowd.go, edge/outlet.go)
//
// Where nobody wants to know, there is no Tracer: the way has only a nil check. The
// package never decides where spans go; server/tracing does.
package trace

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/eco2-team/eventbus/router/event"
)

// scope names who makes the spans.
const scope = "github.com/eco2-team/eventbus"

// Tracer writes the steps down. Its methods are safe for concurrent use, and need one
// that is not nil.
type Tracer struct {
	spans trace.Tracer
	// exports: spans go somewhere.
	exports bool
	// log has a line for each step of each event; nil: it does not.
	log *slog.Logger
}

// New is nil where neither p (nil: no spans) nor log, which debugs or does not, wants
// to know.
func New(p trace.TracerProvider, log *slog.Logger) *Tracer {
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		log = nil
	}
	if p == nil && log == nil {
		return nil
	}
	t := &Tracer{log: log, exports: p != nil}
	if p == nil {
		p = noop.NewTracerProvider()
	}
	t.spans = p.Tracer(scope)
	return t
}

// Subject is the event that a step is about.
type Subject struct {
	ID            event.ID
	Domain, JobID string
	// Traceparent is the event's.
	Traceparent string
}

// Of is an event as a subject.
func Of(e *event.Event) Subject {
	return Subject{ID: e.ID, Domain: e.Domain, JobID: e.JobID, Traceparent: e.Traceparent}
}

// Step is what an event went through.
type Step struct {
	Name string
	// Began is when; it ended just now.
	Began time.Time
	// Err is why it failed.
	Err error
	// About says more.
	About []attribute.KeyValue
}

// Step writes a step down. The caller may change s afterwards.
func (t *Tracer) Step(e Subject, s *Step) {
	if parent, ok := t.parent(e.Traceparent); ok {
		_, span := t.spans.Start(trace.ContextWithRemoteSpanContext(context.Background(), parent), s.Name,
			trace.WithTimestamp(s.Began), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(e.attributes()...))
		span.SetAttributes(s.About...)
		fail(span, s.Err)
		span.End()
	}
	if t.log != nil {
		t.line(e, s)
	}
}

func (e Subject) attributes() []attribute.KeyValue {
	kv := []attribute.KeyValue{attribute.String("eventbus.domain", e.Domain), attribute.String("eventbus.job_id", e.JobID)}
	if !e.ID.IsZero() {
		kv = append(kv, attribute.String("eventbus.event_id", e.ID.String()))
	}
	return kv
}

func fail(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
}

// line is the step in the log.
func (t *Tracer) line(e Subject, s *Step) {
	out := []slog.Attr{
		slog.String("step", s.Name), slog.String("event_id", e.ID.String()), slog.String("domain", e.Domain),
		slog.String("job_id", e.JobID), slog.Float64("seconds", time.Since(s.Began).Seconds()),
	}
	if id := parse(e.Traceparent).TraceID(); id.IsValid() {
		out = append(out, slog.String("trace_id", id.String()))
	}
	for _, kv := range s.About {
		out = append(out, slog.Any(string(kv.Key), kv.Value.AsInterface()))
	}
	if s.Err != nil {
		out = append(out, slog.Any("error", s.Err))
	}
	t.log.LogAttrs(context.Background(), slog.LevelDebug, "event", out...)
}

// parent is where spans of an event go; ok is false where there are to be none.
func (t *Tracer) parent(traceparent string) (c trace.SpanContext, ok bool) {
	if !t.exports || !sampled(traceparent) {
		return c, false
	}
	c = parse(traceparent)
	return c, c.IsValid()
}

// Wants tells whether a step of an event with this traceparent would be written down.
func (t *Tracer) Wants(traceparent string) bool {
	return t.log != nil || t.exports && sampled(traceparent)
}

// Exemplar is what a histogram's exemplar says of the event: nil where its trace is not
// sampled or goes nowhere.
func (t *Tracer) Exemplar(e Subject) map[string]string {
	c, ok := t.parent(e.Traceparent)
	if !ok {
		return nil
	}
	return map[string]string{"trace_id": c.TraceID().String(), "event_id": e.ID.String()}
}

// length is that of a traceparent: version, trace, span, flags, each after a dash.
//
// https://www.w3.org/TR/trace-context/#traceparent-header
const length = 2 + 1 + 32 + 1 + 16 + 1 + 2

// sampled tells from the last digit of the flags whether it is worth to parse.
func sampled(traceparent string) bool {
	if len(traceparent) < length {
		return false
	}
	switch traceparent[length-1] {
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	}
	return false
}

const header = "traceparent"

// parse is not valid where the traceparent is not.
func parse(traceparent string) trace.SpanContext {
	if len(traceparent) < length {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{header: traceparent})
	return trace.SpanContextFromContext(ctx)
}

// format is empty for a context that is not valid.
func format(c trace.SpanContext) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), c), carrier)
	return carrier[header]
}
