// Package count reads metrics back, for those who show them without Prometheus.
package count

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Total sums a metric over its labels; of a histogram, its observations.
func Total(c prometheus.Collector) float64 {
	all := make(chan prometheus.Metric)
	go func() {
		defer close(all)
		c.Collect(all)
	}()
	sum := 0.0
	for one := range all {
		var m dto.Metric
		if one.Write(&m) == nil { // fails for none of ours
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}
