package hub

import "github.com/prometheus/client_golang/prometheus"

// Held is how many items the ring has, and their size in bytes.
func (t *Topic[E]) Held() (items, bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.items), t.bytes
}

// collector adds up rings when it is asked, so that they need not count.
type collector[E any] struct {
	topics       func() []*Topic[E]
	items, bytes *prometheus.Desc
}

// Collector is the metrics ring_events and ring_bytes of topics; prefix comes before
// their names.
func Collector[E any](prefix string, topics func() []*Topic[E]) prometheus.Collector {
	return &collector[E]{
		topics: topics,
		items:  prometheus.NewDesc(prefix+"_ring_events", "Events in the rings of all jobs that are followed.", nil, nil),
		bytes:  prometheus.NewDesc(prefix+"_ring_bytes", "About what the events in the rings take in memory.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector[E]) Describe(out chan<- *prometheus.Desc) {
	out <- c.items
	out <- c.bytes
}

// Collect implements prometheus.Collector.
func (c *collector[E]) Collect(out chan<- prometheus.Metric) {
	var items, bytes int
	for _, t := range c.topics() {
		n, size := t.Held()
		items, bytes = items+n, bytes+size
	}
	out <- prometheus.MustNewConstMetric(c.items, prometheus.GaugeValue, float64(items))
	out <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(bytes))
}
