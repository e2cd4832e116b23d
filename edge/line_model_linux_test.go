package edge

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// watcher is a browser that stalls, vanishes and comes back as the model wants,
// and checks what it gets: each event once and in order, or a gap before what
// does not follow.
type watcher struct {
	*browser
	v *valve
	// seq and id are of the newest event.
	seq  int
	id   string
	gaps int
	// fresh: a gap was told and no event since.
	fresh bool
}

// lineModel plays a job's life with many browsers: events large and small, a log
// that is trimmed or lost, a router that goes away, browsers that do not read.
type lineModel struct {
	t   *testing.T
	f   *fakeRouter
	e   *testEdge
	rnd *rand.Rand
	all []*watcher
	// loses: the log may lose events.
	loses bool
}

func (m *lineModel) one() *watcher { return m.all[m.rnd.IntN(len(m.all))] }

func (m *lineModel) open(w *watcher) {
	var headers []header
	if w.id != "" {
		headers = append(headers, lastEventID(w.id))
	}
	w.browser, w.v = m.e.narrow(jobPath("j"), headers...)
	m.e.shrink()
}

func (m *lineModel) publish() string {
	content, n := "", 1+m.rnd.IntN(20)
	if m.rnd.IntN(8) == 0 {
		content = strings.Repeat("x", 20<<10)
	}
	events := make([]*eventbusv1.Event, n)
	for i := range events {
		events[i] = &eventbusv1.Event{Stage: "token", Status: "streaming", Content: content}
	}
	return m.f.publish("j", events...)[n-1]
}

func (m *lineModel) retained() int {
	_, log, _ := m.f.page(key("scan", "j"), "")
	return len(log)
}

func (m *lineModel) trim() {
	if n := m.retained(); m.loses && n > 0 {
		m.f.trim("j", m.rnd.IntN(n))
	}
}

func (m *lineModel) lose() {
	if m.loses {
		m.f.trim("j", m.retained())
	}
}

func (m *lineModel) step() {
	switch m.rnd.IntN(60) / 3 {
	case 0:
		m.one().v.stop()
	case 1, 2:
		m.one().v.goOn()
	case 3: // a reload, or a network that breaks
		w := m.one()
		m.read(w)
		w.close()
		m.open(w)
	case 4:
		m.trim()
	case 5:
		if m.rnd.IntN(6) == 0 {
			m.lose()
		}
	case 6:
		m.f.failWith("stream", codes.Unavailable)
	case 7, 8:
		m.f.heal()
	case 9, 10:
		m.read(m.one())
	case 11:
		if m.rnd.IntN(3) == 0 {
			m.settle()
		}
	default:
		m.publish()
	}
}

// settle lets everybody read everything; then all lines stand together.
func (m *lineModel) settle() {
	m.f.heal()
	last := m.publish()
	for _, w := range m.all {
		w.v.goOn()
	}
	for _, w := range m.all {
		for w.id != last {
			if m.frame(w, w.next()) {
				m.t.Fatalf("the stream ended after event %d: %v", w.seq, w.err)
			}
		}
	}
	m.e.together("j", len(m.all))
}

// read takes what has arrived.
func (m *lineModel) read(w *watcher) {
	for {
		select {
		case f := <-w.frames:
			if m.frame(w, f) {
				m.t.Fatalf("the stream ended after event %d: %v", w.seq, w.err)
			}
		default:
			return
		}
	}
}

// frame tells whether it is the end.
func (m *lineModel) frame(w *watcher, f string) bool {
	switch {
	case f == "":
		return true
	case field(f, "event") == "gap":
		w.gaps++
		w.fresh = true
	case field(f, "id") != "":
		seq, id := seqOf(m.t, f), field(f, "id")
		if !w.fresh && seq != w.seq+1 {
			m.t.Fatalf("event %d (%s) follows %d (%s), and no gap", seq, id, w.seq, w.id)
		}
		w.seq, w.id, w.fresh = seq, id, false
	}
	return false
}

func TestLineModel_EachBrowserGetsEachEventOnceInOrderOrIsToldOfAGap(t *testing.T) {
	for _, loses := range []bool{false, true} {
		t.Run("loses "+strconv.FormatBool(loses), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			f := newFakeRouter(t)
			m := &lineModel{t: t, f: f, e: newEdge(t, f), rnd: rand.New(rand.NewPCG(seed, 1)), loses: loses}
			m.e.pace = pace{3 * tooLong, writeRate} // nobody is cut off
			for range 30 {
				m.all = append(m.all, &watcher{})
				m.open(m.all[len(m.all)-1])
			}
			for range 800 {
				m.step()
			}
			f.heal()
			for _, w := range m.all {
				w.v.goOn()
			}
			m.publish()
			last := f.finish("j")
			for _, w := range m.all {
				for !m.frame(w, w.next()) { // to the end
				}
				w.ended()
				same(t, "the last event", w.id, last)
				if w.gaps > 0 && !loses {
					t.Errorf("%d gaps, and nothing was lost", w.gaps)
				}
			}
			t.Logf("%d times a line joined the others", m.e.Server.lines.joined.Load())
			until(t, "nothing is left", func() bool { return m.e.streams() == 0 && counter(m.e.metrics.topics) == 0 })
		})
	}
}
