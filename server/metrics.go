package server

import (
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/eco2-team/eventbus/router/event"
)

// metrics are those of the service; grpc_server_* count calls and messages.
type metrics struct {
	grpc *grpcprom.ServerMetrics
	// open is how many streams are being served, by RPC.
	open *prometheus.GaugeVec
	// sent counts events, gaps the gaps that were sent, by RPC.
	sent *prometheus.CounterVec
	gaps *prometheus.CounterVec
	// ended counts streams, by RPC and reason.
	ended *prometheus.CounterVec
	// refused counts calls that access or the publish rate refused, by reason.
	refused *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		grpc: grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(
			grpcprom.WithHistogramBuckets([]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}),
		)),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "eventbus_grpc_streams",
			Help: "Streams being served.",
		}, []string{"rpc"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eventbus_grpc_events_sent_total",
			Help: "Events sent to subscribers, once for each subscriber.",
		}, []string{"rpc"}),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eventbus_grpc_gaps_sent_total",
			Help: "Gaps that subscribers were told of.",
		}, []string{"rpc", "reason"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eventbus_grpc_streams_ended_total",
			Help: "Streams that ended, by reason: over (after the final event), gone (the client left), age (MAX_CONNECTION_AGE), drain, expired (the token), error.",
		}, []string{"rpc", "reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eventbus_grpc_refused_total",
			Help: "Calls refused and streams ended: unauthenticated (no good token), denied (no grant), rate (PUBLISH_RATE).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{"unauthenticated", "denied", "rate"} {
		m.refused.WithLabelValues(reason)
	}
	for _, c := range []prometheus.Collector{m.grpc, m.open, m.sent, m.gaps, m.ended, m.refused} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// streamMetrics are the metrics of one RPC, looked up once.
type streamMetrics struct {
	open prometheus.Gauge
	sent prometheus.Counter
	gaps *prometheus.CounterVec
}

func (m *metrics) stream(rpc string) streamMetrics {
	return streamMetrics{
		open: m.open.WithLabelValues(rpc),
		sent: m.sent.WithLabelValues(rpc),
		gaps: m.gaps.MustCurryWith(prometheus.Labels{"rpc": rpc}),
	}
}

func (m streamMetrics) delivered(events int, g *event.Gap) {
	m.sent.Add(float64(events))
	if g != nil {
		m.gaps.WithLabelValues(g.Reason.String()).Inc()
	}
}
