package router

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// shardLog reads one shard's log for one watcher: what the group has acknowledged,
// with each event as its job log has it.
type shardLog struct {
	redis redis.UniversalClient
	cfg   *Config
	ref   shardRef
	// jobs are the ones wanted; nil: all.
	jobs map[string]bool
	gaps func(event.Reason)
}

// watchPage is how many entries of a shard a watcher reads at once.
const watchPage = 64

// Read implements hub.Log. The cursor is a place in the shard log; zero is its
// start.
func (l *shardLog) Read(ctx context.Context, after event.ID) (hub.Page[*event.Event], error) {
	var page hub.Page[*event.Event]
	done, err := l.boundary(ctx) // before the entries: it may only grow
	if err != nil {
		return page, unavailable(err)
	}
	start := "-"
	if !after.IsZero() {
		start = after.String()
	}
	pipe := l.redis.Pipeline()
	list := pipe.Do(ctx, "XRANGE", l.ref.key(), start, "+", "COUNT", watchPage+1)
	info := pipe.XInfoStream(ctx, l.ref.key())
	if _, err := pipe.Exec(ctx); err != nil && !redis.HasErrorPrefix(err, "no such key") {
		return page, unavailable(err)
	}
	entries, err := parseEntries(list.Val())
	if err != nil {
		return page, err
	}
	if !after.IsZero() && len(entries) > 0 && entries[0].id == after {
		page.Items, err = l.items(ctx, entries[1:], done)
		return page, err
	}
	if page.Gap, err = l.gap(after, info.Val()); err != nil {
		return page, err
	}
	if page.Gap == nil && !after.IsZero() {
		return page, nil
	}
	if !after.IsZero() {
		reply, err := l.redis.Do(ctx, "XRANGE", l.ref.key(), "-", "+", "COUNT", watchPage).Result()
		if err != nil {
			return page, unavailable(err)
		}
		if entries, err = parseEntries(reply); err != nil {
			return page, err
		}
	}
	if page.Gap != nil && l.gaps != nil {
		l.gaps(page.Gap.Reason)
	}
	page.Items, err = l.items(ctx, entries, done)
	return page, err
}

// gap judges a cursor that the log does not hold.
func (l *shardLog) gap(after event.ID, info *redis.XInfoStream) (*event.Gap, error) {
	if info == nil || info.Length == 0 {
		switch {
		case after.IsZero() && (info == nil || info.EntriesAdded == 0):
			return nil, nil
		case info != nil && info.LastGeneratedID == after.String():
			return nil, nil
		}
		return &event.Gap{Reason: event.LogReset}, nil
	}
	trimmed := info.EntriesAdded > info.Length
	if after.IsZero() && !trimmed {
		return nil, nil
	}
	first, err := event.ParseID(info.FirstEntry.ID)
	if err != nil {
		return nil, err
	}
	g := &event.Gap{Reason: event.LogReset, Oldest: first}
	if trimmed && after.Compare(first) < 0 {
		g.Reason = event.HistoryExpired
	}
	return g, nil
}

// boundary is the last entry up to which the group has acknowledged everything.
func (l *shardLog) boundary(ctx context.Context) (event.ID, error) {
	pipe := l.redis.Pipeline()
	// In this order: nothing pending, asked later, means that all up to the
	// delivered one is acknowledged.
	groups := pipe.XInfoGroups(ctx, l.ref.key())
	pending := pipe.XPending(ctx, l.ref.key(), l.cfg.ConsumerGroup)
	if _, err := pipe.Exec(ctx); err != nil {
		if redis.HasErrorPrefix(err, "no such key") || redis.HasErrorPrefix(err, "NOGROUP") {
			return event.ID{}, nil
		}
		return event.ID{}, err
	}
	var done event.ID
	for _, g := range groups.Val() {
		if g.Name != l.cfg.ConsumerGroup {
			continue
		}
		id, err := event.ParseID(g.LastDeliveredID)
		if err != nil {
			return done, err
		}
		done = id
	}
	if p := pending.Val(); p != nil && p.Count > 0 {
		lower, err := event.ParseID(p.Lower)
		if err != nil {
			return done, err
		}
		if before := lower.Prev(); before.Compare(done) < 0 {
			done = before
		}
	}
	return done, nil
}

// tail is the newest entry that the group is done with: where a watch without a
// cursor begins.
func (l *shardLog) tail(ctx context.Context) (event.ID, error) {
	done, err := l.boundary(ctx)
	if err != nil || done.IsZero() {
		return event.ID{}, err
	}
	msgs, err := l.redis.XRevRangeN(ctx, l.ref.key(), done.String(), "-", 1).Result()
	if err != nil {
		return event.ID{}, err
	}
	if len(msgs) == 0 {
		return event.ID{}, nil
	}
	return event.ParseID(msgs[0].ID)
}

// items turns entries up to done into items.
func (l *shardLog) items(ctx context.Context, entries []entry, done event.ID) ([]item, error) {
	var items []item
	pipe := l.redis.Pipeline()
	lookups := make(map[int]*redis.Cmd)
	for i, en := range entries {
		if en.id.Compare(done) > 0 {
			break
		}
		items = append(items, shardItem(en.id, nil))
		jobID, _ := en.get("job_id")
		if l.wants(jobID) {
			lookups[i] = pipe.Do(ctx, "XRANGE", logKey(l.ref.domain, jobID), en.id.String(), en.id.String())
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, unavailable(err)
	}
	for i, cmd := range lookups {
		jobID, _ := entries[i].get("job_id")
		found, err := parseEntries(cmd.Val())
		if err == nil && len(found) == 0 {
			found, err = l.findLate(ctx, jobID, entries[i].id)
		}
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			continue // dropped, or its job log is gone
		}
		e, err := parseLogEntry(l.ref.domain, jobID, found[0])
		if err != nil {
			return nil, err
		}
		items[i] = shardItem(entries[i].id, e)
	}
	return items, nil
}

func (l *shardLog) wants(jobID string) bool {
	return event.ValidJobID(jobID) && (l.jobs == nil || l.jobs[jobID])
}

// findLate looks for an entry that was projected under a later ID.
func (l *shardLog) findLate(ctx context.Context, jobID string, orig event.ID) ([]entry, error) {
	start := "(" + orig.String()
	for {
		reply, err := l.redis.Do(ctx, "XRANGE", logKey(l.ref.domain, jobID), start, "+", "COUNT", pageItems).Result()
		if err != nil {
			return nil, unavailable(err)
		}
		page, err := parseEntries(reply)
		if err != nil || len(page) == 0 {
			return nil, err
		}
		for _, en := range page {
			if v, ok := en.get("orig"); ok && v == orig.String() {
				return []entry{en}, nil
			}
		}
		start = "(" + page[len(page)-1].id.String()
	}
}

// fromStart is the Watch cursor of one who does not know how many shards there are:
// everything retained of all of them.
const fromStart = "0-0"

// parseCursor reads a Watch cursor: an ID for each shard, or fromStart.
func parseCursor(text string, shards int) ([]event.ID, error) {
	if text == fromStart {
		return make([]event.ID, shards), nil
	}
	ids, err := event.ParseIDs(text)
	if err != nil {
		return nil, event.Refuse(event.Violate("cursor", text, err.Error()))
	}
	if len(ids) != shards {
		return nil, event.Refuse(event.Violate("cursor", text, fmt.Sprintf("must have %d ids, one for each shard, or be "+fromStart, shards)))
	}
	return ids, nil
}
