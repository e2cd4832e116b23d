package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // lets the balancer skip routers that say they are not well
	"google.golang.org/grpc/keepalive"

	"github.com/eco2-team/eventbus/router/certs"
)

// balance spreads streams over all routers that report themselves healthy.
const balance = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`

// Dial connects to the routers in the background; it does not wait. Routers must
// allow a keepalive ping every 10 s (keepalive.EnforcementPolicy). Without options
// it speaks without TLS and says nobody's name; see RouterOptions.
func Dial(addr string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(addr, append([]grpc.DialOption{
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
	}, more...)...)
	if err != nil {
		return nil, fmt.Errorf("edge: ROUTER_ADDR: %w", err)
	}
	conn.Connect()
	return conn, nil
}

// RouterOptions are what Dial needs for the settings' TLS and for the edge's own
// name: token, or where that is empty, ROUTER_TOKEN_FILE, or the certificate.
func RouterOptions(c Config, token string, log *slog.Logger) ([]grpc.DialOption, error) {
	own := &ownName{token: token, file: c.RouterTokenFile, log: log}
	if _, err := own.current(); err != nil {
		return nil, fmt.Errorf("ROUTER_TOKEN_FILE: %w", err)
	}
	out := []grpc.DialOption{grpc.WithUnaryInterceptor(own.unary), grpc.WithStreamInterceptor(own.stream)}
	if c.RouterTLSCA == "" {
		return out, nil
	}
	files, err := certs.Load(certs.Paths{Cert: c.RouterTLSCert, Key: c.RouterTLSKey, CA: c.RouterTLSCA}, log)
	if err != nil {
		return nil, err
	}
	return append(out, grpc.WithTransportCredentials(&freshTLS{files: files, name: c.RouterTLSName})), nil
}

// freshTLS begins each connection with what its files hold now.
type freshTLS struct {
	files *certs.Files
	name  string
}

func (t *freshTLS) now() credentials.TransportCredentials {
	return credentials.NewTLS(t.files.Client(t.name))
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *freshTLS) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.now().ClientHandshake(ctx, authority, c)
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *freshTLS) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("edge: a client only")
}

// Info implements credentials.TransportCredentials.
func (t *freshTLS) Info() credentials.ProtocolInfo { return t.now().Info() }

// Clone implements credentials.TransportCredentials.
func (t *freshTLS) Clone() credentials.TransportCredentials { c := *t; return &c }

// OverrideServerName implements credentials.TransportCredentials.
func (t *freshTLS) OverrideServerName(name string) error { t.name = name; return nil }
