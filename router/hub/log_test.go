package hub_test

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// step is an event of these tests: the seq-th of a log. A log that was wiped
// begins anew in another epoch, with later IDs.
type step struct{ epoch, seq int }

type item = hub.Item[step]

var errEnded = errors.New("nothing will ever follow the cursor")

// memLog is a job's log in memory, with the rules of the contract about cursors
// and gaps. It is safe for concurrent use.
type memLog struct {
	// page bounds what Read returns at once.
	page int

	mu      sync.Mutex
	entries []item
	epoch   int
	// added counts the entries of the epoch, trimmed ones too.
	added int
	// expired: cursors up to it are older than retention.
	expired event.ID
	reads   int
}

// add appends n entries of the given size. It returns them as an announcement
// has them: with the ID before the first.
func (l *memLog) add(n, size int, final bool) (event.ID, []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	prev := event.ID{}
	if len(l.entries) > 0 {
		prev = l.entries[len(l.entries)-1].ID
	}
	for i := range n {
		id := event.ID{Ms: uint64(l.epoch+1)*1_000_000 + uint64(l.added/3), Seq: uint64(l.added % 3)}
		l.added++
		l.entries = append(l.entries, item{
			ID: id, Size: size, Final: final && i == n-1, Value: step{l.epoch, l.added},
		})
	}
	return prev, slices.Clone(l.entries[len(l.entries)-n:])
}

// span is entries[i:j] with the ID before them.
func (l *memLog) span(i, j int) (event.ID, []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	items := slices.Clone(l.entries[i:j])
	switch {
	case i > 0:
		return l.entries[i-1].ID, items
	case items[0].Value.seq == 1:
		return event.ID{}, items
	}
	return items[0].ID.Prev(), items // what was before it is gone
}

// trim removes the oldest n entries; the newest stays.
func (l *memLog) trim(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = l.entries[min(n, max(len(l.entries)-1, 0)):]
}

// wipe loses everything. Where it is because of age, cursors are too old, too.
func (l *memLog) wipe(age bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.entries); n > 0 && age {
		l.expired = l.entries[n-1].ID
	}
	if l.added > 0 {
		l.epoch++
	}
	l.entries, l.added = nil, 0
}

func (l *memLog) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// head is the newest entry, zero where there is none.
func (l *memLog) head() item {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return item{}
	}
	return l.entries[len(l.entries)-1]
}

// first is the oldest entry, zero where there is none.
func (l *memLog) first() item {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return item{}
	}
	return l.entries[0]
}

func (l *memLog) readCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads
}

// Read implements hub.Log.
func (l *memLog) Read(_ context.Context, after event.ID) (hub.Page[step], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if i := slices.IndexFunc(l.entries, func(it item) bool { return it.ID == after }); i >= 0 {
		if it := l.entries[i]; it.Final && i == len(l.entries)-1 {
			return hub.Page[step]{}, errEnded
		}
		return hub.Page[step]{Items: l.upTo(i + 1)}, nil
	}
	page := hub.Page[step]{Items: l.upTo(0)}
	if len(l.entries) == 0 {
		switch {
		case after.IsZero():
			return page, nil
		case after.Compare(l.expired) <= 0:
			return page, errEnded
		}
		page.Gap = &event.Gap{Reason: event.LogReset}
		return page, nil
	}
	first := l.entries[0]
	switch {
	case first.Value.seq != 1 && after.Compare(first.ID) < 0:
		page.Gap = &event.Gap{Reason: event.HistoryExpired, Oldest: first.ID}
	case !after.IsZero():
		page.Gap = &event.Gap{Reason: event.LogReset, Oldest: first.ID}
	}
	return page, nil
}

func (l *memLog) upTo(i int) []item {
	return slices.Clone(l.entries[i:min(i+max(l.page, 1), len(l.entries))])
}
