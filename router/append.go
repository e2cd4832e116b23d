package router

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// appending projects, without a script, the jobs whose log's end is known: what passes
// through Lua costs Redis more than twice as much. It is what project.lua does in the
// usual case, in one transaction on the carrier's connection, and fenced as the claim
// is (turn.go): once a lease has changed it does nothing, so that a frozen owner cannot
// put an old state over a new one. NOMKSTREAM, and the order of IDs that Redis insists
// on, tell that a log is not what it was believed to be. What was not appended is left
// to the script, which adds nothing twice.
type appending struct {
	jobs []*jobBatch
	// commands are how many answers of exec are each job's: an XADD for each of its events,
	// and what else.
	commands []int
	exec     *redis.Cmd
	leases   *redis.Cmd
}

// The transaction has at most so many events and bytes, so that Redis is not held up
// for long. It ends the watch, so there is one in a round.
const (
	appendedEvents = 128
	appendedBytes  = 256 << 10
)

// queueAppends queues the transaction, and the watch for the next. It returns the jobs
// that are left for the script.
func (c *carrier) queueAppends(ctx context.Context, pipe redis.Pipeliner, jobs []*jobBatch) (a appending, others []*jobBatch) {
	if c.cluster() {
		return a, jobs // their logs are on other nodes than conn's
	}
	events, bytes := 0, 0
	for _, job := range jobs {
		size := job.size()
		if events+len(job.events) > appendedEvents || bytes+size > appendedBytes || !job.end.takes(job.events, size) {
			others = append(others, job)
			continue
		}
		if len(a.jobs) == 0 {
			pipe.Do(ctx, "MULTI")
		}
		events, bytes = events+len(job.events), bytes+size
		a.jobs, a.commands = append(a.jobs, job), append(a.commands, c.queueAppend(ctx, pipe, job))
	}
	if len(a.jobs) > 0 {
		a.exec = pipe.Do(ctx, "EXEC")
		a.leases = c.queueWatch(ctx, pipe)
	}
	return a, others
}

// queueAppend queues the commands of one job and returns how many they are.
func (c *carrier) queueAppend(ctx context.Context, pipe redis.Pipeliner, job *jobBatch) int {
	domain, end := job.bridge.domain, job.end
	log, state, retention := logKey(domain, job.jobID), stateKey(domain, job.jobID), c.cfg.Retention.Milliseconds()
	queued := pipe.Len()
	var now *event.Event // what the job's state is then
	for _, e := range job.events {
		end.seq, end.bytes = end.seq+1, end.bytes+e.Size()
		e.Seq = end.seq
		add := append(make([]any, 0, 28), "XADD", log, "NOMKSTREAM", "MAXLEN", "=", jobLogEntries, e.ID.String(),
			"seq", e.Seq, "final", boolText(e.Final), "bytes", end.bytes)
		pipe.Do(ctx, appendLogFields(add, e)...)
		if !e.Streaming() {
			now = e
		}
	}
	if end.renew {
		pipe.Do(ctx, "PEXPIRE", log, retention)
	}
	switch {
	case now != nil:
		pipe.Do(ctx, "SET", state, now.AppendJSON(nil), "PX", retention)
	case end.renew:
		pipe.Do(ctx, "PEXPIRE", state, retention)
	}
	return pipe.Len() - queued
}

// readAppends reads the answers and returns the jobs that were not appended.
func (c *carrier) readAppends(a appending) (refused []*jobBatch, err error) {
	if len(a.jobs) == 0 {
		return nil, nil
	}
	answers, err := a.exec.Slice()
	var refusal redis.Error
	switch {
	case errors.Is(err, redis.Nil): // a lease changed
		c.doubt()
	case errors.As(err, &refusal): // full, which does not stop the script, or no master, which does
	case err != nil:
		return nil, fmt.Errorf("append: %w", err)
	}
	for i, job := range a.jobs {
		n := min(a.commands[i], len(answers))
		if job.areAppended(answers[:n]) {
			job.bridge.projectedAll(job, job.end.id, job.end.seq+1, job.end.bytes+job.size())
		} else {
			job.end = tail{}
			refused = append(refused, job)
		}
		answers = answers[n:]
	}
	return refused, c.checkLeases(a.leases)
}

// areAppended tells whether the answers say that each event is in the log, under its own
// ID.
func (j *jobBatch) areAppended(answers []any) bool {
	for i, e := range j.events {
		if i >= len(answers) || answers[i] != e.ID.String() {
			return false
		}
	}
	return true
}
