package tracing_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// traced are the settings of a bus whose traces go to the collector by gRPC.
func traced(c *collect) bustest.Settings {
	return bustest.Settings{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
		"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": "the-bus",
	}
}

// shown is what a browser gets of an event.
type shown struct {
	ID          string
	JobID       string `json:"job_id"`
	Traceparent string
}

func (s shown) trace(t *testing.T) string {
	t.Helper()
	parts := strings.Split(s.Traceparent, "-")
	if len(parts) != 4 {
		t.Fatalf("the event's traceparent is %q", s.Traceparent)
	}
	return parts[1]
}

// browser is a stream of a job.
type browser struct {
	t     *testing.T
	lines *bufio.Scanner
}

func open(t *testing.T, bus *bustest.Bus, job string) *browser {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+bus.HTTP+"/api/v1/scan/"+job+"/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	b := &browser{t, bufio.NewScanner(resp.Body)}
	b.line(": subscribed")
	return b
}

func (b *browser) line(prefix string) string {
	b.t.Helper()
	for b.lines.Scan() {
		if rest, ok := strings.CutPrefix(b.lines.Text(), prefix); ok {
			return rest
		}
	}
	b.t.Fatalf("the stream ended before %q: %v", prefix, b.lines.Err())
	return ""
}

func (b *browser) next() shown {
	b.t.Helper()
	var e shown
	if err := json.Unmarshal([]byte(b.line("data: ")), &e); err != nil {
		b.t.Fatal(err)
	}
	return e
}

// worker publishes, and its own spans go to the same collector.
type worker struct {
	*client.Publisher
	*sdk.TracerProvider
}

func newWorker(t *testing.T, bus *bustest.Bus, c *collect, s sdk.Sampler) *worker {
	t.Helper()
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpointURL(c.grpc))
	if err != nil {
		t.Fatal(err)
	}
	spans := sdk.NewTracerProvider(sdk.WithSyncer(exporter), sdk.WithSampler(s))
	conn, err := client.Dial(bus.GRPC, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{conn.Publisher(client.PublisherOptions{}), spans}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bustest.Patience)
		defer cancel()
		if err := errors.Join(w.Close(ctx), conn.Close(), spans.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
	})
	return w
}

// A worker's trace goes on through the bus to the browser.
func TestTrace_OneEventFromTheWorkersSpanToTheBrowser(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	bus := bustest.New(t, traced(c))
	w := newWorker(t, bus, c, sdk.AlwaysSample())
	b := open(t, bus, "job")
	bustest.Eventually(t, "the browser is with its job's others", func() bool {
		return strings.Contains(metrics(t, bus, ""), `eventbus_edge_streams{kind="job",transport="line"} 1`)
	})

	ctx, work := w.Tracer("worker").Start(t.Context(), "scan an image")
	receipt, err := w.Publish(ctx, &eventbusv1.Event{Domain: "scan", JobId: "job", Stage: "vision"})
	if err != nil {
		t.Fatal(err)
	}
	work.End()
	e := b.next()
	if e.ID != receipt.ID {
		t.Fatalf("the browser got %s, the worker %s", e.ID, receipt.ID)
	}
	id := e.trace(t)
	if id != work.SpanContext().TraceID().String() {
		t.Fatalf("the browser's event is in trace %s, the worker's in %s", id, work.SpanContext().TraceID())
	}
	spans := c.await(t, id, "scan an image", "send", "publish", "project", "announce", "hear", "receive", "write")
	if send := spans["send"]; send.parent() != work.SpanContext().SpanID().String() || e.Traceparent != "00-"+id+"-"+send.id()+"-01" {
		t.Errorf("send is a child of %s; the event's traceparent is %s", send.parent(), e.Traceparent)
	}
	for _, step := range []string{"publish", "project", "announce", "hear", "receive", "write"} {
		s := spans[step]
		if s.parent() != spans["send"].id() || s.service != "the-bus" {
			t.Errorf("%s of %s is a child of %s", step, s.service, s.parent())
		}
		if s.attribute("eventbus.event_id") != e.ID || s.attribute("eventbus.job_id") != "job" || s.attribute("eventbus.domain") != "scan" {
			t.Errorf("%s has %v", step, s.GetAttributes())
		}
		if s.GetStartTimeUnixNano() < spans["send"].GetStartTimeUnixNano() || s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
			t.Errorf("%s: %d to %d", step, s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano())
		}
	}
	for step, want := range map[string]map[string]float64{
		"publish": {"eventbus.batch_events": 1}, "project": {"eventbus.batch_events": 1, "eventbus.seq": 1},
		"hear": {"eventbus.subscribers": 1}, "receive": {"eventbus.browsers": 1}, "write": {"eventbus.browsers": 1},
	} {
		for name, n := range want {
			if got := spans[step].number(name); got != n {
				t.Errorf("%s: %s is %v, not %v", step, name, got, n)
			}
		}
	}
	if wait := spans["project"].number("eventbus.wait_seconds"); wait < 0 || wait > bustest.Patience.Seconds() {
		t.Errorf("the bridge says that the event waited %v s", wait)
	}
	if got := spans["write"].attribute("eventbus.kind"); got != "crowd" {
		t.Errorf("it was written to a %q", got)
	}
	exemplars(t, bus, id, e.ID)
}

// exemplars checks that the latency histograms name the trace.
func exemplars(t *testing.T, bus *bustest.Bus, trace, event string) {
	t.Helper()
	text := metrics(t, bus, "application/openmetrics-text")
	if !strings.HasSuffix(text, "# EOF\n") {
		t.Fatal("/metrics is not OpenMetrics")
	}
	for _, name := range []string{"eventbus_delivery_seconds_bucket", "eventbus_edge_delivery_seconds_bucket"} {
		found := false
		for _, m := range regexp.MustCompile(`(?m)^`+name+`\{.*\} \d+ # \{(.*)\} `).FindAllStringSubmatch(text, -1) {
			found = found || strings.Contains(m[1], `trace_id="`+trace+`"`) && strings.Contains(m[1], `event_id="`+event+`"`)
		}
		if !found {
			t.Errorf("%s has no exemplar of trace %s and event %s", name, trace, event)
		}
	}
	if strings.Contains(metrics(t, bus, ""), "trace_id") {
		t.Error("the old text format has exemplars, which it does not know")
	}
}

func metrics(t *testing.T, bus *bustest.Bus, accept string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+bus.Admin+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// An event that names no trace gets one that begins at the bus, or goes on from the
// caller's header; and what is left when the process stops is sent.
func TestTrace_TheBusBeginsOneWhereTheEventNamesNone(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	bus := bustest.New(t, traced(c), bustest.Settings{
		"OTEL_EXPORTER_OTLP_ENDPOINT": c.http, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY": "3600000",
	})
	b := open(t, bus, "job")
	const header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	post(t, bus, "job", "")
	first := b.next()
	post(t, bus, "job", header)
	second := b.next()
	post(t, bus, "job", strings.TrimSuffix(header, "1")+"0")
	third := b.next()
	if code := bus.End(syscall.SIGTERM); code != 0 {
		t.Fatalf("the bus ended with %d", code)
	}
	steps := []string{"publish", "project", "announce", "hear", "receive", "write"}
	spans := c.await(t, first.trace(t), steps...)
	root := spans["publish"]
	if root.parent() != "" || first.Traceparent != "00-"+root.trace()+"-"+root.id()+"-01" {
		t.Errorf("publish is a child of %q; the traceparent is %q", root.parent(), first.Traceparent)
	}
	for _, step := range steps[1:] {
		if spans[step].parent() != root.id() {
			t.Errorf("%s is a child of %s", step, spans[step].parent())
		}
	}
	spans = c.await(t, second.trace(t), steps...)
	if second.trace(t) != strings.Split(header, "-")[1] || spans["publish"].parent() != strings.Split(header, "-")[2] {
		t.Errorf("trace %s, child of %s", second.trace(t), spans["publish"].parent())
	}
	if third.Traceparent != "" {
		t.Errorf("the caller does not sample, the event has %q", third.Traceparent)
	}
}

func post(t *testing.T, bus *bustest.Bus, job, traceparent string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+bus.HTTP+"/api/v1/scan/"+job+"/events", strings.NewReader(`{"stage":"vision"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if traceparent != "" {
		r.Header.Set("traceparent", traceparent)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
}

// What is not sampled leaves nothing: neither what its worker does not sample, nor
// what the bus does not.
func TestTrace_WhatIsNotSampledHasNoSpans(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	bus := bustest.New(t, traced(c), bustest.Settings{"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"})
	w := newWorker(t, bus, c, sdk.NeverSample())
	sampling := newWorker(t, bus, c, sdk.AlwaysSample())
	b := open(t, bus, "job")
	ctx, work := w.Tracer("worker").Start(t.Context(), "scan an image")
	if _, err := w.Publish(ctx, &eventbusv1.Event{Domain: "scan", JobId: "job", Stage: "vision"}); err != nil {
		t.Fatal(err)
	}
	work.End()
	if e := b.next(); e.trace(t) != work.SpanContext().TraceID().String() || !strings.HasSuffix(e.Traceparent, "-00") {
		t.Errorf("the event's traceparent is %q", e.Traceparent)
	}
	post(t, bus, "job", "")
	if e := b.next(); e.Traceparent != "" {
		t.Errorf("the event's traceparent is %q", e.Traceparent)
	}
	// One that is sampled tells that all before it would be there.
	ctx, work = sampling.Tracer("worker").Start(t.Context(), "scan another")
	if _, err := sampling.Publish(ctx, &eventbusv1.Event{Domain: "scan", JobId: "job", Stage: "vision"}); err != nil {
		t.Fatal(err)
	}
	work.End()
	steps := []string{"scan another", "send", "publish", "project", "announce", "hear", "receive", "write"}
	c.await(t, b.next().trace(t), steps...)
	if all := c.all(); len(all) != len(steps) {
		t.Errorf("spans %v", all)
	}
}

// A collector that is away costs traces, and nothing else.
func TestTrace_ACollectorThatIsAwayIsNoTrouble(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t, bustest.Settings{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + bustest.Address(t), "OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_EXPORTER_OTLP_TIMEOUT": "100"})
	b := open(t, bus, "job")
	post(t, bus, "job", "")
	b.next()
	bustest.Eventually(t, "the log says that traces are lost", func() bool { return strings.Contains(bus.Log(), "the collector does not take them") })
	post(t, bus, "job", "")
	b.next()
	if code := bus.End(syscall.SIGTERM); code != 0 {
		t.Errorf("the bus ended with %d", code)
	}
}

// With LOG_LEVEL=debug each step of each event is a line, without any collector.
func TestTrace_DebugLinesTellAnEventsWay(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t, bustest.Settings{"LOG_LEVEL": "debug"})
	b := open(t, bus, "job")
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	w := newWorker(t, bus, newCollector(t), sdk.NeverSample())
	if _, err := w.Publish(t.Context(), &eventbusv1.Event{Domain: "scan", JobId: "job", Stage: "vision", Traceparent: traceparent}); err != nil {
		t.Fatal(err)
	}
	e := b.next()
	steps := map[string]bool{}
	bustest.Eventually(t, "each step has its line", func() bool {
		for line := range strings.Lines(bus.Log()) {
			var l struct {
				Step    string
				EventID string `json:"event_id"`
				JobID   string `json:"job_id"`
				TraceID string `json:"trace_id"`
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Step != "" && l.EventID == e.ID && l.JobID == "job" && l.TraceID == e.trace(t) {
				steps[l.Step] = true
			}
		}
		return len(steps) == 6
	})
}
