// Package client is for those who use the bus from Go: workers that publish, and
// services that follow jobs.
//
// It owns what each of them would have to write again: idempotency keys, retries,
// batches, order and the flush at the end (publisher.go, lane.go, job.go), traces
// (trace.go), resuming after a cut (subscribe.go, watch.go), the connection, TLS and tokens (client.go,
// token.go). It knows the bus's gRPC API only, and imports nothing of the bus but
// gen/.
//
// On an event's way: worker → Job → Publisher → lane → gRPC Publish or PublishBatch
// → router; router → gRPC Subscribe or Watch → follow.go → the loop of the caller.
//
//	bus, err := client.Dial("dns:///router:9090", client.Options{})
//	defer bus.Close()
//	publisher := bus.Publisher(client.PublisherOptions{})
//	defer publisher.Close(ctx)
//
//	job := publisher.Job("scan", id)
//	job.Progress(ctx, "vision", 10)
//	job.Done(ctx, result)
//
//	for m, err := range bus.Subscribe(ctx, "scan", id, client.SubscribeOptions{}) { … }
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // lets the balancer skip routers that say they are not well
	"google.golang.org/grpc/keepalive"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

const (
	// balance spreads calls over all routers that report themselves healthy.
	balance = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`
	// maxMessageBytes bounds one message of a router.
	maxMessageBytes = 64 << 20
	// callTimeout bounds one attempt: a call to a host that vanished would wait for
	// ever.
	callTimeout = 10 * time.Second
)

// Options say how to reach the bus. The zero value is a plain connection without a
// token, that logs nothing.
type Options struct {
	// TLS is used for each connection; nil is none. Its RootCAs are those of the
	// routers' certificates, its Certificates the client's own.
	TLS *tls.Config
	// Token is asked before each call and each stream; nil says nobody's name.
	// Without TLS a token can be read on its way.
	Token TokenSource
	// Log gets a line where the bus goes away and where it is back; nil is nowhere.
	Log *slog.Logger
	// Dial are further options of the connection; they win over those above.
	Dial []grpc.DialOption
}

// Client is a connection to the bus. Its methods are safe for concurrent use.
type Client struct {
	api  eventbusv1.EventBusServiceClient
	conn *grpc.ClientConn // nil: the caller's
	log  *slog.Logger
}

// Dial connects in the background and does not wait: where no router is there yet,
// publishers and subscribers wait for one. addr is host:port; dns:///host:port
// balances over all addresses of the name. An error is a bad addr. The caller closes
// the client, after its publishers.
func Dial(addr string, o Options) (*Client, error) {
	transport := insecure.NewCredentials()
	if o.TLS != nil {
		transport = credentials.NewTLS(o.TLS)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(balance),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		// A router that is back is found within 2 s, not gRPC's 120.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		// A router that vanished without a word is noticed within 15 s. Routers allow a
		// ping every 5 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
	}
	if o.Token != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(perCall{o.Token}))
	}
	conn, err := grpc.NewClient(addr, append(opts, o.Dial...)...)
	if err != nil {
		return nil, fmt.Errorf("client: %q: %w", addr, err)
	}
	c := New(eventbusv1.NewEventBusServiceClient(conn), o.Log)
	c.conn = conn
	return c, nil
}

// New is a client on a connection that the caller has and closes. log may be nil.
func New(api eventbusv1.EventBusServiceClient, log *slog.Logger) *Client {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{api: api, log: log}
}

// Close closes the connection, if it is the client's own. Close publishers first.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// API is the generated client, for what this package has no method for.
func (c *Client) API() eventbusv1.EventBusServiceClient { return c.api }

// State is the latest event of a job that is final or whose status is not
// "streaming". Errors are gRPC statuses, codes.NotFound where there is none.
func (c *Client) State(ctx context.Context, domain, jobID string) (*eventbusv1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.api.GetState(ctx, &eventbusv1.GetStateRequest{Domain: domain, JobId: jobID})
	return resp.GetEvent(), err
}
