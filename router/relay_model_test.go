package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
)

// Jobs are added and dropped, events published, words taken, announcements lost, in any
// order: each handle gets its job's events once and in order from its cursor on, hears
// that it is open once and first, and nothing after its end. What was dropped may say
// what was under way, and nothing else. In the end everybody has everything.
func TestRelay_NoOrderOfAddsDropsAndPublishesLosesAnEvent(t *testing.T) {
	bus := newTestBus(t, func(c *Config) { c.HeadCheckInterval = 200 * time.Millisecond })
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &relayModel{t: t, bus: bus, relay: bus.Relay(), handles: map[uint64]*modelJob{}}
		defer m.relay.Close()
		for i := range 3 {
			m.jobs = append(m.jobs, &modelLog{name: fmt.Sprintf("model-%d-%d", run, i)})
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": m.publish, "publish more": m.publish, "add": m.add, "add again": m.add, "drop": m.drop, "take": m.take,
			"lose an announcement": m.lose,
		})
		m.finish()
	})
}

// relayModel is a relay and what its reader must get.
type relayModel struct {
	t       *rapid.T
	bus     *testBus
	relay   *Relay
	jobs    []*modelLog
	handles map[uint64]*modelJob
	last    uint64
}

// modelLog is what was published for a job.
type modelLog struct {
	name string
	ids  []event.ID
	over bool
}

// modelJob is one handle.
type modelJob struct {
	log *modelLog
	// from is how many events its cursor is after; got how many it had since.
	from, got             int
	opened, dropped, over bool
}

func (m *relayModel) log(t *rapid.T) *modelLog { return rapid.SampledFrom(m.jobs).Draw(t, "job") }

func (m *relayModel) publish(t *rapid.T) {
	job := m.log(t)
	if job.over {
		t.Skip("it is over")
	}
	n := rapid.IntRange(1, 20).Draw(t, "n")
	job.over = rapid.IntRange(0, 9).Draw(t, "final") == 0
	reqs := make([]Request, n)
	for i := range reqs {
		reqs[i] = Request{Event: &event.Event{Domain: "scan", JobID: job.name, Stage: "step", Final: job.over && i == n-1}}
	}
	receipts, err := m.bus.Publish(context.Background(), reqs)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		job.ids = append(job.ids, r.ID)
	}
}

// add begins at the start, or after any event that a reader can have got.
func (m *relayModel) add(t *rapid.T) {
	job := m.log(t)
	shown, err := m.bus.streams.Client().XLen(context.Background(), logKey("scan", job.name)).Result()
	if err != nil {
		t.Fatal(err)
	}
	from := rapid.IntRange(0, int(shown)).Draw(t, "from")
	var after event.ID
	if from > 0 {
		after = job.ids[from-1]
	}
	m.last++
	if err := m.relay.Add(m.last, "scan", job.name, after); err != nil {
		t.Fatal(err)
	}
	m.handles[m.last] = &modelJob{log: job, from: from}
}

func (m *relayModel) drop(t *rapid.T) {
	if m.last == 0 {
		t.Skip("nobody is there")
	}
	h := rapid.Uint64Range(1, m.last).Draw(t, "handle")
	m.handles[h].dropped = true
	m.relay.Drop(h)
}

// lose has a topic trust its ring no more, as after a lost announcement.
func (m *relayModel) lose(t *rapid.T) {
	job := m.log(t)
	m.bus.hub.mu.Lock()
	topic := m.bus.hub.topics[topicKey{"scan", job.name}]
	m.bus.hub.mu.Unlock()
	if topic != nil {
		topic.Reset()
	}
}

func (m *relayModel) take(*rapid.T) { m.takeFor(time.Millisecond) }

func (m *relayModel) takeFor(idle time.Duration) {
	words, err := m.relay.Next(context.Background(), idle)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, w := range words {
		j := m.handles[w.Handle]
		switch {
		case j == nil:
			m.t.Fatalf("a word for handle %d, which is nobody's", w.Handle)
		case j.over:
			m.t.Fatalf("%s (%d) speaks after its end: %+v", j.log.name, w.Handle, w)
		case w.Gap != nil:
			m.t.Fatalf("%s (%d): a gap, though nothing is lost: %+v", j.log.name, w.Handle, w.Gap)
		case w.Err == nil && w.Opened == j.opened:
			m.t.Fatalf("%s (%d): opened is %t twice", j.log.name, w.Handle, w.Opened)
		}
		j.opened = j.opened || w.Opened
		for _, it := range w.Items {
			at := j.from + j.got
			if at >= len(j.log.ids) || it.ID != j.log.ids[at] {
				m.t.Fatalf("%s (%d): got %s as event %d of %v", j.log.name, w.Handle, it.ID, at, j.log.ids)
			}
			j.got++
		}
		if w.Err == nil {
			continue
		}
		j.over = true
		// The end of who begins after the last event is that nothing follows.
		if !j.log.over || j.from+j.got != len(j.log.ids) || !errors.Is(w.Err, io.EOF) && event.KindOf(w.Err) != event.OutOfRange {
			m.t.Fatalf("%s (%d) ends with %v after %d of %d events", j.log.name, w.Handle, w.Err, j.from+j.got, len(j.log.ids))
		}
	}
}

// finish takes until everybody has everything, and is open or at its end.
func (m *relayModel) finish() {
	owed := func() string {
		for h, j := range m.handles {
			if !j.dropped && (j.from+j.got < len(j.log.ids) || !j.opened && !j.over || j.log.over && !j.over) {
				return fmt.Sprintf("%s (%d) has %d of %d events; opened %t, over %t of %t", j.log.name, h, j.from+j.got, len(j.log.ids), j.opened, j.over, j.log.over)
			}
		}
		return ""
	}
	for deadline := time.Now().Add(patience); owed() != ""; {
		if time.Now().After(deadline) {
			m.t.Fatal(owed())
		}
		m.takeFor(10 * time.Millisecond)
	}
}
