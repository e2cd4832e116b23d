package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// healthEvery is how often the health service asks for the state of the bus,
// which costs nothing.
const healthEvery = 500 * time.Millisecond

// healthWatch keeps grpc.health.v1 true, for the server ("") and the service.
type healthWatch struct {
	server  *health.Server
	serving func() bool
}

func newHealthWatch(s grpc.ServiceRegistrar, serving func() bool) *healthWatch {
	h := &healthWatch{server: health.NewServer(), serving: serving}
	h.set(false)
	healthv1.RegisterHealthServer(s, h.server)
	return h
}

// run returns when ctx ends.
func (h *healthWatch) run(ctx context.Context) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	was := false
	for {
		if now := h.serving(); now != was {
			was = now
			h.set(now)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *healthWatch) set(serving bool) {
	st := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		st = healthv1.HealthCheckResponse_SERVING
	}
	h.server.SetServingStatus("", st)
	h.server.SetServingStatus(eventbusv1.EventBusService_ServiceDesc.ServiceName, st)
}

// stop says NOT_SERVING for good.
func (h *healthWatch) stop() { h.server.Shutdown() }
