package server

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

func TestPublish_EventComesBackWholeInStateAndList(t *testing.T) {
	r := newRig(t)
	sent := &eventbusv1.Event{
		Domain: "chat", JobId: "whole", Stage: "vision.v2", Status: "completed", Progress: proto.Int32(0), Message: "été\n",
		Content: "\u2028\"", Attributes: map[string]string{"k": "v", "\"": "\\"}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Result: structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
			structpb.NewNumberValue(1.5), structpb.NewNullValue(), structpb.NewStringValue("zwei"),
			structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"": structpb.NewBoolValue(true)}}),
		}}),
	}
	resp, err := r.Publish(testContext(t), &eventbusv1.PublishRequest{Event: sent})
	if err != nil {
		t.Fatal(err)
	}
	id, err := event.ParseID(resp.GetId())
	if err != nil || resp.GetDuplicate() {
		t.Fatalf("got %v, %v", resp, err)
	}
	want := proto.CloneOf(sent)
	want.Id, want.Seq = id.String(), 1
	want.PublishTime = toProto(&event.Event{PublishMs: id.Ms}).GetPublishTime()
	var state *eventbusv1.GetStateResponse
	eventually(t, "there is a state", func() bool {
		state, err = r.GetState(testContext(t), &eventbusv1.GetStateRequest{Domain: "chat", JobId: "whole"})
		return err == nil
	})
	if d := cmp.Diff(want, state.GetEvent(), protocmp.Transform()); d != "" {
		t.Errorf("state -want +got:\n%s", d)
	}
	list, err := r.ListEvents(testContext(t), &eventbusv1.ListEventsRequest{Domain: "chat", JobId: "whole"})
	if err != nil {
		t.Fatal(err)
	}
	wantList := &eventbusv1.ListEventsResponse{Events: []*eventbusv1.Event{want}, NextAfterId: id.String()}
	if d := cmp.Diff(wantList, list, protocmp.Transform()); d != "" {
		t.Errorf("list -want +got:\n%s", d)
	}
}

func TestPublish_KnownKeyIsADuplicateAndAnOverJobIsRefused(t *testing.T) {
	r := newRig(t)
	final := &eventbusv1.PublishRequest{Event: finalEvent("j"), IdempotencyKey: "k"}
	first, err := r.Publish(testContext(t), final)
	if err != nil || first.GetDuplicate() {
		t.Fatalf("got %v, %v", first, err)
	}
	again, err := r.Publish(testContext(t), final)
	if err != nil || !again.GetDuplicate() || again.GetId() != first.GetId() {
		t.Errorf("repeat: got %v, %v; want duplicate %s", again, err, first.GetId())
	}
	_, err = r.Publish(testContext(t), &eventbusv1.PublishRequest{Event: scanEvent("j", "late")})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = r.PublishBatch(testContext(t), &eventbusv1.PublishBatchRequest{Requests: []*eventbusv1.PublishRequest{{Event: scanEvent("j", "late")}}})
	wantCode(t, err, codes.FailedPrecondition)
}

func TestPublishBatch_AnswersInOrderAndWritesNothingWhenOneIsInvalid(t *testing.T) {
	r := newRig(t)
	bad := &eventbusv1.PublishBatchRequest{Requests: []*eventbusv1.PublishRequest{
		{Event: scanEvent("j", "a")}, {Event: scanEvent("j", "open")},
	}}
	_, err := r.PublishBatch(testContext(t), bad)
	wantCode(t, err, codes.InvalidArgument)
	ids := r.publish(t, scanEvent("j", "a"), scanEvent("other", "x"), scanEvent("j", "b"), scanEvent("j", "c"))
	events := r.projected(t, 3)
	var got []string
	for _, e := range events {
		got = append(got, e.GetStage()+" "+e.GetId())
	}
	want := []string{"a " + ids[0], "b " + ids[2], "c " + ids[3]}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestService_BadInputIsInvalidArgumentThatNamesFieldValueAndRule(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	stream := func(_ any, err error) error { return err }
	recv := func(s interface{ RecvMsg(any) error }, err error) error {
		if err != nil {
			return err
		}
		return s.RecvMsg(&eventbusv1.WatchResponse{})
	}
	for name, tc := range map[string]struct {
		err                error
		field, description string
	}{
		"publish": {
			stream(r.Publish(ctx, &eventbusv1.PublishRequest{Event: scanEvent("a/b", "x")})),
			"event.job_id", `"a/b": ` + event.JobIDRule,
		},
		"publish nothing": {stream(r.Publish(ctx, &eventbusv1.PublishRequest{})), "event", "must be set"},
		"batch": {
			stream(r.PublishBatch(ctx, &eventbusv1.PublishBatchRequest{Requests: []*eventbusv1.PublishRequest{
				{Event: scanEvent("a", "x")}, {Event: scanEvent("a", "gap")},
			}})),
			"requests[1].event.stage", `"gap": ` + event.StageRule,
		},
		"state": {
			stream(r.GetState(ctx, &eventbusv1.GetStateRequest{Domain: "nope", JobId: "a"})),
			"domain", `"nope": must be one of scan, chat`,
		},
		"list": {
			stream(r.ListEvents(ctx, &eventbusv1.ListEventsRequest{Domain: "scan", JobId: "a", PageSize: 1001})),
			"page_size", "1001: must be 0-1000; 0 is 100",
		},
		"subscribe": {
			recv(r.Subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "a", AfterId: "x"})),
			"after_id", `"x": must be an id of the form [0-9]+-[0-9]+`,
		},
		"watch": {
			recv(r.Watch(ctx, &eventbusv1.WatchRequest{Domain: "scan", JobIds: []string{""}})),
			"job_ids[0]", `"": ` + event.JobIDRule,
		},
		"watch cursor of another shard count": {
			recv(r.Watch(ctx, &eventbusv1.WatchRequest{Domain: "scan", Cursor: "1-0"})), "cursor", "",
		},
	} {
		s := status.Convert(tc.err)
		if s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), tc.field) {
			t.Errorf("%s: got %v", name, tc.err)
			continue
		}
		if len(s.Details()) != 1 {
			t.Errorf("%s: details %v", name, s.Details())
			continue
		}
		vs := s.Details()[0].(*errdetails.BadRequest).GetFieldViolations()
		if len(vs) != 1 || vs[0].GetField() != tc.field || !strings.Contains(vs[0].GetDescription(), tc.description) {
			t.Errorf("%s: got %v; want %s: %s", name, vs, tc.field, tc.description)
		}
	}
}

func TestPublishBatch_TooLargeIsToldSoByName(t *testing.T) {
	r := newRig(t)
	req := &eventbusv1.PublishBatchRequest{}
	for range 40 {
		e := scanEvent("j", "x")
		e.Content = strings.Repeat("y", 250_000)
		req.Requests = append(req.Requests, &eventbusv1.PublishRequest{Event: e})
	}
	_, err := r.PublishBatch(testContext(t), req)
	wantCode(t, err, codes.InvalidArgument)
	if !strings.Contains(err.Error(), fmt.Sprint(MaxBatchBytes)) {
		t.Errorf("got %v", err)
	}
}

func TestGetState_OfNothingIsNotFound(t *testing.T) {
	r := newRig(t)
	_, err := r.GetState(testContext(t), &eventbusv1.GetStateRequest{Domain: "scan", JobId: "none"})
	wantCode(t, err, codes.NotFound)
}

func TestListEvents_PagesToTheEndAndOn(t *testing.T) {
	r := newRig(t)
	var events []*eventbusv1.Event
	for i := range 5 {
		events = append(events, scanEvent("j", fmt.Sprintf("s%d", i)))
	}
	r.publish(t, events...)
	r.projected(t, 5)
	after := ""
	var got []string
	poll := func() int {
		page, err := r.ListEvents(testContext(t), &eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j", AfterId: after, PageSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		if page.GetGap() != nil {
			t.Errorf("gap: %v", page.GetGap())
		}
		for _, e := range page.GetEvents() {
			got = append(got, e.GetStage())
		}
		after = page.GetNextAfterId()
		return len(page.GetEvents())
	}
	for _, want := range []int{2, 2, 1, 0, 0} {
		if n := poll(); n != want {
			t.Errorf("page of %d; want %d", n, want)
		}
	}
	r.publish(t, scanEvent("j", "s5"))
	r.projected(t, 6)
	if n := poll(); n != 1 {
		t.Errorf("after the end: page of %d; want 1", n)
	}
	if d := cmp.Diff([]string{"s0", "s1", "s2", "s3", "s4", "s5"}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestListEvents_UnknownCursorIsAGapThenTheOldest(t *testing.T) {
	r := newRig(t)
	id := r.publish(t, scanEvent("j", "a"))[0]
	r.projected(t, 1)
	page, err := r.ListEvents(testContext(t), &eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j", AfterId: "1-1"})
	if err != nil {
		t.Fatal(err)
	}
	if page.GetGap().GetOldestId() != id || page.GetGap().GetReason() == 0 || len(page.GetEvents()) != 1 || page.GetNextAfterId() != id {
		t.Errorf("got %v", page)
	}
}

func TestListEvents_PageIsNoLargerThanAMessageMayBe(t *testing.T) {
	page := hub.Page[*event.Event]{}
	for i := range 20 {
		e := largeEvent(i)
		page.Items = append(page.Items, hub.Item[*event.Event]{ID: e.ID, Value: e})
	}
	var got []string
	after := event.ID{}
	for len(page.Items) > 0 {
		resp := pageToProto(page, after)
		if n := proto.Size(resp); n > maxMessageBytes {
			t.Fatalf("%d bytes", n)
		}
		if len(resp.GetEvents()) == 0 {
			t.Fatal("a page without an event never ends")
		}
		for _, e := range resp.GetEvents() {
			got = append(got, e.GetId())
		}
		page.Items = page.Items[len(resp.GetEvents()):]
		if after, _ = event.ParseID(resp.GetNextAfterId()); after.String() != got[len(got)-1] {
			t.Errorf("next_after_id %s after %s", resp.GetNextAfterId(), got[len(got)-1])
		}
	}
	if len(got) != 20 {
		t.Errorf("%d of 20 events", len(got))
	}
}

func TestListEvents_EmptyPageKeepsThePollersPlace(t *testing.T) {
	if got := pageToProto(hub.Page[*event.Event]{}, event.ID{Ms: 5}).GetNextAfterId(); got != "5-0" {
		t.Errorf("got %q", got)
	}
	if got := pageToProto(hub.Page[*event.Event]{}, event.ID{}).GetNextAfterId(); got != "" {
		t.Errorf("of an unknown job: got %q", got)
	}
	gone := hub.Page[*event.Event]{Gap: &event.Gap{Reason: event.LogReset}}
	if got := pageToProto(gone, event.ID{Ms: 5}); got.GetNextAfterId() != "" || got.GetGap() == nil {
		t.Errorf("the cursor's log is gone: got %v", got)
	}
}

func TestService_RedisAwayIsUnavailable(t *testing.T) {
	r := newRig(t)
	if err := r.redis.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := r.GetState(testContext(t), &eventbusv1.GetStateRequest{Domain: "scan", JobId: "j"})
	wantCode(t, err, codes.Unavailable)
	_, err = r.Publish(testContext(t), &eventbusv1.PublishRequest{Event: scanEvent("j", "x")})
	wantCode(t, err, codes.Unavailable)
}

func TestService_ClientDeadlineIsDeadlineExceeded(t *testing.T) {
	t.Parallel() // it waits
	r := newRig(t)
	request := &eventbusv1.GetStateRequest{Domain: "scan", JobId: "j"}
	_, err := r.GetState(testContext(t), request) // connects
	wantCode(t, err, codes.NotFound)
	if err := r.redis.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.redis.Resume() }()
	// Time for the call to reach the server, and less than the server waits for Redis.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = r.GetState(ctx, request)
	wantCode(t, err, codes.DeadlineExceeded)
	handled := func(code string) float64 {
		return r.metric(t, "grpc_server_handled_total", "grpc_method", "GetState", "grpc_code", code)
	}
	// The client's reset may be there before the server's own clock.
	eventually(t, "the server gave up, too", func() bool { return handled("DeadlineExceeded")+handled("Canceled") == 1 })
}
