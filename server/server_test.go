package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

func newRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

func TestServer_ReflectionListsItsServices(t *testing.T) {
	r := newRig(t)
	want := []string{"eventbus.v1.EventBusService", "grpc.health.v1.Health"}
	v1, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := v1.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := v1.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		got = append(got, s.GetName())
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("v1 lists %v; %s is missing", got, name)
		}
	}
	// Older tools speak v1alpha, whose messages are the same.
	alpha, err := r.conn.NewStream(testContext(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	req := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{
		FileContainingSymbol: want[0],
	}}
	if err := alpha.SendMsg(req); err != nil {
		t.Fatal(err)
	}
	old := &reflectionv1.ServerReflectionResponse{}
	if err := alpha.RecvMsg(old); err != nil || len(old.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("v1alpha: %v, %v", old, err)
	}
	for _, s := range []interface{ CloseSend() error }{v1, alpha} {
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	}
}

func (r *rig) healthOf(t *testing.T, service string) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	resp, err := healthv1.NewHealthClient(r.conn).Check(testContext(t), &healthv1.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatalf("health of %q: %v", service, err)
	}
	return resp.GetStatus()
}

func TestHealth_FollowsTheBus(t *testing.T) {
	r := newRig(t)
	becomes := func(want healthv1.HealthCheckResponse_ServingStatus, ready bool) {
		t.Helper()
		for _, service := range []string{"", "eventbus.v1.EventBusService"} {
			eventually(t, "health is "+want.String(), func() bool { return r.healthOf(t, service) == want })
		}
		if ok, text := r.server.Ready(); ok != ready {
			t.Errorf("ready: %v, %s", ok, text)
		}
	}
	becomes(healthv1.HealthCheckResponse_SERVING, true)
	if err := r.redis.Stop(); err != nil {
		t.Fatal(err)
	}
	becomes(healthv1.HealthCheckResponse_NOT_SERVING, false)
	if err := r.redis.Start(); err != nil {
		t.Fatal(err)
	}
	becomes(healthv1.HealthCheckResponse_SERVING, true)
	_, err := healthv1.NewHealthClient(r.conn).Check(testContext(t), &healthv1.HealthCheckRequest{Service: "nope"})
	wantCode(t, err, codes.NotFound)
}

func TestServer_StopEndsOpenStreamsWithUnavailableWithinTheDrain(t *testing.T) {
	r := newRig(t, func(s *setup) { s.common.DrainTimeout = 2 * waitLong })
	sub, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	watch, err := r.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	health, err := healthv1.NewHealthClient(r.conn).Watch(testContext(t), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for serving := false; !serving; {
		m, err := health.Recv()
		if err != nil {
			t.Fatalf("health: %v", err)
		}
		serving = m.GetStatus() == healthv1.HealthCheckResponse_SERVING
	}
	start := time.Now()
	r.server.Stop(t.Context())
	if took := time.Since(start); took > waitLong {
		t.Errorf("the drain took %s", took)
	}
	for name, s := range map[string]interface{ RecvMsg(any) error }{"subscribe": sub, "watch": watch, "health": health} {
		err := s.RecvMsg(&eventbusv1.SubscribeResponse{})
		for err == nil {
			err = s.RecvMsg(&eventbusv1.SubscribeResponse{}) // NOT_SERVING, perhaps
		}
		if code := status.Code(err); code != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("%s ended with %v", name, err)
		}
	}
	if ok, text := r.server.Ready(); ok || text != "draining" {
		t.Errorf("ready: %v, %s", ok, text)
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", r.server.Addr()); err == nil {
		_ = conn.Close()
		t.Error("it still listens")
	}
}

// A stream ends at its age, and says so; a health stream stays, and so does the
// client.
func TestServer_StreamsMoveOnAtTheirAge(t *testing.T) {
	t.Parallel() // it waits
	// A stream has half of it to begin and to bring an event, also on a busy machine.
	r := newRig(t, func(s *setup) { s.grpc.MaxConnectionAge = 4 * time.Second })
	health, err := healthv1.NewHealthClient(r.conn).Watch(testContext(t), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids := r.publish(t, scanEvent("j", "a"), scanEvent("j", "b"))
	r.projected(t, 2)
	for range 3 { // on more than one connection
		sub, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: ids[0]})
		if got := stages(t, sub, 1); got[0] != "b" {
			t.Fatalf("got %v", got)
		}
		watch, err := r.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan"})
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]interface{ RecvMsg(any) error }{"subscribe": sub, "watch": watch} {
			var err error
			for err == nil {
				err = s.RecvMsg(&eventbusv1.WatchResponse{})
			}
			info, _ := status.Convert(err).Details()[0].(*errdetails.ErrorInfo)
			if status.Code(err) != codes.Unavailable || info.GetReason() != "STREAM_AGE" {
				t.Errorf("%s ended with %v, %v", name, err, info)
			}
		}
	}
	for _, rpc := range []string{"Subscribe", "Watch"} {
		if n := r.metric(t, "eventbus_grpc_streams_ended_total", "rpc", rpc, "reason", "age"); n != 3 {
			t.Errorf("%v of 3 streams of %s are counted", n, rpc)
		}
	}
	// Its connection was told to go and lives on for those that are on it; what does
	// not end by itself is cut after the grace.
	began := time.Now()
	for err == nil {
		_, err = health.Recv()
	}
	if code := status.Code(err); code != codes.Unavailable || time.Since(began) > waitLong {
		t.Errorf("the health stream ended with %v", err)
	}
}

func TestServer_StopAnswersCallsUnderWay(t *testing.T) {
	r := newRig(t)
	if err := r.redis.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := r.Publish(testContext(t), &eventbusv1.PublishRequest{Event: scanEvent("j", "x")})
		answered <- err
	}()
	eventually(t, "the call is under way", func() bool { return r.metric(t, "grpc_server_started_total", "grpc_method", "Publish") == 1 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.server.Stop(testContext(t))
	}()
	eventually(t, "the drain began", func() bool { ok, _ := r.server.Ready(); return !ok })
	if err := r.redis.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("publish: %v", err)
	}
	<-stopped
}

func TestServer_StopCutsWhoDoesNotReadAfterTheDrainTimeout(t *testing.T) {
	r := newRig(t, func(s *setup) { s.common.DrainTimeout = 200 * time.Millisecond })
	const window = 64 << 10 // static: gRPC would let it grow
	conn := r.dial(t, grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
	s, err := eventbusv1.NewEventBusServiceClient(conn).Subscribe(testContext(t), &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	e := scanEvent("j", "x")
	e.Content = strings.Repeat("y", 3*window)
	r.publish(t, e)
	eventually(t, "the event is on its way", func() bool { return r.metric(t, "eventbus_grpc_events_sent_total", "rpc", "Subscribe") == 1 })
	start := time.Now()
	r.server.Stop(t.Context())
	if took := time.Since(start); took > waitLong {
		t.Errorf("the drain took %s", took)
	}
	if !strings.Contains(r.logs.String(), "are cut") {
		t.Error("nothing was cut")
	}
	for err == nil {
		_, err = s.Recv()
	}
	wantCode(t, err, codes.Unavailable)
}

func TestServer_StopBeforeStartIsHarmless(t *testing.T) {
	r := newRig(t)
	s, err := New(Config{GRPCAddr: r.server.Addr()}, Common{HeartbeatInterval: time.Second, DrainTimeout: time.Second}, r.bus, openTo(t), slog.New(slog.DiscardHandler), newRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), r.server.Addr()) {
		t.Errorf("start on a taken address: %v", err)
	}
	if s.Addr() != "" {
		t.Errorf("address %s", s.Addr())
	}
	s.Stop(t.Context())
}

func TestServer_MetricsRegisteredTwiceAreAnError(t *testing.T) {
	r := newRig(t)
	if _, err := New(Config{}, Common{}, r.bus, openTo(t), slog.New(slog.DiscardHandler), r.reg); err == nil {
		t.Error("two servers share metrics")
	}
}

func TestServer_PanicIsInternalAndTheServerGoesOn(t *testing.T) {
	var logs logBuffer
	log := logs.logger(slog.LevelInfo)
	m, err := newMetrics(newRegistry())
	if err != nil {
		t.Fatal(err)
	}
	a := &authorizer{guard: openTo(t), rates: newCallerRates(0), refused: m.refused}
	s := grpc.NewServer(append(connectionOptions(0), interceptors(log, m.grpc, newErrorMapper(log), newDrain(0), a)...)...)
	eventbusv1.RegisterEventBusServiceServer(s, panicking{})
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(lis); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer s.Stop()
	r := &rig{server: &Server{lis: lis}}
	client := eventbusv1.NewEventBusServiceClient(r.dial(t))
	for range 2 {
		_, err = client.Publish(testContext(t), &eventbusv1.PublishRequest{})
		wantCode(t, err, codes.Internal)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the caller learns %v", err)
		}
		stream, err := client.Subscribe(testContext(t), &eventbusv1.SubscribeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantCode(t, err, codes.Internal)
	}
	if got := logs.String(); !strings.Contains(got, "secret") || !strings.Contains(got, "server_test.go") {
		t.Errorf("the log lacks text or stack:\n%s", got)
	}
}

type panicking struct {
	eventbusv1.UnimplementedEventBusServiceServer
}

func (panicking) Publish(context.Context, *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	panic("secret")
}

func (panicking) Subscribe(*eventbusv1.SubscribeRequest, grpc.ServerStreamingServer[eventbusv1.SubscribeResponse]) error {
	panic(errors.New("secret"))
}

func TestServer_DebugLogHasOneLineForEachCall(t *testing.T) {
	r := newRig(t, func(s *setup) { s.level = slog.LevelDebug })
	_, err := r.GetState(testContext(t), &eventbusv1.GetStateRequest{Domain: "scan", JobId: "none"})
	wantCode(t, err, codes.NotFound)
	s, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	r.publish(t, scanEvent("j", "a"), finalEvent("j"))
	stages(t, s, 2)
	wantEnd(t, s, codes.OK)
	lines := func(parts ...string) int {
		n := 0
		for line := range strings.Lines(r.logs.String()) {
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				n++
			}
		}
		return n
	}
	eventually(t, "the stream is logged", func() bool { return lines("call ended", "grpc.method=Subscribe", "grpc.code=OK") == 1 })
	if n := lines("level=DEBUG", "call ended", "grpc.method=GetState", "grpc.code=NotFound"); n != 1 {
		t.Errorf("%d lines of GetState", n)
	}
	if n := lines("grpc.method=Subscribe"); n != 1 {
		t.Errorf("%d lines of Subscribe", n)
	}
}

func TestServer_CallsAreCounted(t *testing.T) {
	r := newRig(t)
	r.publish(t, scanEvent("j", "a"))
	_, err := r.GetState(testContext(t), &eventbusv1.GetStateRequest{})
	wantCode(t, err, codes.InvalidArgument)
	eventually(t, "calls are counted", func() bool {
		return r.metric(t, "grpc_server_handled_total", "grpc_method", "PublishBatch", "grpc_code", "OK") == 1 &&
			r.metric(t, "grpc_server_handled_total", "grpc_method", "GetState", "grpc_code", "InvalidArgument") == 1 &&
			r.metric(t, "grpc_server_handling_seconds", "grpc_method", "PublishBatch") == 1
	})
}

func TestServer_RefusesHugeHeaders(t *testing.T) {
	r := newRig(t)
	ctx := metadata.AppendToOutgoingContext(testContext(t), "x", strings.Repeat("y", 2*maxHeaderBytes))
	if _, err := r.GetState(ctx, &eventbusv1.GetStateRequest{Domain: "scan", JobId: "j"}); status.Code(err) == codes.NotFound {
		t.Error("the call went through")
	}
	_, err := r.GetState(testContext(t), &eventbusv1.GetStateRequest{Domain: "scan", JobId: "j"})
	wantCode(t, err, codes.NotFound)
}

func TestServer_OneConnectionCarriesHundredsOfStreams(t *testing.T) {
	r := newRig(t)
	const n = 300
	for range n {
		r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	}
	if got := r.metric(t, "eventbus_grpc_streams", "rpc", "Subscribe"); got != n {
		t.Errorf("%v streams; want %d", got, n)
	}
}

func TestServer_ClientMayPingEveryTenSeconds(t *testing.T) {
	// gRPC's clients ping no more often; timers are early or late by a little.
	if minPing > 10*time.Second-time.Second {
		t.Errorf("pings must be %s apart", minPing)
	}
}
