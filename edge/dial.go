package edge

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // lets the balancer skip routers that say they are not well
	"google.golang.org/grpc/keepalive"
)

// balance spreads streams over all routers that report themselves healthy.
const balance = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`

// Dial connects to the routers in the background; it does not wait. Routers must
// allow a keepalive ping every 10 s (keepalive.EnforcementPolicy).
func Dial(addr string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(balance),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		// A router that is back is found within 2 s, not gRPC's 120.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxPatience},
			MinConnectTimeout: openTimeout,
		}),
		// A router that vanished without a word is noticed within 15 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(0), // the readiness of an unused edge is the router's, too
	)
	if err != nil {
		return nil, fmt.Errorf("edge: ROUTER_ADDR: %w", err)
	}
	conn.Connect()
	return conn, nil
}
