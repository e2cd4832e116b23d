package router

import "github.com/prometheus/client_golang/prometheus"

// metrics are the numbers of the bus. Duplicates, repairs, gaps and drops are
// kept apart: one of them rising means something else than another.
type metrics struct {
	published     *prometheus.CounterVec // domain
	publishErrors *prometheus.CounterVec // domain, reason
	projected     *prometheus.CounterVec // domain
	repeated      *prometheus.CounterVec // domain
	dropped       *prometheus.CounterVec // domain, reason
	dead          *prometheus.CounterVec // domain
	lost          *prometheus.CounterVec // domain
	bridgeErrors  *prometheus.CounterVec // domain
	announceFails *prometheus.CounterVec // domain
	holes         prometheus.Counter
	duplicates    prometheus.Counter
	repairs       prometheus.Counter
	gaps          *prometheus.CounterVec // reason
	topics        prometheus.Gauge
	subscribers   prometheus.Gauge
	owned         *prometheus.GaugeVec // domain, shard
	lag           *prometheus.GaugeVec // domain, shard
	pending       *prometheus.GaugeVec // domain, shard
	behind        *prometheus.GaugeVec // domain, shard, group
	memory        prometheus.Gauge
	probeFails    prometheus.Counter
	probeSeconds  prometheus.Histogram
	degraded      prometheus.Gauge
	delay         *prometheus.HistogramVec // domain
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventbus_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "eventbus_" + name, Help: help}, labels)
	}
	m := &metrics{
		published:     counter("published_total", "Events acknowledged to publishers.", "domain"),
		publishErrors: counter("publish_errors_total", "Events refused for a reason that is not the publisher's: exhausted, unavailable.", "domain", "reason"),
		projected:     counter("projected_total", "Events put into job logs.", "domain"),
		repeated:      counter("repeated_total", "Entries projected again after a crash or a takeover; harmless.", "domain"),
		dropped:       counter("dropped_total", "Entries not shown: old (beyond retention), over (after the final event).", "domain", "reason"),
		dead:          counter("dead_letters_total", "Entries that are no events.", "domain"),
		lost:          counter("lost_total", "Entries trimmed by a producer before the bus read them.", "domain"),
		bridgeErrors:  counter("bridge_errors_total", "Batches that failed and are done again.", "domain"),
		announceFails: counter("announce_errors_total", "Batches whose announcement failed; the head check delivers them.", "domain"),
		holes:         prometheus.NewCounter(prometheus.CounterOpts{Name: "eventbus_announcement_holes_total", Help: "Announcements that showed a lost one before them."}),
		duplicates:    prometheus.NewCounter(prometheus.CounterOpts{Name: "eventbus_announcement_duplicates_total", Help: "Announcements with nothing new; harmless."}),
		repairs:       prometheus.NewCounter(prometheus.CounterOpts{Name: "eventbus_head_repairs_total", Help: "Topics whose log was ahead of what was announced."}),
		gaps:          counter("gaps_total", "Gaps told to subscribers.", "reason"),
		topics:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventbus_topics", Help: "Jobs with a subscriber."}),
		subscribers:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventbus_subscribers", Help: "Open subscriptions, Watch included."}),
		owned:         gauge("shard_owned", "1 where this router owns the shard.", "domain", "shard"),
		lag:           gauge("shard_lag", "Entries of the shard log that the group has not read.", "domain", "shard"),
		pending:       gauge("shard_pending", "Entries read and not acknowledged.", "domain", "shard"),
		behind:        gauge("group_behind_seconds", "Age of the oldest entry that a group has not acknowledged; 0 where there is none.", "domain", "shard", "group"),
		memory:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventbus_redis_memory_ratio", Help: "Used memory of the fullest streams Redis, of its maxmemory; 0 without one."}),
		probeFails:    prometheus.NewCounter(prometheus.CounterOpts{Name: "eventbus_probe_failures_total", Help: "Probes that did not come back, or went to a replica."}),
		probeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "eventbus_probe_seconds", Help: "Time of a probe from PUBLISH to its return.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		degraded: prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventbus_degraded", Help: "1 while announcements may not arrive and the head check delivers."}),
		delay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "eventbus_delivery_seconds", Help: "Time from the log entry, by the clock of Redis, to the announcement; once for an event.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"domain"}),
	}
	reg.MustRegister(m.published, m.publishErrors, m.projected, m.repeated, m.dropped, m.dead, m.lost, m.bridgeErrors,
		m.announceFails, m.holes, m.duplicates, m.repairs, m.gaps, m.topics, m.subscribers, m.owned, m.lag, m.pending,
		m.behind, m.memory, m.probeFails, m.probeSeconds, m.degraded, m.delay)
	return m
}
