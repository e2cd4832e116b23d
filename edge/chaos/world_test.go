package chaos

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/eco2-team/eventbus/edge"
	"github.com/eco2-team/eventbus/edge/names"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// patience is how long the suite waits for what must come.
const patience = time.Minute

// heartbeat of all streams.
const heartbeat = time.Second

// leaseTTL of all routers.
const leaseTTL = 2 * time.Second

// world is a bus: its Redis, its routers and edges, and the network between them.
type world struct {
	t        testing.TB
	topology *topology
	routers  []*node
	// doors lead to the routers: edges and publishers come through them.
	doors []*door
	// names has the routers' addresses; they all have this port.
	names *names.Server
	port  string
	env   settings
	edges []*node
	https []string
	// client balances over all routers, as edges do.
	client eventbusv1.EventBusServiceClient
	// plain is for SSE: each stream is a connection.
	plain *http.Client
}

// quick makes what a fault waits for come soon.
func quick() settings {
	return settings{
		"HEARTBEAT_INTERVAL": heartbeat.String(), "HEAD_CHECK_INTERVAL": "1s", "LEASE_TTL": leaseTTL.String(),
		"PROBE_INTERVAL": "1s", "DRAIN_TIMEOUT": "4s",
	}
}

// newWorld starts routers and edges on a topology, all ready.
func newWorld(t testing.TB, top *topology, routers, edges int, change ...settings) *world {
	t.Helper()
	w := &world{t: t, topology: top, names: newNames(t), env: quick()}
	for _, c := range change {
		maps.Copy(w.env, c)
	}
	var err error
	if _, w.port, err = net.SplitHostPort(address(t, "127.0.0.11")); err != nil {
		t.Fatal(err)
	}
	for range routers {
		w.addRouter()
	}
	target := w.names.Target(w.port)
	for i := range edges {
		e := maps.Clone(w.env)
		addr := address(t, "127.0.0.1")
		maps.Copy(e, settings{"HTTP_ADDR": addr, "ROUTER_ADDR": target})
		w.https = append(w.https, addr)
		w.edges = append(w.edges, newNode(t, "edge-"+strconv.Itoa(i), e, "edge"))
	}
	if w.start(append(w.routers, w.edges...)...); t.Failed() {
		t.FailNow()
	}
	conn, err := edge.Dial(target)
	if err != nil {
		t.Fatal(err)
	}
	w.client = eventbusv1.NewEventBusServiceClient(conn)
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}
	w.plain = &http.Client{Transport: transport}
	t.Cleanup(func() {
		closeConn(t, conn)
		transport.CloseIdleConnections()
	})
	return w
}

func newNames(t testing.TB) *names.Server {
	t.Helper()
	s, err := names.Serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func closeConn(t testing.TB, conn *grpc.ClientConn) {
	t.Helper()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// addRouter makes one more, which is known by name and does not run.
func (w *world) addRouter() *node {
	w.t.Helper()
	i := len(w.routers)
	addr := address(w.t, "127.0.0.1")
	env := maps.Clone(w.env)
	maps.Copy(env, settings{
		"GRPC_ADDR": addr, "POD_NAME": "router-" + strconv.Itoa(i),
		"REDIS_STREAMS_URL": w.topology.streams.url(), "REDIS_PUBSUB_URL": w.topology.pubsub.url(),
		"PUBLISH_MIN_REPLICAS": strconv.Itoa(w.topology.minReplicas),
	})
	w.routers = append(w.routers, newNode(w.t, env["POD_NAME"], env, "router"))
	w.doors = append(w.doors, newDoor(w.t, fmt.Sprintf("127.0.0.%d:%s", 11+i, w.port), addr))
	w.names.Add([4]byte{127, 0, 0, byte(11 + i)})
	return w.routers[i]
}

// start starts processes that do not run, and waits until all of them are ready.
func (w *world) start(nodes ...*node) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			if err := n.start(); err != nil {
				return err
			}
			return n.waitReady(ctx)
		})
	}
	if err := g.Wait(); err != nil {
		w.t.Error(err)
	}
}

// heal is the end of any fault: all doors are good, all processes run.
func (w *world) heal() {
	w.t.Helper()
	for _, d := range w.allDoors() {
		d.heal()
	}
	w.start(append(w.routers, w.edges...)...)
}

// check fails the test for a fault that could not be made, or undone.
func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

// allDoors are all places where the network can break.
func (w *world) allDoors() []*door {
	out := append([]*door(nil), w.doors...)
	for _, s := range []*store{w.topology.streams, w.topology.pubsub} {
		if s.door != nil {
			out = append(out, s.door)
		}
	}
	return out
}
