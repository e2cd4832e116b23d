package edge

import (
	"net/http"
	"net/netip"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eco2-team/eventbus/router/access"
)

// gate bounds the API requests that are open at once: streams, above all. It is
// safe for concurrent use.
type gate struct {
	most      int // 0 is no bound
	perClient int // 0 is no bound
	// publicOnly: addresses of private networks may be a proxy that nobody told us
	// of, so all of its clients together are not bounded as one.
	publicOnly bool
	proxies    access.Proxies
	metrics    *metrics
	// leaveUnnamed is the leave of all whose address does not count.
	leaveUnnamed func()

	mu      sync.Mutex
	open    int                // guarded by mu
	clients map[netip.Addr]int // guarded by mu; only those with open requests
}

// defaultPerClient has room for a household or an office behind one address.
const defaultPerClient = 100

func newGate(c Config, proxies access.Proxies, m *metrics) *gate {
	g := &gate{most: c.MaxConnections, perClient: defaultPerClient, publicOnly: len(proxies) == 0, proxies: proxies,
		metrics: m, clients: map[netip.Addr]int{}}
	if n := c.MaxConnectionsPerClient; n != nil {
		g.perClient, g.publicOnly = *n, false
	}
	g.leaveUnnamed = func() { g.leave(netip.Addr{}) }
	m.connectionsLimit.Set(float64(g.most))
	return g
}

// enter lets a request in until it leaves. Errors are gRPC statuses.
func (g *gate) enter(r *http.Request) (leave func(), err error) {
	from := g.proxies.Client(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
	if g.perClient == 0 || g.publicOnly && !public(from) {
		from = netip.Addr{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.most > 0 && g.open >= g.most:
		g.metrics.overLimit.WithLabelValues("edge").Inc()
		return nil, status.Errorf(codes.Unavailable, "this edge has all the %d connections that it may have", g.most)
	case from.IsValid() && g.clients[from] >= g.perClient:
		g.metrics.overLimit.WithLabelValues("client").Inc()
		return nil, status.Errorf(codes.ResourceExhausted, "your address has all the %d connections that it may have", g.perClient)
	}
	g.open++
	g.metrics.connections.Set(float64(g.open))
	if !from.IsValid() {
		return g.leaveUnnamed, nil
	}
	g.clients[from]++
	return func() { g.leave(from) }, nil
}

func (g *gate) leave(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	g.metrics.connections.Set(float64(g.open))
	if !from.IsValid() {
		return
	}
	if g.clients[from]--; g.clients[from] == 0 {
		delete(g.clients, from)
	}
}

func public(a netip.Addr) bool { return a.IsGlobalUnicast() && !a.IsPrivate() }
