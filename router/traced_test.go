package router

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/router/trace"
)

// tracedBus is a bus that writes its events' way down.
func tracedBus(t *testing.T, o ...sdk.TracerProviderOption) (*testBus, *tracetest.SpanRecorder) {
	t.Helper()
	streams, pubsub := redistest.New(t), redistest.New(t)
	tb := newBus(t, testConfig(streams.URL(), pubsub.URL()))
	tb.streams, tb.pubsub = streams, pubsub
	spans := tracetest.NewSpanRecorder()
	tb.TraceTo(trace.New(sdk.NewTracerProvider(append(o, sdk.WithSpanProcessor(spans))...), slog.New(slog.DiscardHandler)))
	tb.Start()
	tb.waitReady()
	return tb, spans
}

func steps(spans *tracetest.SpanRecorder) []string {
	var out []string
	for _, s := range spans.Ended() {
		out = append(out, s.Name())
	}
	slices.Sort(out)
	return out
}

func TestTrace_AnEventsStepsAreInOneTraceThatItsReadersKnow(t *testing.T) {
	tb, spans := tracedBus(t)
	sub := tb.subscribe("job", SubscribeOptions{})
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	e := sub.drain()[0]
	eventually(t, "all steps are written down", func() bool { return len(spans.Ended()) >= 4 })
	if got := steps(spans); !slices.Equal(got, []string{"announce", "hear", "project", "publish"}) {
		t.Errorf("steps %v", got)
	}
	id := tb.Trace().Exemplar(trace.Of(e))["trace_id"]
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID().String() != id {
			t.Errorf("%s is in trace %s, the event's is %s", s.Name(), s.SpanContext().TraceID(), id)
		}
		for _, kv := range s.Attributes() {
			if kv.Key == "eventbus.event_id" && kv.Value.AsString() != e.ID.String() {
				t.Errorf("%s is of event %s, not %s", s.Name(), kv.Value.AsString(), e.ID)
			}
		}
	}
	if got := tb.exemplar("eventbus_delivery_seconds"); got["trace_id"] != id || got["event_id"] != e.ID.String() {
		t.Errorf("exemplar %v of trace %s, event %s", got, id, e.ID)
	}
}

func TestTrace_AnEventThatIsNotSampledCostsNoSpanAndStaysAsItIs(t *testing.T) {
	tb, spans := tracedBus(t, sdk.WithSampler(sdk.ParentBased(sdk.NeverSample())))
	sub := tb.subscribe("job", SubscribeOptions{})
	const unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	tb.publish(event.Event{JobID: "job", Stage: "vision", Traceparent: unsampled})
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	got := sub.drain()
	if got[0].Traceparent != unsampled || got[1].Traceparent != "" {
		t.Errorf("traceparents %q, %q", got[0].Traceparent, got[1].Traceparent)
	}
	tb.halt() // all is written down by then
	if len(spans.Ended()) > 0 {
		t.Errorf("steps %v", steps(spans))
	}
}

// exemplar is the labels of one of a histogram's exemplars.
func (tb *testBus) exemplar(name string) map[string]string {
	tb.t.Helper()
	families, err := tb.reg.Gather()
	if err != nil {
		tb.t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, b := range m.GetHistogram().GetBucket() {
				add(out, b.GetExemplar())
			}
		}
	}
	return out
}

func add(out map[string]string, e *dto.Exemplar) {
	for _, l := range e.GetLabel() {
		out[l.GetName()] = l.GetValue()
	}
}

// Where nobody wants to know, the steps of a round allocate nothing and parse nothing.
func TestTrace_OffCostsNothing(t *testing.T) {
	tb := newBus(t, testConfig("redis://127.0.0.1:1/0", ""))
	e := &event.Event{Domain: "scan", JobID: "job", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	b := newBridge(t.Context(), tb.deps, "scan", 0)
	b.batch = &batch{ids: []string{"1-0"}, jobs: []*jobBatch{{events: []*event.Event{e}}}}
	c := &carrier{bridgeDeps: tb.deps, bridges: []*bridge{b}}
	began := time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.traced("project", began, nil); err != nil {
			t.Fatal(err)
		}
		b.observeDelay(0.001, e)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
