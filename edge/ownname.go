package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
)

// tokenEvery is how long the token in a file is believed not to have changed.
const tokenEvery = 5 * time.Second

// ownName puts the edge's token on what it reads for its browsers, whom it has
// checked by itself, because they share streams. It never publishes under its own
// name: that call has the browser's token, or none.
type ownName struct {
	token, file string
	log         *slog.Logger
	// said: a router that refuses the edge refuses every call.
	said rate.Sometimes

	mu   sync.Mutex
	read time.Time // guarded by mu
}

// current is the token; empty where there is none. A file that cannot be read
// leaves the one before.
func (o *ownName) current() (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == "" || o.token != "" && time.Since(o.read) < tokenEvery {
		return o.token, nil
	}
	text, err := os.ReadFile(o.file)
	if err != nil {
		return o.token, err
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > access.MaxTokenBytes {
		return o.token, fmt.Errorf("%s must hold one token", o.file)
	}
	o.token, o.read = token, time.Now()
	return token, nil
}

// sign tells whether the call goes under the edge's own name.
func (o *ownName) sign(ctx context.Context, method string) (context.Context, bool) {
	if method == eventbusv1.EventBusService_Publish_FullMethodName {
		return ctx, false
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	if len(md.Get("authorization")) > 0 {
		return ctx, false
	}
	token, err := o.current()
	if err != nil {
		o.said.Do(func() { o.log.Error("the token for the routers could not be read; the one before stays", "error", err) })
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx, true
}

// explain: that the edge may not read is no browser's fault, and a new token may
// come, so the browser is asked to try again.
func (o *ownName) explain(own bool, err error) error {
	code := status.Code(err)
	if !own || code != codes.Unauthenticated && code != codes.PermissionDenied {
		return err
	}
	o.said.Do(func() { o.log.Error("a router refuses this edge; see ROUTER_TOKEN_FILE", "error", err) })
	return status.Error(codes.Unavailable, "the routers do not accept this edge")
}

func (o *ownName) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, own := o.sign(ctx, method)
	return o.explain(own, call(ctx, method, req, reply, conn, opts...))
}

func (o *ownName) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, own := o.sign(ctx, method)
	s, err := open(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, o.explain(own, err)
	}
	return &ownStream{s, o, own}, nil
}

type ownStream struct {
	grpc.ClientStream
	name *ownName
	own  bool
}

func (s *ownStream) RecvMsg(m any) error { return s.name.explain(s.own, s.ClientStream.RecvMsg(m)) }

// errOpenEdge: such an edge would hand everybody what only it may read.
var errOpenEdge = errors.New("edge: ROUTER_TOKEN_FILE is set, so AUTH_REQUIRED must be true: else this edge would read for everybody what the routers protect")
