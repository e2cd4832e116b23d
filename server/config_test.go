package server

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/server/tracing"
)

type processFlags struct {
	Config `embed:""`
	Common `embed:""`
}

func parse(t *testing.T, args ...string) (processFlags, error) {
	t.Helper()
	var f processFlags
	p, err := kong.New(&f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Parse(args)
	return f, err
}

// common has the defaults of the package tracing, whose own tests have more.
func common(heartbeat, drain time.Duration, level string) Common {
	return Common{heartbeat, drain, level, tracing.Config{Protocol: "http/protobuf", Sampler: "parentbased_always_on", Exporter: "otlp"}}
}

func TestConfig_DefaultsAreThoseOfTheReference(t *testing.T) {
	f, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	want := processFlags{Config{GRPCAddr: ":9090", MaxConnectionAge: 5 * time.Minute, Reflection: true}, common(15*time.Second, 30*time.Second, "info")}
	if d := cmp.Diff(want, f); d != "" {
		t.Error(d)
	}
}

func TestConfig_EnvironmentAndFlagsAreNamedAlike(t *testing.T) {
	t.Setenv("GRPC_ADDR", "127.0.0.1:1")
	t.Setenv("HEARTBEAT_INTERVAL", "2s")
	t.Setenv("DRAIN_TIMEOUT", "3s")
	t.Setenv("LOG_LEVEL", "warn")
	t.Setenv("REFLECTION", "false")
	t.Setenv("PUBLISH_RATE", "2.5")
	t.Setenv("MAX_CONNECTION_AGE", "0")
	want := processFlags{Config{GRPCAddr: "127.0.0.1:1", PublishRate: 2.5}, common(2*time.Second, 3*time.Second, "warn")}
	f, err := parse(t)
	if d := cmp.Diff(want, f); err != nil || d != "" {
		t.Errorf("environment: %v %s", err, d)
	}
	want = processFlags{Config{GRPCAddr: ":2", MaxConnectionAge: time.Minute, PublishRate: 3, Reflection: true}, common(4*time.Second, 5*time.Second, "error")}
	f, err = parse(t, "--grpc-addr=:2", "--reflection", "--publish-rate=3", "--max-connection-age=1m", "--heartbeat-interval=4s", "--drain-timeout=5s", "--log-level=error")
	if d := cmp.Diff(want, f); err != nil || d != "" {
		t.Errorf("flags: %v %s", err, d)
	}
}

func TestConfig_ErrorsShowValueAndBound(t *testing.T) {
	ok := Common{HeartbeatInterval: time.Second, DrainTimeout: time.Second, LogLevel: "info"}
	for name, tc := range map[string]struct {
		change func(*Common)
		parts  []string
	}{
		"heartbeat 0":    {func(c *Common) { c.HeartbeatInterval = 0 }, []string{"HEARTBEAT_INTERVAL", "0s", "10ms-10m"}},
		"heartbeat long": {func(c *Common) { c.HeartbeatInterval = time.Hour }, []string{"1h0m0s", "10ms-10m"}},
		"drain":          {func(c *Common) { c.DrainTimeout = -time.Second }, []string{"DRAIN_TIMEOUT", "-1s", "0s-10m"}},
		"level":          {func(c *Common) { c.LogLevel = "loud" }, []string{"LOG_LEVEL", `"loud"`, "debug, info, warn or error"}},
		"all":            {func(c *Common) { *c = Common{DrainTimeout: -1} }, []string{"HEARTBEAT_INTERVAL", "DRAIN_TIMEOUT", "LOG_LEVEL"}},
	} {
		c := ok
		tc.change(&c)
		err := c.Check()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, p := range tc.parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%s: %q lacks %q", name, err, p)
			}
		}
	}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
	if err := (&Config{GRPCAddr: "9090"}).Check(); err == nil || !strings.Contains(err.Error(), `"9090"`) {
		t.Errorf("an address without a port: %v", err)
	}
	if _, err := parse(t, "--log-level=loud"); err == nil || !strings.Contains(err.Error(), "loud") {
		t.Errorf("log level: %v", err)
	}
}

func TestConfig_LevelIsThatOfSlog(t *testing.T) {
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		if got := (&Common{LogLevel: text}).Level(); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
