package router

import (
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// tails is what a bridge believes to be the last entries of its jobs' logs, so that
// the projection need not read them: it appends to what is there (append.go), or checks
// the belief by the log's length (project.lua). It dies with the bridge, whose lease
// makes it the only writer, and with the connection that wrote.
type tails struct {
	jobs map[string]tail
	// slack is how much earlier than after RETENTION a log may end.
	slack     time.Duration
	retention time.Duration
}

// tail is a job log's last entry.
type tail struct {
	seq   uint32
	id    event.ID
	bytes int
	final bool
	// renewed is when the life of the log was renewed.
	renewed time.Time
	renew   bool
	// alive: the log cannot have expired since.
	alive bool
}

// takes tells whether events, of size bytes together, go behind the tail as they are.
func (t tail) takes(events []*event.Event, size int) bool {
	if t.seq == 0 || !t.alive || t.final || t.bytes+size > jobLogBytes {
		return false
	}
	last := t.id
	for i, e := range events {
		if e.ID.Compare(last) <= 0 || e.Final && i < len(events)-1 {
			return false
		}
		last = e.ID
	}
	return true
}

const (
	// maxTails bounds a bridge's memory at about 1 MiB; one more and it starts anew.
	maxTails = 4096
	// maxSlack and 1 % of RETENTION bound what a log may live shorter.
	maxSlack = time.Second
)

func newTails(retention time.Duration) tails {
	return tails{jobs: make(map[string]tail), slack: slackOf(retention), retention: retention}
}

func slackOf(retention time.Duration) time.Duration { return min(maxSlack, retention/100) }

// belief is the zero tail where nothing is known. The log of a job whose life was
// renewed within the slack needs no renewal.
func (t *tails) belief(jobID string, now time.Time) tail {
	have := t.jobs[jobID]
	age := now.Sub(have.renewed)
	have.renew, have.alive = age >= t.slack, age < t.retention/2
	if have.renew && have.seq > 0 {
		have.renewed = now
		t.jobs[jobID] = have
	}
	return have
}

// args appends the script's arguments.
func (t tail) args(args []any) []any {
	return append(args, t.seq, t.id.String(), t.bytes, boolText(t.final), boolText(t.renew))
}

// note is told the event that was added last, and the bytes of its log.
func (t *tails) note(jobID string, e *event.Event, bytes int) {
	have, ok := t.jobs[jobID]
	if !ok {
		if len(t.jobs) >= maxTails {
			t.clear()
		}
		have.renewed = time.Now() // by the script
	}
	t.jobs[jobID] = tail{seq: e.Seq, id: e.ID, bytes: bytes, final: e.Final, renewed: have.renewed}
}

func (t *tails) forget(jobID string) { delete(t.jobs, jobID) }

func (t *tails) clear() { clear(t.jobs) }
