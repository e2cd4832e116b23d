package router

import (
	"context"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

// Diagnosis is what was read of a job, and what follows from it.
type Diagnosis struct {
	Time          time.Time
	Domain, JobID string
	Log           JobLogState
	Backlog       Backlog
	Dead          DeadLetters
	Shard         ShardState
	// FinalMark: the job is known to be over, even where its log is gone.
	FinalMark bool
	Retention time.Duration
	// MaxLag and HeadCheck are the settings; Degraded is why announcements may not
	// arrive.
	MaxLag    int
	HeadCheck time.Duration
	Degraded  string

	// Verdict and Findings follow from the rest; see conclude.
	Verdict  Verdict
	Findings []Finding
}

// JobLogState is a job's log in short; a Length of 0 is none.
type JobLogState struct {
	Length      int64
	First, Last *event.Event
	Expires     time.Duration
}

// Backlog is what of a job lies in the shard log and is not acknowledged.
type Backlog struct {
	Entries, Scanned int
	First            event.ID
	// More: not everything was looked at.
	More bool
}

// DeadLetters are entries of the job that were no events, newest first.
type DeadLetters struct {
	Letters        []DeadLetter
	Count, Scanned int
	More           bool
}

// DeadLetter is one of them.
type DeadLetter struct {
	ID     event.ID
	Reason string
	Time   time.Time
}

// How much of what may be long a diagnosis reads.
const (
	scanPage    = 200
	scanBytes   = 8 << 20
	scanBacklog = 5000
	scanDead    = deadEntries // all: the stream holds no more
	showDead    = 10
	clipMessage = 200 // bytes
	// maxDiagnoses run at once: each reads much, and who asks is in no hurry.
	maxDiagnoses = 2
)

// Diagnose reads what tells why a job says nothing more, and concludes. It waits while
// others are at it.
func (b *Bus) Diagnose(ctx context.Context, domain, jobID string) (*Diagnosis, error) {
	select {
	case b.diagnosing <- struct{}{}:
		defer func() { <-b.diagnosing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	d := &Diagnosis{
		Time: time.Now(), Domain: domain, JobID: jobID,
		Retention: b.cfg.Retention, MaxLag: b.cfg.MaxLag, HeadCheck: b.cfg.HeadCheckInterval, Degraded: b.probe.degraded(),
	}
	ref := shardRef{domain, event.ShardOf(jobID, b.cfg.ShardCount)}
	// Before the job log: what moves from here to there meanwhile is seen twice, and
	// not never.
	if err := b.readBacklog(ctx, d, ref); err != nil {
		return nil, unavailable(err)
	}
	d.Shard = b.shardStates(ctx, []shardRef{ref})[0]
	if err := b.readJob(ctx, d, ref); err != nil {
		return nil, unavailable(err)
	}
	if err := b.readDead(ctx, d); err != nil {
		return nil, unavailable(err)
	}
	d.Verdict, d.Findings = conclude(d)
	return d, nil
}

func (b *Bus) readJob(ctx context.Context, d *Diagnosis, ref shardRef) error {
	key := logKey(d.Domain, d.JobID)
	pipe := b.streams.Pipeline()
	length := pipe.XLen(ctx, key)
	first := pipe.Do(ctx, "XRANGE", key, "-", "+", "COUNT", 1)
	last := pipe.Do(ctx, "XREVRANGE", key, "+", "-", "COUNT", 1)
	life := pipe.PTTL(ctx, key)
	mark := pipe.Exists(ctx, finalKey(ref.key(), d.JobID))
	// A key of another type is no log; what was to go there is a dead letter.
	if _, err := pipe.Exec(ctx); err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return err
	}
	d.Log.Length, d.Log.Expires, d.FinalMark = length.Val(), max(life.Val(), 0), mark.Val() > 0
	var err error
	if d.Log.First, err = d.event(first); err == nil {
		d.Log.Last, err = d.event(last)
	}
	return err
}

// event is the one entry of a reply, nil where there is none.
func (d *Diagnosis) event(reply *redis.Cmd) (*event.Event, error) {
	if reply.Val() == nil {
		return nil, nil
	}
	list, err := parseEntries(reply.Val())
	if err != nil || len(list) == 0 {
		return nil, err
	}
	e, err := parseLogEntry(d.Domain, d.JobID, list[0])
	if err == nil {
		e.Message = clipText(e.Message)
	}
	return e, err
}

func clipText(s string) string {
	if len(s) <= clipMessage {
		return s
	}
	s = s[:clipMessage]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// readBacklog looks for the job's entries behind what the group has acknowledged.
func (b *Bus) readBacklog(ctx context.Context, d *Diagnosis, ref shardRef) error {
	log := &shardLog{redis: b.streams, cfg: &b.cfg, ref: ref}
	done, err := log.boundary(ctx)
	if err != nil {
		return err
	}
	start := "-"
	if !done.IsZero() {
		start = "(" + done.String()
	}
	d.Backlog.Scanned, d.Backlog.More, err = b.scan(ctx, scanBacklog, []any{"XRANGE", ref.key(), start, "+"}, func(en entry) {
		if id, _ := en.get("job_id"); id != d.JobID {
			return
		}
		if d.Backlog.Entries++; d.Backlog.Entries == 1 {
			d.Backlog.First = en.id
		}
	})
	return err
}

// readDead looks through the dead letters, newest first.
func (b *Bus) readDead(ctx context.Context, d *Diagnosis) (err error) {
	d.Dead.Scanned, d.Dead.More, err = b.scan(ctx, scanDead, []any{"XREVRANGE", deadKey(d.Domain), "+", "-"}, func(en entry) {
		d.Dead.look(en, d.JobID)
	})
	return err
}

// scan reads a stream by a command with its bounds, page by page, until it has so many
// entries or scanBytes of them; then there may be more.
func (b *Bus) scan(ctx context.Context, most int, command []any, look func(entry)) (scanned int, more bool, err error) {
	command = append(command, "COUNT", scanPage)
	for bytes := 0; scanned < most && bytes < scanBytes; {
		reply, err := b.streams.Do(ctx, command...).Result()
		if err != nil {
			return scanned, false, err
		}
		page, err := parseEntries(reply)
		if err != nil {
			return scanned, false, err
		}
		for _, en := range page {
			bytes += en.size()
			look(en)
		}
		scanned += len(page)
		if len(page) < scanPage {
			return scanned, false, nil
		}
		command[2] = "(" + page[len(page)-1].id.String()
	}
	return scanned, true, nil
}

// look keeps a dead letter that is the job's.
func (l *DeadLetters) look(en entry, jobID string) {
	text, _ := en.get("entry")
	var fields struct {
		JobID string `json:"job_id"`
	}
	if json.Unmarshal([]byte(text), &fields) != nil || fields.JobID != jobID {
		return
	}
	if l.Count++; l.Count > showDead {
		return
	}
	reason, _ := en.get("reason")
	letter := DeadLetter{Reason: validText(reason), Time: en.id.Time()}
	if id, _ := en.get("id"); id != "" {
		letter.ID, _ = event.ParseID(id) // zero where it is none
	}
	l.Letters = append(l.Letters, letter)
}
