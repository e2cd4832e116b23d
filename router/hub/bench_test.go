package hub_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// BenchmarkTopicFanout1000 is what one event costs for each of 1,000 waiting
// subscribers, from Append until the last of them has it.
func BenchmarkTopicFanout1000(b *testing.B) {
	const fanout = 1000
	topic := hub.NewTopicAt[step](hub.DefaultLimits(), event.ID{})
	var all sync.WaitGroup
	var left atomic.Int32
	delivered := make(chan struct{})
	for range fanout {
		sub := topic.Subscribe(event.ID{}, benchLog{})
		all.Go(func() {
			for {
				if _, err := sub.Next(context.Background(), time.Minute); err != nil {
					if !errors.Is(err, io.EOF) {
						b.Error(err)
					}
					return
				}
				if left.Add(-1) == 0 {
					delivered <- struct{}{}
				}
			}
		})
	}
	b.ReportAllocs()
	prev, its := event.ID{}, items(1, 1)
	its[0].Size = 300
	send := func() {
		left.Store(fanout)
		its[0].ID = id(prev.Ms + 1)
		topic.Append(prev, its)
		prev = its[0].ID
		<-delivered
	}
	for b.Loop() {
		send()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/fanout, "ns/event/subscriber")
	its[0].Final = true
	send()
	all.Wait()
}

// benchLog must not be needed.
type benchLog struct{}

func (benchLog) Read(context.Context, event.ID) (hub.Page[step], error) {
	return hub.Page[step]{}, errLog
}
