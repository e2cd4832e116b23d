package router

import (
	"strings"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// moment0 is now, in these tests.
var moment0 = time.Date(2026, 1, 20, 12, 0, 0, 0, time.UTC)

func eventAt(age time.Duration, seq uint32, stage, status string, final bool) *event.Event {
	ms := uint64(moment0.Add(-age).UnixMilli())
	return &event.Event{ID: event.ID{Ms: ms}, PublishMs: ms, Seq: seq, Stage: stage, Status: status, Final: final}
}

func jobLogOf(n int64, last *event.Event) JobLogState {
	return JobLogState{Length: n, First: eventAt(time.Hour, 1, "queued", "", false), Last: last, Expires: 47 * time.Minute}
}

func deadLetters(n int) DeadLetters {
	return DeadLetters{Count: n, Letters: []DeadLetter{{Reason: `stage: "": must not be empty`, Time: moment0.Add(-90 * time.Second)}}}
}

func TestConclude_SaysWhyAJobStopped(t *testing.T) {
	owned := ShardState{Domain: "scan", Shard: 1, Owner: "router-0", Known: true}
	behind := owned
	behind.Lag, behind.HasBacklog, behind.Oldest = 1234, true, 8*time.Second
	orphan := behind
	orphan.Owner = ""
	flooded := behind
	flooded.Lag = 6000
	failed := eventAt(10*time.Second, 4, "vision", "failed", true)
	failed.Message = "out of memory."
	trimmed := jobLogOf(10_000, eventAt(2*time.Second, 10_056, "token", "streaming", false))
	trimmed.First = eventAt(time.Minute, 57, "token", "streaming", false)
	waits := Backlog{Entries: 2, Scanned: 900, First: event.ID{Ms: uint64(moment0.Add(-8 * time.Second).UnixMilli())}}

	for name, c := range map[string]struct {
		d       Diagnosis
		verdict Verdict
		says    []string
		not     []string
	}{
		"ended": {
			Diagnosis{Log: jobLogOf(14, eventAt(70*time.Second, 14, "done", "completed", true)), Shard: orphan, Degraded: "pub/sub Redis is away"},
			VerdictFinished,
			[]string{"The job ended at 11:58:50 UTC: its last event is stage done, completed, seq 14.", "14 events are kept for 47 min more"},
			[]string{"No router owns", "Announcements"}, // that is no matter for a job that is over
		},
		"failed": {
			Diagnosis{Log: jobLogOf(4, failed), Shard: owned}, VerdictFailed,
			[]string{"The job failed at 11:59:50 UTC: its last event is stage vision, failed, seq 4: out of memory."}, nil,
		},
		"goes on": {
			Diagnosis{Log: jobLogOf(3, eventAt(4*time.Second, 3, "vision", "started", false)), Shard: owned}, VerdictRunning,
			[]string{"The job goes on: its last event came 4 s ago and is stage vision, started, seq 3."}, []string{"Nothing was published"},
		},
		"the worker fell silent": {
			Diagnosis{Log: jobLogOf(3, eventAt(12*time.Minute, 3, "vision", "started", false)), Shard: owned}, VerdictSilent,
			[]string{"Nothing was published for 12 min; the last event is stage vision, started, seq 3.", "The bus holds nothing of it back"},
			[]string{"No router owns"},
		},
		"silent, and nobody would notice": {
			Diagnosis{Log: jobLogOf(3, eventAt(12*time.Minute, 3, "vision", "started", false)), Shard: ShardState{Domain: "scan", Shard: 1, Known: true}},
			VerdictSilent, []string{"No router owns the shard scan:events:1"}, []string{"The bus holds nothing"},
		},
		"events wait": {
			Diagnosis{Log: jobLogOf(3, eventAt(12*time.Second, 3, "vision", "started", false)), Shard: behind, Backlog: waits}, VerdictWaiting,
			[]string{"2 events wait of this job in the shard log scan:events:1, the first since 8 s: the bus has not passed them on.",
				"The shard scan:events:1, which router-0 owns, is behind: 1,234 entries are unread, the oldest for 8 s."}, nil,
		},
		"events wait for an owner": {
			Diagnosis{Shard: orphan, Backlog: Backlog{Entries: 1, Scanned: 5000, More: true, First: waits.First}}, VerdictWaiting,
			[]string{"1 event waits of this job", "has not passed it on", "No router owns the shard scan:events:1", "Only the first 5,000 entries"}, nil,
		},
		"refused": {
			Diagnosis{Log: jobLogOf(3, eventAt(2*time.Minute, 3, "vision", "", false)), Shard: flooded}, VerdictSilent,
			[]string{"6,000 entries of the shard scan:events:1 are unread, more than MAX_LAG 5,000: publishing to it is refused."}, nil,
		},
		"a dead letter among good ones": {
			Diagnosis{Log: jobLogOf(3, eventAt(4*time.Second, 3, "vision", "", false)), Shard: owned, Dead: deadLetters(1)}, VerdictRunning,
			[]string{`1 entry of this job is a dead letter, appended at 11:58:30 UTC: stage: "": must not be empty.`}, nil,
		},
		"only dead letters": {
			Diagnosis{Shard: owned, Dead: deadLetters(2)}, VerdictDead,
			[]string{"No event of this job was ever good", `2 entries of this job are dead letters, the last one at 11:58:30 UTC: stage: "": must not be empty.`}, nil,
		},
		"over and gone": {
			Diagnosis{Shard: owned, FinalMark: true}, VerdictExpired,
			[]string{"The job is over, and its events are gone: they are kept for 1h0m0s after the last one (RETENTION)."}, []string{"no such job"},
		},
		"unknown": {
			Diagnosis{Shard: owned, Degraded: "pub/sub Redis is away"}, VerdictUnknown,
			[]string{"There is no such job: nothing of scan/j was ever published, or it is longer ago than the retention of 1h0m0s."}, []string{"Announcements"},
		},
		"trimmed, and Pub/Sub is away": {
			Diagnosis{Log: trimmed, Shard: owned, Degraded: "pub/sub Redis is away"}, VerdictRunning,
			[]string{"The log begins at seq 57", "Announcements may not arrive (pub/sub Redis is away): browsers get events within HEAD_CHECK_INTERVAL, 5s."}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := c.d
			d.Time, d.Domain, d.JobID, d.Retention, d.MaxLag, d.HeadCheck = moment0, "scan", "j", time.Hour, 5000, 5*time.Second
			verdict, all := conclude(&d)
			text := ""
			for _, f := range all {
				text += f.Text + "\n"
			}
			if verdict != c.verdict {
				t.Errorf("verdict %s, want %s", verdict, c.verdict)
			}
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q:\n%s", want, text)
				}
			}
			for _, no := range c.not {
				if strings.Contains(text, no) {
					t.Errorf("it says %q:\n%s", no, text)
				}
			}
			if len(all) > 0 && len(c.says) > 0 && !strings.Contains(all[0].Text, c.says[0]) && verdict != VerdictRunning && verdict != VerdictSilent {
				t.Errorf("the answer is not first: %s", all[0].Text)
			}
		})
	}
}

func TestFindings_SayWhatIsWrongWorstFirst(t *testing.T) {
	cfg := testConfig("redis://x", "")
	cfg.MinReplicas = 1
	good := func(use string) Node {
		return Node{Use: use, Address: "10.0.0.1:6379", Info: Info{
			"role": "master", "aof_enabled": "1", "maxmemory": "1000", "used_memory": "100", "maxmemory_policy": "noeviction", "connected_slaves": "1",
		}}
	}
	node := func(use string, change func(*Node)) []Node {
		n := good(use)
		change(&n)
		return []Node{n}
	}
	shard := ShardState{Domain: "scan", Shard: 2, Owner: "router-0", Known: true}
	two := []Member{{Name: "router-0"}, {Name: "router-1"}}
	for name, c := range map[string]struct {
		c    Cluster
		hop  string
		l    Level
		says string // empty: nothing at all
	}{
		"all is well":      {Cluster{Members: two, Redis: []Node{good("streams"), good("pubsub")}, Shards: []ShardState{shard}}, "", 0, ""},
		"one router":       {Cluster{Members: two[:1]}, hopBridge, LevelNote, "One router runs, router-0; with two, one may fail."},
		"streams is away":  {Cluster{Redis: node("streams", func(n *Node) { n.Err = "refused" })}, hopLog, LevelFail, "does not answer: nothing can be published"},
		"pub/sub is away":  {Cluster{Redis: node("pubsub", func(n *Node) { n.Err = "refused" })}, hopPubSub, LevelWarn, "does not answer: the head check delivers"},
		"tells nothing":    {Cluster{Redis: node("streams", func(n *Node) { n.Info, n.Unknown = nil, "NOPERM" })}, hopLog, LevelNote, "Streams Redis 10.0.0.1:6379 does not tell how it is: NOPERM"},
		"a replica":        {Cluster{Redis: node("pubsub", func(n *Node) { n.Info["role"] = "slave" })}, hopPubSub, LevelFail, "Pub/Sub Redis 10.0.0.1:6379 is no master"},
		"the probe is out": {Cluster{Redis: node("pubsub", func(n *Node) { n.Trouble = "pub/sub: the probe did not come back" })}, hopPubSub, LevelWarn, "Announcements may not arrive (pub/sub: the probe did not come back)"},
		"no file":          {Cluster{Redis: node("streams", func(n *Node) { n.Info["aof_enabled"] = "0" })}, hopLog, LevelWarn, "no append-only file"},
		"full":             {Cluster{Redis: node("streams", func(n *Node) { n.Info["used_memory"] = "900" })}, hopPublish, LevelFail, "uses 90 % of its memory: publishing is refused above 85 %"},
		"nearly full":      {Cluster{Redis: node("streams", func(n *Node) { n.Info["used_memory"] = "750" })}, hopLog, LevelWarn, "uses 75 % of its memory."},
		"evicts":           {Cluster{Redis: node("streams", func(n *Node) { n.Info["maxmemory_policy"] = "allkeys-lru" })}, hopLog, LevelWarn, "maxmemory-policy is allkeys-lru"},
		"no replica":       {Cluster{Redis: node("streams", func(n *Node) { n.Info["connected_slaves"] = "0" })}, hopPublish, LevelFail, "has 0 replicas, and PUBLISH_MIN_REPLICAS is 1"},
		"no owner":         {Cluster{Shards: []ShardState{{Domain: "scan", Shard: 2, Known: true, Lag: 3, Pending: 1}}}, hopBridge, LevelFail, "No router owns the shard scan:events:2: 4 events wait in it."},
		"nobody knows":     {Cluster{Shards: []ShardState{{Domain: "scan", Shard: 2}}}, "", 0, ""},
		"flooded":          {Cluster{Shards: []ShardState{{Domain: "scan", Shard: 2, Owner: "r", Known: true, Lag: 5001}}}, hopPublish, LevelFail, "5,001 entries of scan:events:2 are unread, more than MAX_LAG 5,000"},
		"stuck":            {Cluster{Shards: []ShardState{{Domain: "scan", Shard: 2, Owner: "r", Known: true, Pending: 1, HasBacklog: true, Oldest: time.Minute}}}, hopBridge, LevelWarn, "1 event waits in scan:events:2 for 1 min."},
		"behind":           {Cluster{Shards: []ShardState{{Domain: "scan", Shard: 2, Owner: "r", Known: true, Lag: 2600}}}, hopBridge, LevelWarn, "2,600 entries of scan:events:2 are unread; above MAX_LAG 5,000"},
		"dead letters":     {Cluster{Domains: []DomainState{{Name: "scan", DeadLetters: 2, DeadReason: "stage: must not be empty", DeadTime: moment0}}}, hopBridge, LevelWarn, "2 entries of scan were no events, the last one at 12:00:00 UTC: stage: must not be empty."},
	} {
		t.Run(name, func(t *testing.T) {
			all := findings(&c.c, &cfg)
			if c.says == "" {
				if len(all) > 0 {
					t.Errorf("it complains: %+v", all)
				}
				return
			}
			if len(all) != 1 || all[0].Level != c.l || all[0].Hop != c.hop || !strings.Contains(all[0].Text, c.says) {
				t.Errorf("%+v; want level %d at %s: %s", all, c.l, c.hop, c.says)
			}
		})
	}
	all := findings(&Cluster{
		Members: two[:1], Domains: []DomainState{{Name: "scan", DeadLetters: 2}}, Shards: []ShardState{{Domain: "scan", Known: true}},
	}, &cfg)
	if len(all) != 3 || all[0].Level != LevelFail || all[1].Level != LevelWarn || all[2].Level != LevelNote {
		t.Errorf("not the worst first: %+v", all)
	}
}

func TestWords_AreThoseOfPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		300 * time.Millisecond: "less than a second", 59900 * time.Millisecond: "59 s", 12*time.Minute + 40*time.Second: "12 min",
		3*time.Hour + 5*time.Minute: "3 h 5 min", 50 * time.Hour: "2 days",
	} {
		if got := ago(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	if got := clipText(strings.Repeat("é", 150)); len(got) > clipMessage+3 || !strings.HasSuffix(got, "é…") {
		t.Errorf("clipped to %q", got)
	}
}
