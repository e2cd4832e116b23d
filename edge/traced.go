package edge

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"
	"go.opentelemetry.io/otel/attribute"

	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// trail is what an edge knows of an event whose way is written down. Others have
// none, so that they cost a nil check.
type trail struct {
	event trace.Subject
	came  time.Time
	// exemplar is nil where the trace is not sampled.
	exemplar prometheus.Labels
	// told: a stream outside the crowd was written it, or none is to be told of. The
	// first one stands for all: a trace does not grow with the browsers.
	told atomic.Bool
}

// first tells whether this is the first stream outside the crowd.
func (t *trail) first() bool { return t.told.CompareAndSwap(false, true) }

// follow is nil where nobody wants to know of the event. With steps, what it goes
// through here is written down.
func (s *topics) follow(e trace.Subject, steps bool) *trail {
	if !s.trace.Wants(e.Traceparent) {
		return nil
	}
	t := &trail{event: e, came: time.Now(), exemplar: s.trace.Exemplar(e)}
	t.told.Store(!steps)
	return t
}

// received writes down that events came, before the ring has them.
func (t *topic) received(items []hub.Item[frame]) {
	s := t.owner
	s.mu.Lock()
	browsers := t.refs
	s.mu.Unlock()
	for i := range items {
		f := &items[i].Value
		traceparent := gjson.GetBytes(f.bytes(false), "traceparent").Str
		f.trail = s.follow(trace.Subject{ID: items[i].ID, Domain: t.key.domain, JobID: t.key.job, Traceparent: traceparent}, true)
		if f.trail != nil {
			s.trace.Step(f.trail.event, &trace.Step{Name: "receive", Began: f.trail.came, About: []attribute.KeyValue{
				attribute.Int("eventbus.browsers", browsers),
				attribute.Float64("eventbus.wait_seconds", max(f.trail.came.Sub(items[i].ID.Time()).Seconds(), 0)),
			}})
		}
	}
}

// written writes down that browsers have the event: the time since it came here.
func (s *topics) written(t *trail, kind string, browsers int) {
	s.trace.Step(t.event, &trace.Step{Name: "write", Began: t.came, About: []attribute.KeyValue{
		attribute.String("eventbus.kind", kind), attribute.Int("eventbus.browsers", browsers),
	}})
}
