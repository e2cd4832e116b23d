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
	CORSOrigins []string `name:"cors-origins" env:"CORS_ORIGINS" placeholder:"ORIGIN,…" help:"Origins whose pages may read streams with credentials, as https://app.example.com; one * stands for any part of a host. Default: none but the edge's own."`
	HTTPPublish bool     `name:"http-publish" env:"HTTP_PUBLISH" default:"${dev}" negatable:"" help:"Accept events by HTTP POST. Whoever reaches the edge can then publish."`
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
	if len(bad) > 0 {
		return event.Refuse(bad...)
	}
	return nil
}

// validOrigin refuses what no browser sends as an origin, and "*" alone: with
// credentials it would hand every site the streams of its visitors.
func validOrigin(s string) bool {
	u, err := url.Parse(strings.Replace(s, "*", "x", 1))
	return err == nil && u.Scheme != "" && u.Host != "" && s != u.Scheme+"://*" &&
		u.String() == u.Scheme+"://"+u.Host && !strings.Contains(u.Host, "*") && u.User == nil
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
