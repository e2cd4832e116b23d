package router

import (
	"cmp"
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// item is one decoded event as readers get it.
type item = hub.Item[*event.Event]

func itemOf(e *event.Event) item {
	return item{ID: e.ID, Final: e.Final, Size: e.Size(), Value: e}
}

// Shown is an event in the form in which it came: from an announcement as text,
// from the log decoded. The other form is made for who wants it.
type Shown struct {
	text  event.Text
	event *event.Event // nil: text has it
}

// Text is the event as browsers get it.
func (s *Shown) Text() event.Text {
	if s.event == nil {
		return s.text
	}
	return s.event.Text()
}

// Event is the event decoded.
func (s *Shown) Event() (*event.Event, error) {
	if s.event == nil {
		return s.text.Event()
	}
	return s.event, nil
}

func (s *Shown) seq() uint32 {
	if s.event == nil {
		return s.text.Seq
	}
	return s.event.Seq
}

// shown is one event as the hubs of jobs pass it on.
type shown = hub.Item[*Shown]

func shownText(t event.Text) shown {
	return shown{ID: t.ID, Final: t.Final, Size: t.Size(), Value: &Shown{text: t}}
}

func shownEvent(e *event.Event) shown {
	return shown{ID: e.ID, Final: e.Final, Size: e.Size(), Value: &Shown{event: e}}
}

const (
	// pageBytes bounds a page, so that it fits a gRPC message with room to spare.
	pageBytes = 1 << 20
	// firstPage is how many entries a reader asks for before it knows their size;
	// pageItems is the most.
	firstPage = 64
	pageItems = 512
)

// jobLogs is what all logs of jobs have in common.
type jobLogs struct {
	redis     redis.UniversalClient
	retention time.Duration
	// gaps counts by reason.
	gaps func(event.Reason)
}

// jobLog reads one job's log for one subscriber. It decides what is a gap; there
// is no other place that does.
type jobLog struct {
	*jobLogs
	domain string
	jobID  string
	// ahead is what ask has asked; nil where it has not.
	ahead *redis.Cmd
	// size is how many entries the next page asks for; bytes bounds a page, and is
	// pageBytes where zero.
	size  int
	bytes int
}

// ask puts what the next Read, after the same cursor, asks first into a pipeline.
func (l *jobLog) ask(ctx context.Context, pipe redis.Pipeliner, after event.ID) {
	start, n := l.first(after)
	l.ahead = l.command(ctx, pipe, start, n)
}

func (l *jobLog) pageSize() int { return cmp.Or(l.size, firstPage) }

// first is what a page after the cursor asks first: from where, and for how many. The
// cursor's own entry is among them, which tells that the log holds it.
func (l *jobLog) first(after event.ID) (start string, n int) {
	if after.IsZero() {
		return "-", l.pageSize()
	}
	return after.String(), l.pageSize() + 1
}

// Read implements hub.Log. Where the cursor is the final event, or older than
// retention with nothing left, the error is OutOfRange. It is not safe for
// concurrent use: a subscription reads alone.
func (l *jobLog) Read(ctx context.Context, after event.ID) (hub.Page[*Shown], error) {
	page, err := l.page(ctx, after)
	if err != nil {
		return page, err
	}
	most := cmp.Or(l.bytes, pageBytes)
	bytes := 0
	for i, it := range page.Items {
		if bytes += it.Size; bytes > most && i > 0 {
			page.Items = page.Items[:i]
			break
		}
	}
	if len(page.Items) > 0 {
		l.size = min(max(most/(bytes/len(page.Items)+1), 1), pageItems)
	}
	if page.Gap != nil && l.gaps != nil {
		l.gaps(page.Gap.Reason)
	}
	return page, nil
}

// page reads up to pageSize events after the cursor.
func (l *jobLog) page(ctx context.Context, after event.ID) (hub.Page[*Shown], error) {
	var page hub.Page[*Shown]
	start, n := l.first(after)
	items, err := l.entries(ctx, start, n)
	if err != nil {
		return page, err
	}
	if !after.IsZero() {
		if len(items) > 0 && items[0].ID == after {
			if len(items) == 1 && items[0].Final {
				return page, overAt(l.jobID, after)
			}
			page.Items = items[1:]
			return page, nil
		}
		if items, err = l.entries(ctx, "-", l.pageSize()); err != nil {
			return page, err
		}
	}
	page.Items = items
	page.Gap, err = l.gap(after, items)
	return page, err
}

// gap judges a cursor that the log, which begins with items, does not hold.
func (l *jobLog) gap(after event.ID, items []shown) (*event.Gap, error) {
	if len(items) == 0 {
		if after.IsZero() {
			return nil, nil
		}
		if age := time.Since(after.Time()); age > l.retention {
			return nil, event.Errorf(event.OutOfRange, "nothing is left of job %s: %s is older than the retention of %s", l.jobID, after, l.retention)
		}
		return &event.Gap{Reason: event.LogReset}, nil
	}
	first := items[0]
	g := &event.Gap{Reason: event.LogReset, Oldest: first.ID}
	if first.Value.seq() != 1 && after.Compare(first.ID) < 0 {
		g.Reason = event.HistoryExpired
	}
	if after.IsZero() && first.Value.seq() == 1 {
		return nil, nil
	}
	return g, nil
}

// entries is XRANGE from start, inclusive.
func (l *jobLog) entries(ctx context.Context, start string, n int) ([]shown, error) {
	asked := l.ahead
	if l.ahead = nil; asked == nil {
		asked = l.command(ctx, l.redis, start, n)
	}
	reply, err := asked.Result()
	if err != nil {
		return nil, unavailable(err)
	}
	return l.items(reply)
}

// doer is a client or a pipeline.
type doer interface {
	Do(ctx context.Context, args ...any) *redis.Cmd
}

func (l *jobLog) command(ctx context.Context, c doer, start string, n int) *redis.Cmd {
	return c.Do(ctx, "XRANGE", logKey(l.domain, l.jobID), start, "+", "COUNT", n)
}

func (l *jobLog) items(reply any) ([]shown, error) {
	ens, err := parseEntries(reply)
	if err != nil {
		return nil, err
	}
	out := make([]shown, len(ens))
	for i, en := range ens {
		e, err := parseLogEntry(l.domain, l.jobID, en)
		if err != nil {
			return nil, err
		}
		out[i] = shownEvent(e)
	}
	return out, nil
}

// tail returns the newest event before the ID, nil where there is none.
func (l *jobLog) tail(ctx context.Context, before event.ID) (*event.Event, error) {
	end := "+"
	if before != event.MaxID() {
		end = "(" + before.String()
	}
	reply, err := l.redis.Do(ctx, "XREVRANGE", logKey(l.domain, l.jobID), end, "-", "COUNT", 1).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	items, err := l.items(reply)
	if err != nil || len(items) == 0 {
		return nil, err
	}
	return items[0].Value.event, nil
}
