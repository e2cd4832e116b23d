package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// SubscribeOptions say where a subscription begins. The zero value is the job's
// start.
type SubscribeOptions struct {
	// After is the id of an event: resume after it.
	After string
	// Replay says where to begin without After.
	Replay eventbusv1.Replay
	// Silence is how long a router may say nothing before the stream is opened again;
	// longer than the routers' HEARTBEAT_INTERVAL (15 s). 0 is a minute.
	Silence time.Duration
}

// Subscribe follows one job, each event once and in order, over cuts and restarts of
// routers, for as long as the loop asks:
//
//	for m, err := range bus.Subscribe(ctx, "scan", id, client.SubscribeOptions{}) {
//		switch {
//		case err != nil: return err
//		case m.Gap != nil: // forget what was shown of the job
//		default: show(m.Event)
//		}
//	}
//
// The loop ends after the job's final event, and at once where the job is over and
// After is its final event. Where it ends otherwise, its last turn has an error: the
// bus's refusal, a gRPC status, or ctx's cause. While no router is there it waits. A
// slow loop costs the bus nothing and loses nothing within the retention.
func (c *Client) Subscribe(ctx context.Context, domain, jobID string, o SubscribeOptions) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		req := &eventbusv1.SubscribeRequest{Domain: domain, JobId: jobID, AfterId: o.After, Replay: o.Replay}
		f := follower[eventbusv1.SubscribeResponse]{
			log: c.log, what: []any{"domain", domain, "job_id", jobID}, silence: orSilence(o.Silence),
			open: func(ctx context.Context) (grpc.ServerStreamingClient[eventbusv1.SubscribeResponse], error) {
				return c.api.Subscribe(ctx, req)
			},
			take: func(m *eventbusv1.SubscribeResponse) bool { return takeJob(req, m, yield) },
		}
		finish(f.run(ctx), yield)
	}
}

// takeJob moves the request to where the next stream resumes, and hands the message
// on.
func takeJob(req *eventbusv1.SubscribeRequest, m *eventbusv1.SubscribeResponse, yield func(Message, error) bool) bool {
	if req.GetAfterId() == "" {
		// The first message says where the stream began: at a cursor, or at the start
		// of a job that had no event to skip. Asking for REPLAY_NONE again would skip
		// what came meanwhile.
		req.AfterId, req.Replay = m.GetCursor(), eventbusv1.Replay_REPLAY_UNSPECIFIED
	}
	if g := m.GetGap(); g != nil {
		req.AfterId = ""
		if !yield(Message{Gap: g}, nil) {
			return false
		}
	}
	for _, e := range m.GetEvents() {
		req.AfterId = e.GetId()
		if !yield(Message{Event: e, Cursor: e.GetId()}, nil) {
			return false
		}
	}
	return true
}

func orSilence(d time.Duration) time.Duration {
	if d <= 0 {
		return defaultSilence
	}
	return d
}

// finish tells the loop why it ends, unless the job is over or the loop was left.
func finish(err error, yield func(Message, error) bool) {
	if err != nil && !errors.Is(err, errLeft) {
		yield(Message{}, err)
	}
}
