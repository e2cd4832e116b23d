package server

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/certs"
	"github.com/eco2-team/eventbus/router/certs/certstest"
)

const testSecret = "a secret that has thirty-two bytes, and some more"

// guarded makes a rig that requires tokens signed with testSecret.
func guarded(t *testing.T) func(*setup) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(s *setup) { s.access = access.Config{Required: true, Key: key} }
}

// mint is a context with a token of these grants that ends at exp.
func mint(t *testing.T, exp time.Time, subscribe, publish []string) context.Context {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "tester", "exp": exp.Unix(), "eventbus": map[string]any{"subscribe": subscribe, "publish": publish},
	}).SignedString([]byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	return bearing(testContext(t), text)
}

func bearing(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func hour() time.Time { return time.Now().Add(time.Hour) }

// calls are all RPCs, each for a job; their error is what the caller sees.
func (r *rig) calls(job string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Publish": func(ctx context.Context) error {
			_, err := r.Publish(ctx, &eventbusv1.PublishRequest{Event: scanEvent(job, "s")})
			return err
		},
		"PublishBatch": func(ctx context.Context) error {
			_, err := r.PublishBatch(ctx, &eventbusv1.PublishBatchRequest{Requests: []*eventbusv1.PublishRequest{
				{Event: scanEvent("granted", "s")}, {Event: scanEvent(job, "s")},
			}})
			return err
		},
		"GetState": func(ctx context.Context) error {
			_, err := r.GetState(ctx, &eventbusv1.GetStateRequest{Domain: "scan", JobId: job})
			if status.Code(err) == codes.NotFound {
				return nil
			}
			return err
		},
		"ListEvents": func(ctx context.Context) error {
			_, err := r.ListEvents(ctx, &eventbusv1.ListEventsRequest{Domain: "scan", JobId: job})
			return err
		},
		"Subscribe": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			s, err := r.Subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: job})
			if err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		},
		"Watch": func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			s, err := r.Watch(ctx, &eventbusv1.WatchRequest{Domain: "scan", JobIds: []string{"granted", job}})
			if err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		},
	}
}

func TestAccess_EveryCallNeedsAGoodTokenWithAGrant(t *testing.T) {
	r := newRig(t, guarded(t))
	var rpcs []string
	for _, m := range eventbusv1.EventBusService_ServiceDesc.Methods {
		rpcs = append(rpcs, m.MethodName)
	}
	for _, s := range eventbusv1.EventBusService_ServiceDesc.Streams {
		rpcs = append(rpcs, s.StreamName)
	}
	slices.Sort(rpcs)
	if d := cmp.Diff(rpcs, slices.Sorted(maps.Keys(r.calls("")))); d != "" {
		t.Fatalf("this test does not know all RPCs: %s", d)
	}
	only := []string{"scan/granted"}
	granted := mint(t, hour(), only, only)
	for rpc, call := range r.calls("granted") {
		if err := call(granted); err != nil {
			t.Errorf("%s with a grant: %v", rpc, err)
		}
		// The grant to publish does not let read, nor the other way round.
		other := mint(t, hour(), nil, only)
		if strings.HasPrefix(rpc, "Publish") {
			other = mint(t, hour(), only, nil)
		}
		if code := status.Code(call(other)); code != codes.PermissionDenied {
			t.Errorf("%s with the other grant: %s", rpc, code)
		}
		md := func(pairs ...string) context.Context {
			return metadata.AppendToOutgoingContext(testContext(t), pairs...)
		}
		valid := strings.TrimPrefix(outgoing(granted), "Bearer ")
		for what, ctx := range map[string]context.Context{
			"no token":          testContext(t),
			"an expired token":  mint(t, time.Now().Add(-time.Minute), only, only),
			"a changed token":   bearing(testContext(t), valid+"x"),
			"another scheme":    md("authorization", "Basic dTpw"),
			"two tokens":        bearing(granted, valid),
			"a good one second": bearing(bearing(testContext(t), "x"), valid),
		} {
			if code := status.Code(call(ctx)); code != codes.Unauthenticated {
				t.Errorf("%s with %s: %s", rpc, what, code)
			}
		}
	}
	for rpc, call := range r.calls("another") {
		if code := status.Code(call(granted)); code != codes.PermissionDenied {
			t.Errorf("%s of another job: %s", rpc, code)
		}
	}
	if n := r.metric(t, "eventbus_grpc_refused_total", "reason", "unauthenticated"); n != 36 {
		t.Errorf("%v unauthenticated calls are counted", n)
	}
	if n := r.metric(t, "eventbus_grpc_refused_total", "reason", "denied"); n != 12 {
		t.Errorf("%v denied calls are counted", n)
	}
}

// outgoing is the authorization that a context carries.
func outgoing(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	return strings.Join(md.Get("authorization"), " ")
}

func TestAccess_AWholeDomainNeedsItsWildcard(t *testing.T) {
	r := newRig(t, guarded(t))
	watch := func(grants ...string) codes.Code {
		ctx, cancel := context.WithCancel(mint(t, hour(), grants, nil))
		defer cancel()
		s, err := r.Watch(ctx, &eventbusv1.WatchRequest{Domain: "scan"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Recv()
		return status.Code(err)
	}
	if code := watch("scan/*"); code != codes.OK {
		t.Errorf("scan/*: %s", code)
	}
	if code := watch("scan/a*", "chat/*"); code != codes.PermissionDenied {
		t.Errorf("without it: %s", code)
	}
}

func TestAccess_AStreamEndsWithItsToken(t *testing.T) {
	t.Parallel() // it waits
	r := newRig(t, guarded(t))
	// It is taken for another five seconds or six.
	ctx := mint(t, time.Now().Add(-access.Leeway+6*time.Second), []string{"scan/*"}, nil)
	sub, err := r.Subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := r.Watch(ctx, &eventbusv1.WatchRequest{Domain: "scan"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]interface{ RecvMsg(any) error }{"subscribe": sub, "watch": watch} {
		err := s.RecvMsg(&eventbusv1.SubscribeResponse{})
		for err == nil {
			err = s.RecvMsg(&eventbusv1.SubscribeResponse{})
		}
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
			t.Errorf("%s ended with %v", name, err)
		}
	}
	if code := status.Code(r.calls("j")["Subscribe"](ctx)); code != codes.Unauthenticated {
		t.Errorf("the reconnect: %s", code)
	}
}

func TestAccess_HealthAndReflectionAreOpenUnlessReflectionIsOff(t *testing.T) {
	for _, on := range []bool{true, false} {
		r := newRig(t, guarded(t), func(s *setup) { s.grpc.Reflection = on })
		if _, err := healthv1.NewHealthClient(r.conn).Check(testContext(t), &healthv1.HealthCheckRequest{}); err != nil {
			t.Errorf("health: %v", err)
		}
		s, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		ask := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
		_ = s.Send(ask) // the answer tells
		_, err = s.Recv()
		if on && err != nil || !on && status.Code(err) != codes.Unimplemented {
			t.Errorf("reflection=%t: %v", on, err)
		}
	}
}

func TestAccess_TokensAreNeverLogged(t *testing.T) {
	r := newRig(t, guarded(t), func(s *setup) { s.level = -8 })
	good := mint(t, hour(), []string{"scan/*"}, []string{"scan/*"})
	bad := bearing(testContext(t), "secretive")
	for _, call := range r.calls("j") {
		_, _ = call(good), call(bad)
	}
	logs := r.logs.String()
	if !strings.Contains(logs, "call ended") {
		t.Fatal("no calls are logged")
	}
	if parts := strings.Split(outgoing(good), "."); strings.Contains(logs, parts[1]) || strings.Contains(logs, parts[2]) || strings.Contains(logs, "secretive") {
		t.Errorf("a token is in the log:\n%s", logs)
	}
}

// over is a connection with TLS.
func (r *rig) over(t *testing.T, ca *certstest.CA, p certs.Paths) eventbusv1.EventBusServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(r.server.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(ca.Client(p))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return eventbusv1.NewEventBusServiceClient(conn)
}

func TestTLS_ClientsNeedACertificateAndANameToReadWithoutAToken(t *testing.T) {
	ca, foreign := certstest.New(t), certstest.New(t)
	p := ca.Issue("router")
	r := newRig(t, guarded(t), func(s *setup) {
		s.grpc.TLSCert, s.grpc.TLSKey, s.grpc.TLSClientCA = p.Cert, p.Key, p.CA
		s.grpc.ClientNames = []string{"edge.internal"}
	})
	list := &eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j"}
	publish := &eventbusv1.PublishRequest{Event: scanEvent("j", "s")}
	edge, worker := r.over(t, ca, ca.Issue("x", "edge.internal")), r.over(t, ca, ca.Issue("worker.internal"))
	if _, err := edge.ListEvents(testContext(t), list); err != nil {
		t.Errorf("the edge: %v", err)
	}
	_, err := edge.Publish(testContext(t), publish)
	wantCode(t, err, codes.PermissionDenied)
	_, err = edge.ListEvents(bearing(testContext(t), "garbage"), list)
	wantCode(t, err, codes.Unauthenticated) // not overlooked for the certificate's sake
	_, err = worker.ListEvents(testContext(t), list)
	wantCode(t, err, codes.Unauthenticated)
	if _, err := worker.Publish(mint(t, hour(), nil, []string{"scan/j"}), publish); err != nil {
		t.Errorf("a worker with a token: %v", err)
	}
	for name, c := range map[string]eventbusv1.EventBusServiceClient{
		"no certificate": r.over(t, ca, certs.Paths{}), "another CA's": r.over(t, ca, foreign.Issue("edge.internal")), "no TLS": r.EventBusServiceClient,
	} {
		if _, err := c.ListEvents(testContext(t), list); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLS_RenewedCertificateIsShownWithoutARestart(t *testing.T) {
	ca := certstest.New(t)
	p := ca.Issue("first.example")
	r := newRig(t, func(s *setup) { s.grpc.TLSCert, s.grpc.TLSKey = p.Cert, p.Key })
	reads := func(name string) bool {
		config := ca.Client(certs.Paths{})
		config.ServerName = name
		conn, err := grpc.NewClient(r.server.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_, err = eventbusv1.NewEventBusServiceClient(conn).ListEvents(testContext(t), &eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j"})
		return err == nil
	}
	if !reads("first.example") {
		t.Fatal("the first certificate is not shown")
	}
	ca.Renew(p, "second.example")
	eventually(t, "the second certificate is shown", func() bool { return reads("second.example") })
}

func TestTLS_BadFilesAreAnErrorAtTheStart(t *testing.T) {
	r := newRig(t)
	_, err := New(Config{TLSCert: "/nowhere/cert", TLSKey: "/nowhere/key"}, Common{}, r.bus, openTo(t), r.logs.logger(0), newRegistry())
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nowhere/cert") {
		t.Errorf("got %v", err)
	}
}
