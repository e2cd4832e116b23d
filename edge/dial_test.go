package edge

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// counted is a router that only counts its calls.
type counted struct {
	eventbusv1.UnimplementedEventBusServiceServer
	addr   string
	calls  atomic.Int64
	health *health.Server
}

func (c *counted) GetState(context.Context, *eventbusv1.GetStateRequest) (*eventbusv1.GetStateResponse, error) {
	c.calls.Add(1)
	return &eventbusv1.GetStateResponse{}, nil
}

func newCounted(t *testing.T) *counted {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{addr: l.Addr().String(), health: health.NewServer()}
	s := grpc.NewServer()
	eventbusv1.RegisterEventBusServiceServer(s, c)
	grpc_health_v1.RegisterHealthServer(s, c.health)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return c
}

// Calls are spread over the routers that say they are well, and no others; a router
// that is added gets its share.
func TestDial_BalancesOverHealthyRoutersAndThoseThatCome(t *testing.T) {
	a, b, late := newCounted(t), newCounted(t), newCounted(t)
	b.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	known := func(routers ...*counted) resolver.State {
		var s resolver.State
		for _, r := range routers {
			s.Addresses = append(s.Addresses, resolver.Address{Addr: r.addr})
		}
		return s
	}
	names := manual.NewBuilderWithScheme("routers")
	names.InitialState(known(a, b))
	conn, err := Dial("routers:///all", grpc.WithResolvers(names))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := eventbusv1.NewEventBusServiceClient(conn)
	call := func(n int) {
		t.Helper()
		for range n {
			if _, err := client.GetState(t.Context(), &eventbusv1.GetStateRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
		}
	}
	call(20)
	if a.calls.Load() != 20 || b.calls.Load() != 0 {
		t.Errorf("%d calls to the one that is well, %d to the other", a.calls.Load(), b.calls.Load())
	}
	b.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	until(t, "the other gets calls, too", func() bool { call(2); return b.calls.Load() > 0 })
	names.UpdateState(known(a, b, late))
	until(t, "the added one gets calls, too", func() bool { call(3); return late.calls.Load() > 0 })
	a.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	until(t, "the first gets none any more", func() bool {
		before := a.calls.Load()
		call(9)
		return a.calls.Load() == before
	})
}
