package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// newGateway is the generated HTTP API on top of a client of our own. Streams
// pass through it as bytes that are ready: the rewriter puts the call's body in
// the place of each message.
func newGateway(c *client) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &marshaler{runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{UseProtoNames: true},
		}}),
		runtime.WithForwardResponseRewriter(rewrite),
		runtime.WithErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			c.fail(w, callOf(ctx), err)
		}),
		// Headers: Authorization passes by itself, and who publishes may name the trace;
		// nothing else passes, in neither direction.
		runtime.WithIncomingHeaderMatcher(traceHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithDisableChunkedEncoding(), // net/http chunks where HTTP/1.1 needs it
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	return mux, eventbusv1.RegisterEventBusServiceHandlerClient(context.Background(), mux, c)
}

func traceHeader(name string) (string, bool) { return "traceparent", name == "Traceparent" }

func noHeader(string) (string, bool) { return "", false }

// rewrite runs for each message that the gateway forwards.
func rewrite(ctx context.Context, m proto.Message) (any, error) {
	if c := callOf(ctx); c != nil && c.out != nil {
		return &c.out.body, nil
	}
	return m, nil
}

// marshaler is JSON as the contract has it, and the content type and delimiter of
// streams, whose bytes it never sees.
type marshaler struct{ runtime.JSONPb }

// ContentType implements runtime.Marshaler.
func (m *marshaler) ContentType(v any) string {
	if b, ok := v.(*httpbody.HttpBody); ok {
		return b.GetContentType()
	}
	return contentJSON
}

// Delimiter implements runtime.Delimited: frames end with their own blank line.
func (m *marshaler) Delimiter() []byte { return nil }

// Marshal implements runtime.Marshaler: an event looks as in a stream.
func (m *marshaler) Marshal(v any) ([]byte, error) {
	pe, ok := v.(*eventbusv1.Event)
	if !ok {
		return m.JSONPb.Marshal(v)
	}
	e, err := fromProto(pe)
	if err != nil {
		return nil, err
	}
	return e.AppendJSON(nil), nil
}

// NewDecoder implements runtime.Marshaler for the one body that there is. Unlike
// JSONPb's it reads all of it, and its errors are for the caller.
func (m *marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, err := io.ReadAll(r)
		if err == nil && len(body) == 0 {
			return io.EOF // no event: the router names what is missing
		}
		if into, ok := v.(**eventbusv1.Event); ok && err == nil {
			*into = new(eventbusv1.Event)
			err = protojson.Unmarshal(body, *into)
		}
		if err != nil {
			// protojson's prefix has a blank that differs from build to build.
			text := strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
			return errors.New("the body is not an event: " + text)
		}
		return nil
	})
}

// client is what the gateway calls: streams come from this edge, unary calls go
// to a router. Each method checks the browser's grants first: streams are shared,
// so a router cannot.
type client struct {
	eventbusv1.EventBusServiceClient
	topics  *topics
	metrics *metrics
	buffers *sync.Pool
}

// Publish implements eventbusv1.EventBusServiceClient.
func (c *client) Publish(ctx context.Context, in *eventbusv1.PublishRequest, opts ...grpc.CallOption) (*eventbusv1.PublishResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call := callOf(ctx)
	in.IdempotencyKey = call.key
	if err := call.identity.MayPublish(in.GetEvent().GetDomain(), in.GetEvent().GetJobId()); err != nil {
		return nil, accessStatus(err)
	}
	out, err := c.EventBusServiceClient.Publish(ctx, in, opts...)
	c.metrics.publishes.WithLabelValues(status.Code(err).String()).Inc()
	return out, err
}

// GetState implements eventbusv1.EventBusServiceClient.
func (c *client) GetState(ctx context.Context, in *eventbusv1.GetStateRequest, opts ...grpc.CallOption) (*eventbusv1.GetStateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := callOf(ctx).identity.MaySubscribe(in.GetDomain(), in.GetJobId()); err != nil {
		return nil, accessStatus(err)
	}
	return c.EventBusServiceClient.GetState(ctx, in, opts...)
}

// Subscribe implements eventbusv1.EventBusServiceClient.
func (c *client) Subscribe(ctx context.Context, in *eventbusv1.SubscribeRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[eventbusv1.SubscribeResponse], error) {
	call := callOf(ctx)
	if err := call.identity.MaySubscribe(in.GetDomain(), in.GetJobId()); err != nil {
		return nil, accessStatus(err)
	}
	f, err := openJob(ctx, c.topics, in, call.cursor)
	if err != nil {
		return nil, explainEnd(ctx, err)
	}
	c.attach(call, f, f.close)
	if call.lines != nil {
		// Said before the first frame: a connection that closes unannounced spoils a
		// pool of connections.
		call.out.w.Header().Set("Connection", "close")
	}
	return &stream[eventbusv1.SubscribeResponse]{ctx: ctx, call: call, m: new(eventbusv1.SubscribeResponse)}, nil
}

// Watch implements eventbusv1.EventBusServiceClient.
func (c *client) Watch(ctx context.Context, in *eventbusv1.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[eventbusv1.WatchResponse], error) {
	call := callOf(ctx)
	if err := call.identity.MayWatch(in.GetDomain(), in.GetJobIds()); err != nil {
		return nil, accessStatus(err)
	}
	f, err := openWatch(ctx, c.topics, in, call.cursor)
	if err != nil {
		return nil, explainEnd(ctx, err)
	}
	c.attach(call, f, f.close)
	return &stream[eventbusv1.WatchResponse]{ctx: ctx, call: call, m: new(eventbusv1.WatchResponse)}, nil
}

// fail answers a request that has no response yet.
func (c *client) fail(w http.ResponseWriter, call *call, err error) {
	if call.streams() {
		c.metrics.refused.WithLabelValues(status.Code(err).String()).Inc()
	}
	writeError(w, call, err)
}

// attach opens a call's way out.
func (c *client) attach(call *call, f feed, release func()) {
	open := c.metrics.streams.WithLabelValues(call.kind, transportOf(call.major))
	open.Inc()
	if call.cursor.given {
		c.metrics.resumes.WithLabelValues(call.kind).Inc()
	}
	call.release = func() {
		release()
		open.Dec()
	}
	call.out.feed = f
}

// stream is what the gateway forwards. Its messages are empty: Recv fills the
// call's body, which rewrite puts in their place.
type stream[M any] struct {
	// The gateway calls Header and Recv only; the other methods panic.
	grpc.ClientStream
	ctx  context.Context
	call *call
	m    *M
}

// Header implements grpc.ClientStream.
func (s *stream[M]) Header() (metadata.MD, error) { return nil, nil }

// Recv implements grpc.ServerStreamingClient. Where the edge takes the connection
// over, the request ends without a word, and the stream goes on.
func (s *stream[M]) Recv() (*M, error) {
	if err := s.call.out.fill(s.ctx); err != nil {
		return nil, err
	}
	if s.call.takenOver() {
		return nil, io.EOF
	}
	return s.m, nil
}
