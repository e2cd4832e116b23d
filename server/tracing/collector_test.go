package tracing_test

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/eco2-team/eventbus/server/bustest"
)

// span is one that the collector got.
type span struct {
	*otlp.Span
	service string
}

func (s *span) id() string     { return hex.EncodeToString(s.GetSpanId()) }
func (s *span) parent() string { return hex.EncodeToString(s.GetParentSpanId()) }
func (s *span) trace() string  { return hex.EncodeToString(s.GetTraceId()) }

// attribute is one of the span's as text; empty where it has none.
func (s *span) attribute(name string) string {
	return attribute(s.GetAttributes(), name)
}

func attribute(list []*common.KeyValue, name string) string {
	for _, kv := range list {
		if kv.GetKey() == name {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}

func (s *span) number(name string) float64 {
	for _, kv := range s.GetAttributes() {
		if kv.GetKey() == name {
			return kv.GetValue().GetDoubleValue() + float64(kv.GetValue().GetIntValue())
		}
	}
	return -1
}

// collect is an OTLP collector, by gRPC and by HTTP.
type collect struct {
	collector.UnimplementedTraceServiceServer
	grpc, http string // URLs

	mu    sync.Mutex
	spans []*span
}

func newCollector(t *testing.T) *collect {
	t.Helper()
	c := new(collect)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	web := httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(func() { s.Stop(); served.Wait(); web.Close() })
	c.grpc, c.http = "http://"+l.Addr().String(), web.URL
	return c
}

// Export implements collector.TraceServiceServer.
func (c *collect) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		service := attribute(resource.GetResource().GetAttributes(), "service.name")
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, &span{s, service})
			}
		}
	}
	return new(collector.ExportTraceServiceResponse), nil
}

func (c *collect) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	in := new(collector.ExportTraceServiceRequest)
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), in)
}

// trace is what came of a trace.
func (c *collect) trace(id string) []*span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*span
	for _, s := range c.spans {
		if s.trace() == id {
			out = append(out, s)
		}
	}
	return out
}

// all is the names of all spans.
func (c *collect) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return names(c.spans)
}

func names(spans []*span) []string {
	var out []string
	for _, s := range spans {
		out = append(out, s.GetName())
	}
	slices.Sort(out)
	return out
}

// await waits until a trace has these spans, by name; it returns them by name.
func (c *collect) await(t *testing.T, id string, want ...string) map[string]*span {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	bustest.Eventually(t, "the whole trace is at the collector", func() bool { return len(c.trace(id)) >= len(want) })
	out := map[string]*span{}
	spans := c.trace(id)
	for _, s := range spans {
		out[s.GetName()] = s
	}
	if got := names(spans); !slices.Equal(got, want) {
		t.Fatalf("trace %s has %v, not %v", id, got, want)
	}
	return out
}
