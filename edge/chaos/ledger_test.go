package chaos

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// job is one job's truth: its publisher sends 1, 2, 3 …, each until it is
// acknowledged and only then the next. So its log must be exactly that.
type job struct {
	domain, id string
	// acked is the highest number acknowledged, and so are all before it.
	acked atomic.Int64
	// sent is the highest number that was tried.
	sent atomic.Int64
	// final is the number of the final event once that is acknowledged, else 0.
	final atomic.Int64
}

func (j *job) path() string { return "/api/v1/" + j.domain + "/" + j.id + "/events" }

// tally counts what the checker found. All but events and gaps must be 0 where
// nothing may be lost.
type tally struct {
	// events that subscribers got and that were checked.
	events int
	// lost: acknowledged, not delivered, and no gap said so.
	lost int
	// told: acknowledged, not delivered, and a gap said so.
	told int
	// duplicated, reordered: delivered again, or too late.
	duplicated, reordered int
	// gaps that subscribers were told of.
	gaps int
	// broken: seq not dense, id not ascending, or an answer that the contract does
	// not have.
	broken int
}

func (t *tally) add(o tally) {
	t.events += o.events
	t.lost += o.lost
	t.told += o.told
	t.duplicated += o.duplicated
	t.reordered += o.reordered
	t.gaps += o.gaps
	t.broken += o.broken
}

// view is what one subscriber saw of a job, over all its connections. It is safe
// for concurrent use.
type view struct {
	name string
	job  *job
	// since is when silence began to count: the fault.
	since *atomic.Int64

	mu       sync.Mutex
	tally    tally
	notes    []string
	seen     []bool // by number
	n, seq   int    // of the last event
	id       string // of the last event: where to resume
	fresh    bool   // nothing since the beginning, or since the last gap
	afterGap bool
	over     bool // the final event came
	last     time.Time
	silence  time.Duration
}

func newView(name string, j *job, since *atomic.Int64) *view {
	return &view{name: name, job: j, since: since, fresh: true}
}

// received is an event as it came.
type received struct {
	id    string
	n     int
	seq   int
	final bool
}

// note keeps the first few findings. It needs mu.
func (v *view) note(format string, args ...any) {
	if len(v.notes) < 8 {
		v.notes = append(v.notes, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// event judges one event.
func (v *view) event(r received) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tally.events++
	v.arrived(time.Now())
	if v.over {
		v.tally.broken++
		v.note("event %d after the final one", r.n)
	}
	known := r.n < len(v.seen) && v.seen[r.n]
	switch {
	case r.n < 1 || int64(r.n) > v.job.sent.Load():
		v.tally.broken++
		v.note("event %d was never published", r.n)
		return
	case v.fresh && v.afterGap:
		v.tally.told += v.fill(r.n)
	case v.fresh:
		v.missing(r)
	case r.n > v.n+1:
		v.missing(r)
	case r.n <= v.n && known:
		v.tally.duplicated++
		v.note("event %d again (id %s, after %d with %s)", r.n, r.id, v.n, v.id)
		return
	case r.n <= v.n:
		v.tally.reordered++
		v.note("event %d after %d", r.n, v.n)
	}
	v.place(r)
	v.fill(r.n + 1)
	v.n, v.seq, v.id, v.fresh, v.over = r.n, r.seq, r.id, false, r.final
}

// missing counts what should have come before r. It needs mu.
func (v *view) missing(r received) {
	if n := v.fill(r.n); n > 0 {
		v.tally.lost += n
		v.note("%d events lost before %d (id %s); the last was %d (id %s)", n, r.n, r.id, v.n, v.id)
	}
}

// place checks that the bus's own numbers agree. It needs mu.
func (v *view) place(r received) {
	if !v.fresh && r.seq != v.seq+1 {
		v.tally.broken++
		v.note("event %d has seq %d after %d", r.n, r.seq, v.seq)
	}
	if !v.fresh && compareIDs(v.id, r.id) >= 0 {
		v.tally.broken++
		v.note("event %d has id %s after %s", r.n, r.id, v.id)
	}
	if v.fresh && !v.afterGap && r.seq != 1 && r.n == 1 {
		v.tally.broken++
		v.note("the first event has seq %d", r.seq)
	}
}

// fill marks everything below n as dealt with, and returns how many were not. It
// needs mu.
func (v *view) fill(n int) int {
	for len(v.seen) < n {
		v.seen = append(v.seen, false)
	}
	missing := 0
	for i := 1; i < n; i++ {
		if !v.seen[i] {
			v.seen[i] = true
			missing++
		}
	}
	return missing
}

// arrived measures silence. It needs mu.
func (v *view) arrived(now time.Time) {
	if began := v.since.Load(); began > 0 {
		from := time.Unix(0, began)
		if v.last.After(from) {
			from = v.last
		}
		v.silence = max(v.silence, now.Sub(from))
	}
	v.last = now
}

// gap is what a browser does with one: it forgets the job and takes what follows.
func (v *view) gap(reason string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tally.gaps++
	v.note("gap %s after %d (id %s)", reason, v.n, v.id)
	v.fresh, v.afterGap = true, true
}

// wrong notes an answer that the contract does not have.
func (v *view) wrong(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tally.broken++
	v.note(format, args...)
}

// cursor is where to resume.
func (v *view) cursor() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.id
}

func (v *view) number() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n
}

func (v *view) ended() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.over
}

// judge says what is missing once the subscriber had its time, and returns all
// that was found.
func (v *view) judge() (tally, []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	acked := int(v.job.acked.Load())
	if n := v.fill(acked + 1); n > 0 {
		v.tally.lost += n
		v.note("%d of %d events never came; the last was %d (id %s)", n, acked, v.n, v.id)
	}
	notes := make([]string, len(v.notes))
	for i, n := range v.notes {
		notes[i] = v.name + " of " + v.job.domain + "/" + v.job.id + ": " + n
	}
	return v.tally, notes
}

// compareIDs compares "<milliseconds>-<counter>", without the code under test.
func compareIDs(a, b string) int {
	parse := func(s string) (ms, n uint64) {
		left, right, _ := strings.Cut(s, "-")
		ms, _ = strconv.ParseUint(left, 10, 64)
		n, _ = strconv.ParseUint(right, 10, 64)
		return ms, n
	}
	ams, an := parse(a)
	bms, bn := parse(b)
	switch {
	case ams < bms || ams == bms && an < bn:
		return -1
	case ams == bms && an == bn:
		return 0
	}
	return 1
}
