package server

import (
	"context"

	"google.golang.org/grpc/metadata"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// service is eventbus.v1.EventBusService: it checks requests and converts. Its
// methods return the errors of the bus; errorMapper makes them statuses. The
// streams are in stream.go.
type service struct {
	eventbusv1.UnimplementedEventBusServiceServer
	bus   *router.Bus
	rules *validator
	streams
}

// Publish appends one event.
func (s *service) Publish(ctx context.Context, r *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	if err := s.rules.publish(r); err != nil {
		return nil, err
	}
	if s.bus.Trace() != nil {
		ctx = incoming(ctx, s.bus.Trace())
	}
	receipts, err := s.bus.Publish(ctx, []router.Request{toRequest(r)})
	if err != nil {
		return nil, err
	}
	return toResponse(receipts[0]), nil
}

// PublishBatch appends events in order.
func (s *service) PublishBatch(ctx context.Context, r *eventbusv1.PublishBatchRequest) (*eventbusv1.PublishBatchResponse, error) {
	if err := s.rules.batch(r); err != nil {
		return nil, err
	}
	reqs := make([]router.Request, len(r.GetRequests()))
	for i, one := range r.GetRequests() {
		reqs[i] = toRequest(one)
	}
	if s.bus.Trace() != nil {
		ctx = incoming(ctx, s.bus.Trace())
	}
	receipts, err := s.bus.Publish(ctx, reqs)
	if err != nil {
		return nil, err
	}
	resp := &eventbusv1.PublishBatchResponse{Responses: make([]*eventbusv1.PublishResponse, len(receipts))}
	for i, receipt := range receipts {
		resp.Responses[i] = toResponse(receipt)
	}
	return resp, nil
}

// incoming is the call's context with the trace that its metadata names: that of
// events which name none themselves.
func incoming(ctx context.Context, t *trace.Tracer) context.Context {
	if v := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(v) > 0 {
		return t.Incoming(ctx, v[0])
	}
	return ctx
}

func toRequest(r *eventbusv1.PublishRequest) router.Request {
	return router.Request{Event: fromProto(r.GetEvent()), Key: r.GetIdempotencyKey()}
}

func toResponse(r router.Receipt) *eventbusv1.PublishResponse {
	return &eventbusv1.PublishResponse{Id: r.ID.String(), Duplicate: r.Duplicate}
}

// GetState returns the state of a job.
func (s *service) GetState(ctx context.Context, r *eventbusv1.GetStateRequest) (*eventbusv1.GetStateResponse, error) {
	if err := s.rules.getState(r); err != nil {
		return nil, err
	}
	e, err := s.bus.State(ctx, r.GetDomain(), r.GetJobId())
	if err != nil {
		return nil, err
	}
	return &eventbusv1.GetStateResponse{Event: toProto(e)}, nil
}

// ListEvents returns one page, no larger than a message may be.
func (s *service) ListEvents(ctx context.Context, r *eventbusv1.ListEventsRequest) (*eventbusv1.ListEventsResponse, error) {
	after, size, err := s.rules.list(r)
	if err != nil {
		return nil, err
	}
	page, err := s.bus.List(ctx, r.GetDomain(), r.GetJobId(), after, size)
	if err != nil {
		return nil, err
	}
	return pageToProto(page, after), nil
}

// pageToProto is the page as far as it fits into a message; the rest is the next
// page's.
func pageToProto(page hub.Page[*event.Event], after event.ID) *eventbusv1.ListEventsResponse {
	resp := &eventbusv1.ListEventsResponse{Gap: gapToProto(page.Gap), NextAfterId: idText(after)}
	if page.Gap != nil {
		resp.NextAfterId = "" // the cursor was told to be no good
	}
	if len(page.Items) == 0 {
		return resp
	}
	n := fits(page.Items)
	resp.Events = toProtos(page.Items[:n])
	resp.NextAfterId = page.Items[n-1].ID.String()
	return resp
}
