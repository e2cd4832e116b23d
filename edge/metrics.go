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
			Name: "streams", Help: "Open streams to browsers, by kind (job, watch)."}, []string{"kind"}),
		topics: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "eventbus", Subsystem: "edge",
			Name: "topics", Help: "Jobs that browsers of this edge follow; each has one stream from a router."}),
		reconnects:    counter("upstream_reconnects_total", "Attempts to resume a stream from a router after it broke."),
		moves:         counter("upstream_moves_total", "Streams from a router that were resumed because they had their age there."),
		logReads:      counter("log_reads_total", "Pages read through ListEvents for browsers outside the ring."),
		framesEncoded: counter("frames_encoded_total", "Events encoded."),
		framesSent:    counter("frames_sent_total", "Events handed to browsers' connections."),
		gaps:          counters("gaps_total", "Gaps told to browsers, by reason.", "reason"),
		writeTimeouts: counter("write_timeouts_total", "Streams cut because the browser did not read."),
		refused:       counters("streams_refused_total", "Streams that were not opened, by gRPC code.", "code"),
		publishes:     counters("http_publishes_total", "Events published by HTTP POST, by gRPC code.", "code"),

		connections:      gauge("connections", "API requests that are open: streams, and those that are answered at once."),
		connectionsLimit: gauge("connections_limit", "MAX_CONNECTIONS; 0 is no limit."),
		overLimit:        counters("over_limit_total", "Requests sent away, by limit: edge (MAX_CONNECTIONS), client (MAX_CONNECTIONS_PER_CLIENT).", "limit"),
	}
	for _, limit := range []string{"edge", "client"} {
		m.overLimit.WithLabelValues(limit)
	}
	for _, kind := range []string{kindJob, kindWatch} {
		m.streams.WithLabelValues(kind)
	}
	for _, c := range []prometheus.Collector{m.streams, m.topics, m.reconnects, m.moves, m.logReads, m.framesEncoded,
		m.framesSent, m.gaps, m.writeTimeouts, m.refused, m.publishes,
		m.connections, m.connectionsLimit, m.overLimit} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
