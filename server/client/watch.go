package client

import (
	"cmp"
	"context"
	"iter"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// WatchOptions say what to watch, and from where. The zero value is all of the
// domain, live only.
type WatchOptions struct {
	// Jobs are the only ones shown, at most 256; empty: all of the domain.
	Jobs []string
	// Stages are the only ones shown; empty: all.
	Stages []string
	// Cursor is that of a Message: resume after it. Empty: live only.
	Cursor string
	// Opened is told, if it is not nil, the cursor at which the first stream began:
	// what is published from then on is seen. It runs in the loop.
	Opened func(cursor string)
	// Silence is as in SubscribeOptions.
	Silence time.Duration
}

// Watch follows many jobs, each event once, in order within each job; else it is as
// Subscribe. With Jobs it ends when all of them are over, else only with an error. A
// gap whose job_id is empty is one of any job.
func (c *Client) Watch(ctx context.Context, domain string, o WatchOptions) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		w := &watcher{
			req:  &eventbusv1.WatchRequest{Domain: domain, JobIds: o.Jobs, Stages: o.Stages, Cursor: o.Cursor},
			seen: map[string]string{}, opened: o.Opened,
		}
		f := follower[eventbusv1.WatchResponse]{
			log: c.log, what: []any{"domain", domain}, silence: orSilence(o.Silence),
			open: func(ctx context.Context) (grpc.ServerStreamingClient[eventbusv1.WatchResponse], error) {
				return c.api.Watch(ctx, w.req)
			},
			take: func(m *eventbusv1.WatchResponse) bool { return w.take(m, yield) },
		}
		finish(f.run(ctx), yield)
	}
}

// watcher is a Watch over all of its streams.
type watcher struct {
	req *eventbusv1.WatchRequest // its cursor is the last one
	// seen are the ids of each job's last event since that cursor: a stream that
	// begins there repeats them.
	seen   map[string]string
	opened func(string)
}

func (w *watcher) take(m *eventbusv1.WatchResponse, yield func(Message, error) bool) bool {
	if w.opened != nil {
		w.opened(m.GetCursor())
		w.opened = nil
	}
	if g := m.GetGap(); g != nil {
		if id := g.GetJobId(); id != "" {
			delete(w.seen, id)
		} else {
			clear(w.seen)
		}
		if !yield(Message{Gap: g, Cursor: w.req.GetCursor()}, nil) {
			return false
		}
	}
	last := len(m.GetEvents()) - 1
	for i, e := range m.GetEvents() {
		if !after(e.GetId(), w.seen[e.GetJobId()]) {
			continue
		}
		w.seen[e.GetJobId()] = e.GetId()
		cursor := w.req.GetCursor()
		if i == last {
			cursor = m.GetCursor()
		}
		if !yield(Message{Event: e, Cursor: cursor}, nil) {
			return false
		}
	}
	if c := m.GetCursor(); c != w.req.GetCursor() {
		w.req.Cursor = c
		clear(w.seen)
	}
	return true
}

// after compares ids, "1737415902456-0"; everything is after none.
func after(id, than string) bool {
	if than == "" {
		return true
	}
	ms, seq := parts(id)
	thanMs, thanSeq := parts(than)
	return cmp.Or(cmp.Compare(ms, thanMs), cmp.Compare(seq, thanSeq)) > 0
}

func parts(id string) (ms, seq uint64) {
	a, b, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(a, 10, 64) // the bus's own
	seq, _ = strconv.ParseUint(b, 10, 64)
	return ms, seq
}
