package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/trace"
)

const (
	traceID     = "0af7651916cd43dd8448eb211c80319c"
	spanID      = "b7ad6b7169203331"
	traceparent = "00-" + traceID + "-" + spanID + "-01"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func recorded(t *testing.T, o ...sdk.TracerProviderOption) (*trace.Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	p := sdk.NewTracerProvider(append(o, sdk.WithSpanProcessor(spans))...)
	return trace.New(p, quiet()), spans
}

func anEvent(traceparent string) *event.Event {
	return &event.Event{Domain: "scan", JobID: "job-1", Stage: "vision", Traceparent: traceparent}
}

func TestNew_IsNilWhereNobodyWantsToKnow(t *testing.T) {
	if trace.New(nil, slog.New(slog.NewTextHandler(t.Output(), nil))) != nil {
		t.Error("neither spans nor debug lines, and a tracer")
	}
}

func TestStep_IsASpanInTheEventsTraceIfThatIsSampled(t *testing.T) {
	for traceparent, want := range map[string]int{
		traceparent:                                            1,
		"00-" + traceID + "-" + spanID + "-03":                 1, // other flags may be set
		"01-" + traceID + "-" + spanID + "-01-more":            1, // a later version
		"00-" + traceID + "-" + spanID + "-00":                 0,
		"00-" + strings.Repeat("0", 32) + "-" + spanID + "-01": 0,
		"00-" + strings.Repeat("x", 32) + "-" + spanID + "-01": 0,
		"ff-" + traceID + "-" + spanID + "-01":                 0,
		strings.Repeat("1", 55):                                0,
		strings.Repeat("1", 54):                                0,
		"1":                                                    0, "": 0,
	} {
		tr, spans := recorded(t)
		tr.Step(trace.Of(anEvent(traceparent)), &trace.Step{Name: "project", Began: time.Now()})
		got := spans.Ended()
		if len(got) != want {
			t.Errorf("%q: %d spans", traceparent, len(got))
			continue
		}
		if id := tr.Exemplar(trace.Subject{Traceparent: traceparent})["trace_id"]; (id == traceID) != (want == 1) {
			t.Errorf("%q: trace id %q", traceparent, id)
		}
		if want == 1 && (got[0].Parent().SpanID().String() != spanID || got[0].SpanContext().TraceID().String() != traceID) {
			t.Errorf("%q: parent %v", traceparent, got[0].Parent())
		}
	}
}

func TestStep_SaysWhichEventWhenAndWhyItFailed(t *testing.T) {
	tr, spans := recorded(t)
	e := anEvent(traceparent)
	e.ID = event.ID{Ms: 1737415902456}
	began := time.Now().Add(-time.Second)
	tr.Step(trace.Of(e), &trace.Step{Name: "announce", Began: began, Err: errors.New("away"), About: []attribute.KeyValue{attribute.Int("n", 1)}})
	s := spans.Ended()[0]
	if !s.StartTime().Equal(began) || s.EndTime().Sub(began) < time.Second {
		t.Errorf("%v to %v", s.StartTime(), s.EndTime())
	}
	if s.Status() != (sdk.Status{Code: codes.Error, Description: "away"}) {
		t.Errorf("status %v", s.Status())
	}
	want := map[string]string{"eventbus.domain": "scan", "eventbus.job_id": "job-1", "eventbus.event_id": "1737415902456-0", "n": "1"}
	if d := cmp.Diff(want, attributes(s)); d != "" {
		t.Error(d)
	}
}

func attributes(s sdk.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, kv := range s.Attributes() {
		out[string(kv.Key)] = kv.Value.String()
	}
	return out
}

func TestPublish_BeginsATraceForAnEventThatHasNone(t *testing.T) {
	tr, spans := recorded(t)
	e := anEvent("")
	p := tr.Publish(t.Context(), e, 3)
	p.End(event.ID{Ms: 7}, false, nil)
	s := spans.Ended()[0]
	if want := "00-" + s.SpanContext().TraceID().String() + "-" + s.SpanContext().SpanID().String() + "-01"; e.Traceparent != want {
		t.Errorf("the event has %q, not %q", e.Traceparent, want)
	}
	if s.Parent().IsValid() {
		t.Errorf("parent %v", s.Parent())
	}
	want := map[string]string{
		"eventbus.domain": "scan", "eventbus.job_id": "job-1", "eventbus.stage": "vision", "eventbus.event_id": "7-0",
		"eventbus.batch_events": "3", "eventbus.duplicate": "false",
	}
	if d := cmp.Diff(want, attributes(s)); d != "" {
		t.Error(d)
	}
}

func TestPublish_ContinuesTheEventsTraceThenTheCallers(t *testing.T) {
	const other = "00-11111111111111111111111111111111-2222222222222222-01"
	for _, c := range []struct {
		event, caller string
		parent        string // empty: no span
	}{
		{traceparent, "", spanID},
		{traceparent, other, spanID},
		{"", other, "2222222222222222"},
		{"", strings.TrimSuffix(other, "1") + "0", ""}, // the caller does not sample
		{strings.TrimSuffix(traceparent, "1") + "0", "", ""},
		{strings.TrimSuffix(traceparent, "1") + "0", other, ""},
		{"no traceparent, but its last digit is odd if it is long enough: 1", "", ""},
	} {
		tr, spans := recorded(t)
		e := anEvent(c.event)
		tr.Publish(tr.Incoming(t.Context(), c.caller), e, 1).End(event.ID{Ms: 7}, false, nil)
		got := spans.Ended()
		if c.parent == "" {
			if len(got) != 0 || e.Traceparent != c.event {
				t.Errorf("%+v: %d spans, traceparent %q", c, len(got), e.Traceparent)
			}
			continue
		}
		if len(got) != 1 || got[0].Parent().SpanID().String() != c.parent {
			t.Errorf("%+v: %d spans", c, len(got))
		}
		if c.event != "" && e.Traceparent != c.event {
			t.Errorf("%+v: the publisher's traceparent became %q", c, e.Traceparent)
		}
	}
}

func TestPublish_AnEventThatIsNotSampledStaysAsItIs(t *testing.T) {
	tr, spans := recorded(t, sdk.WithSampler(sdk.ParentBased(sdk.NeverSample())))
	e := anEvent("")
	tr.Publish(t.Context(), e, 1).End(event.ID{Ms: 7}, false, nil)
	if len(spans.Ended()) != 0 || e.Traceparent != "" {
		t.Errorf("%d spans, traceparent %q", len(spans.Ended()), e.Traceparent)
	}
}

// At debug level each step is a line, whatever is sampled and whether spans go anywhere.
func TestTracer_DebugLinesJoinStepsByIDs(t *testing.T) {
	var out bytes.Buffer
	tr := trace.New(nil, slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	e := anEvent(strings.TrimSuffix(traceparent, "1") + "0")
	tr.Publish(context.Background(), e, 1).End(event.ID{Ms: 7}, true, nil)
	e.ID = event.ID{Ms: 7}
	tr.Step(trace.Of(e), &trace.Step{Name: "project", Began: time.Now(), Err: errors.New("away")})
	if tr.Exemplar(trace.Subject{Traceparent: traceparent})["trace_id"] != "" {
		t.Error("an exemplar would name a trace that goes nowhere")
	}
	lines := json.NewDecoder(&out)
	for _, want := range []map[string]any{
		{"step": "publish", "eventbus.duplicate": true},
		{"step": "project", "error": "away"},
	} {
		got := map[string]any{}
		if err := lines.Decode(&got); err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]any{"level": "DEBUG", "event_id": "7-0", "job_id": "job-1", "domain": "scan", "trace_id": traceID} {
			want[k] = v
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%v: %s is %v, not %v", want["step"], k, got[k], v)
			}
		}
	}
}

// Most events of a busy bus are not sampled.
func TestTracer_WhatIsNotSampledAllocatesNothing(t *testing.T) {
	tr, _ := recorded(t)
	e := anEvent(strings.TrimSuffix(traceparent, "1") + "0")
	e.ID = event.ID{Ms: 7}
	step := &trace.Step{Name: "project", Began: time.Now()}
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		tr.Publish(ctx, e, 1)
		tr.Step(trace.Of(e), step)
		if tr.Wants(e.Traceparent) || tr.Exemplar(trace.Of(e)) != nil {
			t.Fatal("somebody wants to know")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
