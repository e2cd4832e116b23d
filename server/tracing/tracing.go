// Package tracing says where a process's traces go: to an OTLP collector, as
// OpenTelemetry's own environment variables tell, or nowhere.
//
//	router/trace (what is written down) → here → OTLP, gRPC or HTTP → a collector
//
// It owns the SDK and its exporters; nothing else of the bus knows them. Spans wait in
// a queue of 2,048 (OTEL_BSP_MAX_QUEUE_SIZE); what does not fit is dropped, because the
// bus must not wait for its collector.
//
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/eco2-team/eventbus/router/event"
)

// Config is where traces go, and which. The names are OpenTelemetry's; what is not
// here, such as OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE or
// OTEL_EXPORTER_OTLP_COMPRESSION, its SDK reads from the environment itself.
type Config struct {
	Endpoint       string `name:"otel-exporter-otlp-endpoint" env:"OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL" help:"OTLP collector that gets traces, as http://collector:4318. Default: none, no tracing."`
	TracesEndpoint string `name:"otel-exporter-otlp-traces-endpoint" env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" placeholder:"URL" help:"The same, for traces only; by HTTP it has the whole path."`
	Protocol       string `name:"otel-exporter-otlp-protocol" env:"OTEL_EXPORTER_OTLP_PROTOCOL" default:"http/protobuf" help:"http/protobuf, to port 4318 of most collectors, or grpc, to 4317."`
	Service        string `name:"otel-service-name" env:"OTEL_SERVICE_NAME" placeholder:"NAME" help:"Name of this process in traces. Default: eventbus-router, eventbus-edge, or eventbus where it is both."`
	Sampler        string `name:"otel-traces-sampler" env:"OTEL_TRACES_SAMPLER" default:"parentbased_always_on" help:"Which events are traced: always_on, always_off, traceidratio, or each of them as parentbased_…, which follows the publisher's own decision where there is one."`
	SamplerArg     string `name:"otel-traces-sampler-arg" env:"OTEL_TRACES_SAMPLER_ARG" placeholder:"RATIO" help:"The part of all events that …traceidratio samples, 0-1. Default: 1."`
	Exporter       string `name:"otel-traces-exporter" env:"OTEL_TRACES_EXPORTER" default:"otlp" help:"otlp, or none: no tracing."`
	Disabled       bool   `name:"otel-sdk-disabled" env:"OTEL_SDK_DISABLED" negatable:"" help:"No tracing, whatever else is set."`
}

const (
	protocolGRPC = "grpc"
	protocolHTTP = "http/protobuf"
	exporterNone = "none"
	tracesPath   = "v1/traces"
)

// On tells whether traces go anywhere.
func (c *Config) On() bool {
	return !c.Disabled && c.Exporter != exporterNone && (c.Endpoint != "" || c.TracesEndpoint != "")
}

// Check tells of every setting that is out of bounds, with its value. The SDK itself
// would take another one without a word.
func (c *Config) Check() error {
	if !c.On() {
		return nil
	}
	var bad []event.Violation
	check := func(ok bool, name, value, rule string) {
		if !ok {
			bad = append(bad, event.Violate(name, value, rule))
		}
	}
	check(c.Endpoint == "" || isURL(c.Endpoint), "OTEL_EXPORTER_OTLP_ENDPOINT", c.Endpoint, "must be http://host:port or https://host:port")
	check(c.TracesEndpoint == "" || isURL(c.TracesEndpoint), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.TracesEndpoint, "must be http://host:port/path or https://host:port/path")
	check(c.Protocol == protocolGRPC || c.Protocol == protocolHTTP, "OTEL_EXPORTER_OTLP_PROTOCOL", c.Protocol, "must be grpc or http/protobuf")
	check(c.Exporter == "otlp", "OTEL_TRACES_EXPORTER", c.Exporter, "must be otlp or none")
	ratio, err := c.ratio()
	check(err == nil && ratio >= 0 && ratio <= 1, "OTEL_TRACES_SAMPLER_ARG", c.SamplerArg, "must be 0-1")
	check(c.sampler() != nil, "OTEL_TRACES_SAMPLER", c.Sampler, "must be always_on, always_off, traceidratio or one of these after parentbased_")
	if len(bad) > 0 {
		return event.Refuse(bad...)
	}
	return nil
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func (c *Config) ratio() (float64, error) {
	if c.SamplerArg == "" {
		return 1, nil
	}
	return strconv.ParseFloat(c.SamplerArg, 64)
}

// sampler is nil where there is none of the name.
func (c *Config) sampler() sdk.Sampler {
	ratio, _ := c.ratio() // checked
	name, parentBased := strings.CutPrefix(c.Sampler, "parentbased_")
	var s sdk.Sampler
	switch name {
	case "always_on":
		s = sdk.AlwaysSample()
	case "always_off":
		s = sdk.NeverSample()
	case "traceidratio":
		s = sdk.TraceIDRatioBased(ratio)
	default:
		return nil
	}
	if parentBased {
		s = sdk.ParentBased(s)
	}
	return s
}

// Identity is what traces say of the process.
type Identity struct {
	// Service is its name where OTEL_SERVICE_NAME has none; Instance tells it from its
	// replicas.
	Service, Version, Instance string
}

// Start makes a provider of spans; nil where tracing is off. It does not dial. Stop it
// with Shutdown, which sends what waits.
func Start(ctx context.Context, c Config, who Identity) (*sdk.TracerProvider, error) {
	if !c.On() {
		return nil, nil
	}
	exporter, err := c.exporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	// What comes later wins.
	options := []resource.Option{resource.WithTelemetrySDK(), resource.WithAttributes(attribute.String("service.name", who.Service),
		attribute.String("service.version", who.Version), attribute.String("service.instance.id", who.Instance)), resource.WithFromEnv()}
	if c.Service != "" {
		options = append(options, resource.WithAttributes(attribute.String("service.name", c.Service)))
	}
	about, err := resource.New(ctx, options...)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, errors.Join(fmt.Errorf("traces: OTEL_RESOURCE_ATTRIBUTES: %w", err), exporter.Shutdown(ctx))
	}
	return sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about), sdk.WithSampler(c.sampler())), nil
}

func (c *Config) exporter(ctx context.Context) (*otlptrace.Exporter, error) {
	if c.Protocol == protocolGRPC {
		endpoint := c.TracesEndpoint
		if endpoint == "" {
			endpoint = c.Endpoint
		}
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
	}
	endpoint := c.TracesEndpoint
	if endpoint == "" {
		var err error
		if endpoint, err = url.JoinPath(c.Endpoint, tracesPath); err != nil {
			return nil, err
		}
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
}

// flushTimeout is how long a process that stops waits for its collector.
const flushTimeout = 5 * time.Second

// Stop sends the spans that wait and ends the provider, which may be nil.
func Stop(ctx context.Context, p *sdk.TracerProvider) error {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return p.Shutdown(ctx)
}
