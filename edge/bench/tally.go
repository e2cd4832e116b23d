package bench

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// job is one job of the test: a publisher counts what was acknowledged, browsers
// what has arrived.
type job struct {
	domain, id string
	// inOrder: one caller publishes it, so the n-th event has seq n.
	inOrder bool
	// numbers is the last number given, acked how many were acknowledged, sum their
	// numbers' sum.
	numbers, acked, sum atomic.Uint64
}

// tally is what one reader has seen. It belongs to its reader: others look at it
// within reader.do.
type tally struct {
	delivered, bytes int64
	// last is when the last event was read, ns since 1970.
	last int64
	// latency has the events that were sent since then, in µs.
	since   int64
	latency *hdrhistogram.Histogram
	// laps is set in a closed loop.
	laps   *laps
	faults *faults
}

// maxLatency is the histogram's end, two minutes in µs.
const maxLatency = 120_000_000

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency, 3) }

// restart forgets the latencies; those of events sent from now on count.
func (t *tally) restart(now int64) {
	t.since = now
	t.latency.Reset()
}

// faults is everything that must not happen. It is safe for concurrent use.
type faults struct {
	mu sync.Mutex
	Faults
	examples []string
}

// Faults counts what went wrong in a row; a bus has none.
type Faults struct {
	// Lost are events that did not arrive, Duplicates such as came twice,
	// Reordered such as came after a younger one.
	Lost       int `json:"lost"`
	Duplicates int `json:"duplicates"`
	Reordered  int `json:"reordered"`
	// Gaps were announced by the bus, Foreign are events that nobody published.
	Gaps    int `json:"gaps"`
	Foreign int `json:"foreign"`
	// Broken are connections that failed or ended.
	Broken int `json:"broken"`
}

const maxExamples = 5

// add counts one; which is a field of f.
func (f *faults) add(which *int, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count(which, format, args)
}

// move counts as another what turned out to be it.
func (f *faults) move(from, to *int, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*from--
	f.count(to, format, args)
}

func (f *faults) count(which *int, format string, args []any) {
	*which++
	if len(f.examples) < maxExamples {
		f.examples = append(f.examples, fmt.Sprintf(format, args...))
	}
}

func (f *faults) total() Faults {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Faults
}

// err is nil where nothing went wrong.
func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Faults == (Faults{}) {
		return nil
	}
	c := f.Faults
	return errors.New(fmt.Sprintf("%d lost, %d duplicates, %d reordered, %d gaps, %d foreign events, %d broken connections: ",
		c.Lost, c.Duplicates, c.Reordered, c.Gaps, c.Foreign, c.Broken) + strings.Join(f.examples, "; "))
}

// laps tells when all browsers of one job have an event. A reader counts its own
// browsers; the last reader to be complete says so.
type laps struct {
	browsers uint32
	reached  [lapWindow]uint32
	shared   *lapBoard
}

// lapWindow is more than may be in flight.
const lapWindow = 1024

// lapBoard is what the readers of one job share.
type lapBoard struct {
	readers uint32
	ready   [lapWindow]atomic.Uint32
	// done gets a token for each event that all have; it has room for all in flight.
	done chan struct{}
}

// hit is one browser's event.
func (l *laps) hit(seq uint32) {
	at := seq % lapWindow
	if l.reached[at]++; l.reached[at] < l.browsers {
		return
	}
	l.reached[at] = 0
	if l.shared.ready[at].Add(1) == l.shared.readers {
		l.shared.ready[at].Store(0)
		l.shared.done <- struct{}{}
	}
}

// plus sums.
func (f *Faults) plus(o Faults) {
	f.Lost += o.Lost
	f.Duplicates += o.Duplicates
	f.Reordered += o.Reordered
	f.Gaps += o.Gaps
	f.Foreign += o.Foreign
	f.Broken += o.Broken
}
