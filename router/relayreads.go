package router

import "github.com/eco2-team/eventbus/router/hub"

// Jobs of a relay that are behind read their logs together, beside it.

const (
	// relayReads is how many jobs read their logs at the same time, or hold a page
	// that was not taken yet. What it bounds is memory: relayReads × relayTurn.
	relayReads = 16
	// relayReaders is how many round trips they share. While one is read, who comes
	// waits for the next.
	relayReaders = 2
)

// logRead is a page, or why there is none.
type logRead struct {
	page hub.Batch[*Shown]
	err  error
}

// startReads reads for who is behind, as far as the bound allows. The relay is
// locked.
func (r *Relay) startReads() {
	if r.readers == relayReaders || r.closed {
		return
	}
	var jobs []*relayJob
	for r.reads < relayReads {
		j := r.behind.pop()
		if j == nil {
			break
		}
		r.reads++
		jobs = append(jobs, j)
	}
	if len(jobs) > 0 {
		r.readers++
		r.running.Go(func() { r.read(jobs) })
	}
}

// read reads a page for each of the jobs, in one round trip.
func (r *Relay) read(jobs []*relayJob) {
	pipe := r.bus.streams.Pipeline()
	for _, j := range jobs {
		j.log.ask(r.ctx, pipe, j.sub.Cursor())
	}
	_, _ = pipe.Exec(r.ctx) // each command has its own error
	for _, j := range jobs {
		page, err := j.sub.ReadLog(r.ctx)
		j.read = &logRead{page, err}
		r.mu.Lock()
		r.enqueue(j)
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readers--
	r.startReads()
}

// readDone: a page was taken, so another one may be read.
func (r *Relay) readDone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads--
	r.startReads()
}
