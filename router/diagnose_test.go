package router

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
)

func (tb *testBus) diagnose(jobID string) *Diagnosis {
	tb.t.Helper()
	d, err := tb.Diagnose(testContext(tb.t), "scan", jobID)
	if err != nil {
		tb.t.Fatalf("diagnose %s: %v", jobID, err)
	}
	return d
}

// diagnosed waits until the diagnosis is so: what was published is projected soon.
func (tb *testBus) diagnosed(jobID string, v Verdict) *Diagnosis {
	tb.t.Helper()
	var d *Diagnosis
	eventually(tb.t, jobID+" is "+string(v), func() bool {
		d = tb.diagnose(jobID)
		return d.Verdict == v
	})
	return d
}

func says(t *testing.T, all []Finding, want string) {
	t.Helper()
	for _, f := range all {
		if strings.Contains(f.Text, want) {
			return
		}
	}
	t.Errorf("nobody says %q: %+v", want, all)
}

func TestDiagnose_ReadsTheJobLogAndWhatEndedIt(t *testing.T) {
	tb := newTestBus(t)
	tb.publish(event.Event{JobID: "j", Stage: "queued"})
	tb.publish(event.Event{JobID: "j", Stage: "vision", Status: "started", Message: strings.Repeat("x", 3*clipMessage)})
	d := tb.diagnosed("j", VerdictRunning)
	eventually(t, "both are in the log", func() bool { d = tb.diagnose("j"); return d.Log.Length == 2 })
	if d.Log.First.Stage != "queued" || d.Log.Last.Seq != 2 || len(d.Log.Last.Message) > clipMessage+3 || d.FinalMark || d.Log.Expires <= 0 || d.Log.Expires > time.Hour {
		t.Errorf("%+v, last %+v", d, d.Log.Last)
	}
	if d.Shard.Owner != "router-0" || !d.Shard.Known || d.Shard.Shard != event.ShardOf("j", 4) {
		t.Errorf("shard %+v", d.Shard)
	}
	tb.publish(event.Event{JobID: "j", Stage: "done", Status: "completed", Final: true})
	d = tb.diagnosed("j", VerdictFinished)
	says(t, d.Findings, "stage done, completed, seq 3")
	eventually(t, "it is marked", func() bool { return tb.diagnose("j").FinalMark })

	// Its events expire before the mark does.
	if err := tb.streams.Client().Del(testContext(t), logKey("scan", "j"), stateKey("scan", "j")).Err(); err != nil {
		t.Fatal(err)
	}
	tb.diagnosed("j", VerdictExpired)
	says(t, tb.diagnosed("never", VerdictUnknown).Findings, "scan/never")
}

func TestDiagnose_FindsDeadLettersOfTheJobAmongOthers(t *testing.T) {
	tb := newTestBus(t)
	tb.xadd("j", "stage", "", "status", "started")
	for range 3 {
		tb.xadd("other", "stage", "")
	}
	id := tb.xadd("j", "stage", "", "status", "completed")
	d := tb.diagnosed("j", VerdictDead)
	eventually(t, "all are dead letters", func() bool { d = tb.diagnose("j"); return d.Dead.Scanned == 5 })
	if d.Dead.Count != 2 || d.Dead.More || d.Dead.Letters[0].ID.String() != id || !strings.Contains(d.Dead.Letters[0].Reason, "stage") {
		t.Errorf("%+v, want 2, the newest %s", d.Dead, id)
	}
	says(t, d.Findings, "2 entries of this job are dead letters")
	tb.publish(event.Event{JobID: "j", Stage: "vision"})
	d = tb.diagnosed("j", VerdictRunning)
	says(t, d.Findings, "2 entries of this job are dead letters")
}

func TestDiagnose_FindsWhatWaitsInTheShardLog(t *testing.T) {
	tb := newTestBus(t)
	tb.publish(event.Event{JobID: "j", Stage: "queued"})
	tb.diagnosed("j", VerdictRunning)
	// The shard's owner is one that does nothing: a router that is frozen.
	shard := event.ShardOf("j", 4)
	key := shardKey("scan", shard)
	steal := func() {
		err := tb.streams.Client().Set(testContext(t), leaseKey(key), "frozen/x", 0).Err()
		if err != nil {
			t.Fatal(err)
		}
	}
	steal()
	eventually(t, "the bus has let go of it", func() bool { return tb.metric("eventbus_shard_owned") == 7 })
	first := tb.xadd("j", "stage", "vision")
	pipe := tb.streams.Client().Pipeline()
	for range scanPage + 20 { // more than a page lies between
		pipe.XAdd(testContext(t), &redis.XAddArgs{Stream: key, Values: []string{"job_id", "other", "stage", "s"}})
	}
	if _, err := pipe.Exec(testContext(t)); err != nil {
		t.Fatal(err)
	}
	tb.xadd("j", "stage", "rule")
	d := tb.diagnose("j")
	if d.Verdict != VerdictWaiting || d.Backlog.Entries != 2 || d.Backlog.First.String() != first || d.Backlog.Scanned != scanPage+22 || d.Backlog.More {
		t.Errorf("%s: %+v, want 2 since %s", d.Verdict, d.Backlog, first)
	}
	if d.Shard.Owner != "frozen" || d.Shard.Lag != scanPage+22 || !d.Shard.HasBacklog {
		t.Errorf("%+v", d.Shard)
	}
	says(t, d.Findings, "2 events wait of this job")
	if err := tb.streams.Client().Del(testContext(t), leaseKey(key)).Err(); err != nil {
		t.Fatal(err)
	}
	d = tb.diagnosed("j", VerdictRunning) // and the bus goes on
	if d.Log.Last.Stage != "rule" && d.Backlog.Entries == 0 {
		t.Errorf("last %+v", d.Log.Last)
	}
}

func TestDiagnose_TooManyAtOnceWaitTheirTurn(t *testing.T) {
	tb := newTestBus(t)
	for range maxDiagnoses {
		tb.diagnosing <- struct{}{}
	}
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := tb.Diagnose(ctx, "scan", "j")
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("who no longer wants to wait gets %v", err)
	}
	<-tb.diagnosing
	tb.diagnosed("j", VerdictUnknown)
}

func TestDiagnose_AKeyOfAnotherTypeIsNoLog(t *testing.T) {
	tb := newTestBus(t)
	if err := tb.streams.Client().Set(testContext(t), logKey("scan", "j"), "text", 0).Err(); err != nil {
		t.Fatal(err)
	}
	tb.publish(event.Event{JobID: "j", Stage: "vision"})
	d := tb.diagnosed("j", VerdictDead)
	says(t, d.Findings, "WRONGTYPE")
}

func TestDiagnose_RedisAwayIsUnavailable(t *testing.T) {
	tb := newTestBus(t)
	if err := tb.streams.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.Diagnose(testContext(t), "scan", "j"); event.KindOf(err) != event.Unavailable {
		t.Errorf("%v", err)
	}
	if err := tb.streams.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it answers again", func() bool {
		d, err := tb.Diagnose(testContext(t), "scan", "j")
		return err == nil && d.Verdict == VerdictUnknown
	})
}
