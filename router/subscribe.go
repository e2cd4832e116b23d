package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// Replay says where a subscription without a cursor begins.
type Replay int

// The replays.
const (
	// ReplayAll: all retained events, then live.
	ReplayAll Replay = iota
	// ReplayState: the state, then live.
	ReplayState
	// ReplayNone: live only.
	ReplayNone
)

// SubscribeOptions says where a subscription begins.
type SubscribeOptions struct {
	// After is the cursor, where HasAfter; Replay is ignored then.
	After    event.ID
	HasAfter bool
	Replay   Replay
}

// Batch is what a subscription delivers at once.
type Batch = hub.Batch[*event.Event]

// Subscription is one job as one subscriber sees it: every event once and in
// order, or a gap. It belongs to one goroutine, which closes it.
type Subscription struct {
	bus   *Bus
	topic *topic
	sub   *hub.Subscription[*Shown]
	// first is what Subscribe found already.
	first     Batch
	haveFirst bool
	ended     bool
	items     []item // reused by decode
	cursor    event.ID
	hasCursor bool
}

// Subscribe begins a subscription. It returns when what is published from now on
// will be seen, and the first read of the log is done. OutOfRange: nothing will
// ever follow the cursor.
func (b *Bus) Subscribe(ctx context.Context, domain, jobID string, o SubscribeOptions) (*Subscription, error) {
	key := topicKey{domain, jobID}
	s := &Subscription{bus: b, topic: b.hub.acquire(ctx, key)}
	if err := s.begin(ctx, key, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Subscription) begin(ctx context.Context, key topicKey, o SubscribeOptions) error {
	log := s.bus.jobLog(key.domain, key.jobID)
	start, err := s.start(ctx, log, key, o)
	if err != nil || s.ended {
		return err
	}
	s.sub = s.topic.Subscribe(start, log)
	if s.haveFirst {
		return nil // the state comes first
	}
	first, ok, err := s.sub.Ready(ctx)
	if errors.Is(err, io.EOF) {
		return overAt(key.jobID, start)
	}
	if err == nil {
		s.first, err = s.decode(first)
	}
	s.haveFirst = ok
	return err
}

// overAt is the answer to who has the final event already.
func overAt(jobID string, last event.ID) error {
	return event.Errorf(event.OutOfRange, "job %s ended with %s", jobID, last)
}

// decode makes events of what the hub has.
func (s *Subscription) decode(b hub.Batch[*Shown]) (Batch, error) {
	s.items = s.items[:0]
	for _, it := range b.Items {
		e, err := it.Value.Event()
		if err != nil {
			return Batch{}, err // not possible: hear checked it
		}
		s.items = append(s.items, itemOf(e))
	}
	return Batch{Gap: b.Gap, Items: s.items}, nil
}

// start finds the cursor to begin after. The reads come after the join, so that
// nothing falls in between.
func (s *Subscription) start(ctx context.Context, log *jobLog, key topicKey, o SubscribeOptions) (event.ID, error) {
	switch {
	case o.HasAfter:
		return o.After, nil
	case o.Replay == ReplayNone:
		tail, err := log.tail(ctx, event.MaxID())
		if err != nil || tail == nil {
			return event.ID{}, err
		}
		if tail.Final {
			return event.ID{}, overAt(key.jobID, tail.ID)
		}
		s.cursor, s.hasCursor = tail.ID, true
		return tail.ID, nil
	case o.Replay == ReplayState:
		state, err := s.bus.State(ctx, key.domain, key.jobID)
		if event.KindOf(err) == event.NotFound {
			return event.ID{}, nil
		}
		if err != nil {
			return event.ID{}, err
		}
		if err := s.skipTo(ctx, log, state); err != nil {
			return event.ID{}, err
		}
		s.first, s.haveFirst, s.ended = Batch{Items: []item{itemOf(state)}}, true, state.Final
		return state.ID, nil
	}
	return event.ID{}, nil
}

// skipTo makes the cursor that of the last event before the state: who sees
// nothing but the cursor and comes back gets the state then.
func (s *Subscription) skipTo(ctx context.Context, log *jobLog, state *event.Event) error {
	if state.Seq == 1 {
		return nil
	}
	s.cursor, s.hasCursor = state.ID.Prev(), true
	before, err := log.tail(ctx, state.ID)
	if err != nil {
		return err
	}
	if before != nil {
		s.cursor = before.ID
	}
	return nil
}

// Cursor is where a subscription that has seen nothing yet resumes; ok is false
// where nothing was skipped.
func (s *Subscription) Cursor() (id event.ID, ok bool) { return s.cursor, s.hasCursor }

// Next waits for events; see hub.Subscription.Next. Unavailable: the bus stops.
func (s *Subscription) Next(ctx context.Context, idle time.Duration) (Batch, error) {
	if s.haveFirst {
		s.haveFirst = false
		return s.first, nil
	}
	if s.ended {
		return Batch{}, io.EOF
	}
	b, err := s.sub.Next(ctx, idle)
	if err != nil {
		return Batch{}, err
	}
	return s.decode(b)
}

// Close ends the subscription. It must be called once.
func (s *Subscription) Close() { s.bus.hub.release(s.topic) }

// State returns the latest event of a job that is final or not streaming;
// NotFound where there is none.
func (b *Bus) State(ctx context.Context, domain, jobID string) (*event.Event, error) {
	text, err := b.streams.Get(ctx, stateKey(domain, jobID)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, event.Errorf(event.NotFound, "job %s has no state", jobID)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	e := new(event.Event)
	if err := json.Unmarshal([]byte(text), e); err != nil || e.JobID != jobID {
		// The router that is replaced writes another form under this key.
		return nil, &event.Error{Kind: event.NotFound, Text: fmt.Sprintf("job %s has no state", jobID), Err: err}
	}
	return e, nil
}

// List returns up to n events after the cursor, fewer where they are large.
func (b *Bus) List(ctx context.Context, domain, jobID string, after event.ID, n int) (hub.Page[*event.Event], error) {
	log := b.jobLog(domain, jobID)
	log.size = n
	page, err := log.Read(ctx, after)
	if event.KindOf(err) == event.OutOfRange {
		return hub.Page[*event.Event]{}, nil
	}
	out := hub.Page[*event.Event]{Gap: page.Gap, Items: make([]item, len(page.Items))}
	for i, it := range page.Items {
		out.Items[i] = itemOf(it.Value.event) // the log's are decoded
	}
	return out, err
}

func (b *Bus) jobLog(domain, jobID string) *jobLog {
	return &jobLog{jobLogs: b.logs, domain: domain, jobID: jobID}
}
