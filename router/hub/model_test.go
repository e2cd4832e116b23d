package hub_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// The model plays a job's life against a topic, one step at a time and without
// goroutines: entries are logged, announcements are lost, repeated and mixed up,
// the log is trimmed and lost, and subscribers come and read. Other steps may
// come in the middle of a subscriber's read of the log, which is where
// concurrency could do harm.

type announcement struct {
	prev  event.ID
	items []item
}

type model struct {
	t      *rapid.T
	limits hub.Limits
	topic  *hub.Topic[step]
	log    *memLog
	// others are the steps that may come in the middle of a read.
	others []func()
	// wire are announcements under way.
	wire []announcement
	subs []*follower
	// known is every entry that ever was.
	known map[event.ID]item
	ids   []event.ID
	// depth of steps within reads.
	depth int
}

// newModel makes a small topic and an empty log.
func newModel(t *rapid.T) *model {
	limits := hub.Limits{
		RingItems: rapid.IntRange(1, 5).Draw(t, "ring items"), RingBytes: rapid.IntRange(1, 30).Draw(t, "ring bytes"),
		BatchItems: rapid.IntRange(1, 4).Draw(t, "batch items"), BatchBytes: rapid.IntRange(1, 20).Draw(t, "batch bytes"),
	}
	return &model{
		t: t, limits: limits, topic: hub.NewTopic[step](limits), known: make(map[event.ID]item),
		log: &memLog{page: rapid.IntRange(1, 6).Draw(t, "page")},
	}
}

var errLog = errors.New("the log cannot be read")

// follower is a subscriber and what it is owed.
type follower struct {
	m   *model
	sub *hub.Subscription[step]
	// cursor is the last ID delivered, the one it began with, or zero after a gap.
	cursor event.ID
	// fresh: a gap was delivered and nothing since.
	fresh bool
	// toBeTold: the topic lost events since the follower's last step.
	toBeTold bool
	// reading guards against a step within its own read.
	reading bool
	// logGap: the last read found a gap.
	logGap *event.Gap
	over   bool
}

// Read implements hub.Log: the log of the model, with other steps in the middle.
func (f *follower) Read(ctx context.Context, after event.ID) (hub.Page[step], error) {
	m := f.m
	if after != f.cursor {
		m.t.Fatalf("read after %s, but %s was delivered", after, f.cursor)
	}
	f.reading = true
	defer func() { f.reading = false }()
	m.meanwhile()
	if rapid.IntRange(0, 15).Draw(m.t, "log fails") == 15 {
		return hub.Page[step]{}, errLog
	}
	page, err := m.log.Read(ctx, after)
	f.logGap = page.Gap
	m.meanwhile()
	return page, err
}

// meanwhile takes some steps of others.
func (m *model) meanwhile() {
	if m.depth >= 3 {
		return
	}
	m.depth++
	defer func() { m.depth-- }()
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 4}).Draw(m.t, "meanwhile") {
		m.others[rapid.IntRange(0, len(m.others)-1).Draw(m.t, "step")]()
	}
}

// publish logs entries and sends their announcement.
func (m *model) publish() {
	if m.log.head().Final {
		return
	}
	final := rapid.IntRange(0, 19).Draw(m.t, "final") == 19
	prev, items := m.log.add(rapid.IntRange(1, 4).Draw(m.t, "entries"), rapid.IntRange(1, 9).Draw(m.t, "size"), final)
	for _, it := range items {
		m.known[it.ID] = it
		m.ids = append(m.ids, it.ID)
	}
	m.wire = append(m.wire, announcement{prev, items})
}

// announceAgain announces a range of the log, as the owner of a shard does after
// a crash.
func (m *model) announceAgain() {
	n := m.log.len()
	if n == 0 {
		return
	}
	i := rapid.IntRange(0, n-1).Draw(m.t, "from")
	prev, items := m.log.span(i, rapid.IntRange(i+1, n).Draw(m.t, "to"))
	m.wire = append(m.wire, announcement{prev, items})
}

// pick takes an announcement off the wire, mostly the oldest one.
func (m *model) pick(keep bool) (announcement, bool) {
	if len(m.wire) == 0 {
		return announcement{}, false
	}
	i := 0
	if rapid.Bool().Draw(m.t, "out of order") {
		i = rapid.IntRange(0, len(m.wire)-1).Draw(m.t, "which")
	}
	a := m.wire[i]
	if !keep {
		m.wire = slices.Delete(m.wire, i, i+1)
	}
	return a, true
}

func (m *model) deliver() {
	if a, ok := m.pick(false); ok {
		m.topic.Append(a.prev, a.items)
	}
}

func (m *model) deliverAndKeep() {
	if a, ok := m.pick(true); ok {
		m.topic.Append(a.prev, a.items)
	}
}

func (m *model) drop() { m.pick(false) }

func (m *model) reset() { m.topic.Reset() }

func (m *model) lose() {
	m.topic.Lose(event.Gap{Reason: event.LogReset})
	for _, f := range m.subs {
		f.toBeTold = !f.over
	}
}

func (m *model) trim() { m.log.trim(rapid.IntRange(1, 5).Draw(m.t, "trimmed")) }

func (m *model) wipe() {
	// Rarely: what comes after it is worth more steps.
	if rapid.IntRange(0, 3).Draw(m.t, "wiped") == 3 {
		m.log.wipe(rapid.Bool().Draw(m.t, "by age"))
	}
}

// join subscribes at some cursor.
func (m *model) join() {
	f := &follower{m: m}
	switch rapid.IntRange(0, 3).Draw(m.t, "begin") {
	case 0: // the start
	case 1:
		f.cursor = m.log.head().ID
	case 2:
		if len(m.ids) > 0 {
			f.cursor = rapid.SampledFrom(m.ids).Draw(m.t, "after")
		}
	case 3:
		f.cursor = event.ID{Ms: rapid.Uint64Range(1, 3_000_000).Draw(m.t, "ms"), Seq: 7}
	}
	f.sub = m.topic.Subscribe(f.cursor, f)
	m.subs = append(m.subs, f)
}

func (m *model) anyone() *follower {
	return m.subs[rapid.IntRange(0, len(m.subs)-1).Draw(m.t, "who")]
}

// step lets one subscriber take one batch.
func (m *model) step() {
	if len(m.subs) > 0 {
		m.anyone().take()
	}
}

// catchUp lets one subscriber take all that is there.
func (m *model) catchUp() {
	if len(m.subs) > 0 {
		m.anyone().takeAll()
	}
}

func (f *follower) takeAll() {
	for more := true; more && !f.over; {
		more = f.take()
	}
}

// take takes one batch of what is there for the follower; false: nothing.
func (f *follower) take() bool {
	if f.over || f.reading {
		return false
	}
	f.logGap = nil
	if rapid.IntRange(0, 3).Draw(f.m.t, "fork") == 3 {
		f.sub = f.sub.Fork()
	}
	if rapid.Bool().Draw(f.m.t, "live") {
		if items, live := f.sub.Live(nil); live {
			f.live(items)
			return len(items) > 0
		}
	}
	b, ok, err := f.sub.Ready(context.Background())
	if b.Gap != nil {
		f.gap(b.Gap)
	} else if f.logGap != nil && !f.fresh {
		f.m.t.Fatalf("after %s: the log found a gap, the subscriber was not told", f.cursor)
	}
	for _, it := range b.Items {
		f.item(it)
	}
	if f.sub.Cursor() != f.cursor {
		f.m.t.Fatalf("cursor %s, but %s was delivered", f.sub.Cursor(), f.cursor)
	}
	switch {
	case errors.Is(err, io.EOF):
		f.over = true
		if !f.m.known[f.cursor].Final {
			f.m.t.Fatalf("the stream ended after %s, which is not final", f.cursor)
		}
	case errors.Is(err, errEnded):
		f.over = true
	case err != nil && !errors.Is(err, errLog):
		f.m.t.Fatalf("after %s: %v", f.cursor, err)
	}
	return ok
}

// live checks what came without the log: nothing is all that there is.
func (f *follower) live(items []item) {
	for _, it := range items {
		f.item(it)
	}
	if f.sub.Cursor() != f.cursor {
		f.m.t.Fatalf("cursor %s, but %s was delivered", f.sub.Cursor(), f.cursor)
	}
	if len(items) > 0 {
		return
	}
	f.reading = true // or others would go on in the middle of it
	defer func() { f.reading = false }()
	if b, ok, err := f.sub.Fork().Ready(context.Background()); ok {
		f.m.t.Fatalf("live at %s there was nothing, else there is %+v, %v", f.cursor, b, err)
	}
}

func (f *follower) gap(g *event.Gap) {
	if f.logGap == nil {
		if !f.toBeTold {
			f.m.t.Fatalf("after %s: a gap that nobody found", f.cursor)
		}
		f.toBeTold = false
	} else if f.fresh {
		f.m.t.Fatalf("told twice of one gap")
	}
	if g.Reason == 0 {
		f.m.t.Fatal("a gap without a reason")
	}
	f.cursor, f.fresh = event.ID{}, true
}

// item checks that nothing is skipped or repeated.
func (f *follower) item(it item) {
	before, first := f.m.known[f.cursor], f.m.log.first()
	switch v := it.Value; {
	case f.fresh && v.epoch == first.Value.epoch && first.ID != (event.ID{}) && v.seq > first.Value.seq:
		f.m.t.Fatalf("after a gap: got %s (%+v), but the log begins with %s", it.ID, v, first.ID)
	case f.fresh:
	case f.cursor.IsZero() && v.seq != 1:
		f.m.t.Fatalf("the first is %s (%+v), and no gap", it.ID, v)
	case f.cursor.IsZero():
	case before.ID != f.cursor:
		f.m.t.Fatalf("%s follows the unknown cursor %s, and no gap", it.ID, f.cursor)
	case before.Value.epoch != v.epoch || before.Value.seq+1 != v.seq:
		f.m.t.Fatalf("%s (%+v) follows %s (%+v), and no gap", it.ID, v, before.ID, before.Value)
	}
	f.cursor, f.fresh = it.ID, false
}

// headCheck is what the hubs of a router do now and then.
func (m *model) headCheck() {
	if last, ok := m.topic.Last(); ok && last != m.log.head().ID {
		m.topic.Reset()
	}
}

// quiesce lets everybody read until nothing is left: now everybody has all that
// is retained.
func (m *model) quiesce() {
	m.headCheck()
	m.settle()
}

// settle is quiesce without the check.
func (m *model) settle() {
	m.depth += 10 // nothing else happens meanwhile
	defer func() { m.depth -= 10 }()
	for _, f := range m.subs {
		f.takeAll()
		f.caughtUp()
	}
}

func (f *follower) caughtUp() {
	head := f.m.log.head()
	switch {
	case f.over:
	case f.toBeTold:
		f.m.t.Fatalf("the subscriber at %s was not told of the loss", f.cursor)
	case head.ID.IsZero() && f.m.lastIsZero():
		// Nothing was announced before the log was lost, so no check finds the loss.
		// The next event will.
	case f.cursor != head.ID:
		f.m.t.Fatalf("the subscriber stays at %s, the log ends with %s", f.cursor, head.ID)
	case head.Final:
		f.m.t.Fatalf("the subscriber has the final event, and its stream goes on")
	}
}

func (m *model) lastIsZero() bool {
	last, ok := m.topic.Last()
	return ok && last.IsZero()
}

func TestModel_EachSubscriberGetsEachEventOnceInOrderOrIsToldOfAGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.others = []func(){m.publish, m.deliver, m.drop, m.step, m.catchUp, m.reset, m.trim, m.wipe}
		act := func(f func()) func(*rapid.T) { return func(*rapid.T) { f() } }
		t.Repeat(map[string]func(*rapid.T){
			"publish": act(m.publish), "publish more": act(m.publish), "announce again": act(m.announceAgain),
			"deliver": act(m.deliver), "deliver more": act(m.deliver), "deliver and keep": act(m.deliverAndKeep),
			"drop": act(m.drop), "reset": act(m.reset), "lose": act(m.lose), "trim": act(m.trim), "wipe": act(m.wipe),
			"join": act(m.join), "step": act(m.step), "catch up": act(m.catchUp), "quiesce": act(m.quiesce),
			"head check": act(m.headCheck),
		})
		m.publish()
		m.quiesce()
	})
}
