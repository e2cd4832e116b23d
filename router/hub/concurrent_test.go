package hub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

const subscribers = 100

// collect reads to the final event and checks that nothing is skipped, repeated or
// lost without a gap. slow makes it fall behind now and then.
func collect(sub *hub.Subscription[step], slow bool) (gaps int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	last, fresh := 0, false
	for n := 0; ; n++ {
		b, err := sub.Next(ctx, time.Minute)
		if errors.Is(err, io.EOF) {
			return gaps, nil
		}
		if err != nil {
			return gaps, fmt.Errorf("after %d: %w", last, err)
		}
		if b.Gap != nil {
			gaps, fresh = gaps+1, true
		}
		for _, it := range b.Items {
			if it.Value.seq != last+1 && !fresh {
				return gaps, fmt.Errorf("%d follows %d", it.Value.seq, last)
			}
			last, fresh = it.Value.seq, false
		}
		if slow && n%16 == 0 {
			<-time.After(time.Duration(rand.IntN(500)) * time.Microsecond)
		}
	}
}

// announceBadly publishes n events in small batches, of which every third is not
// announced and every fifth twice, and then the final event, unannounced.
func announceBadly(topic *hub.Topic[step], log *memLog, n int, between func(i int)) {
	for i := range n {
		prev, items := log.add(1+i%3, 1, i == n-1)
		if i%3 != 2 && i != n-1 {
			topic.Append(prev, items)
		}
		if i%5 == 4 && i != n-1 {
			topic.Append(prev, items)
		}
		between(i)
		runtime.Gosched() // or nobody would read meanwhile
	}
	topic.Reset() // the last head check
}

func TestTopic_HundredSubscribersEachGetAllWhateverIsAnnounced(t *testing.T) {
	limits := hub.Limits{RingItems: 16, RingBytes: 1 << 10, BatchItems: 8, BatchBytes: 1 << 10}
	topic := hub.NewTopic[step](limits)
	log := &memLog{page: 7}
	errs := make(chan error, subscribers)
	var all sync.WaitGroup
	join := func(i int) {
		sub := topic.Subscribe(event.ID{}, log)
		all.Go(func() {
			gaps, err := collect(sub, i%4 == 0)
			if err == nil && gaps > 0 {
				err = fmt.Errorf("told of %d gaps", gaps)
			}
			errs <- err
		})
	}
	for i := range subscribers / 2 {
		join(i)
	}
	announceBadly(topic, log, 300, func(i int) {
		if i%5 == 0 && i/5 < subscribers/2 {
			join(i / 5)
		}
		if i%50 == 49 {
			topic.Reset()
		}
	})
	all.Wait()
	for range subscribers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestTopic_HundredSubscribersOfATrimmedLogGetTheRestOrAreToldOfAGap(t *testing.T) {
	limits := hub.Limits{RingItems: 4, RingBytes: 1 << 10, BatchItems: 3, BatchBytes: 1 << 10}
	topic := hub.NewTopic[step](limits)
	log := &memLog{page: 3}
	errs := make(chan error, subscribers)
	for i := range subscribers {
		sub := topic.Subscribe(event.ID{}, log)
		go func() {
			_, err := collect(sub, i%2 == 0)
			errs <- err
		}()
	}
	announceBadly(topic, log, 300, func(i int) {
		if i%7 == 6 {
			log.trim(log.len() - 5)
		}
		if i%100 == 50 {
			topic.Lose(event.Gap{Reason: event.LogReset})
		}
	})
	for range subscribers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestTopic_DeliveryToWhoIsWithinTheRingDoesNotAllocate: an event costs its topic
// memory, not its subscribers.
func TestTopic_DeliveryToWhoIsWithinTheRingDoesNotAllocate(t *testing.T) {
	topic := hub.NewTopicAt[step](hub.DefaultLimits(), event.ID{})
	sub := topic.Subscribe(event.ID{}, noLog{t})
	ctx := t.Context()
	prev, next := event.ID{}, id(1)
	its := items(1, 1)
	event := func() {
		its[0].ID = next
		topic.Append(prev, its)
		prev, next = next, id(next.Ms+1)
		if b, ok, err := sub.Ready(ctx); !ok || err != nil || len(b.Items) != 1 {
			t.Fatalf("%+v, %v, %v", b, ok, err)
		}
	}
	for range 2 * hub.DefaultLimits().RingItems { // until ring and batch have their sizes
		event()
	}
	allocs := testing.AllocsPerRun(5000, event)
	if allocs != 0 {
		t.Errorf("%v allocations an event", allocs)
	}
}
