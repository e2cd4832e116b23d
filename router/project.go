package router

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// batch is what one round of a bridge has under way.
type batch struct {
	ids  []string // to acknowledge
	last event.ID
	jobs []*jobBatch
	dead []deadLetter
}

// jobBatch is the events of one job within a batch, in order.
type jobBatch struct {
	bridge *bridge
	jobID  string
	events []*event.Event
	// end is what the job's log is believed to end with.
	end tail
	// shown are the events that are in the job log now, prev the ID before the first
	// of them. contiguous: they are neighbours there.
	shown []*event.Event
	// mine are the batch's own of shown, at their places in the shard log.
	mine       []*event.Event
	at         []event.ID
	prev       event.ID
	contiguous bool
}

// size is that of the events, in bytes.
func (j *jobBatch) size() (n int) {
	for _, e := range j.events {
		n += e.Size()
	}
	return n
}

type deadLetter struct {
	entry  entry
	reason string
}

// sort sorts a batch's entries by job; what is no event becomes a dead letter.
func (b *bridge) sort(entries []entry) *batch {
	bt := &batch{ids: make([]string, len(entries)), last: entries[len(entries)-1].id}
	jobs := make(map[string]*jobBatch)
	for i, en := range entries {
		bt.ids[i] = en.id.String()
		e, err := parseShardEntry(b.domain, en)
		if err != nil {
			bt.dead = append(bt.dead, deadLetter{en, err.Error()})
			continue
		}
		job := jobs[e.JobID]
		if job == nil {
			job = &jobBatch{bridge: b, jobID: e.JobID}
			jobs[e.JobID] = job
			bt.jobs = append(bt.jobs, job)
		}
		job.events = append(job.events, e)
	}
	return bt
}

// A script call projects jobs until it has so many events or bytes, so that what it
// costs to begin is shared, and Redis is not held up for long. In a Cluster the logs
// of two jobs are on different nodes.
const (
	projectEvents = 64
	projectBytes  = 256 << 10
)

// project puts the events of all batches into their job logs, in one round trip: behind
// the ends that are known without a script (append.go), the others with one.
func (c *carrier) project(ctx context.Context) error {
	var jobs []*jobBatch
	now := time.Now()
	for b := range c.laden() {
		for _, job := range b.batch.jobs {
			job.end = b.tails.belief(job.jobID, now)
			jobs = append(jobs, job)
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	// Where there is one Redis it is the connection that claimed and will settle: see turn.
	var on pipeliner = c.conn
	if c.cluster() {
		on = c.streams
	}
	pipe := on.Pipeline()
	appends, others := c.queueAppends(ctx, pipe, jobs)
	if err := c.projectByScript(ctx, on, pipe, others); err != nil {
		return err
	}
	refused, err := c.readAppends(appends)
	if err != nil {
		return err
	}
	if err := c.projectByScript(ctx, on, on.Pipeline(), refused); err != nil {
		return err
	}
	return c.waitReplicas(ctx)
}

// cluster tells whether job logs are on other nodes than the shard log.
func (c *carrier) cluster() bool {
	_, cluster := c.streams.(*redis.ClusterClient)
	return cluster
}

// projectByScript runs the script for jobs, behind what the pipeline has. The script
// calls of a pipeline are not kept in order, and need not: a job is in one of them.
func (c *carrier) projectByScript(ctx context.Context, on pipeliner, pipe redis.Pipeliner, jobs []*jobBatch) error {
	var calls []call
	var ofCall [][]*jobBatch
	for rest := jobs; len(rest) > 0; {
		n, events, bytes := 0, 0, 0
		for n < len(rest) && (n == 0 || !c.cluster() && events < projectEvents && bytes < projectBytes) {
			bytes += rest[n].size()
			events += len(rest[n].events)
			n++
		}
		calls, ofCall = append(calls, c.projection(rest[:n], events)), append(ofCall, rest[:n])
		rest = rest[n:]
	}
	for i, cmd := range evalAll(ctx, on, pipe, calls) {
		reply, err := cmd.Slice()
		if err == nil && len(reply) != len(ofCall[i]) {
			err = fmt.Errorf("%d answers for %d jobs", len(reply), len(ofCall[i]))
		}
		if err != nil {
			return fmt.Errorf("project: %w", err)
		}
		for j, job := range ofCall[i] {
			if err := job.bridge.projected(job, reply[j]); err != nil {
				return fmt.Errorf("project job %s: %w", job.jobID, err)
			}
		}
	}
	return nil
}

// projection is the script call for jobs with so many events.
func (c *carrier) projection(jobs []*jobBatch, events int) call {
	keys := make([]string, 0, 2*len(jobs))
	args := append(make([]any, 0, 4+7*len(jobs)+17*events),
		c.cfg.Retention.Milliseconds(), slackOf(c.cfg.Retention).Milliseconds(), jobLogEntries, jobLogBytes)
	for _, job := range jobs {
		domain := job.bridge.domain
		keys = append(keys, logKey(domain, job.jobID), stateKey(domain, job.jobID))
		args = append(args, string(job.events[0].AppendJSONHead(nil)))
		args = append(job.end.args(args), len(job.events))
		for _, e := range job.events {
			state := ""
			if !e.Streaming() {
				state = string(e.AppendJSONTail(nil))
			}
			args = append(args, e.ID.String(), boolText(e.Final), state, e.Size(), 0)
			head := len(args)
			args = appendLogFields(args, e)
			args[head-1] = len(args) - head
		}
	}
	return call{c.scripts.project, keys, args}
}

// projected reads the script's answer for one job.
func (b *bridge) projected(job *jobBatch, answer any) error {
	list, _ := answer.([]any)
	reply := texts(list)
	switch {
	case len(reply) == 2 && reply[0] == "error":
		b.bury(job, reply[1]) // it would never work, and must not stop the shard
		return nil
	case len(reply) == 4 && reply[0] == "all":
		prev, err := event.ParseID(reply[1])
		first, err1 := strconv.ParseUint(reply[2], 10, 32)
		bytes, err2 := strconv.Atoi(reply[3])
		if err := errors.Join(err, err1, err2); err != nil {
			return err
		}
		b.projectedAll(job, prev, uint32(first), bytes)
		return nil
	}
	b.tails.forget(job.jobID)
	if len(reply) != 3*len(job.events)+1 { // 4 are of one event, whose first is never "all"
		return fmt.Errorf("%d strings for %d events", len(reply), len(job.events))
	}
	fresh := 0
	for i, e := range job.events {
		done, idText, seqText := reply[3*i], reply[3*i+1], reply[3*i+2]
		switch done {
		case "old", "over":
			b.metrics.dropped.WithLabelValues(b.domain, done).Inc()
			continue
		case "=":
			b.metrics.repeated.WithLabelValues(b.domain).Inc()
		case "+":
			fresh++
		default:
			return fmt.Errorf("answer %q", done)
		}
		id, err := event.ParseID(idText)
		if err != nil {
			return err
		}
		seq, err := strconv.ParseUint(seqText, 10, 32)
		if err != nil {
			return err
		}
		job.at = append(job.at, e.ID)
		e.ID, e.Seq = id, uint32(seq)
		job.shown = append(job.shown, e)
	}
	b.projectedCount.Add(float64(fresh))
	job.mine = job.shown
	// Only what was added just now, all of it, is known to be neighbours.
	job.contiguous = fresh == len(job.shown)
	if fresh == 0 || !job.contiguous {
		return nil
	}
	var err error
	job.prev, err = event.ParseID(reply[len(reply)-1])
	return err
}

// projectedAll is the usual case: all events were added as they are, behind prev. bytes
// are the log's then.
func (b *bridge) projectedAll(job *jobBatch, prev event.ID, firstSeq uint32, bytes int) {
	job.prev = prev
	job.at = make([]event.ID, len(job.events))
	for i, e := range job.events {
		job.at[i], e.Seq = e.ID, firstSeq+uint32(i)
	}
	b.tails.note(job.jobID, job.events[len(job.events)-1], bytes)
	b.projectedCount.Add(float64(len(job.events)))
	job.shown, job.mine, job.contiguous = job.events, job.events, true
}

// bury makes a job's events dead letters.
func (b *bridge) bury(job *jobBatch, reason string) {
	for _, e := range job.events {
		fields := appendShardFields([]any{"domain", e.Domain}, e, timestamp(time.Now()))
		en := entry{e.ID, texts(fields)}
		b.batch.dead = append(b.batch.dead, deadLetter{en, reason})
	}
	job.events = nil
}

// waitReplicas makes sure that a failover cannot lose the projection of an entry
// that is about to be acknowledged. On one Redis the XACK is behind the
// projection on the same connection (turn.go); in a Cluster
// they are on different nodes.
func (c *carrier) waitReplicas(ctx context.Context) error {
	cluster, ok := c.streams.(*redis.ClusterClient)
	if !ok || c.cfg.MinReplicas == 0 {
		return nil
	}
	return cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		// WAIT covers what Redis had written when the connection's last command ran.
		pipe := master.Pipeline()
		pipe.Ping(ctx)
		wait := pipe.Do(ctx, "WAIT", c.cfg.MinReplicas, waitTimeout.Milliseconds())
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		n, err := wait.Int64()
		if err == nil && n < int64(c.cfg.MinReplicas) {
			err = fmt.Errorf("%d of %d replicas have the projection", n, c.cfg.MinReplicas)
		}
		return err
	})
}

// keepDead keeps the dead letters of a batch, before it is settled.
func (b *bridge) keepDead(ctx context.Context, bt *batch) error {
	for _, d := range bt.dead {
		key := deadKey(b.domain)
		err := b.scripts.evenFull(ctx, b.streams, key, command{
			"XADD", key, "MAXLEN", "~", deadEntries, "*", "id", d.entry.id.String(), "reason", d.reason,
			"entry", string(event.AppendAttributes(nil, d.entry.asMap())),
		})
		if err != nil {
			return fmt.Errorf("bridge: dead letter: %w", err)
		}
		b.metrics.dead.WithLabelValues(b.domain).Inc()
		b.log.Warn("dead letter", "domain", b.domain, "shard", b.shard, "id", d.entry.id, "reason", d.reason)
	}
	return nil
}

// asMap is for people who read dead letters.
func (en entry) asMap() map[string]string {
	m := make(map[string]string, len(en.fields)/2)
	for i := 0; i+1 < len(en.fields); i += 2 {
		m[en.fields[i]] = en.fields[i+1]
	}
	return m
}
