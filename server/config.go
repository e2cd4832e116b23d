package server

import (
	"log/slog"
	"strings"
	"time"
)

// Config is what the gRPC server can be told. The tags are the reference of
// `eventbus router --help`. (The admin server's address has another default in
// each process, so main owns it.)
type Config struct {
	GRPCAddr string `name:"grpc-addr" env:"GRPC_ADDR" default:":9090" help:"Where gRPC listens, host:port."`
}

// Check tells of every setting that is out of bounds, with its value.
func (c *Config) Check() error {
	var vs violations
	vs.check(strings.Contains(c.GRPCAddr, ":"), "GRPC_ADDR", c.GRPCAddr, "must be host:port or :port")
	return vs.err()
}

// Common is what every process can be told.
type Common struct {
	HeartbeatInterval time.Duration `env:"HEARTBEAT_INTERVAL" default:"15s" help:"A stream without events sends a heartbeat so often; 10ms-10m."`
	DrainTimeout      time.Duration `env:"DRAIN_TIMEOUT" default:"30s" help:"When it stops, the process waits so long for calls and streams to end; at most 10m. Give its supervisor longer."`
	LogLevel          string        `env:"LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged: ${enum}. debug has a line for each call."`
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
	return vs.err()
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
