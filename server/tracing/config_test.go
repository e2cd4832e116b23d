package tracing_test

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/eco2-team/eventbus/server/tracing"
)

// config is what the command line makes of arguments.
func config(t *testing.T, args ...string) tracing.Config {
	t.Helper()
	var c tracing.Config
	p, err := kong.New(&c, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(args); err != nil {
		t.Fatal(err)
	}
	return c
}

const endpoint = "--otel-exporter-otlp-endpoint=http://collector:4318"

func TestConfig_OffUnlessThereIsACollector(t *testing.T) {
	for args, want := range map[string]bool{
		"":       false,
		endpoint: true,
		"--otel-exporter-otlp-traces-endpoint=http://collector:4318/v1/traces": true,
		endpoint + " --otel-sdk-disabled":                                      false,
		endpoint + " --otel-traces-exporter=none":                              false,
		"--otel-traces-sampler=nonsense":                                       false, // nobody asks it
	} {
		c := config(t, strings.Fields(args)...)
		if err := c.Check(); err != nil || c.On() != want {
			t.Errorf("%q: on %v, %v", args, c.On(), err)
		}
		p, err := tracing.Start(t.Context(), c, tracing.Identity{Service: "test"})
		if err != nil || (p != nil) != want {
			t.Errorf("%q: provider %v, %v", args, p, err)
		}
		if err := tracing.Stop(t.Context(), p); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestConfig_WhatIsWrongIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"--otel-exporter-otlp-endpoint=collector:4317":        `OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4317": must be http`,
		"--otel-exporter-otlp-traces-endpoint=ftp://a/b":      `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "ftp://a/b": must be http`,
		endpoint + " --otel-exporter-otlp-protocol=http/json": `OTEL_EXPORTER_OTLP_PROTOCOL: "http/json": must be grpc`,
		endpoint + " --otel-traces-exporter=zipkin":           `OTEL_TRACES_EXPORTER: "zipkin": must be otlp`,
		endpoint + " --otel-traces-sampler=sometimes":         `OTEL_TRACES_SAMPLER: "sometimes": must be always_on`,
		endpoint + " --otel-traces-sampler-arg=1.5":           `OTEL_TRACES_SAMPLER_ARG: "1.5": must be 0-1`,
		endpoint + " --otel-traces-sampler-arg=NaN":           `OTEL_TRACES_SAMPLER_ARG: "NaN": must be 0-1`,
		endpoint + " --otel-traces-sampler-arg=half":          `OTEL_TRACES_SAMPLER_ARG: "half": must be 0-1`,
	} {
		c := config(t, strings.Fields(args)...)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, sampler := range []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"} {
		c := config(t, endpoint, "--otel-traces-sampler="+sampler)
		if err := c.Check(); err != nil {
			t.Error(err)
		}
	}
}
