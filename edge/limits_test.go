package edge

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/eco2-team/eventbus/router/access"
)

func (a answer) sentAway(t *testing.T) {
	t.Helper()
	retry, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(a.body, "retry: "), "\n\n"))
	if err != nil || a.status != http.StatusOK || a.header.Get("Content-Type") != contentSSE || retry < minAway || retry > maxAway {
		t.Errorf("%d %s %q", a.status, a.header.Get("Content-Type"), a.body)
	}
}

func most(n int) setting { return func(c *Config, _ *Options) { c.MaxConnections = n } }

func perClient(n int) setting { return func(c *Config, _ *Options) { c.MaxConnectionsPerClient = &n } }

// behind makes an edge that trusts the test to be a proxy.
func behind(tb testing.TB) setting {
	tb.Helper()
	g, err := access.New(access.Config{TrustedProxies: []string{"127.0.0.0/8"}}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return func(_ *Config, o *Options) { o.Access = g }
}

func from(addr string) header { return header{"X-Forwarded-For", addr} }

func TestLimits_AFullEdgeSendsBrowsersAwayAndTakesThemAgain(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, most(2))
	f.finish("done")
	a, b := e.open(jobPath("a")).opened(), e.open("/api/v1/scan/events").opened()
	e.ask(http.MethodGet, jobPath("c"), "", acceptSSE()).sentAway(t)
	r := e.ask(http.MethodGet, jobPath("c"), "")
	r.refused(t, http.StatusServiceUnavailable, codes.Unavailable)
	if s, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	e.ask(http.MethodPost, jobPath("c"), `{"stage":"s"}`, header{"Content-Type", "application/json"}).
		refused(t, http.StatusServiceUnavailable, codes.Unavailable)
	same(t, "connections", counter(e.metrics.connections), 2)
	same(t, "limit", counter(e.metrics.connectionsLimit), 2)
	same(t, "refused", counter(e.metrics.overLimit.WithLabelValues("edge")), 3)
	a.close()
	until(t, "there is room", func() bool { return counter(e.metrics.connections) == 1 })
	same(t, "status", e.ask(http.MethodGet, jobPath("done"), "", acceptSSE()).status, http.StatusOK)
	b.close()
	until(t, "all have left", func() bool { return counter(e.metrics.connections) == 0 })
	same(t, "clients", len(e.gate.clients), 0)
}

func TestLimits_OneClientDoesNotTakeOthersPlaces(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, behind(t), perClient(2))
	one, same64, another := from("203.0.113.5"), from("2001:db8:1:2::9"), from("203.0.113.6")
	e.open(jobPath("a"), one).opened()
	left := e.open(jobPath("a"), one).opened()
	e.ask(http.MethodGet, jobPath("a"), "", acceptSSE(), one).sentAway(t)
	e.ask(http.MethodGet, jobPath("a"), "", acceptSSE(), from("6.6.6.6, 203.0.113.5")).sentAway(t) // as it claims to be two
	r := e.ask(http.MethodGet, "/api/v1/scan/a/state", "", one)
	r.refused(t, http.StatusTooManyRequests, codes.ResourceExhausted)
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	e.open(jobPath("a"), another).opened()
	e.open(jobPath("a"), from("2001:db8:1:2::1")).opened()
	e.open(jobPath("a"), from("2001:db8:1:2:ffff::1")).opened()
	e.ask(http.MethodGet, jobPath("a"), "", acceptSSE(), same64).sentAway(t)
	left.close()
	until(t, "there is room", func() bool { return counter(e.metrics.connections) == 4 })
	e.open(jobPath("a"), one).opened()
	same(t, "refused", counter(e.metrics.overLimit.WithLabelValues("client")), 4)
}

// An address of a private network may be a proxy that nobody told us of: all of
// its browsers as one client would be an outage at the hundredth.
func TestLimits_ByDefaultOnlyPublicAddressesAreClients(t *testing.T) {
	m, err := newMetrics(fresh())
	if err != nil {
		t.Fatal(err)
	}
	enter := func(g *gate, addr string) error {
		_, err := g.enter(&http.Request{RemoteAddr: addr})
		return err
	}
	g := newGate(Config{}, nil, m)
	for addr, want := range map[string]bool{"203.0.113.5:1": false, "[2001:db8::1]:1": false, "10.1.2.3:1": true, "127.0.0.1:1": true, "[::1]:1": true, "[fd00::1]:1": true, "@": true} {
		var err error
		for range defaultPerClient + 1 {
			err = enter(g, addr)
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	proxies, bad := access.ParseProxies([]string{"10.0.0.0/8"})
	if bad != nil {
		t.Fatal(bad)
	}
	one, none := 1, 0
	for name, c := range map[string]struct {
		gate *gate
		want bool
	}{
		"proxies are known": {newGate(Config{}, proxies, m), false},
		"it is set":         {newGate(Config{MaxConnectionsPerClient: &one}, nil, m), false},
		"it is 0":           {newGate(Config{MaxConnectionsPerClient: &none}, proxies, m), true},
	} {
		var err error
		for range defaultPerClient + 1 {
			err = enter(c.gate, "192.168.1.1:1")
		}
		if (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits_SettingsAreBounded(t *testing.T) {
	n := -1
	for name, c := range map[string]Config{
		"MAX_CONNECTIONS":            {MaxConnections: -1},
		"MAX_CONNECTIONS_PER_CLIENT": {MaxConnectionsPerClient: &n},
		"HTTP_TLS_CERT":              {HTTPTLSCert: "c"},
		"ROUTER_TLS_CERT":            {RouterTLSCert: "c", RouterTLSKey: "k"},
		"ROUTER_TLS_NAME":            {RouterTLSName: "n"},
	} {
		c.HTTPAddr, c.RouterAddr = ":8000", "router:9090"
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
