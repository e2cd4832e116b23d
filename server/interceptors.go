package server

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// interceptors are what every call passes, outermost first: metrics and the log
// see the final status; a panic becomes an error before errors become statuses;
// nothing of the service runs for a caller that may not call it.
func interceptors(log *slog.Logger, m *grpcprom.ServerMetrics, errs *errorMapper, d *drain, a *authorizer) []grpc.ServerOption {
	unary := []grpc.UnaryServerInterceptor{m.UnaryServerInterceptor()}
	stream := []grpc.StreamServerInterceptor{m.StreamServerInterceptor()}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		unary = append(unary, logging.UnaryServerInterceptor(logTo(log), logOptions()...))
		stream = append(stream, logging.StreamServerInterceptor(logTo(log), logOptions()...))
	}
	unary = append(unary, errs.unary, a.unary, recovery.UnaryServerInterceptor())
	stream = append(stream, d.stream, errs.stream, a.stream, recovery.StreamServerInterceptor())
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(stream...)}
}

func (m *errorMapper) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	resp, err := h(ctx, req)
	return resp, m.status(ctx, info.FullMethod, err)
}

func (m *errorMapper) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	return m.status(s.Context(), info.FullMethod, h(srv, s))
}

// logTo writes the request log: one line per call, at its end, at debug level
// whatever the outcome.
func logTo(log *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, _ logging.Level, _ string, fields ...any) {
		log.DebugContext(ctx, "call ended", fields...)
	})
}

func logOptions() []logging.Option {
	return []logging.Option{logging.WithLogOnEvents(logging.FinishCall)}
}

// drain ends all streams at once when the server stops, and each one when it has
// its age: its client resumes at any router, so routers that were added later get
// their share. Unary calls go on.
type drain struct {
	ctx   context.Context
	begin context.CancelCauseFunc
	// age is MAX_CONNECTION_AGE; 0: streams do not age.
	age time.Duration
	// ended counts the streams' ends; nil: nobody does.
	ended *prometheus.CounterVec
}

func newDrain(age time.Duration) *drain {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &drain{ctx: ctx, begin: cancel, age: age}
}

// stream gives each stream a context that also ends with the drain, and between
// half the age and all of it: streams that began at once, because another router
// died, do not all move at once.
func (d *drain) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(s.Context())
	defer cancel(nil)
	// A balancer takes the end of a health stream for a router that is not well.
	if d.age > 0 && !open(info.FullMethod) {
		t := time.AfterFunc(d.age/2+rand.N(d.age/2+1), func() { cancel(errMoved()) })
		defer t.Stop()
	}
	defer context.AfterFunc(d.ctx, func() { cancel(context.Cause(d.ctx)) })()
	err := h(srv, &drainedStream{ServerStream: s, ctx: ctx})
	if d.ended != nil && !open(info.FullMethod) {
		d.ended.WithLabelValues(path.Base(info.FullMethod), d.reason(ctx, s.Context(), err)).Inc()
	}
	return err
}

// reason is why a stream ended, as metrics name it: ctx is the stream's with the
// drain's and the age's, client only the client's.
func (d *drain) reason(ctx, client context.Context, err error) string {
	switch {
	case err == nil:
		return "over"
	case errors.Is(context.Cause(ctx), errAge):
		return "age"
	case d.ctx.Err() != nil:
		return "drain"
	case client.Err() != nil:
		return "gone"
	case status.Code(err) == codes.Unauthenticated:
		return "expired"
	}
	return "error"
}

type drainedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *drainedStream) Context() context.Context { return s.ctx }
