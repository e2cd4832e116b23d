package edge

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// ended is how many streams ended for a reason.
func (e *testEdge) ended(why ending) int {
	return counter(e.metrics.ended.WithLabelValues(string(why)))
}

func histogram(t *testing.T, o prometheus.Observer) (count int, sum float64) {
	t.Helper()
	var m dto.Metric
	if err := o.(prometheus.Metric).Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetHistogram().GetSampleCount()), m.GetHistogram().GetSampleSum()
}

// now lets the events that follow be younger than all streams.
func (f *fakeRouter) now() {
	f.set(func() { f.next = int(time.Now().Add(time.Hour).UnixMilli()) - 1_700_000_000_000 })
}

// each opens a job's stream, by HTTP/1.1 and by HTTP/2.
func (e *testEdge) each(t *testing.T, job string, headers ...header) map[string]*browser {
	t.Helper()
	h2 := &testEdge{Server: e.Server, t: t, url: e.url, web: onHTTP2(t)}
	return map[string]*browser{
		transportLine: e.open(jobPath(job), headers...).opened(), transportHTTP2: h2.open(jobPath(job), headers...).opened(),
	}
}

func TestMetrics_StreamsByTransportAndEndsByReason(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	f.steps("j", 1)
	for round, end := range []struct {
		why ending
		do  func(map[string]*browser)
	}{
		{endGone, func(all map[string]*browser) {
			for _, b := range all {
				b.close()
			}
		}},
		{endOver, func(map[string]*browser) { f.finish("j") }},
	} {
		all := e.each(t, "j")
		for transport := range all {
			until(t, transport, func() bool { return counter(e.metrics.streams.WithLabelValues(kindJob, transport)) == 1 })
		}
		end.do(all)
		until(t, string(end.why), func() bool { return e.ended(end.why) == len(all) && e.metrics.open(kindJob) == 0 })
		for _, why := range []ending{endTimeout, endDrain, endExpired, endError} {
			same(t, string(why), e.ended(why), 0)
		}
		same(t, "over", e.ended(endOver), round*len(all))
	}
}

func TestMetrics_LinesOfJSONAreHTTP1(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	f.steps("j", 1)
	next := e.lines(jobPath("j"))
	until(t, "it is open", func() bool { return counter(e.metrics.streams.WithLabelValues(kindJob, transportHTTP1)) == 1 })
	f.finish("j")
	for next() != "EOF" {
	}
	until(t, "it is over", func() bool { return e.ended(endOver) == 1 && e.metrics.open(kindJob) == 0 })
}

func TestMetrics_DrainedStreamsAreSaidToBe(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	f.set(func() { f.watch = []*eventbusv1.WatchResponse{{}} })
	all := e.each(t, "j")
	all[kindWatch] = e.open("/api/v1/scan/events").opened()
	e.together("j", 1)
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "drained", e.ended(endDrain), len(all))
}

// A resume is counted with what it got from before it; what is published later is not
// replayed, and a stream without a cursor resumes nothing.
func TestMetrics_ResumesAndWhatTheyReplay(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	ids := f.steps("j", 11)
	e.open(jobPath("j")).opened().ids(11)
	all := e.each(t, "j", lastEventID(ids[0]))
	f.now()
	for _, b := range all {
		b.ids(10)
	}
	f.steps("j", 1)
	until(t, "all are live", func() bool { n, _ := histogram(t, e.metrics.replayed); return n == len(all) })
	if _, sum := histogram(t, e.metrics.replayed); int(sum) != 10*len(all) {
		t.Errorf("%v events are said to be replayed to %d browsers", sum, len(all))
	}
	same(t, "resumes", counter(e.metrics.resumes.WithLabelValues(kindJob)), len(all))
}

// The way to the browser is measured once for all that stand together, once for each
// other stream, and for events only that are younger than the stream.
func TestMetrics_LatencyOfWhatIsLive(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	f.steps("j", 5)
	all := []*browser{e.open(jobPath("j")).opened(), e.open(jobPath("j")).opened()}
	h2 := (&testEdge{Server: e.Server, t: t, url: e.url, web: onHTTP2(t)}).open(jobPath("j")).opened()
	e.together("j", 2)
	h2.ids(5)
	f.now()
	for range 3 {
		f.steps("j", 1)
		h2.ids(1)
	}
	for _, b := range all {
		b.ids(8)
	}
	until(t, "three events once for the crowd", func() bool { n, _ := histogram(t, e.metrics.crowdLatency); return n == 3 })
	until(t, "three events for the other one", func() bool {
		// The last one is counted with the next.
		n, _ := histogram(t, e.metrics.jobLatency)
		return n == 2 || n == 3
	})
	f.finish("j")
	until(t, "all are counted", func() bool { n, _ := histogram(t, e.metrics.jobLatency); return n == 4 })
	if n, _ := histogram(t, e.metrics.watchLatency); n != 0 {
		t.Errorf("%d for watches", n)
	}
}

func TestMetrics_RingsAreMeasured(t *testing.T) {
	reg := prometheus.NewRegistry()
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet, func(_ *Config, o *Options) { o.Metrics = reg })
	rings := func() (events, bytes float64) {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range families {
			switch m.GetName() {
			case "eventbus_edge_ring_events":
				events = m.GetMetric()[0].GetGauge().GetValue()
			case "eventbus_edge_ring_bytes":
				bytes = m.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return events, bytes
	}
	b := e.open(jobPath("j")).opened()
	for range 7 {
		f.steps("j", 1)
		b.ids(1)
	}
	if events, bytes := rings(); events != 7 || bytes < 7*100 {
		t.Errorf("%v events, %v bytes", events, bytes)
	}
	b.close()
	until(t, "nothing is left", func() bool { events, bytes := rings(); return events == 0 && bytes == 0 })
}
