package edge

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
	"github.com/eco2-team/eventbus/router/trace"
)

// watchFeed is one browser's Watch: a stream from a router of its own, because
// each asks for other jobs and stages. It resumes after the last cursor when the
// stream breaks.
type watchFeed struct {
	topics *topics
	req    *eventbusv1.WatchRequest // its cursor is the last one
	up     *upstream[eventbusv1.WatchResponse]
	retry  *patience
	// reset: the browser's cursor was another system's. It is told of a gap, and
	// then of no other before the first event.
	reset bool
	// sent is the cursor that the browser has.
	sent    string
	encoder encoder
	reading reading
}

// openWatch waits for a router's first word, at most openTimeout. A cursor of
// another system, or of another number of shards, in the header is a gap, then all
// that is retained, and not an error, which would end the browser for ever. Errors are gRPC statuses or ctx's
// cause.
func openWatch(ctx context.Context, s *topics, in *eventbusv1.WatchRequest, c cursor) (*watchFeed, error) {
	f := &watchFeed{topics: s, req: proto.CloneOf(in), retry: newPatience(), reset: c.unreadable, reading: newReading(c)}
	f.req.Cursor, f.sent = c.text, c.text
	if c.unreadable {
		f.req.Cursor = fromStart
	}
	err := f.open(ctx)
	if err != nil && status.Code(err) == codes.InvalidArgument && c.header && c.text != "" {
		f.req.Cursor, f.reset = fromStart, true
		if f.open(ctx) == nil {
			err = nil
		}
	}
	return f, err
}

// fromStart is the cursor of one who does not know how many shards there are.
const fromStart = "0-0"

func (f *watchFeed) open(ctx context.Context) (err error) {
	f.up, err = openUpstream(ctx, missedHeartbeats*f.topics.heartbeat, func(ctx context.Context) (grpc.ServerStreamingClient[eventbusv1.WatchResponse], error) {
		return f.topics.router.Watch(ctx, f.req)
	})
	return err
}

func (f *watchFeed) close() {
	f.reading.caughtUp(f.topics.metrics)
	if f.up != nil {
		f.up.close()
	}
}

// begin implements feed.
func (f *watchFeed) begin(_ context.Context, o *outlet) error {
	if f.reset {
		o.gap(&eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_LOG_RESET})
	}
	m, err := f.up.recv()
	if err == nil {
		err = f.send(o, m)
	}
	return err
}

// next implements feed.
func (f *watchFeed) next(ctx context.Context, o *outlet) error {
	quiet := time.Now().Add(f.topics.heartbeat)
	for {
		m, err := f.recv(ctx)
		switch {
		case err == nil:
			return f.send(o, m)
		case errors.Is(err, io.EOF) || !transient(err) || ctx.Err() != nil:
			return err
		}
		f.topics.upstreamLost(err, "domain", f.req.GetDomain())
		if !f.retry.wait(ctx) {
			return context.Cause(ctx)
		}
		if time.Now().After(quiet) {
			return nil
		}
	}
}

// recv opens the stream again where it broke.
func (f *watchFeed) recv(ctx context.Context) (*eventbusv1.WatchResponse, error) {
	if f.up == nil {
		err := f.open(ctx)
		if status.Code(err) == codes.OutOfRange {
			return nil, io.EOF // all jobs are over
		}
		if err != nil {
			return nil, err
		}
	}
	m, err := f.up.recv()
	if err != nil {
		f.up.close()
		f.retry.lived(f.up.opened)
		f.up = nil
	}
	return m, err
}

// send adds a message's frames, each with the cursor after its event. Without
// events the cursor goes alone.
func (f *watchFeed) send(o *outlet, m *eventbusv1.WatchResponse) error {
	if g := m.GetGap(); g != nil && !f.reset {
		o.gap(g)
	}
	if len(m.GetEvents()) > 0 {
		f.reset = false
	} else {
		f.reading.caughtUp(f.topics.metrics)
	}
	events := make([]event.Event, len(m.GetEvents()))
	for i, pe := range m.GetEvents() {
		var err error
		if events[i], err = fromProto(pe); err != nil {
			return err
		}
	}
	ids := watchCursors(f.req.GetCursor(), m.GetCursor(), events)
	o.events = make([]hub.Item[frame], len(events))
	for i := range events {
		o.events[i] = hub.Item[frame]{ID: events[i].ID, Value: f.encoder.frame(ids[i], &events[i])}
		if f.topics.trace != nil {
			o.events[i].Value.trail = f.topics.follow(trace.Of(&events[i]), false)
		}
		o.frame(o.events[i].Value)
		if ids[i] != "" {
			f.sent = ids[i]
		}
	}
	f.topics.metrics.framesEncoded.Add(float64(len(events)))
	if c := m.GetCursor(); readableWatchCursor(c) {
		f.req.Cursor = c
		if len(events) == 0 && c != f.sent {
			o.cursor(c)
			f.sent = c
		}
	}
	return nil
}

// watchCursors are the cursors after each of a message's events; the last one's is
// the message's, the only one that the router tells. Its events are in the order
// of their shard, so the others follow from their IDs, save that of a late one,
// whose ID is not its place in the shard: it has none, so that a resume repeats it
// and skips nothing.
func watchCursors(before, after string, events []event.Event) []string {
	out := make([]string, len(events))
	if len(events) == 0 || !readableWatchCursor(after) {
		return out
	}
	last := len(out) - 1
	out[last] = after
	at, err1 := event.ParseIDs(before)
	end, err2 := event.ParseIDs(after)
	if err1 != nil || err2 != nil || len(at) != len(end) {
		return out
	}
	for i, e := range events[:last] {
		shard := event.ShardOf(e.JobID, len(end))
		late := e.PublishMs != e.ID.Ms
		if !late && e.ID.Compare(at[shard]) > 0 && e.ID.Compare(end[shard]) <= 0 {
			at[shard] = e.ID
			out[i] = event.JoinIDs(at)
		}
	}
	return out
}

// readableWatchCursor tells whether s is ids joined by commas.
func readableWatchCursor(s string) bool {
	for part := range strings.SplitSeq(s, ",") {
		if _, err := event.ParseID(part); err != nil {
			return false
		}
	}
	return len(s) <= maxCursorBytes
}
