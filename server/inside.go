package server

import (
	"context"
	"io"

	"google.golang.org/grpc"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	"github.com/eco2-team/eventbus/router/access"
)

// Inside is RelayService for the edge in this process: no socket, and messages are
// passed on as they are. Both sides leave a message alone once they have sent it.
func (s *Server) Inside() relayv1.RelayServiceClient { return inside{s} }

type inside struct{ server *Server }

// Relay implements relayv1.RelayServiceClient. The stream ends with ctx or with the
// server's drain.
func (c inside) Relay(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[relayv1.RelayRequest, relayv1.RelayResponse], error) {
	s := c.server
	if s.drain.ctx.Err() != nil {
		return nil, s.relay.errs.status(ctx, relayv1.RelayService_Relay_FullMethodName, context.Cause(s.drain.ctx))
	}
	p := &pipe{up: make(chan *relayv1.RelayRequest), down: make(chan *relayv1.RelayResponse), done: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(withIdentity(ctx, access.Service("inside")))
	p.ctx = ctx
	s.running.Go(func() {
		defer close(p.done)
		defer cancel(nil)
		defer context.AfterFunc(s.drain.ctx, func() { cancel(context.Cause(s.drain.ctx)) })()
		p.err = s.relay.errs.status(ctx, relayv1.RelayService_Relay_FullMethodName, s.relay.Relay(insideServer{nil, p}))
	})
	return insideClient{nil, p}, nil
}

// pipe is a stream within the process.
type pipe struct {
	ctx  context.Context
	up   chan *relayv1.RelayRequest
	down chan *relayv1.RelayResponse
	// done is closed when the call has returned err.
	done chan struct{}
	err  error
}

// end is what the client reads last.
func (p *pipe) end() error {
	if p.err == nil {
		return io.EOF
	}
	return p.err
}

// insideClient has what the edge calls; the other methods panic.
type insideClient struct {
	grpc.ClientStream
	*pipe
}

// Context implements grpc.ClientStream.
func (c insideClient) Context() context.Context { return c.ctx }

// Send implements grpc.BidiStreamingClient.
func (c insideClient) Send(m *relayv1.RelayRequest) error {
	select {
	case c.up <- m:
		return nil
	case <-c.done:
		return io.EOF
	}
}

// Recv implements grpc.BidiStreamingClient.
func (c insideClient) Recv() (*relayv1.RelayResponse, error) {
	select {
	case m := <-c.down:
		return m, nil
	case <-c.done:
		return nil, c.end()
	}
}

// insideServer has what Relay calls; the other methods panic.
type insideServer struct {
	grpc.ServerStream
	*pipe
}

// Context implements grpc.ServerStream.
func (s insideServer) Context() context.Context { return s.ctx }

// Send implements grpc.BidiStreamingServer.
func (s insideServer) Send(m *relayv1.RelayResponse) error {
	select {
	case s.down <- m:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// Recv implements grpc.BidiStreamingServer.
func (s insideServer) Recv() (*relayv1.RelayRequest, error) {
	select {
	case m := <-s.up:
		return m, nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}
