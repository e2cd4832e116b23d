package hub_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// wide is a topic's limits where they do not matter.
func wide() hub.Limits {
	return hub.Limits{RingItems: 1000, RingBytes: 1 << 20, BatchItems: 1000, BatchBytes: 1 << 20}
}

func id(ms uint64) event.ID { return event.ID{Ms: ms} }

// items have the IDs from-0 … to-0 and one byte each.
func items(from, to uint64) []item {
	var out []item
	for n := from; n <= to; n++ {
		out = append(out, item{ID: id(n), Size: 1, Value: step{seq: int(n)}})
	}
	return out
}

// final makes the last item final.
func final(its []item) []item {
	its[len(its)-1].Final = true
	return its
}

// logOf is a log of these items; the first has seq 1.
func logOf(its []item) *memLog {
	l := &memLog{page: 1000}
	for i, it := range its {
		it.Value.seq = i + 1
		l.entries = append(l.entries, it)
	}
	return l
}

// noLog is for subscribers that must not need the log.
type noLog struct{ t testing.TB }

func (l noLog) Read(_ context.Context, after event.ID) (hub.Page[step], error) {
	l.t.Helper()
	l.t.Errorf("the log was read after %s", after)
	return hub.Page[step]{}, errLog
}

// seen is what a test saw of a subscription.
type seen struct {
	IDs  []uint64
	Gaps []event.Gap
	Err  error
}

// readAll takes what is there without waiting.
func readAll(s *hub.Subscription[step]) seen {
	var out seen
	for {
		b, ok, err := s.Ready(context.Background())
		if b.Gap != nil {
			out.Gaps = append(out.Gaps, *b.Gap)
		}
		for _, it := range b.Items {
			out.IDs = append(out.IDs, it.ID.Ms)
		}
		if !ok || err != nil {
			out.Err = err
			return out
		}
	}
}

func equal(tb testing.TB, what string, got, want any) {
	tb.Helper()
	sameError := cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) || errors.Is(b, a) })
	if d := cmp.Diff(want, got, sameError); d != "" {
		tb.Errorf("%s: (-want +got)\n%s", what, d)
	}
}

func TestTopic_AppendTellsWhatItFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		prev  event.ID
		items []item
		want  hub.Outcome
		// what a subscriber at 3, the topic's last, gets from the ring; nil: nothing
		ids []uint64
	}{
		{"no items", id(3), nil, hub.Duplicate, nil},
		{"follows", id(3), items(4, 5), hub.Appended, []uint64{4, 5}},
		{"overlaps", id(1), items(2, 5), hub.Appended, []uint64{4, 5}},
		{"begins with the last", id(2), items(3, 4), hub.Appended, []uint64{4}},
		{"is the last", id(2), items(3, 3), hub.Duplicate, nil},
		{"ends with the last", event.ID{}, items(1, 3), hub.Duplicate, nil},
		{"is older", event.ID{}, items(1, 2), hub.Duplicate, nil},
		{"leaves a hole", id(4), items(5, 6), hub.Hole, nil},
		{"is around the last, without it", id(1), append(items(2, 2), items(4, 4)...), hub.Hole, nil},
		{"follows what is not known", event.MaxID(), items(4, 4), hub.Hole, nil},
		{"begins anew", event.ID{}, items(7, 8), hub.Hole, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			topic := hub.NewTopic[step](wide())
			if got := topic.Append(event.ID{}, items(1, 3)); got != hub.Appended {
				t.Fatalf("first: %v", got)
			}
			sub := topic.Subscribe(id(3), logOf(items(1, 3)))
			if got := topic.Append(c.prev, c.items); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if c.want != hub.Hole {
				equal(t, "subscriber", readAll(sub), seen{IDs: c.ids})
				return
			}
			last := c.items[len(c.items)-1].ID
			if got, ok := topic.Last(); !ok || got != last {
				t.Errorf("last is %s, %v", got, ok)
			}
		})
	}
}

func TestTopic_HoleSendsSubscribersToTheLog(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(3))
	log := logOf(items(1, 6))
	sub := topic.Subscribe(id(3), log)
	if got := topic.Append(id(5), items(6, 6)); got != hub.Hole {
		t.Fatalf("got %v", got)
	}
	equal(t, "subscriber", readAll(sub), seen{IDs: []uint64{4, 5, 6}})
}

func TestTopic_NewTopicAtGoesOnAfterTheIDWithoutTheLog(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(3))
	if last, ok := topic.Last(); !ok || last != id(3) {
		t.Errorf("last is %s, %v", last, ok)
	}
	sub := topic.Subscribe(id(3), noLog{t})
	equal(t, "before", readAll(sub), seen{})
	topic.Append(id(3), items(4, 5))
	equal(t, "after", readAll(sub), seen{IDs: []uint64{4, 5}})
}

func TestTopic_LearnsItsPlaceFromWhoReadTheLogToItsEnd(t *testing.T) {
	topic := hub.NewTopic[step](wide())
	if _, ok := topic.Last(); ok {
		t.Error("a new topic knows its place")
	}
	log := logOf(items(1, 3))
	equal(t, "first", readAll(topic.Subscribe(event.ID{}, log)), seen{IDs: []uint64{1, 2, 3}})
	if last, ok := topic.Last(); !ok || last != id(3) {
		t.Errorf("last is %s, %v", last, ok)
	}
	second := topic.Subscribe(id(3), noLog{t})
	if got := topic.Append(id(3), items(4, 4)); got != hub.Appended {
		t.Errorf("got %v", got)
	}
	equal(t, "second", readAll(second), seen{IDs: []uint64{4}})
}

// hookLog calls between after each read.
type hookLog struct {
	*memLog
	between func()
}

func (l hookLog) Read(ctx context.Context, after event.ID) (hub.Page[step], error) {
	page, err := l.memLog.Read(ctx, after)
	l.between()
	return page, err
}

func TestTopic_PlaceFoundByOneSendsWhoReadAnOlderEndToTheLogAgain(t *testing.T) {
	topic := hub.NewTopic[step](wide())
	log := &memLog{page: 10}
	log.add(1, 1, false)
	// Slow finds the end of the log; before it says so, an event is logged and
	// Quick, who reads it, gives the topic its place.
	var prev event.ID
	var late []item
	slow := topic.Subscribe(log.head().ID, hookLog{log, func() {
		if late == nil {
			prev, late = log.add(1, 1, false)
			readAll(topic.Subscribe(prev, log))
		}
	}})
	got := readAll(slow)
	if outcome := topic.Append(prev, late); outcome != hub.Duplicate {
		t.Fatalf("the announcement is %v", outcome)
	}
	got.IDs = append(got.IDs, readAll(slow).IDs...)
	equal(t, "slow", got, seen{IDs: []uint64{late[0].ID.Ms}})
}

func TestTopic_RingHoldsAtMostRingItems(t *testing.T) {
	limits := wide()
	limits.RingItems = 3
	topic := hub.NewTopicAt[step](limits, id(0))
	topic.Append(id(0), items(1, 10))
	equal(t, "within", readAll(topic.Subscribe(id(7), noLog{t})), seen{IDs: []uint64{8, 9, 10}})
	log := logOf(items(1, 10))
	equal(t, "behind", readAll(topic.Subscribe(id(6), log)), seen{IDs: []uint64{7, 8, 9, 10}})
	if log.readCount() == 0 {
		t.Error("who is behind the ring did not read the log")
	}
}

func TestTopic_RingHoldsAtMostRingBytes(t *testing.T) {
	limits := wide()
	limits.RingBytes = 20
	topic := hub.NewTopicAt[step](limits, id(0))
	its := items(1, 5)
	for i := range its {
		its[i].Size = 7
	}
	topic.Append(id(0), its)
	equal(t, "within", readAll(topic.Subscribe(id(3), noLog{t})), seen{IDs: []uint64{4, 5}})
	log := logOf(its)
	equal(t, "behind", readAll(topic.Subscribe(id(2), log)), seen{IDs: []uint64{3, 4, 5}})
	if log.readCount() == 0 {
		t.Error("who is behind the ring did not read the log")
	}
}

func TestTopic_RingIsEmptyAfterReset(t *testing.T) {
	limits := wide()
	limits.RingBytes = 20
	topic := hub.NewTopicAt[step](limits, id(0))
	its := items(1, 4)
	for i := range its {
		its[i].Size = 10
	}
	topic.Append(id(0), its[:2])
	topic.Reset()
	topic.Append(id(2), its[2:])
	equal(t, "new", readAll(topic.Subscribe(id(2), noLog{t})), seen{IDs: []uint64{3, 4}})
	log := logOf(its)
	equal(t, "old", readAll(topic.Subscribe(id(1), log)), seen{IDs: []uint64{2, 3, 4}})
	if log.readCount() == 0 {
		t.Error("the ring still has what was before")
	}
}

func TestTopic_LetsGoOfWhatLeftTheRing(t *testing.T) {
	limits := wide()
	limits.RingItems = 1
	topic := hub.NewTopicAt[*step](limits, id(0))
	push := func(n uint64) weak.Pointer[step] {
		value := &step{seq: int(n)}
		topic.Append(id(n-1), []hub.Item[*step]{{ID: id(n), Value: value}})
		return weak.Make(value)
	}
	first, second := push(1), push(2)
	runtime.GC()
	if first.Value() != nil {
		t.Error("an item that left the ring is kept")
	}
	if second.Value() == nil {
		t.Error("the newest is gone")
	}
	topic.Reset()
	runtime.GC()
	if second.Value() != nil {
		t.Error("an item is kept after a reset")
	}
	runtime.KeepAlive(topic)
}

func TestTopic_RingAlwaysHoldsTheNewest(t *testing.T) {
	limits := wide()
	limits.RingBytes, limits.BatchBytes = 10, 10
	topic := hub.NewTopicAt[step](limits, id(0))
	its := items(1, 2)
	its[1].Size = 1000
	topic.Append(id(0), its)
	equal(t, "newest", readAll(topic.Subscribe(id(1), noLog{t})), seen{IDs: []uint64{2}})
}

func TestTopic_ExtendWithoutAPlaceIsDetached(t *testing.T) {
	topic := hub.NewTopic[step](wide())
	topic.Extend(items(5, 7))
	if last, ok := topic.Last(); !ok || last != id(7) {
		t.Errorf("last is %s, %v", last, ok)
	}
	equal(t, "within", readAll(topic.Subscribe(id(5), noLog{t})), seen{IDs: []uint64{6, 7}})
	// What precedes 5 is not known: neither the start nor 4 may go on with it.
	for _, after := range []uint64{0, 4} {
		log := logOf(items(1, 7))
		want := seen{}
		for n := after + 1; n <= 7; n++ {
			want.IDs = append(want.IDs, n)
		}
		equal(t, "before", readAll(topic.Subscribe(id(after), log)), want)
		if log.readCount() == 0 {
			t.Errorf("who is at %d did not read the log", after)
		}
	}
}

func TestTopic_DetachedKnowsItsPlaceOnceAnItemLeftTheRing(t *testing.T) {
	limits := wide()
	limits.RingItems = 2
	topic := hub.NewTopic[step](limits)
	topic.Extend(items(5, 7))
	equal(t, "after the one that left", readAll(topic.Subscribe(id(5), noLog{t})), seen{IDs: []uint64{6, 7}})
}

func TestTopic_ExtendDropsWhatItHas(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(2))
	sub := topic.Subscribe(id(2), noLog{t})
	topic.Extend(items(1, 4))
	topic.Extend(items(3, 4))
	topic.Extend(nil)
	topic.Extend(items(4, 5))
	equal(t, "subscriber", readAll(sub), seen{IDs: []uint64{3, 4, 5}})
}

func TestTopic_EndedOnceTheNewestIsFinal(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(0))
	topic.Append(id(0), items(1, 2))
	if topic.Ended() {
		t.Error("ended before the final event")
	}
	topic.Append(id(2), final(items(3, 3)))
	if !topic.Ended() {
		t.Error("not ended after the final event")
	}
	topic.Reset()
	if topic.Ended() {
		t.Error("ended without a ring")
	}
}

func TestTopic_QuietSinceItLastGotSomethingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := hub.NewTopic[step](wide())
		check := func(want time.Duration) {
			t.Helper()
			if got := topic.Quiet(time.Now()); got != want {
				t.Errorf("quiet for %s, want %s", got, want)
			}
		}
		wait := func(d time.Duration) { <-time.After(d) }
		wait(3 * time.Second)
		check(3 * time.Second)
		topic.Append(event.ID{}, items(1, 1))
		check(0)
		wait(time.Second)
		topic.Append(event.ID{}, items(1, 1)) // a duplicate is nothing new
		topic.Reset()
		check(time.Second)
		topic.Extend(items(1, 2))
		check(0)
	})
}

func TestTopic_ResetMakesSubscribersCompareTheirCursorWithTheLog(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(2))
	log := logOf(items(1, 4))
	kept, lost := topic.Subscribe(id(2), log), topic.Subscribe(id(2), logOf(items(6, 7)))
	equal(t, "before", readAll(kept), seen{})
	equal(t, "before", readAll(lost), seen{})
	topic.Reset()
	if _, ok := topic.Last(); ok {
		t.Error("a reset topic knows its place")
	}
	equal(t, "kept", readAll(kept), seen{IDs: []uint64{3, 4}})
	equal(t, "lost", readAll(lost), seen{IDs: []uint64{6, 7}, Gaps: []event.Gap{{Reason: event.LogReset, Oldest: id(6)}}})
}

func TestTopic_LoseTellsThePresentOnceAndReplaysWhatIsRetained(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(3))
	log := logOf(items(1, 3))
	log.trim(1)
	present := topic.Subscribe(id(3), log)
	topic.Lose(event.Gap{Reason: event.HistoryExpired, Oldest: id(1)})
	topic.Lose(event.Gap{Reason: event.LogReset, Oldest: id(2)})
	if _, ok := topic.Last(); ok {
		t.Error("a topic that lost events knows its place")
	}
	later := topic.Subscribe(id(3), log)
	// The log begins with seq 2, which is no further news.
	equal(t, "present", readAll(present), seen{IDs: []uint64{2, 3}, Gaps: []event.Gap{{Reason: event.LogReset, Oldest: id(2)}}})
	equal(t, "later", readAll(later), seen{})
	topic.Append(id(3), items(4, 4))
	equal(t, "present", readAll(present), seen{IDs: []uint64{4}})
}

func TestTopic_FailEndsSubscriptionsAfterTheRing(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(0))
	sub := topic.Subscribe(id(0), noLog{t})
	topic.Append(id(0), items(1, 2))
	first := errors.New("the first failure")
	topic.Fail(first)
	topic.Fail(errors.New("another failure"))
	equal(t, "subscriber", readAll(sub), seen{IDs: []uint64{1, 2}, Err: first})
	equal(t, "again", readAll(sub), seen{Err: first})
	equal(t, "later", readAll(topic.Subscribe(id(1), noLog{t})), seen{IDs: []uint64{2}, Err: first})
}

func TestTopic_FinalEventComesBeforeFailure(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(0))
	sub := topic.Subscribe(id(0), noLog{t})
	topic.Append(id(0), final(items(1, 1)))
	topic.Fail(errLog)
	equal(t, "subscriber", readAll(sub), seen{IDs: []uint64{1}, Err: io.EOF})
}
