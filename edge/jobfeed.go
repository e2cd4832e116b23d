package edge

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// jobFeed is one browser's way through a job: from its topic's ring, or from the
// log where it is not within the ring.
type jobFeed struct {
	topics *topics
	// topic is nil where the state was the job's end.
	topic *topic
	sub   *hub.Subscription[frame]
	// start is what a replay begins with.
	start start
	// reset: the browser's cursor was another system's, or all that the topic had is
	// void. It is told of a gap, and then of no other before the first event.
	reset bool
	// rest of a page that is too large for one write.
	rest []hub.Item[frame]
	// last: the topic is over, and what the log still has is all there is.
	last    bool
	reading reading
}

// start is where a subscription without a cursor begins.
type start struct {
	// cursor is the last event that is skipped; empty where none is.
	cursor string
	after  event.ID
	// state is the job's state, sent before what follows it.
	state *hub.Item[frame]
}

// openJob joins the job's topic at the call's cursor or where replay says. It
// waits for a router's first word, at most openTimeout. Errors are gRPC statuses
// or ctx's cause.
func openJob(ctx context.Context, s *topics, in *eventbusv1.SubscribeRequest, c cursor) (*jobFeed, error) {
	f := &jobFeed{topics: s, reset: c.unreadable, reading: newReading(c)}
	f.start.after = c.after
	key := jobKey{in.GetDomain(), in.GetJobId()}
	if !c.given && in.GetReplay() != eventbusv1.Replay_REPLAY_UNSPECIFIED {
		var err error
		if f.start, err = s.locate(ctx, key, in.GetReplay()); err != nil {
			return nil, err
		}
		if st := f.start.state; st != nil && st.Final {
			return f, nil
		}
	}
	t, err := s.join(ctx, key, f.start.after)
	if err != nil {
		return nil, err
	}
	f.topic, f.sub = t, t.subscribe(f.start.after)
	return f, nil
}

// close lets go of the topic.
func (f *jobFeed) close() {
	f.caughtUp()
	if f.topic != nil {
		f.topics.leave(f.topic)
	}
}

// locate asks a router where a replay begins, by a subscription that ends at once.
func (s *topics) locate(ctx context.Context, key jobKey, replay eventbusv1.Replay) (start, error) {
	u, err := s.subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: key.domain, JobId: key.job, Replay: replay})
	if err != nil {
		return start{}, err
	}
	defer u.close()
	m, err := u.recv()
	if err != nil || m.GetCursor() == "" {
		return start{}, err // nothing is skipped: from the start
	}
	at := start{cursor: m.GetCursor()}
	if at.after, err = event.ParseID(at.cursor); err != nil {
		return start{}, status.Errorf(codes.Internal, "the router sent a cursor: %v", err)
	}
	if replay != eventbusv1.Replay_REPLAY_STATE {
		return at, nil
	}
	for len(m.GetEvents()) == 0 {
		if m, err = u.recv(); err != nil {
			return start{}, err
		}
		if m.GetGap() != nil {
			return at, nil // the log tells the browser itself
		}
	}
	var c encoder
	it, err := c.item(m.GetEvents()[0])
	if err != nil {
		return start{}, err
	}
	s.metrics.framesEncoded.Inc()
	at.state, at.after = &it, it.ID
	return at, nil
}

// begin implements feed.
func (f *jobFeed) begin(ctx context.Context, o *outlet) error {
	if f.reset {
		g := &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_LOG_RESET}
		// For the oldest id only: the events come with next. The opening does not
		// wait for it long.
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		if page, err := f.topic.log.Read(ctx, event.ID{}); err == nil && len(page.Items) > 0 {
			g.OldestId = page.Items[0].ID.String()
		}
		o.gap(g)
	}
	o.cursor(f.start.cursor)
	if f.start.state != nil {
		o.frame(f.start.state.Value)
	}
	return nil
}

// next implements feed.
func (f *jobFeed) next(ctx context.Context, o *outlet) error {
	if f.topic == nil {
		return io.EOF
	}
	if len(f.rest) > 0 {
		f.send(o, f.rest)
		return nil
	}
	for {
		b, err := f.batch(ctx)
		moved, isMoved := errors.AsType[*movedError](err)
		switch {
		case isMoved && moved.gap != nil:
			f.sub = f.topic.subscribe(event.ID{})
			if !f.reset {
				o.gap(moved.gap)
			}
			f.reset = true
			return nil
		case isMoved:
			f.sub = f.topic.subscribe(f.sub.Cursor())
			continue
		case errors.Is(err, errEnded):
			// Who is still behind gets the rest of the log first.
			f.last = true
			f.sub = hub.NewTopic[frame](limits()).Subscribe(f.sub.Cursor(), &f.topic.log)
			continue
		case errors.Is(err, errQuiet):
			return nil
		case err != nil:
			return err
		}
		if len(b.Items) == 0 {
			f.caughtUp()
		}
		if b.Gap != nil && !f.reset {
			o.gap(&eventbusv1.Gap{Reason: eventbusv1.Gap_Reason(b.Gap.Reason), OldestId: idText(b.Gap.Oldest)})
		}
		if len(b.Items) > 0 {
			f.reset = false
		}
		f.send(o, b.Items)
		return nil
	}
}

func (f *jobFeed) batch(ctx context.Context) (hub.Batch[frame], error) {
	if !f.last {
		return f.sub.Next(ctx, f.topics.heartbeat)
	}
	b, ok, err := f.sub.Ready(ctx)
	if !ok {
		err = io.EOF
	}
	return b, err
}

// plain tells whether nothing but what follows in the ring is owed.
func (f *jobFeed) plain() bool {
	return f.topic != nil && !f.reset && !f.last && len(f.rest) == 0
}

// send adds as many items as fit into one write; the others are the rest.
func (f *jobFeed) send(o *outlet, items []hub.Item[frame]) {
	bytes := 0
	for i, it := range items {
		if bytes += it.Size; i > 0 && bytes > limits().BatchBytes {
			o.events, f.rest = items[:i], items[i:]
			return
		}
		o.frame(it.Value)
	}
	o.events, f.rest = items, nil
}
