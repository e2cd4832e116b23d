package router

import (
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// relayJob is one job of a relay. It belongs to whoever place says.
type relayJob struct {
	relay  *Relay
	handle uint64
	log    jobLog
	after  event.ID
	topic  *topic // nil until held
	sub    *hub.Subscription[*Shown]
	// read is what the log had; nil where nobody read it.
	read *logRead

	opened bool
	// place, woken and dropped are guarded by relay.mu.
	place place
	// woken: it got something while it was served.
	woken   bool
	dropped bool
	next    *relayJob // in a jobQueue
}

// place is where a job is.
type place uint8

const (
	atOpening place = iota // with open
	atRead                 // in behind, or with read
	atReady                // in ready
	atServe                // with Next
	atRest                 // in its topic, until that wakes it
)

// Wake implements hub.Waker.
func (j *relayJob) Wake() {
	r := j.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if j.place == atRest {
		r.enqueue(j)
	} else {
		j.woken = true
	}
}

func (j *relayJob) letGo() {
	if j.sub != nil {
		j.sub.Leave()
	}
	if j.topic != nil {
		j.relay.bus.hub.release(j.topic)
	}
}

// jobQueue is first in, first out.
type jobQueue struct{ first, last *relayJob }

func (q *jobQueue) push(j *relayJob) {
	if q.last == nil {
		q.first = j
	} else {
		q.last.next = j
	}
	q.last = j
}

func (q *jobQueue) pop() *relayJob {
	j := q.first
	if j == nil {
		return nil
	}
	if q.first = j.next; q.first == nil {
		q.last = nil
	}
	j.next = nil
	return j
}
