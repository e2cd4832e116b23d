package client

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// begin makes an event part of the caller's trace: it gets a span that ends when the
// bus has the event, and its traceparent. It returns nil, and leaves the event as it
// is, where the caller has no span, or has named a trace itself.
func begin(ctx context.Context, e *eventbusv1.Event) trace.Span {
	caller := trace.SpanFromContext(ctx)
	if !caller.SpanContext().IsValid() || e.GetTraceparent() != "" {
		return nil
	}
	ctx, span := caller.TracerProvider().Tracer("github.com/eco2-team/eventbus/server/client").Start(ctx, "send",
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.String("eventbus.domain", e.GetDomain()),
			attribute.String("eventbus.job_id", e.GetJobId()), attribute.String("eventbus.stage", e.GetStage())))
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	e.Traceparent = carrier["traceparent"]
	return span
}

// finish ends the event's span, if it has one.
func (a *Ack) finish(err error) {
	if a.span == nil {
		return
	}
	if err != nil {
		a.span.SetStatus(codes.Error, err.Error())
	} else {
		a.span.SetAttributes(attribute.String("eventbus.event_id", a.receipt.ID), attribute.Bool("eventbus.duplicate", a.receipt.Duplicate))
	}
	a.span.End()
}
