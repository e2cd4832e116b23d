package edge

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the edge's numbers.
type metrics struct {
	streams       *prometheus.GaugeVec
	topics        prometheus.Gauge
	reconnects    prometheus.Counter
	moves         prometheus.Counter
	logReads      prometheus.Counter
	framesEncoded prometheus.Counter
	framesSent    prometheus.Counter
	gaps          *prometheus.CounterVec
	writeTimeouts prometheus.Counter
	refused       *prometheus.CounterVec
	publishes     *prometheus.CounterVec
	ended         *prometheus.CounterVec
	slow          prometheus.Counter
	resumes       *prometheus.CounterVec
	replayed      prometheus.Histogram
	duplicates    prometheus.Counter
	// latency's observers, looked up once.
	latency                                *prometheus.HistogramVec
	crowdLatency, jobLatency, watchLatency prometheus.Observer

	connections, connectionsLimit prometheus.Gauge
	overLimit                     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "eventbus", Subsystem: "edge", Name: name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "eventbus", Subsystem: "edge", Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "eventbus", Subsystem: "edge", Name: name, Help: help})
	}
	m := &metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "eventbus", Subsystem: "edge",
			Name: "streams", Help: "Open streams to browsers, by kind (job, watch) and transport: line (a connection taken over from net/http), http1, http2 (a goroutine each)."}, []string{"kind", "transport"}),
		topics: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "eventbus", Subsystem: "edge",
			Name: "topics", Help: "Jobs that browsers of this edge follow."}),
		reconnects:    counter("upstream_reconnects_total", "Attempts to resume a stream from a router after it broke."),
		moves:         counter("upstream_moves_total", "Streams from a router that were resumed because they had their age there."),
		logReads:      counter("log_reads_total", "Pages read through ListEvents for browsers outside the ring."),
		framesEncoded: counter("frames_encoded_total", "Events encoded."),
		framesSent:    counter("frames_sent_total", "Events handed to browsers' connections."),
		gaps:          counters("gaps_total", "Gaps told to browsers, by reason.", "reason"),
		writeTimeouts: counter("write_timeouts_total", "Streams cut because the browser did not read."),
		refused:       counters("streams_refused_total", "Streams that were not opened, by gRPC code.", "code"),
		publishes:     counters("http_publishes_total", "Events published by HTTP POST, by gRPC code.", "code"),
		ended:         counters("streams_ended_total", "Streams to browsers that ended, by reason: over (after the final event), gone (the browser left), timeout (it did not read), drain, expired (its token), error (it was told of one).", "reason"),
		slow:          counter("slow_readers_total", "Times that a browser did not take an event at once, and went on alone."),
		resumes:       counters("resumes_total", "Streams that were opened with a cursor, by kind (job, watch).", "kind"),
		duplicates:    counter("duplicates_total", "Events that came from a router again and were dropped; harmless."),
		replayed: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "eventbus", Subsystem: "edge",
			Name: "resume_replayed_events", Help: "Events from before it, that a stream with a cursor got until it was live.",
			Buckets: []float64{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000}}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "eventbus", Subsystem: "edge", Name: "delivery_seconds",
			Help:    "Time from the log entry, by the clock of Redis, until browsers were written the event, of events that are younger than the stream. Kind crowd: once for an event and all streams that are up to date, when the last of them was written; job: once for each other stream of a job; watch: once for each Watch.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}, []string{"kind"}),

		connections:      gauge("connections", "API requests that are open: streams, and those that are answered at once."),
		connectionsLimit: gauge("connections_limit", "MAX_CONNECTIONS; 0 is no limit."),
		overLimit:        counters("over_limit_total", "Requests sent away, by limit: edge (MAX_CONNECTIONS), client (MAX_CONNECTIONS_PER_CLIENT).", "limit"),
	}
	for _, limit := range []string{"edge", "client"} {
		m.overLimit.WithLabelValues(limit)
	}
	for _, kind := range []string{kindJob, kindWatch} {
		m.resumes.WithLabelValues(kind)
		for _, transport := range []string{transportHTTP1, transportHTTP2} {
			m.streams.WithLabelValues(kind, transport)
		}
	}
	m.streams.WithLabelValues(kindJob, transportLine)
	for _, why := range []ending{endOver, endGone, endTimeout, endDrain, endExpired, endError} {
		m.ended.WithLabelValues(string(why))
	}
	m.crowdLatency, m.jobLatency, m.watchLatency = m.latency.WithLabelValues("crowd"), m.latency.WithLabelValues(kindJob), m.latency.WithLabelValues(kindWatch)
	for _, c := range []prometheus.Collector{m.streams, m.topics, m.reconnects, m.moves, m.logReads, m.framesEncoded,
		m.framesSent, m.gaps, m.writeTimeouts, m.refused, m.publishes,
		m.ended, m.slow, m.resumes, m.replayed, m.duplicates, m.latency,
		m.connections, m.connectionsLimit, m.overLimit} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
