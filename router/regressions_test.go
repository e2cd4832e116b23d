package router

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/redistest"
)

// announcer.go loadRange: prev is "0" where the entry before the range was
// trimmed. A hub takes that for the start of the log: a replay from the start gets
// seq 5 first and no HISTORY_EXPIRED.
func TestBridge_RepeatedRangeAtATrimmedStartDoesNotPassForTheStart(t *testing.T) {
	r := redistest.New(t)
	ctx := testContext(t)
	log := &jobLog{jobLogs: &jobLogs{redis: r.Client()}, domain: "scan", jobID: "job-1"}
	if err := r.Client().Do(ctx, "XADD", logKey("scan", "job-1"), "5-0", "seq", "5", "final", "0", "bytes", "1", "stage", "s").Err(); err != nil {
		t.Fatal(err)
	}
	b := &bridge{bridgeDeps: &bridgeDeps{streams: r.Client()}, domain: "scan"}
	job := &jobBatch{jobID: "job-1", shown: []*event.Event{{ID: event.ID{Ms: 5}}}}
	if err := b.loadRange(ctx, job); err != nil {
		t.Fatal(err)
	}
	if job.prev.IsZero() {
		t.Error("prev is 0, which says that nothing was ever before")
	}
	topic := hub.NewTopic[*Shown](hub.DefaultLimits())
	topic.Append(job.prev, []shown{shownEvent(job.shown[0])})
	got, _, err := topic.Subscribe(event.ID{}, log).Ready(ctx)
	if err != nil || got.Gap == nil || got.Gap.Reason != event.HistoryExpired {
		t.Errorf("a replay from the start: gap %v, %d items, %v", got.Gap, len(got.Items), err)
	}
}

// redis.go: an unescaped / # ? % in a password puts a part of it into the error,
// or connects somewhere else without a word.
func TestConnect_PasswordThatIsNotEscapedIsNotTold(t *testing.T) {
	for _, raw := range []string{
		"redis://:s3cr3t/x@h:6379", "redis://:s3cr3t#x@h:6379", "redis://:s3cr3t?x@h:6379", "redis://:x%zzs3cr3t@h",
		"redis://s3cr3t/x@h", "redis://:12345/s3cr3t@h",
		"redis+sentinel://:s3cr3t/x@a,b/m/0", "redis+sentinel://:s3cr3t#x@a,b/m/0", "redis+sentinel://:s3cr3t?x@a,b/m/0",
		"redis+cluster://:s3cr3t/x@a,b", "redis+cluster://:s3cr3t#x@a,b",
		"redis+cluster://:12345/s3cr3t@a", // a client of localhost:12345, without a password
		"redis+cluster://a,b/3",           // a database that nobody looks at
	} {
		c, err := connect(raw, someTuning)
		if err == nil {
			t.Errorf("%s: taken", raw)
			_ = c.Close()
			continue
		}
		for _, part := range []string{"cr3t", "x@", "%zz", "12345"} {
			if strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v", raw, err)
			}
		}
	}
}

// redis.go parseHosts: an IPv6 address without a port is not given the default.
func TestParseHosts_IPv6WithoutAPort(t *testing.T) {
	h, err := parseHosts("[::1],[::2]:5,a/m", "26379")
	if d := cmp.Diff([]string{"[::1]:26379", "[::2]:5", "a:26379"}, h.addrs); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}

// entry.go setField: "orig" is the bus's own in a job log only; of a legacy entry
// it is an unknown field like any other.
func TestShardEntry_LegacyOrigIsAnAttribute(t *testing.T) {
	got, err := parseShardEntry("scan", legacyEntry("orig", "x"))
	if err != nil || got.Attributes["orig"] != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}

// entry.go parseShardEntry: only "0" and "1" mark an entry of the bus. With a
// legacy worker's field of the same name, "done" is not final: streams do not end.
func TestShardEntry_FinalOfALegacyWorkerIsAnUnknownField(t *testing.T) {
	got, err := parseShardEntry("scan", legacyEntry("stage", "done", "final", "true"))
	if err != nil || !got.Final || got.Attributes["final"] != "true" {
		t.Errorf("%+v, %v", got, err)
	}
}

// A failover between the projection of a batch and its settling: the new master has
// the entries, which all replicas had when they were acknowledged, but not the
// projection. It must not be told that they are done with.
func TestBridge_FailoverBeforeTheSettlingProjectsAgain(t *testing.T) {
	streams, pubsub := redistest.New(t), redistest.New(t)
	tb := newBus(t, testConfig(streams.URL(), pubsub.URL()))
	tb.streams, tb.pubsub = streams, pubsub
	var once sync.Once
	failed := make(chan struct{})
	tb.deps.step = func(step string) error {
		if step == "settle" {
			once.Do(func() {
				// What a promoted replica is: another process, and what was replicated.
				ctx := testContext(t)
				for _, args := range [][]any{{"DEL", logKey("scan", "job"), stateKey("scan", "job")}, {"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"}} {
					if err := streams.Client().Do(ctx, args...).Err(); err != nil {
						t.Error(err)
					}
				}
				close(failed)
			})
		}
		return nil
	}
	tb.Start()
	tb.waitReady()
	tb.publish(event.Event{JobID: "job", Stage: "one"})
	<-failed
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	if got := stages(tb.subscribe("job", SubscribeOptions{}).drain()); got != "one done" {
		t.Fatalf("the job's log is %q", got)
	}
}
