package hub_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// idle is longer than a test that expects no heartbeat.
const idle = time.Hour

func TestSubscription_BatchHoldsAtMostBatchItems(t *testing.T) {
	limits := wide()
	limits.BatchItems = 2
	topic := hub.NewTopicAt[step](limits, id(0))
	topic.Append(id(0), items(1, 5))
	sub := topic.Subscribe(id(0), noLog{t})
	for _, want := range []int{2, 2, 1} {
		b, ok, err := sub.Ready(t.Context())
		if !ok || err != nil || len(b.Items) != want {
			t.Errorf("%d items, %v, %v; want %d", len(b.Items), ok, err, want)
		}
	}
}

func TestSubscription_BatchHoldsAtMostBatchBytesAndAtLeastOneItem(t *testing.T) {
	limits := wide()
	limits.BatchBytes = 10
	topic := hub.NewTopicAt[step](limits, id(0))
	its := items(1, 5)
	for i, size := range []int{6, 4, 1, 50, 2} {
		its[i].Size = size
	}
	topic.Append(id(0), its)
	sub := topic.Subscribe(id(0), noLog{t})
	for _, want := range []int{2, 1, 1, 1} { // 6+4, 1, 50, 2
		b, ok, err := sub.Ready(t.Context())
		if !ok || err != nil || len(b.Items) != want {
			t.Errorf("%d items, %v, %v; want %d", len(b.Items), ok, err, want)
		}
	}
}

func TestSubscription_CursorIsTheLastDelivered(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(2))
	sub := topic.Subscribe(id(2), noLog{t})
	if got := sub.Cursor(); got != id(2) {
		t.Errorf("at first %s", got)
	}
	topic.Append(id(2), items(3, 4))
	readAll(sub)
	if got := sub.Cursor(); got != id(4) {
		t.Errorf("then %s", got)
	}
	topic.Lose(event.Gap{Reason: event.LogReset})
	b, _, _ := sub.Ready(t.Context())
	if got := sub.Cursor(); b.Gap == nil || !got.IsZero() {
		t.Errorf("after a gap %s", got)
	}
}

func TestSubscription_EndsAfterTheFinalEvent(t *testing.T) {
	for name, topic := range map[string]*hub.Topic[step]{
		"from the ring": hub.NewTopicAt[step](wide(), id(0)), "from the log": hub.NewTopic[step](wide()),
	} {
		sub := topic.Subscribe(id(0), logOf(final(items(1, 3))))
		if _, known := topic.Last(); known {
			topic.Append(id(0), final(items(1, 3)))
		}
		equal(t, name, readAll(sub), seen{IDs: []uint64{1, 2, 3}, Err: io.EOF})
		equal(t, name+", again", readAll(sub), seen{Err: io.EOF})
		if _, err := sub.Next(t.Context(), idle); !errors.Is(err, io.EOF) {
			t.Errorf("%s: next: %v", name, err)
		}
	}
}

func TestSubscription_AtTheFinalEventEndsAtOnce(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(0))
	topic.Append(id(0), final(items(1, 3)))
	equal(t, "in the ring", readAll(topic.Subscribe(id(3), noLog{t})), seen{Err: io.EOF})
	log := logOf(final(items(1, 3)))
	equal(t, "in the log", readAll(hub.NewTopic[step](wide()).Subscribe(id(3), log)), seen{Err: errEnded})
}

func TestSubscription_IsToldOfAGapOnceWithTheEventsThatFollow(t *testing.T) {
	log := logOf(items(1, 9))
	log.trim(4)
	log.page = 2
	gap := []event.Gap{{Reason: event.HistoryExpired, Oldest: id(5)}}
	sub := hub.NewTopic[step](wide()).Subscribe(id(2), log)
	b, ok, err := sub.Ready(t.Context())
	if !ok || err != nil || b.Gap == nil || len(b.Items) != 2 {
		t.Errorf("first batch: %+v, %v, %v", b, ok, err)
	}
	equal(t, "rest", readAll(sub), seen{IDs: []uint64{7, 8, 9}})
	equal(t, "from the start", readAll(hub.NewTopic[step](wide()).Subscribe(id(0), log)),
		seen{IDs: []uint64{5, 6, 7, 8, 9}, Gaps: gap})
}

func TestSubscription_OfALostLogIsToldOnceAndWaits(t *testing.T) {
	log := &memLog{page: 10}
	topic := hub.NewTopic[step](wide())
	sub := topic.Subscribe(id(7), log)
	equal(t, "lost", readAll(sub), seen{Gaps: []event.Gap{{Reason: event.LogReset}}})
	log.entries = items(8, 9) // seq 8: the start is trimmed already
	topic.Reset()
	equal(t, "anew", readAll(sub), seen{IDs: []uint64{8, 9}})
}

func TestSubscription_WhoFallsOutOfTheRingReadsTheLogUntilItIsWithinAgain(t *testing.T) {
	limits := wide()
	limits.RingItems = 4
	topic := hub.NewTopicAt[step](limits, id(0))
	log := logOf(items(1, 20))
	log.page = 5
	sub := topic.Subscribe(id(0), log)
	topic.Append(id(0), items(1, 20))
	var want seen
	for n := range uint64(20) {
		want.IDs = append(want.IDs, n+1)
	}
	equal(t, "behind", readAll(sub), want)
	if got := log.readCount(); got != 4 { // 1-5, 6-10, 11-15, 16-20
		t.Errorf("the log was read %d times", got)
	}
	topic.Append(id(20), items(21, 22))
	equal(t, "within", readAll(sub), seen{IDs: []uint64{21, 22}})
	if got := log.readCount(); got != 4 {
		t.Errorf("the log was read %d times", got)
	}
}

func TestSubscription_AfterAnErrorOfTheLogGoesOn(t *testing.T) {
	log := &failingLog{memLog: logOf(items(1, 3))}
	topic := hub.NewTopic[step](wide())
	sub := topic.Subscribe(id(1), log)
	equal(t, "before", readAll(sub), seen{IDs: []uint64{2, 3}})
	log.entries = append(log.entries, items(4, 4)...)
	topic.Reset()
	log.fail = true
	equal(t, "away", readAll(sub), seen{Err: errLog})
	if _, err := sub.Next(t.Context(), idle); !errors.Is(err, errLog) {
		t.Errorf("next: %v", err)
	}
	if _, ok := topic.Last(); ok {
		t.Error("the topic took a place from a log that could not be read")
	}
	log.fail = false
	equal(t, "back", readAll(sub), seen{IDs: []uint64{4}})
}

type failingLog struct {
	*memLog
	fail bool
}

func (l *failingLog) Read(ctx context.Context, after event.ID) (hub.Page[step], error) {
	if l.fail {
		return hub.Page[step]{}, errLog
	}
	return l.memLog.Read(ctx, after)
}

func TestSubscription_ReadyDoesNotWait(t *testing.T) {
	topic := hub.NewTopicAt[step](wide(), id(0))
	b, ok, err := topic.Subscribe(id(0), noLog{t}).Ready(t.Context())
	if ok || err != nil || b.Gap != nil || len(b.Items) > 0 {
		t.Errorf("%+v, %v, %v", b, ok, err)
	}
}

func TestSubscription_HeartbeatComesAfterEachIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := hub.NewTopicAt[step](wide(), id(0))
		sub := topic.Subscribe(id(0), noLog{t})
		for range 3 {
			begin := time.Now()
			b, err := sub.Next(t.Context(), 15*time.Second)
			if err != nil || b.Gap != nil || len(b.Items) > 0 {
				t.Errorf("%+v, %v", b, err)
			}
			if got := time.Since(begin); got != 15*time.Second {
				t.Errorf("after %s", got)
			}
		}
		// The timer of a call that got an event is not the next call's.
		topic.Append(id(0), items(1, 1))
		wait := func() time.Duration {
			begin := time.Now()
			if _, err := sub.Next(t.Context(), 15*time.Second); err != nil {
				t.Error(err)
			}
			return time.Since(begin)
		}
		if got := wait(); got != 0 {
			t.Errorf("an event came after %s", got)
		}
		time.AfterFunc(10*time.Second, func() { topic.Append(id(1), items(2, 2)) })
		if got := wait(); got != 10*time.Second {
			t.Errorf("an event came after %s", got)
		}
		if got := wait(); got != 15*time.Second {
			t.Errorf("a heartbeat came after %s", got)
		}
	})
}

func TestSubscription_WakingsWithoutNewsDoNotDelayTheHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := hub.NewTopicAt[step](wide(), id(3))
		sub := topic.Subscribe(id(3), logOf(items(1, 3)))
		tick := time.NewTicker(time.Second)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					topic.Reset()
				case <-ctx.Done():
					return
				}
			}
		}()
		begin := time.Now()
		if b, err := sub.Next(ctx, 10*time.Second+time.Millisecond); err != nil || len(b.Items) > 0 {
			t.Errorf("%+v, %v", b, err)
		}
		if got := time.Since(begin); got != 10*time.Second+time.Millisecond {
			t.Errorf("after %s", got)
		}
	})
}

func TestSubscription_NextReturnsTheCauseOfItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		topic := hub.NewTopicAt[step](wide(), id(0))
		sub := topic.Subscribe(id(0), noLog{t})
		cause := errors.New("the browser left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		if _, err := sub.Next(ctx, idle); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		topic.Append(id(0), items(1, 1)) // nothing was lost by that
		if b, err := sub.Next(t.Context(), idle); err != nil || len(b.Items) != 1 {
			t.Errorf("%+v, %v", b, err)
		}
	})
}

func TestSubscription_WaitingIsWokenByWhateverIsNew(t *testing.T) {
	failure := errors.New("failure")
	for name, c := range map[string]struct {
		change func(*hub.Topic[step], *memLog)
		ids    int
		gap    bool
		err    error
	}{
		"append": {change: func(p *hub.Topic[step], _ *memLog) { p.Append(id(3), items(4, 5)) }, ids: 2},
		"extend": {change: func(p *hub.Topic[step], _ *memLog) { p.Extend(items(4, 4)) }, ids: 1},
		"lose":   {change: func(p *hub.Topic[step], _ *memLog) { p.Lose(event.Gap{Reason: event.LogReset}) }, gap: true},
		"fail":   {change: func(p *hub.Topic[step], _ *memLog) { p.Fail(failure) }, err: failure},
		"reset": {change: func(p *hub.Topic[step], l *memLog) {
			l.add(2, 1, false)
			p.Reset()
		}, ids: 2},
		"hole": {change: func(p *hub.Topic[step], l *memLog) {
			l.add(1, 1, false)
			p.Append(l.add(2, 1, false))
		}, ids: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logOf(items(1, 3))
				topic := hub.NewTopicAt[step](wide(), id(3))
				sub := topic.Subscribe(id(3), log)
				done := make(chan struct{})
				var b hub.Batch[step]
				var err error
				go func() {
					defer close(done)
					b, err = sub.Next(t.Context(), idle)
				}()
				synctest.Wait() // it waits
				begin := time.Now()
				c.change(topic, log)
				<-done
				if took := time.Since(begin); took != 0 {
					t.Errorf("woken after %s", took)
				}
				if len(b.Items) != c.ids || (b.Gap != nil) != c.gap || !errors.Is(err, c.err) {
					t.Errorf("%+v, %v", b, err)
				}
			})
		})
	}
}

func TestSubscription_LiveKnowsWhereTheLogOrAGapIsNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*hub.Topic[step], *memLog, *hub.Subscription[step])
		items  int
		ok     bool
	}{
		"nothing new": {func(*hub.Topic[step], *memLog, *hub.Subscription[step]) {}, 0, true},
		"events": {func(topic *hub.Topic[step], log *memLog, _ *hub.Subscription[step]) {
			topic.Append(log.add(3, 1, false))
		}, 3, true},
		"events, then a failure": {func(topic *hub.Topic[step], log *memLog, _ *hub.Subscription[step]) {
			topic.Append(log.add(3, 1, false))
			topic.Fail(io.ErrNoProgress)
		}, 3, true},
		"a failure": {func(topic *hub.Topic[step], _ *memLog, _ *hub.Subscription[step]) { topic.Fail(io.ErrNoProgress) }, 0, false},
		"a loss": {func(topic *hub.Topic[step], log *memLog, _ *hub.Subscription[step]) {
			topic.Lose(event.Gap{Reason: event.LogReset})
			topic.Append(log.add(1, 1, false))
		}, 0, false},
		"out of the ring": {func(topic *hub.Topic[step], log *memLog, _ *hub.Subscription[step]) {
			topic.Append(log.add(100, 1, false))
		}, 0, false},
		"after the final event": {func(topic *hub.Topic[step], log *memLog, s *hub.Subscription[step]) {
			topic.Append(log.add(1, 1, true))
			s.Live(nil)
		}, 0, false},
		"after a gap": {func(topic *hub.Topic[step], log *memLog, s *hub.Subscription[step]) {
			topic.Lose(event.Gap{Reason: event.LogReset})
			log.wipe(false)
			_, _, _ = s.Ready(t.Context())
			_, _, _ = s.Ready(t.Context())
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			log := &memLog{page: 10}
			topic := hub.NewTopic[step](hub.Limits{RingItems: 10, RingBytes: 1000, BatchItems: 10, BatchBytes: 1000})
			prev, items := log.add(2, 1, false)
			topic.Append(prev, items)
			sub := topic.Subscribe(items[1].ID, log)
			c.change(topic, log, sub)
			before := sub.Cursor()
			reads := log.readCount()
			got, ok := sub.Live(nil)
			if len(got) != c.items || ok != c.ok || log.readCount() != reads {
				t.Fatalf("%d items, %v, %d reads", len(got), ok, log.readCount()-reads)
			}
			if !ok && sub.Cursor() != before {
				t.Fatalf("it went from %s to %s", before, sub.Cursor())
			}
		})
	}
}

func TestSubscription_BesideIsTheSamePlaceOfTheSameTopic(t *testing.T) {
	log := &memLog{page: 10}
	topic := hub.NewTopic[step](hub.DefaultLimits())
	prev, items := log.add(2, 1, false)
	topic.Append(prev, items)
	a, b := topic.Subscribe(items[0].ID, log), topic.Subscribe(items[1].ID, log)
	if a.Beside(b) {
		t.Error("one event lies between them")
	}
	a.Live(nil)
	if !a.Beside(b) || !a.Fork().Beside(b) {
		t.Error("they are not beside each other")
	}
	other := hub.NewTopicAt[step](hub.DefaultLimits(), items[1].ID)
	if a.Beside(other.Subscribe(items[1].ID, log)) {
		t.Error("these are two topics")
	}
}
