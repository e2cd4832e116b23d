package server

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// maxMessageBytes bounds the events of one message, save a single larger event.
// Most clients refuse messages over 4 MiB, and a result can be several times
// larger as a Value than as the JSON text that the bus counts.
const (
	maxMessageBytes = 1 << 20
	maxWatchBytes   = 3 << 20 // see sendWatch
)

// streams are the server streams. Each runs on the goroutine of its call: it
// waits for the bus, then for the client. A client that stops reading blocks only
// its own Send; the bus keeps nothing for it but a cursor.
type streams struct {
	heartbeat time.Duration
	subscribe streamMetrics
	watch     streamMetrics
}

// Subscribe streams one job.
func (s *service) Subscribe(r *eventbusv1.SubscribeRequest, out grpc.ServerStreamingServer[eventbusv1.SubscribeResponse]) error {
	after, hasAfter, err := s.rules.subscribe(r)
	if err != nil {
		return err
	}
	s.subscribe.open.Inc()
	defer s.subscribe.open.Dec()
	ctx := out.Context()
	sub, err := s.bus.Subscribe(ctx, r.GetDomain(), r.GetJobId(),
		router.SubscribeOptions{After: after, HasAfter: hasAfter, Replay: toReplay(r.GetReplay())})
	if err != nil {
		return err
	}
	defer sub.Close()
	// The first message carries the headers: the client knows now that it will see
	// whatever is published from here on.
	first := &eventbusv1.SubscribeResponse{}
	if id, ok := sub.Cursor(); ok {
		first.Cursor = idText(id)
	}
	if err := out.Send(first); err != nil {
		return err
	}
	for {
		batch, err := sub.Next(ctx, s.heartbeat)
		if err != nil {
			return endOf(err)
		}
		if err := s.sendBatch(out, batch); err != nil {
			return err
		}
	}
}

// sendBatch sends a batch in as many messages as it needs; an empty one is a
// heartbeat.
func (s *service) sendBatch(out grpc.ServerStreamingServer[eventbusv1.SubscribeResponse], b router.Batch) error {
	gap, items := gapToProto(b.Gap), b.Items
	for {
		n := fits(items)
		if err := out.Send(&eventbusv1.SubscribeResponse{Events: toProtos(items[:n]), Gap: gap}); err != nil {
			return err
		}
		if items, gap = items[n:], nil; len(items) == 0 {
			s.subscribe.delivered(len(b.Items), b.Gap)
			return nil
		}
	}
}

// Watch streams many jobs.
func (s *service) Watch(r *eventbusv1.WatchRequest, out grpc.ServerStreamingServer[eventbusv1.WatchResponse]) error {
	if err := s.rules.watch(r); err != nil {
		return err
	}
	s.watch.open.Inc()
	defer s.watch.open.Dec()
	ctx := out.Context()
	w, err := s.bus.Watch(ctx, r.GetDomain(), router.WatchOptions{Jobs: r.GetJobIds(), Stages: r.GetStages(), Cursor: r.GetCursor()})
	if err != nil {
		return err
	}
	defer w.Close()
	cursor := w.Cursor()
	if err := out.Send(&eventbusv1.WatchResponse{Cursor: cursor}); err != nil {
		return err
	}
	for {
		batch, err := w.Next(ctx, s.heartbeat)
		if err != nil {
			return endOf(err)
		}
		if err := s.sendWatch(out, batch, cursor); err != nil {
			return err
		}
		cursor = batch.Cursor
	}
}

// sendWatch sends a batch. Where it must be split, only its end has a cursor of
// its own; the messages before repeat that of the last batch, so that resuming
// there repeats events rather than losing them. That is why only a batch that most
// clients would refuse is split.
func (s *service) sendWatch(out grpc.ServerStreamingServer[eventbusv1.WatchResponse], b router.WatchBatch, before string) error {
	m := &eventbusv1.WatchResponse{Gap: gapToProto(b.Gap), Cursor: before}
	if m.Gap != nil {
		m.Gap.JobId = b.GapJob
	}
	bound, bytes := 0, 0
	for _, e := range b.Events {
		bound += wireBound(e)
	}
	for _, e := range b.Events {
		pe := toProto(e)
		if bound > maxWatchBytes {
			n := proto.Size(pe)
			if bytes += n; bytes > maxWatchBytes && len(m.GetEvents()) > 0 {
				if err := out.Send(m); err != nil {
					return err
				}
				m, bytes = &eventbusv1.WatchResponse{Cursor: before}, n
			}
		}
		m.Events = append(m.Events, pe)
	}
	m.Cursor = b.Cursor
	s.watch.delivered(len(b.Events), b.Gap)
	return out.Send(m)
}

// endOf is how a stream ends: OK after the final event.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func toReplay(r eventbusv1.Replay) router.Replay {
	switch r {
	case eventbusv1.Replay_REPLAY_STATE:
		return router.ReplayState
	case eventbusv1.Replay_REPLAY_NONE:
		return router.ReplayNone
	case eventbusv1.Replay_REPLAY_UNSPECIFIED:
	}
	return router.ReplayAll
}

// fits is how many of the items one message takes: at least one, where there is
// one.
func fits(items []hub.Item[*event.Event]) int {
	bytes := 0
	for i, it := range items {
		bytes += wireBound(it.Value)
		if i > 0 && bytes > maxMessageBytes {
			return i
		}
	}
	return len(items)
}

func toProtos(items []hub.Item[*event.Event]) []*eventbusv1.Event {
	if len(items) == 0 {
		return nil
	}
	out := make([]*eventbusv1.Event, len(items))
	for i, it := range items {
		out[i] = toProto(it.Value)
	}
	return out
}
