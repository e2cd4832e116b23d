package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/eco2-team/eventbus/router/event"
)

// An error travels in the trailers, which other clients than Go's bound to 8 KiB.
// What is left out is counted.
const (
	maxErrorText       = 1024 // bytes of the message
	maxErrorViolations = 32
	maxErrorDetail     = 2 << 10 // bytes of all violations
)

// retryAfter is the RetryInfo of an Exhausted error that names no time.
const retryAfter = time.Second

// internalText is all that a caller learns of an error that was not foreseen.
const internalText = "internal error; the router's log has the details"

// errDraining ends streams while the server stops.
func errDraining() error {
	return event.Errorf(event.Unavailable, "the router is stopping; reconnect and resume")
}

// moved is the ErrorInfo of a stream that ended because of its age, so that a
// client need not take it for trouble.
const (
	movedReason = "STREAM_AGE"
	movedDomain = "eventbus"
)

var errAge = errors.New("MAX_CONNECTION_AGE")

// errMoved ends a stream that has its age.
func errMoved() error {
	return &event.Error{Kind: event.Unavailable, Text: "the stream has reached its age; reconnect and resume", Err: errAge}
}

// errorMapper turns the errors of the bus into gRPC statuses: the only place
// that does.
type errorMapper struct {
	log *slog.Logger
	// often bounds the log lines of unforeseen errors: a broken bus fails every
	// call.
	often *rate.Limiter
}

func newErrorMapper(log *slog.Logger) *errorMapper {
	return &errorMapper{log: log, often: rate.NewLimiter(1, 10)}
}

// status is the gRPC status error for err, nil for nil. ctx is that of the call.
func (m *errorMapper) status(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*event.Error](err)
	if ok && e.Kind != event.Internal && e.Kind != event.Unavailable {
		return known(e)
	}
	// What could not be reached after the call had ended could not because of that.
	if cause := context.Cause(ctx); cause != nil {
		if e, ok := errors.AsType[*event.Error](cause); ok {
			return known(e)
		}
		return status.FromContextError(ctx.Err()).Err()
	}
	if ok && e.Kind == event.Unavailable {
		return known(e)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.Error(codes.Unavailable, "interrupted; repeat the call")
	}
	// gRPC's own, such as a message that could not be sent.
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	if m.often.Allow() {
		m.log.ErrorContext(ctx, "call failed", "method", method, "error", err)
	}
	return status.Error(codes.Internal, internalText)
}

// known is the status of an error that says what it is.
func known(e *event.Error) error {
	switch e.Kind {
	case event.Invalid:
		return withDetails(codes.InvalidArgument, e.Text, badRequest(e.Violations))
	case event.NotFound:
		return withDetails(codes.NotFound, e.Text)
	case event.Over:
		return withDetails(codes.FailedPrecondition, e.Text)
	case event.OutOfRange:
		return withDetails(codes.OutOfRange, e.Text)
	case event.Exhausted:
		after := e.RetryAfter
		if after <= 0 {
			after = retryAfter
		}
		return withDetails(codes.ResourceExhausted, e.Text, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	case event.Unavailable:
		if errors.Is(e, errAge) {
			return withDetails(codes.Unavailable, e.Text, &errdetails.ErrorInfo{Reason: movedReason, Domain: movedDomain})
		}
		return withDetails(codes.Unavailable, e.Text)
	case event.Unauthenticated:
		return withDetails(codes.Unauthenticated, e.Text)
	case event.Denied:
		return withDetails(codes.PermissionDenied, e.Text)
	case event.Internal:
	}
	return status.Error(codes.Internal, internalText)
}

func withDetails(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	if len(text) > maxErrorText {
		text = validUTF8(text[:maxErrorText]) + "…"
	}
	s := status.New(code, validUTF8(text))
	if d, err := s.WithDetails(details...); err == nil {
		s = d
	}
	return s.Err()
}

// badRequest lists the violations, as many as fit.
func badRequest(vs []event.Violation) *errdetails.BadRequest {
	d := &errdetails.BadRequest{}
	bytes := 0
	for i, v := range vs {
		f := &errdetails.BadRequest_FieldViolation{Field: validUTF8(v.Field), Description: validUTF8(describe(v))}
		bytes += len(f.GetField()) + len(f.GetDescription())
		if i > 0 && (i == maxErrorViolations || bytes > maxErrorDetail) {
			f.Field, f.Description = "", fmt.Sprintf("and %d more", len(vs)-i)
			d.FieldViolations = append(d.FieldViolations, f)
			break
		}
		d.FieldViolations = append(d.FieldViolations, f)
	}
	return d
}

func describe(v event.Violation) string {
	if v.Value == "" {
		return v.Rule
	}
	return v.Value + ": " + v.Rule
}
