package edge

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/eco2-team/eventbus/router/hub"
)

// ending is why a browser's stream ended, as metrics name it.
type ending string

const (
	endOver    ending = "over"
	endGone    ending = "gone"
	endTimeout ending = "timeout"
	endDrain   ending = "drain"
	endExpired ending = "expired"
	endError   ending = "error"
)

// endingOf is the edge's own reasons.
func endingOf(reason error) ending {
	if errors.Is(reason, errExpired) {
		return endExpired
	}
	return endDrain
}

// How a stream goes to its browser.
const (
	transportLine  = "line"
	transportHTTP1 = "http1"
	transportHTTP2 = "http2"
)

func transportOf(major int) string {
	if major >= 2 {
		return transportHTTP2
	}
	return transportHTTP1
}

// reading is what is counted of one browser's stream.
type reading struct {
	// since is when it began, in milliseconds since 1970: younger events are live.
	since uint64
	// replayed counts older ones, while resuming.
	replayed int
	resuming bool
}

func newReading(c cursor) reading {
	return reading{since: uint64(time.Now().UnixMilli()), resuming: c.given}
}

// caughtUp: all that follows is live.
func (r *reading) caughtUp(m *metrics) {
	if r.resuming {
		r.resuming = false
		m.replayed.Observe(float64(r.replayed))
	}
}

// wrote counts events that the browser's connection took.
func (r *reading) wrote(s *topics, latency prometheus.Observer, kind string, items []hub.Item[frame]) {
	now := time.Now()
	for i := range items {
		it := &items[i]
		if it.ID.Ms < r.since {
			r.replayed++
			continue
		}
		r.caughtUp(s.metrics)
		observe(latency, it, now)
		if it.Value.trail != nil && it.Value.trail.first() {
			s.written(it.Value.trail, kind, 1)
		}
	}
}

// wrote implements feed.
func (f *jobFeed) wrote(items []hub.Item[frame]) {
	f.reading.wrote(f.topics, f.topics.metrics.jobLatency, kindJob, items)
}

func (f *jobFeed) caughtUp() { f.reading.caughtUp(f.topics.metrics) }

// wrote implements feed.
func (f *watchFeed) wrote(items []hub.Item[frame]) {
	f.reading.wrote(f.topics, f.topics.metrics.watchLatency, kindWatch, items)
}

// passed counts events that so many members of a crowd were written.
func (m *metrics) passed(c *crowd, items []hub.Item[frame], members int) {
	now := time.Now()
	for i := range items {
		it := &items[i]
		if it.ID.Ms >= c.since {
			observe(m.crowdLatency, it, now)
		}
		if it.Value.trail != nil {
			c.lines.client.topics.written(it.Value.trail, "crowd", members)
		}
	}
}

// observe counts the time from the log to the browser. The clocks of Redis and of the
// edge may differ.
func observe(latency prometheus.Observer, it *hub.Item[frame], now time.Time) {
	seconds := max(now.Sub(it.ID.Time()).Seconds(), 0)
	if t := it.Value.trail; t != nil && t.exemplar != nil {
		if o, ok := latency.(prometheus.ExemplarObserver); ok {
			o.ObserveWithExemplar(seconds, t.exemplar)
			return
		}
	}
	latency.Observe(seconds)
}
