package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// soon makes heartbeats frequent.
func soon(s *setup) { s.common.HeartbeatInterval = 20 * time.Millisecond }

func TestSubscribe_HeadersAndAnEmptyMessageComeBeforeTheJobExists(t *testing.T) {
	r := newRig(t)
	s, err := r.Subscribe(testContext(t), &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Header(); err != nil {
		t.Fatal(err)
	}
	first, err := s.Recv()
	if err != nil || proto.Size(first) != 0 {
		t.Fatalf("got %v, %v; want an empty message", first, err)
	}
	r.publish(t, scanEvent("j", "a"), scanEvent("j", "b"), finalEvent("j"))
	if d := cmp.Diff([]string{"a", "b", "done"}, stages(t, s, 3)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	wantEnd(t, s, codes.OK)
}

func TestSubscribe_ResumesAfterEveryIDWithoutLossOrRepeat(t *testing.T) {
	r := newRig(t)
	var events []*eventbusv1.Event
	var want []string
	for i := range 9 {
		events = append(events, scanEvent("j", fmt.Sprintf("s%d", i)))
		want = append(want, events[i].GetStage())
	}
	ids := r.publish(t, append(events, finalEvent("j"))...)
	want = append(want, "done")
	r.projected(t, 10)
	for i, id := range ids[:9] {
		s, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: id, Replay: eventbusv1.Replay_REPLAY_NONE})
		if d := cmp.Diff(want[i+1:], stages(t, s, 9-i)); d != "" {
			t.Errorf("after %s -want +got:\n%s", id, d)
		}
		wantEnd(t, s, codes.OK)
	}
	s, err := r.Subscribe(testContext(t), &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: ids[9]})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	wantCode(t, err, codes.OutOfRange)
}

func TestSubscribe_ReplaySkipsWithACursorToComeBackTo(t *testing.T) {
	r := newRig(t)
	ids := r.publish(t, scanEvent("j", "a"), scanEvent("j", "b"))
	r.projected(t, 2)
	state, first := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", Replay: eventbusv1.Replay_REPLAY_STATE})
	if first.GetCursor() != ids[0] {
		t.Errorf("state: cursor %q; want %s", first.GetCursor(), ids[0])
	}
	live, first := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", Replay: eventbusv1.Replay_REPLAY_NONE})
	if first.GetCursor() != ids[1] {
		t.Errorf("live: cursor %q; want %s", first.GetCursor(), ids[1])
	}
	all, first := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	if first.GetCursor() != "" {
		t.Errorf("all: cursor %q; want none", first.GetCursor())
	}
	r.publish(t, finalEvent("j"))
	for name, tc := range map[string]struct {
		s    grpc.ServerStreamingClient[eventbusv1.SubscribeResponse]
		want []string
	}{
		"state": {state, []string{"b", "done"}}, "live": {live, []string{"done"}}, "all": {all, []string{"a", "b", "done"}},
	} {
		if d := cmp.Diff(tc.want, stages(t, tc.s, len(tc.want))); d != "" {
			t.Errorf("%s -want +got:\n%s", name, d)
		}
		wantEnd(t, tc.s, codes.OK)
	}
}

func TestSubscribe_LiveOnlyOfAJobThatIsOverIsOutOfRange(t *testing.T) {
	r := newRig(t)
	r.publish(t, scanEvent("j", "a"), finalEvent("j"))
	r.projected(t, 2)
	s, err := r.Subscribe(testContext(t), &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", Replay: eventbusv1.Replay_REPLAY_NONE})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Recv()
	wantCode(t, err, codes.OutOfRange)
	if m != nil {
		t.Errorf("a message came before: %v", m)
	}
}

func TestSubscribe_UnknownCursorIsAGapThenEverything(t *testing.T) {
	r := newRig(t)
	id := r.publish(t, scanEvent("j", "a"), finalEvent("j"))[0]
	r.projected(t, 2)
	s, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "1-1"})
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if m.GetGap().GetReason() != eventbusv1.Gap_REASON_LOG_RESET || m.GetGap().GetOldestId() != id {
		t.Errorf("got %v; want a gap with %s", m, id)
	}
	n := len(m.GetEvents())
	if n > 0 && m.GetEvents()[0].GetId() != id {
		t.Errorf("after the gap: %v", m.GetEvents()[0])
	}
	stages(t, s, 2-n)
	wantEnd(t, s, codes.OK)
	if got := r.metric(t, "eventbus_grpc_gaps_sent_total", "rpc", "Subscribe", "reason", "REASON_LOG_RESET"); got != 1 {
		t.Errorf("%v gaps counted", got)
	}
}

func TestSubscribe_HeartbeatsComeWhileNothingHappens(t *testing.T) {
	r := newRig(t, soon)
	s, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	for range 3 {
		m, err := s.Recv()
		if err != nil || proto.Size(m) != 0 {
			t.Fatalf("got %v, %v; want a heartbeat", m, err)
		}
	}
	r.publish(t, finalEvent("j"))
	stages(t, s, 1)
	wantEnd(t, s, codes.OK)
}

// fakeSubscribe collects what is sent.
type fakeSubscribe struct {
	grpc.ServerStream
	sent []*eventbusv1.SubscribeResponse
}

func (f *fakeSubscribe) Send(m *eventbusv1.SubscribeResponse) error {
	f.sent = append(f.sent, m)
	return nil
}

// largeEvent has 110 kB on the wire.
func largeEvent(n int) *event.Event {
	return &event.Event{ID: event.ID{Ms: uint64(n + 1)}, Content: strings.Repeat("x", 100_000), Result: "[" + strings.Repeat("1,", 900) + "1]"}
}

func TestSubscribe_LargeEventsStayBelowTheMessageLimitOfClients(t *testing.T) {
	m, err := newMetrics(newRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := &service{streams: streams{subscribe: m.stream("Subscribe")}}
	b := router.Batch{Gap: &event.Gap{Reason: event.LogReset}}
	for i := range 50 {
		b.Items = append(b.Items, hub.Item[*event.Event]{Value: largeEvent(i)})
	}
	var out fakeSubscribe
	if err := s.sendBatch(&out, b); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, m := range out.sent {
		if size := proto.Size(m); size > maxMessageBytes {
			t.Errorf("message %d has %d bytes", i, size)
		}
		if (m.GetGap() != nil) != (i == 0) {
			t.Errorf("message %d: gap %v", i, m.GetGap())
		}
		for _, e := range m.GetEvents() {
			if n++; e.GetId() != fmt.Sprintf("%d-0", n) {
				t.Fatalf("event %d has id %s", n, e.GetId())
			}
		}
	}
	if n != 50 || len(out.sent) < 5 {
		t.Errorf("%d events in %d messages", n, len(out.sent))
	}
}

func TestSubscribe_OpenStreamsAndSentEventsAreCounted(t *testing.T) {
	r := newRig(t)
	s, _ := r.subscribe(t, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"})
	if got := r.metric(t, "eventbus_grpc_streams", "rpc", "Subscribe"); got != 1 {
		t.Errorf("%v streams open; want 1", got)
	}
	r.publish(t, scanEvent("j", "a"), finalEvent("j"))
	stages(t, s, 2)
	wantEnd(t, s, codes.OK)
	eventually(t, "no stream is open", func() bool { return r.metric(t, "eventbus_grpc_streams", "rpc", "Subscribe") == 0 })
	if got := r.metric(t, "eventbus_grpc_events_sent_total", "rpc", "Subscribe"); got != 2 {
		t.Errorf("%v events sent; want 2", got)
	}
}

func TestWatch_FollowsManyJobsAndEndsWhenAllAreFinal(t *testing.T) {
	r := newRig(t)
	w, err := r.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan", JobIds: []string{"a", "b"}, Stages: []string{"x", "done"}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil || len(first.GetEvents()) > 0 || strings.Count(first.GetCursor(), ",") != 3 {
		t.Fatalf("first message: %v, %v", first, err)
	}
	r.publish(t, scanEvent("a", "x"), scanEvent("b", "x"), scanEvent("c", "x"), scanEvent("a", "y"), finalEvent("a"), finalEvent("b"))
	got := watched(t, w, 4)
	want := map[string][]string{"a": {"x", "done"}, "b": {"x", "done"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	wantEnd(t, w, codes.OK)
	eventually(t, "no stream is open", func() bool { return r.metric(t, "eventbus_grpc_streams", "rpc", "Watch") == 0 })
}

// watched receives n events and returns their stages by job.
func watched(t *testing.T, w grpc.ServerStreamingClient[eventbusv1.WatchResponse], n int) map[string][]string {
	t.Helper()
	got := map[string][]string{}
	for n > 0 {
		m, err := w.Recv()
		if err != nil {
			t.Fatalf("%d events before the end: %v", n, err)
		}
		if m.GetCursor() == "" {
			t.Errorf("a message without cursor: %v", m)
		}
		n -= len(m.GetEvents())
		for _, e := range m.GetEvents() {
			got[e.GetJobId()] = append(got[e.GetJobId()], e.GetStage())
		}
	}
	return got
}

func TestWatch_ResumesAtTheCursorOfEachMessage(t *testing.T) {
	r := newRig(t)
	w, err := r.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	r.publish(t, scanEvent("a", "1"), scanEvent("b", "1"), scanEvent("a", "2"), scanEvent("b", "2"))
	watched(t, w, 4)
	again, err := r.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan", Cursor: first.GetCursor()})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"a": {"1", "2"}, "b": {"1", "2"}}
	if d := cmp.Diff(want, watched(t, again, 4)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestWatch_HeartbeatsCarryTheCursor(t *testing.T) {
	r := newRig(t, soon)
	w, err := r.Watch(testContext(t), &eventbusv1.WatchRequest{Domain: "scan"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m, err := w.Recv()
		if err != nil || len(m.GetEvents()) > 0 || m.GetCursor() == "" {
			t.Fatalf("got %v, %v; want a cursor", m, err)
		}
	}
}

// fakeWatch collects what is sent.
type fakeWatch struct {
	grpc.ServerStream
	sent []*eventbusv1.WatchResponse
}

func (f *fakeWatch) Send(m *eventbusv1.WatchResponse) error {
	f.sent = append(f.sent, m)
	return nil
}

func TestWatch_SplitBatchHasItsCursorAtTheEndOnly(t *testing.T) {
	m, err := newMetrics(newRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := &service{streams: streams{watch: m.stream("Watch")}}
	b := router.WatchBatch{Gap: &event.Gap{Reason: event.LogReset}, GapJob: "g", Cursor: "after"}
	for i := range 50 {
		b.Events = append(b.Events, largeEvent(i))
	}
	var out fakeWatch
	if err := s.sendWatch(&out, b, "before"); err != nil {
		t.Fatal(err)
	}
	events := 0
	for i, m := range out.sent {
		if n := proto.Size(m); n > 4<<20 {
			t.Errorf("message %d has %d bytes", i, n)
		}
		events += len(m.GetEvents())
		last := i == len(out.sent)-1
		if (m.GetCursor() == "after") != last || (m.GetCursor() == "before") == last {
			t.Errorf("message %d of %d: cursor %q", i, len(out.sent), m.GetCursor())
		}
		if (m.GetGap().GetJobId() == "g") != (i == 0) {
			t.Errorf("message %d: gap %v", i, m.GetGap())
		}
	}
	if events != 50 || len(out.sent) < 2 {
		t.Errorf("%d events in %d messages", events, len(out.sent))
	}
}

func TestFits_TakesAtLeastOne(t *testing.T) {
	big := hub.Item[*event.Event]{Value: &event.Event{Content: strings.Repeat("x", 2*maxMessageBytes)}}
	small := hub.Item[*event.Event]{Value: &event.Event{}}
	for _, tc := range []struct {
		items []hub.Item[*event.Event]
		want  int
	}{
		{nil, 0}, {[]hub.Item[*event.Event]{big}, 1}, {[]hub.Item[*event.Event]{big, small}, 1},
		{[]hub.Item[*event.Event]{small, small, big}, 2}, {[]hub.Item[*event.Event]{small, small}, 2},
	} {
		if got := fits(tc.items); got != tc.want {
			t.Errorf("of %d items %d fit; want %d", len(tc.items), got, tc.want)
		}
	}
}
