package server

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

// authorizer lets a call through that its caller may make: by token, or by the
// name in a client certificate. It also holds the publish rate. It stands within
// errorMapper.
type authorizer struct {
	guard *access.Guard
	// services are names of client certificates that need no token to read.
	services []string
	rates    *callerRates
	refused  *prometheus.CounterVec
}

// open methods tell nothing of events and answer before anybody is known.
func open(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.v1.Health/") || strings.HasPrefix(method, "/grpc.reflection.")
}

func (a *authorizer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if open(info.FullMethod) {
		return h(ctx, req)
	}
	id, err := a.identify(ctx)
	if err == nil {
		err = a.allow(ctx, id, req)
	}
	if err != nil {
		return nil, a.count(err)
	}
	return h(ctx, req)
}

// stream ends with the caller's token.
func (a *authorizer) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if open(info.FullMethod) {
		return h(srv, s)
	}
	id, err := a.identify(s.Context())
	if err != nil {
		return a.count(err)
	}
	ctx := withIdentity(s.Context(), id)
	if !id.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, id.Until)
		defer cancel()
	}
	err = h(srv, &guardedStream{ServerStream: s, ctx: ctx, allow: func(m any) error { return a.allow(ctx, id, m) }})
	if err != nil && ctx.Err() != nil && s.Context().Err() == nil {
		err = access.Expired()
	}
	return a.count(err)
}

type identityKey struct{}

// withIdentity tells a stream's handler who calls.
func withIdentity(ctx context.Context, id *access.Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// identityOf panics without withIdentity: nobody is let through by accident.
func identityOf(ctx context.Context) *access.Identity {
	return ctx.Value(identityKey{}).(*access.Identity)
}

// guardedStream lets the handler see no request that is not allowed.
type guardedStream struct {
	grpc.ServerStream
	ctx   context.Context
	allow func(request any) error
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.allow(m)
}

// identify tells who calls. What is given must be good, even where it is not
// needed: who sends a bad token is told.
func (a *authorizer) identify(ctx context.Context) (*access.Identity, error) {
	if !a.guard.Required() {
		return a.guard.Verify(ctx, "")
	}
	switch given := metadata.ValueFromIncomingContext(ctx, "authorization"); len(given) {
	case 0:
	case 1:
		token, ok := access.Bearer(given[0])
		if !ok {
			return nil, event.Errorf(event.Unauthenticated, "authorization must be Bearer and a token")
		}
		return a.guard.Verify(ctx, token)
	default:
		return nil, event.Errorf(event.Unauthenticated, "authorization must be given once")
	}
	if name := a.service(ctx); name != "" {
		return access.Service(name), nil
	}
	return a.guard.Verify(ctx, "")
}

// service is the caller's name in AUTH_CLIENT_NAMES; empty where it has none. The
// certificate was verified in the handshake.
func (a *authorizer) service(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return ""
	}
	leaf := tls.State.VerifiedChains[0][0]
	names := slices.Clone(leaf.DNSNames)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	for _, n := range names {
		if slices.Contains(a.services, n) {
			return n
		}
	}
	return ""
}

// allow refuses a request without a grant; a request that is not known here has
// none.
func (a *authorizer) allow(ctx context.Context, id *access.Identity, req any) error {
	switch r := req.(type) {
	case *eventbusv1.PublishRequest:
		if err := id.MayPublish(r.GetEvent().GetDomain(), r.GetEvent().GetJobId()); err != nil {
			return err
		}
		return a.pace(ctx, id, 1)
	case *eventbusv1.PublishBatchRequest:
		for _, one := range r.GetRequests() {
			if err := id.MayPublish(one.GetEvent().GetDomain(), one.GetEvent().GetJobId()); err != nil {
				return err
			}
		}
		return a.pace(ctx, id, len(r.GetRequests()))
	case *eventbusv1.SubscribeRequest:
		return id.MaySubscribe(r.GetDomain(), r.GetJobId())
	case *eventbusv1.ListEventsRequest:
		return id.MaySubscribe(r.GetDomain(), r.GetJobId())
	case *eventbusv1.GetStateRequest:
		return id.MaySubscribe(r.GetDomain(), r.GetJobId())
	case *eventbusv1.WatchRequest:
		return id.MayWatch(r.GetDomain(), r.GetJobIds())
	case *inspectv1.GetClusterRequest:
		return id.MayInspect()
	case *inspectv1.DiagnoseJobRequest:
		return id.MayWatch(r.GetDomain(), nil)
	case *relayv1.RelayRequest:
		return nil // relay.go asks for each job: one that is refused does not end the others
	}
	return event.Errorf(event.Denied, "no grant covers this call")
}

// pace holds the publish rate. Who calls is worked out only where that matters.
func (a *authorizer) pace(ctx context.Context, id *access.Identity, events int) error {
	if a.rates.perSecond <= 0 {
		return nil
	}
	return a.rates.take(a.caller(ctx, id), events)
}

// caller is whose rate counts: the token's subject, else the address.
func (a *authorizer) caller(ctx context.Context, id *access.Identity) string {
	if id.Subject != "" {
		return "subject " + id.Subject
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	return "address " + a.guard.Proxies().Client(p.Addr.String(), metadata.ValueFromIncomingContext(ctx, "x-forwarded-for")).String()
}

// count counts what was refused here.
func (a *authorizer) count(err error) error {
	e, ok := errors.AsType[*event.Error](err)
	if !ok {
		return err
	}
	switch e.Kind {
	case event.Unauthenticated:
		a.refused.WithLabelValues("unauthenticated").Inc()
	case event.Denied:
		a.refused.WithLabelValues("denied").Inc()
	default: // the bus's own
		if errors.Is(err, errRate) {
			a.refused.WithLabelValues("rate").Inc()
		}
	}
	return err
}
