package router

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// shardByHand is a router's only shard, whose rounds a test makes.
type shardByHand struct {
	*testBus
	carrier *carrier
	bridge  *bridge
	redis   *redis.Client
	key     string
}

func newShardByHand(t *testing.T, streams *redistest.Server, pod string) *shardByHand {
	t.Helper()
	tb := newBus(t, testConfig(streams.URL(), streams.URL()), func(c *Config) { c.PodName = pod })
	s := &shardByHand{testBus: tb, redis: streams.Client(), key: shardKey("scan", 0)}
	s.carrier, s.bridge = handCarrier(t, tb)
	return s
}

func (s *shardByHand) own() {
	s.t.Helper()
	if err := s.redis.Set(context.Background(), leaseKey(s.key), s.deps.token, time.Hour).Err(); err != nil {
		s.t.Fatal(err)
	}
}

// add puts an event into the shard log.
func (s *shardByHand) add(fields ...any) string {
	s.t.Helper()
	id, err := s.redis.XAdd(context.Background(), &redis.XAddArgs{Stream: s.key, Values: fields}).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// rounds makes rounds until there is nothing to take and everything is settled.
func (s *shardByHand) rounds() {
	s.t.Helper()
	for {
		n, err := s.carrier.round()
		if err != nil {
			s.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

// projected is a job's log as text, a line for an entry, and its state.
func (s *shardByHand) projected(job string) []string {
	s.t.Helper()
	ctx := context.Background()
	entries, err := s.redis.Do(ctx, "XRANGE", logKey("scan", job), "-", "+").Slice()
	if err != nil {
		s.t.Fatal(err)
	}
	state, err := s.redis.Get(ctx, stateKey("scan", job)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatal(err)
	}
	lines := make([]string, 0, len(entries)+1)
	for _, en := range entries {
		lines = append(lines, fmt.Sprint(en))
	}
	return append(lines, state)
}

func (s *shardByHand) ran(command string) int {
	s.t.Helper()
	info, err := s.redis.InfoMap(context.Background(), "commandstats").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	var n int
	_, _ = fmt.Sscanf(info["Commandstats"]["cmdstat_"+command], "calls=%d,", &n)
	return n
}

// What is appended is what the script would have made of it: log, state and their lives.
func TestAppend_MakesWhatTheScriptMakes(t *testing.T) {
	streams, other := redistest.New(t), redistest.New(t)
	appends, scripted := newShardByHand(t, streams, "router-0"), newShardByHand(t, other, "router-1")
	appends.bridge.tails.slack, scripted.bridge.tails.slack = time.Hour, time.Hour
	appends.own()
	scripted.own()
	at, run := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		start := time.Now().UnixMilli()
		for range rapid.IntRange(2, 6).Draw(t, "rounds") {
			for range rapid.IntRange(1, 40).Draw(t, "events") {
				at++
				e := &event.Event{
					ID:    event.ID{Ms: uint64(start), Seq: uint64(at)},
					JobID: fmt.Sprintf("%d-%d", run, rapid.IntRange(0, 3).Draw(t, "job")), Stage: "s",
					Status:  rapid.SampledFrom([]string{"", "streaming", "started"}).Draw(t, "status"),
					Content: rapid.SampledFrom([]string{"", "x", "한"}).Draw(t, "content"),
					Final:   rapid.IntRange(0, 60).Draw(t, "final") == 60,
				}
				values := appendShardFields(nil, e, timestamp(time.Now()))
				for _, s := range []*shardByHand{appends, scripted} {
					err := s.redis.XAdd(context.Background(), &redis.XAddArgs{Stream: s.key, ID: e.ID.String(), Values: values}).Err()
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			appends.rounds()
			scripted.bridge.tails.clear()
			scripted.rounds()
		}
		for j := range 4 {
			job := fmt.Sprintf("%d-%d", run, j)
			if diff := cmp.Diff(scripted.projected(job), appends.projected(job)); diff != "" {
				t.Fatalf("job %s: - the script + appended\n%s", job, diff)
			}
		}
	})
	if got := appends.ran("exec") - scripted.ran("exec"); got < run {
		t.Errorf("%d transactions more than by script in %d runs: the test shows nothing", got, run)
	}
}

// Logs and states live as long as they did when a script renewed them.
func TestAppend_RenewsTheLifeOfLogAndState(t *testing.T) {
	s := newShardByHand(t, redistest.New(t), "router-0")
	s.own()
	s.bridge.tails.slack = 0 // renew with every event
	ctx := testContext(t)
	for i, status := range []string{"started", "started", "streaming"} {
		s.add("job_id", "j", "stage", "s", "status", status)
		for _, key := range []string{logKey("scan", "j"), stateKey("scan", "j")} {
			if i > 0 {
				if err := s.redis.PExpire(ctx, key, s.cfg.Retention/2).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.rounds()
		for _, key := range []string{logKey("scan", "j"), stateKey("scan", "j")} {
			if left := s.redis.PTTL(ctx, key).Val(); left < s.cfg.Retention*9/10 || left > s.cfg.Retention {
				t.Errorf("after event %d %s lives %v, want %v", i+1, key, left, s.cfg.Retention)
			}
		}
	}
	if got := s.ran("evalsha") + s.ran("eval"); got > 2 { // the first event, and its script that was not known
		t.Errorf("%d script calls: the test shows nothing", got)
	}
}

// An owner that was frozen after its claim, while another did its work and more, must
// neither repeat an entry nor put its old state over the new one.
func TestAppend_AFrozenOwnerChangesNothing(t *testing.T) {
	streams := redistest.New(t)
	one, two := newShardByHand(t, streams, "router-0"), newShardByHand(t, streams, "router-1")
	one.own()
	one.add("job_id", "j", "stage", "first")
	one.rounds() // it knows the log's end now
	one.add("job_id", "j", "stage", "second")
	var want []string
	one.deps.step = func(step string) error {
		if step == "project" && want == nil { // frozen here
			two.own()
			two.rounds()
			two.add("job_id", "j", "stage", "third")
			two.rounds()
			want = two.projected("j")
		}
		return nil
	}
	one.rounds()
	if len(want) != 4 {
		t.Fatalf("the second owner left %q, want three entries and a state", want)
	}
	if diff := cmp.Diff(want, one.projected("j")); diff != "" {
		t.Errorf("the frozen owner changed: - before + after\n%s", diff)
	}
	if len(one.carrier.bridges) != 0 {
		t.Error("the frozen owner did not notice that it lost the shard")
	}
}

// The same, but the other died with what it took, and the owner is owner again when it
// wakes up: what the other left comes before what is new.
func TestAppend_AnOwnerThatWasAwayTakesWhatAnotherLeft(t *testing.T) {
	streams := redistest.New(t)
	one, two := newShardByHand(t, streams, "router-0"), newShardByHand(t, streams, "router-1")
	one.own()
	ids := []string{one.add("job_id", "j", "stage", "s")}
	one.rounds()
	ids = append(ids, one.add("job_id", "j", "stage", "s"))
	frozen := false
	one.deps.step = func(step string) error {
		if step == "project" && !frozen {
			frozen = true
			two.own()
			ids = append(ids, two.add("job_id", "j", "stage", "s"))
			for range 2 { // what was pending, and what is new
				if n, err := two.carrier.turn(testContext(t)); err != nil || n != 1 {
					t.Fatalf("the second took %d: %v", n, err)
				}
				two.bridge.pending = false
			}
			ids = append(ids, two.add("job_id", "j", "stage", "s"))
			one.own()
		}
		return nil
	}
	one.rounds()
	var got []string
	for _, en := range one.redis.XRange(testContext(t), logKey("scan", "j"), "-", "+").Val() {
		got = append(got, en.ID)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("- as published + as projected\n%s", diff)
	}
}

// A lease that is renewed in the middle of a round spoils the transaction, and nothing
// else.
func TestAppend_ARenewedLeaseSpoilsNothing(t *testing.T) {
	s := newShardByHand(t, redistest.New(t), "router-0")
	s.own()
	s.deps.step = func(step string) error {
		if step == "project" {
			s.own()
		}
		return nil
	}
	for i := range 5 {
		s.add("job_id", "j", "stage", strconv.Itoa(i))
		s.rounds()
	}
	got := s.projected("j")
	if len(got) != 6 || len(s.carrier.bridges) != 1 {
		t.Fatalf("%q, want five entries and a state", got)
	}
}

// A log that went away by hand, or by an eviction, begins anew: no number in the middle.
func TestAppend_ALogThatIsGoneBeginsAnew(t *testing.T) {
	s := newShardByHand(t, redistest.New(t), "router-0")
	s.own()
	for range 3 {
		s.add("job_id", "j", "stage", "s")
		s.rounds()
	}
	if err := s.redis.Del(testContext(t), logKey("scan", "j"), stateKey("scan", "j")).Err(); err != nil {
		t.Fatal(err)
	}
	id := s.add("job_id", "j", "stage", "anew")
	s.rounds()
	first := fmt.Sprintf("[%s [seq 1 final 0 bytes ", id)
	got := s.projected("j")
	if len(got) != 2 || len(got[0]) < len(first) || got[0][:len(first)] != first {
		t.Fatalf("%q, want one entry, whose seq is 1", got)
	}
	if want := fmt.Sprintf(`{"id":%q,"domain":"scan","job_id":"j","seq":1,`, id); len(got[1]) < len(want) || got[1][:len(want)] != want {
		t.Errorf("state %s, want %s…", got[1], want)
	}
}

func TestTail_TakesWhatGoesBehindItAsItIs(t *testing.T) {
	at := func(ms uint64) *event.Event { return &event.Event{ID: event.ID{Ms: ms}} }
	final := func(ms uint64) *event.Event { return &event.Event{ID: event.ID{Ms: ms}, Final: true} }
	known := tail{seq: 3, id: event.ID{Ms: 100}, bytes: 1000, alive: true}
	with := func(change func(*tail)) tail {
		k := known
		change(&k)
		return k
	}
	for _, c := range []struct {
		name   string
		tail   tail
		events []*event.Event
		size   int
		want   bool
	}{
		{"newer events", known, []*event.Event{at(101), at(102)}, 10, true},
		{"a final one at last", known, []*event.Event{at(101), final(102)}, 10, true},
		{"one behind the final", known, []*event.Event{final(101), at(102)}, 10, false},
		{"the last one again", known, []*event.Event{at(100)}, 10, false},
		{"a late one", known, []*event.Event{at(101), at(99)}, 10, false},
		{"nothing known", tail{}, []*event.Event{at(101)}, 10, false},
		{"a job that is over", with(func(k *tail) { k.final = true }), []*event.Event{at(101)}, 10, false},
		{"a log that may have expired", with(func(k *tail) { k.alive = false }), []*event.Event{at(101)}, 10, false},
		{"as much as a log may have", with(func(k *tail) { k.bytes = jobLogBytes - 10 }), []*event.Event{at(101)}, 10, true},
		{"more than a log may have", with(func(k *tail) { k.bytes = jobLogBytes - 9 }), []*event.Event{at(101)}, 10, false},
	} {
		if got := c.tail.takes(c.events, c.size); got != c.want {
			t.Errorf("%s: taken %v, want %v", c.name, got, c.want)
		}
	}
}

func TestTails_DoNotTrustALogThatMayHaveExpired(t *testing.T) {
	tails := newTails(time.Hour)
	now := time.Now()
	tails.note("j", &event.Event{ID: event.ID{Ms: 1}, Seq: 1}, 10)
	if b := tails.belief("j", now.Add(29*time.Minute)); !b.alive || !b.renew {
		t.Errorf("after 29 of 60 minutes %+v, want it alive and renewed", b)
	}
	if b := tails.belief("j", now.Add(60*time.Minute)); b.alive {
		t.Errorf("31 minutes after it was renewed %+v, want it not trusted", b)
	}
}
