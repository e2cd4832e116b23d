package hub_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// source feeds a topic by Extend, as an edge does: one stream, in order, which may
// repeat what it had said before it broke.
type source struct {
	*model
	// sent is the last ID that the topic got.
	sent event.ID
}

// send passes on what follows in the log, or some of what was sent, too.
func (s *source) send() {
	s.log.mu.Lock()
	all := slices.Clone(s.log.entries)
	s.log.mu.Unlock()
	next := slices.IndexFunc(all, func(it item) bool { return it.ID.Compare(s.sent) > 0 })
	if next < 0 {
		return
	}
	from := max(next-rapid.IntRange(0, 2).Draw(s.t, "repeated"), 0)
	to := rapid.IntRange(next+1, len(all)).Draw(s.t, "to")
	s.topic.Extend(all[from:to])
	s.sent = all[to-1].ID
}

// trim spares what was not sent: a source that finds it gone makes another topic.
func (s *source) trim() {
	if s.log.first().ID.Compare(s.sent) < 0 {
		s.log.trim(1)
	}
}

func TestModel_OfOneSourceEachSubscriberGetsEachEventOnceWithoutAnyCheck(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &source{model: newModel(t)}
		for range rapid.IntRange(0, 4).Draw(t, "before") {
			s.publish()
		}
		if s.log.len() > 0 && rapid.Bool().Draw(t, "in the middle") {
			s.sent = rapid.SampledFrom(s.ids).Draw(t, "sent")
		}
		if s.known[s.sent].Final {
			s.sent = event.ID{} // after the final event no source says anything
		}
		if rapid.Bool().Draw(t, "placed") || s.sent == s.log.head().ID {
			s.topic = hub.NewTopicAt[step](s.limits, s.sent)
		} else {
			s.send() // the first items come before the first subscriber
		}
		s.others = []func(){s.publish, s.send, s.step, s.catchUp, s.trim}
		act := func(f func()) func(*rapid.T) { return func(*rapid.T) { f() } }
		t.Repeat(map[string]func(*rapid.T){
			"publish": act(s.publish), "send": act(s.send), "send more": act(s.send), "trim": act(s.trim),
			"join": act(s.join), "step": act(s.step), "step more": act(s.step), "catch up": act(s.catchUp),
		})
		for s.sent != s.log.head().ID {
			s.send()
		}
		s.settle()
	})
}
