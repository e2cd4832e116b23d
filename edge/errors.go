package edge

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

// Reasons for which the edge itself ends a stream or an upstream.
var (
	// errDraining: this edge stops; the browser finds another one.
	errDraining = errors.New("edge: draining")
	// errEnded: the job is over, though the final event was not seen here.
	errEnded = errors.New("edge: job over")
	// errSilent: a router said nothing for too long.
	errSilent = errors.New("edge: router silent")
	// errQuiet: the log could not be read for a heartbeat's time; it is worth
	// trying on.
	errQuiet = errors.New("edge: log unreachable")
)

// movedError: the topic has a new ring. With a gap, what the browser has is not
// followed by what is in it.
type movedError struct{ gap *eventbusv1.Gap }

func (*movedError) Error() string { return "edge: ring replaced" }

// refusal is an error that has an HTTP status of its own.
type refusal struct {
	http   int
	status *status.Status
	// allow is the Allow header of a 405.
	allow string
}

func (e *refusal) Error() string { return e.status.Message() }

// GRPCStatus makes status.Convert understand a refusal.
func (e *refusal) GRPCStatus() *status.Status { return e.status }

func refuse(http int, code codes.Code, text string) *refusal {
	return &refusal{http: http, status: status.New(code, text)}
}

func refuseMethod(method string, allow ...string) *refusal {
	e := refuse(http.StatusMethodNotAllowed, codes.Unimplemented, "method "+method+" is not allowed here")
	e.allow = strings.Join(allow, ", ")
	return e
}

// invalid is INVALID_ARGUMENT with a BadRequest detail, as the router's.
func invalid(vs ...event.Violation) *refusal {
	st := status.New(codes.InvalidArgument, event.Refuse(vs...).Text)
	bad := &errdetails.BadRequest{}
	for _, v := range vs {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: v.Field, Description: v.Value + ": " + v.Rule,
		})
	}
	if with, err := st.WithDetails(bad); err == nil {
		st = with
	}
	return &refusal{http: http.StatusBadRequest, status: st}
}

// transient tells whether a router's error may be gone with the next attempt.
// The end of a stream is one, unless the job ended with it.
func transient(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.Aborted, codes.DeadlineExceeded,
		codes.ResourceExhausted, codes.Canceled:
		return true
	default:
		return false
	}
}

// moved tells whether a router ended a stream because of its age: the server's
// errMoved.
func moved(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "STREAM_AGE" {
			return true
		}
	}
	return false
}

// explainEnd gives the end of a request that never became a stream a status.
func explainEnd(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errDraining) || errors.Is(err, errDraining) {
		return status.Error(codes.Unavailable, "this edge is stopping; connect again")
	}
	if errors.Is(context.Cause(ctx), errExpired) {
		return accessStatus(access.Expired())
	}
	return err
}

// writeError answers a request that has no response yet. EventSource gives up
// for ever on any status but 200, so what may pass by itself is told to an SSE
// client as a retry; 204 tells it that it may stop.
func writeError(w http.ResponseWriter, c *call, err error) {
	st := status.Convert(err)
	h := w.Header()
	h.Del("Content-Length")
	own, isOwn := errors.AsType[*refusal](err)
	if !isOwn && c.streams() {
		if st.Code() == codes.OutOfRange {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if c.sse && transient(err) {
			h.Set("Content-Type", contentSSE)
			_, _ = w.Write(appendAway(nil, retryIn(st)))
			return
		}
	}
	code := runtime.HTTPStatusFromCode(st.Code())
	if isOwn {
		code = own.http
		if own.allow != "" {
			h.Set("Allow", own.allow)
		}
	}
	switch code {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		h.Set("Retry-After", strconv.Itoa((retryIn(st)+999)/1000))
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	}
	h.Set("Content-Type", contentJSON)
	w.WriteHeader(code)
	_, _ = w.Write(statusJSON(st))
}

// retryIn is when to come back, in milliseconds: after the router's wish, where it
// has one, and never the same for all.
func retryIn(st *status.Status) int {
	millis := awayMillis()
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			wish := info.GetRetryDelay().AsDuration()
			millis = max(millis, millis-minAway+int(min(wish, time.Minute).Milliseconds()))
		}
	}
	return millis
}

// statusJSON is the google.rpc.Status of an error. Details that this binary does
// not know are left out.
func statusJSON(st *status.Status) []byte {
	m := st.Proto()
	if text, err := marshalProto(m); err == nil {
		return text
	}
	plain := &spb.Status{Code: m.GetCode(), Message: m.GetMessage()}
	if text, err := marshalProto(plain); err == nil {
		return text
	}
	return []byte(`{"code":13}`)
}

func marshalProto(m proto.Message) ([]byte, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
}
