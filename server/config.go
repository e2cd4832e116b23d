package server

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/router/certs"
	"github.com/eco2-team/eventbus/server/tracing"
)

// Config is what the gRPC server can be told. The tags are the reference of
// `eventbus router --help`. (The admin server's address has another default in
// each process, so main owns it.)
type Config struct {
	GRPCAddr string `name:"grpc-addr" env:"GRPC_ADDR" default:":9090" help:"Where gRPC listens, host:port."`

	TLSCert     string `name:"grpc-tls-cert" env:"GRPC_TLS_CERT" placeholder:"FILE" help:"Certificate in PEM: gRPC speaks TLS. Read again when it changes."`
	TLSKey      string `name:"grpc-tls-key" env:"GRPC_TLS_KEY" placeholder:"FILE" help:"Its key."`
	TLSClientCA string `name:"grpc-tls-client-ca" env:"GRPC_TLS_CLIENT_CA" placeholder:"FILE" help:"Clients must have a certificate of these CAs (mTLS)."`

	MaxConnectionAge time.Duration `env:"MAX_CONNECTION_AGE" default:"5m" help:"Clients are told to connect anew, and streams to resume elsewhere, at this age or a little before, so that routers that are added get their share; 1s-24h, 0 is never."`

	ClientNames []string `name:"auth-client-names" env:"AUTH_CLIENT_NAMES" placeholder:"NAME" help:"DNS or URI names in client certificates that may read everything without a token: the edges'."`
	PublishRate float64  `env:"PUBLISH_RATE" default:"0" help:"Events a second that one caller, by token or address, may publish; 0 is no limit."`
	Reflection  bool     `env:"REFLECTION" default:"true" negatable:"" help:"Describe the API to tools such as grpcurl."`
}

func (c *Config) tls() certs.Paths {
	return certs.Paths{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSClientCA}
}

// Check tells of every setting that is out of bounds, with its value.
func (c *Config) Check() error {
	var vs violations
	vs.check(strings.Contains(c.GRPCAddr, ":"), "GRPC_ADDR", c.GRPCAddr, "must be host:port or :port")
	vs.check((c.TLSCert == "") == (c.TLSKey == ""), "GRPC_TLS_CERT", c.TLSCert, "must be set together with GRPC_TLS_KEY")
	vs.check(c.TLSClientCA == "" || c.TLSCert != "", "GRPC_TLS_CLIENT_CA", c.TLSClientCA, "needs GRPC_TLS_CERT")
	vs.check(len(c.ClientNames) == 0 || c.TLSClientCA != "", "AUTH_CLIENT_NAMES", c.ClientNames, "needs GRPC_TLS_CLIENT_CA")
	vs.check(c.MaxConnectionAge == 0 || c.MaxConnectionAge >= minConnectionAge && c.MaxConnectionAge <= maxConnectionAge,
		"MAX_CONNECTION_AGE", c.MaxConnectionAge, "must be 1s-24h, or 0")
	vs.check(c.PublishRate >= 0 && c.PublishRate <= maxPublishRate, "PUBLISH_RATE", c.PublishRate, "must be 0-1e6")
	return vs.err()
}

// Bounds of MAX_CONNECTION_AGE.
const (
	minConnectionAge = time.Second
	maxConnectionAge = 24 * time.Hour
)

// maxPublishRate is more than a bus carries.
const maxPublishRate = 1e6

// Common is what every process can be told.
type Common struct {
	HeartbeatInterval time.Duration `env:"HEARTBEAT_INTERVAL" default:"15s" help:"A stream without events sends a heartbeat so often; 10ms-10m."`
	DrainTimeout      time.Duration `env:"DRAIN_TIMEOUT" default:"30s" help:"When it stops, the process waits so long for calls and streams to end; at most 10m. Give its supervisor longer."`
	LogLevel          string        `env:"LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged: ${enum}. debug has a line for each call, and for each step of each event."`

	Tracing tracing.Config `embed:""`
}

// Bounds of Common.
const (
	minHeartbeat = 10 * time.Millisecond
	maxHeartbeat = 10 * time.Minute
	maxDrain     = 10 * time.Minute
)

// Check tells of every setting that is out of bounds, with its value.
func (c *Common) Check() error {
	var vs violations
	vs.check(c.HeartbeatInterval >= minHeartbeat && c.HeartbeatInterval <= maxHeartbeat,
		"HEARTBEAT_INTERVAL", c.HeartbeatInterval, "must be 10ms-10m")
	vs.check(c.DrainTimeout >= 0 && c.DrainTimeout <= maxDrain, "DRAIN_TIMEOUT", c.DrainTimeout, "must be 0s-10m")
	_, ok := level(c.LogLevel)
	vs.check(ok, "LOG_LEVEL", c.LogLevel, "must be debug, info, warn or error")
	return errors.Join(vs.err(), c.Tracing.Check())
}

// Level is LogLevel for slog; Info where that is unknown.
func (c *Common) Level() slog.Level {
	l, _ := level(c.LogLevel)
	return l
}

func level(s string) (slog.Level, bool) {
	switch s {
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn":
		return slog.LevelWarn, true
	case "error":
		return slog.LevelError, true
	}
	return slog.LevelInfo, false
}
