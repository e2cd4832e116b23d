package edge

import (
	"net/url"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// Config is what an edge process can be told. The tags are the reference of
// `eventbus edge --help`; ${dev} is "true" for `eventbus dev`, else "false".
type Config struct {
	HTTPAddr   string `name:"http-addr" env:"HTTP_ADDR" default:":8000" help:"Where browsers connect: HTTP/1.1, and HTTP/2 without TLS for proxies."`
	RouterAddr string `env:"ROUTER_ADDR" placeholder:"ADDR" help:"gRPC address of the routers, host:port; dns:///router:9090 balances over all of them. Required."`

	Console     bool     `env:"CONSOLE" default:"${dev}" negatable:"" help:"Serve the console at /."`
	TraceURL    string   `name:"trace-url" env:"TRACE_URL" placeholder:"URL" help:"Where the console shows a trace, as https://tempo.example.com/trace/{trace_id}. Default: it shows the trace's id."`
	CORSOrigins []string `name:"cors-origins" env:"CORS_ORIGINS" placeholder:"ORIGIN,…" help:"Origins whose pages may read streams with credentials, as https://app.example.com; one * stands for any part of a host. Default: none but the edge's own."`
	HTTPPublish bool     `name:"http-publish" env:"HTTP_PUBLISH" default:"${dev}" negatable:"" help:"Accept events by HTTP POST. Whoever reaches the edge can then publish. With AUTH_REQUIRED, grants decide instead."`

	AuthCookie     string `env:"AUTH_COOKIE" default:"eventbus_token" help:"Cookie that may hold the token of a GET, for EventSource. Set it Secure, HttpOnly and SameSite."`
	AuthQueryToken bool   `env:"AUTH_QUERY_TOKEN" negatable:"" help:"Take the token of a GET from ?access_token=, too. Proxies before the edge may log it."`

	HTTPTLSCert     string `name:"http-tls-cert" env:"HTTP_TLS_CERT" placeholder:"FILE" help:"Certificate in PEM: HTTP speaks TLS. Read again when it changes."`
	HTTPTLSKey      string `name:"http-tls-key" env:"HTTP_TLS_KEY" placeholder:"FILE" help:"Its key."`
	RouterTLSCA     string `name:"router-tls-ca" env:"ROUTER_TLS_CA" placeholder:"FILE" help:"The routers speak TLS, with certificates of these CAs."`
	RouterTLSCert   string `name:"router-tls-cert" env:"ROUTER_TLS_CERT" placeholder:"FILE" help:"The edge's certificate, for routers that want one."`
	RouterTLSKey    string `name:"router-tls-key" env:"ROUTER_TLS_KEY" placeholder:"FILE" help:"Its key."`
	RouterTLSName   string `name:"router-tls-name" env:"ROUTER_TLS_NAME" placeholder:"NAME" help:"The name in the routers' certificates. Default: the host in ROUTER_ADDR."`
	RouterTokenFile string `env:"ROUTER_TOKEN_FILE" placeholder:"FILE" help:"The edge's own token, with a grant to subscribe to */*, for routers that require one and do not know its certificate. Read again when it changes."`

	MaxConnections          int  `env:"MAX_CONNECTIONS" default:"20000" help:"Streams and other API requests that are open at once; 0 is no limit."`
	MaxConnectionsPerClient *int `env:"MAX_CONNECTIONS_PER_CLIENT" placeholder:"N" help:"The same for one address, or IPv6 /64; 0 is no limit. Default: 100; without TRUSTED_PROXIES only for public addresses, as a private one may be a proxy's."`
}

// Check tells of every setting that is out of bounds, with its value.
func (c *Config) Check() error {
	var bad []event.Violation
	if c.HTTPAddr == "" {
		bad = append(bad, event.Violate("HTTP_ADDR", nil, "must be set"))
	}
	if c.RouterAddr == "" {
		bad = append(bad, event.Violate("ROUTER_ADDR", nil, "must be set"))
	}
	for _, o := range c.CORSOrigins {
		if !validOrigin(o) {
			bad = append(bad, event.Violate("CORS_ORIGINS", o, "must be a scheme and a host, as https://app.example.com, with at most one * within the host"))
		}
	}
	if !validTraceURL(c.TraceURL) {
		bad = append(bad, event.Violate("TRACE_URL", c.TraceURL, "must be http:// or https://, a host, and hold "+tracePlace))
	}
	bad = append(bad, c.checkAccess()...)
	if len(bad) > 0 {
		return event.Refuse(bad...)
	}
	return nil
}

func (c *Config) checkAccess() []event.Violation {
	var bad []event.Violation
	check := func(ok bool, field string, value any, rule string) {
		if !ok {
			bad = append(bad, event.Violate(field, value, rule))
		}
	}
	check((c.HTTPTLSCert == "") == (c.HTTPTLSKey == ""), "HTTP_TLS_CERT", c.HTTPTLSCert, "must be set together with HTTP_TLS_KEY")
	check((c.RouterTLSCert == "") == (c.RouterTLSKey == ""), "ROUTER_TLS_CERT", c.RouterTLSCert, "must be set together with ROUTER_TLS_KEY")
	check(c.RouterTLSCert == "" || c.RouterTLSCA != "", "ROUTER_TLS_CERT", c.RouterTLSCert, "needs ROUTER_TLS_CA")
	check(c.RouterTLSName == "" || c.RouterTLSCA != "", "ROUTER_TLS_NAME", c.RouterTLSName, "needs ROUTER_TLS_CA")
	check(c.MaxConnections >= 0, "MAX_CONNECTIONS", c.MaxConnections, "must be 0 or more")
	if n := c.MaxConnectionsPerClient; n != nil {
		check(*n >= 0, "MAX_CONNECTIONS_PER_CLIENT", *n, "must be 0 or more")
	}
	return bad
}

// validOrigin refuses what no browser sends as an origin, and "*" alone: with
// credentials it would hand every site the streams of its visitors.
func validOrigin(s string) bool {
	u, err := url.Parse(strings.Replace(s, "*", "x", 1))
	return err == nil && u.Scheme != "" && u.Host != "" && s != u.Scheme+"://*" &&
		u.String() == u.Scheme+"://"+u.Host && !strings.Contains(u.Host, "*") && u.User == nil
}

// tracePlace stands in TRACE_URL for the trace's id.
const tracePlace = "{trace_id}"

// validTraceURL lets nothing through that a click would run.
func validTraceURL(s string) bool {
	u, err := url.Parse(s)
	return s == "" || err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && strings.Contains(s, tracePlace)
}

// Times and sizes that no deployment needs to set.
const (
	// openTimeout bounds the wait for a router's first word: a browser is
	// answered at once even where no router is there.
	openTimeout = 3 * time.Second
	// callTimeout bounds one unary call to a router.
	callTimeout = 10 * time.Second
	// missedHeartbeats is how many heartbeats a router may miss before its
	// stream counts as dead.
	missedHeartbeats = 3
	// relayStreams is how many streams share the jobs of an edge: several, so that
	// several routers do.
	relayStreams = 4
	// writeTimeout and writeRate are the pace of browsers.
	writeTimeout = 10 * time.Second
	writeRate    = 16 << 10
	// readTimeout bounds the reading of a request's body.
	readTimeout = 10 * time.Second
	// headerTimeout bounds the reading of a request's header (slow loris).
	headerTimeout = 5 * time.Second
	// maxHeaderBytes has room for a Watch of 256 jobs with the longest names.
	maxHeaderBytes = 48 << 10
	maxPathBytes   = 1 << 10
	maxQueryBytes  = 40 << 10
	// maxCursorBytes has room for a Watch cursor of 1024 shards.
	maxCursorBytes = 32 << 10
	// maxBodyBytes bounds a published event's JSON; the router's
	// MAX_EVENT_BYTES bounds the event.
	maxBodyBytes = 1 << 20
	// maxMessageBytes bounds one message of a router.
	maxMessageBytes = 64 << 20
	// retryMillis is how long a browser waits before it connects again after the
	// network failed.
	retryMillis = 2000
	// A browser that is sent away comes back after minAway to maxAway
	// milliseconds, so that not all of them do at once.
	minAway, maxAway = 1000, 5000
)
