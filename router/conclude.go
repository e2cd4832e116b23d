package router

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// Verdict is a diagnosis in a word.
type Verdict string

// The verdicts.
const (
	VerdictFinished Verdict = "finished" // the final event is there
	VerdictFailed   Verdict = "failed"   // and says so
	VerdictRunning  Verdict = "running"  // something came a moment ago
	VerdictSilent   Verdict = "silent"   // the worker has stopped publishing
	VerdictWaiting  Verdict = "waiting"  // events wait in the shard log
	VerdictDead     Verdict = "dead"     // there are only dead letters
	VerdictExpired  Verdict = "expired"  // it is over, and nothing is left
	VerdictUnknown  Verdict = "unknown"  // no such job
)

// silentAfter is how long a job may say nothing before that is the answer.
const silentAfter = time.Minute

// conclude says in plain words why a job says nothing more, the answer first. It only
// judges what was read.
func conclude(d *Diagnosis) (Verdict, []Finding) {
	c := &conclusion{d: d}
	c.answer()
	c.deadLetters()
	c.shard()
	c.log()
	if d.Degraded != "" && c.verdict != VerdictFinished && c.verdict != VerdictUnknown {
		c.say(LevelWarn, hopPubSub, "", "Announcements may not arrive (%s): browsers get events within HEAD_CHECK_INTERVAL, %s.", d.Degraded, d.HeadCheck)
	}
	return c.verdict, c.findings
}

type conclusion struct {
	d        *Diagnosis
	verdict  Verdict
	findings []Finding
}

func (c *conclusion) say(l Level, hop, mend, format string, args ...any) {
	c.findings = append(c.findings, Finding{l, hop, fmt.Sprintf(format, args...), mend})
}

// answer is the first sentence, and the verdict.
func (c *conclusion) answer() {
	d, last := c.d, c.d.Log.Last
	switch {
	case last != nil && last.Final && last.Status == "failed":
		c.verdict = VerdictFailed
		c.say(LevelFail, hopJobLog, "", "The job failed at %s: its last event is %s.", clock(last.PublishTime()), described(last))
	case last != nil && last.Final:
		c.verdict = VerdictFinished
		c.say(LevelOK, hopJobLog, "", "The job ended at %s: its last event is %s.", clock(last.PublishTime()), described(last))
	case d.Backlog.Entries > 0:
		c.verdict = VerdictWaiting
		c.say(LevelFail, hopBridge, "Look at the shard's owner and its log.", "%s of this job in the shard log %s, the first since %s: the bus has not passed %s on.",
			waitText(int64(d.Backlog.Entries)), c.key(), ago(d.Time.Sub(d.Backlog.First.Time())), itOrThem(d.Backlog.Entries))
	case last != nil:
		c.ongoing(d.Time.Sub(last.PublishTime()), last)
	case d.FinalMark:
		c.verdict = VerdictExpired
		c.say(LevelNote, hopJobLog, "", "The job is over, and its events are gone: they are kept for %s after the last one (RETENTION).", d.Retention)
	case d.Dead.Count > 0:
		c.verdict = VerdictDead
		c.say(LevelFail, hopBridge, "Mend the producer.", "No event of this job was ever good: all that came are dead letters.")
	default:
		c.verdict = VerdictUnknown
		c.say(LevelNote, hopPublish, "Look at the job_id and the domain, and at the worker: did its publish succeed?",
			"There is no such job: nothing of %s/%s was ever published, or it is longer ago than the retention of %s.", d.Domain, d.JobID, d.Retention)
	}
}

// ongoing is the answer for a job that has no final event, and of which the bus holds
// nothing back.
func (c *conclusion) ongoing(idle time.Duration, last *event.Event) {
	if idle < silentAfter {
		c.verdict = VerdictRunning
		c.say(LevelOK, hopJobLog, "", "The job goes on: its last event came %s ago and is %s.", ago(max(idle, 0)), described(last))
		return
	}
	c.verdict = VerdictSilent
	c.say(LevelWarn, hopPublish, "Look at the worker: it crashed, hangs, or forgot the final event.",
		"Nothing was published for %s; the last event is %s.", ago(idle), described(last))
	if c.d.Shard.Known && c.d.Shard.Owner != "" {
		c.say(LevelOK, hopBridge, "", "The bus holds nothing of it back: all that was published is in the job log.")
	}
}

func (c *conclusion) deadLetters() {
	n := c.d.Dead.Count
	if n == 0 {
		return
	}
	what := "entries of this job are dead letters, the last one"
	if n == 1 {
		what = "entry of this job is a dead letter, appended"
	}
	newest := c.d.Dead.Letters[0]
	c.say(LevelFail, hopBridge, "Mend the producer; subscribers never see these.", "%s %s at %s: %s.", thousands(int64(n)), what, clock(newest.Time), strings.TrimSuffix(newest.Reason, "."))
}

// shard says what is wrong with the job's shard, where the job may still need it.
func (c *conclusion) shard() {
	s := c.d.Shard
	if c.verdict == VerdictFinished || c.verdict == VerdictFailed || c.verdict == VerdictExpired || !s.Known {
		return
	}
	if s.Owner == "" {
		c.say(LevelFail, hopBridge, "Look whether routers run, and at their logs.", "No router owns the shard %s: events wait in the shard log until one does.", c.key())
	}
	switch {
	case s.Lag > int64(c.d.MaxLag):
		c.say(LevelFail, hopPublish, "Start more routers, or look at Redis's speed.", "%s of the shard %s are unread, more than MAX_LAG %s: publishing to it is refused.",
			entriesText(s.Lag), c.key(), thousands(int64(c.d.MaxLag)))
	case s.Lag > 0 && s.HasBacklog && s.Oldest > time.Second:
		c.say(LevelWarn, hopBridge, "", "The shard %s, which %s owns, is behind: %s are unread, the oldest for %s.", c.key(), cmp.Or(s.Owner, "nobody"), entriesText(s.Lag), ago(s.Oldest))
	}
	if c.d.Backlog.More {
		c.say(LevelNote, hopBridge, "", "Only the first %s of what waits in the shard log were looked at.", entriesText(int64(c.d.Backlog.Scanned)))
	}
}

// log says what is special about the job log.
func (c *conclusion) log() {
	l := c.d.Log
	if l.First == nil {
		return
	}
	if l.First.Seq > 1 {
		c.say(LevelNote, hopJobLog, "", "The log begins at seq %s: earlier events were trimmed, subscribers from the start are told of a gap.", thousands(int64(l.First.Seq)))
	}
	if l.Expires > 0 {
		c.say(LevelNote, hopJobLog, "", "%s are kept for %s more, or longer if something follows.", eventsText(l.Length), ago(l.Expires))
	}
}

func (c *conclusion) key() string { return shardKey(c.d.Shard.Domain, c.d.Shard.Shard) }

// described is "vision, started (seq 3): looking at the photo".
func described(e *event.Event) string {
	text := "stage " + e.Stage
	if e.Status != "" {
		text += ", " + e.Status
	}
	text += fmt.Sprintf(", seq %d", e.Seq)
	if e.Message != "" {
		text += ": " + strings.TrimSuffix(e.Message, ".")
	}
	return text
}

func eventsText(n int64) string {
	if n == 1 {
		return "1 event"
	}
	return thousands(n) + " events"
}

func itOrThem(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}
