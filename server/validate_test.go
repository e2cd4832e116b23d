package server

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
)

func testValidator() *validator {
	return &validator{domains: []string{"scan", "chat"}, maxEventBytes: 262144}
}

// validRequest keeps every rule; change breaks some.
func validRequest(change func(*eventbusv1.PublishRequest)) *eventbusv1.PublishRequest {
	r := &eventbusv1.PublishRequest{Event: &eventbusv1.Event{Domain: "scan", JobId: "job-1", Stage: "vision"}}
	if change != nil {
		change(r)
	}
	return r
}

// wantViolations checks which fields are named, in order, and that the text has
// every part.
func wantViolations(t *testing.T, err error, fields []string, parts ...string) {
	t.Helper()
	if len(fields) == 0 {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	e, ok := errors.AsType[*event.Error](err)
	if !ok || e.Kind != event.Invalid {
		t.Fatalf("got %v; want Invalid", err)
	}
	var got []string
	for _, v := range e.Violations {
		got = append(got, v.Field)
		if v.Rule == "" {
			t.Errorf("%s: no rule", v.Field)
		}
	}
	if d := cmp.Diff(fields, got); d != "" {
		t.Errorf("fields -want +got:\n%s", d)
	}
	for _, p := range parts {
		if !strings.Contains(e.Text, p) {
			t.Errorf("text %q lacks %q", e.Text, p)
		}
	}
}

func nested(levels int, leaf *structpb.Value) *structpb.Value {
	for i := range levels {
		if i%2 == 0 {
			leaf = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{leaf}})
		} else {
			leaf = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"k": leaf}})
		}
	}
	return leaf
}

func manyAttributes(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("k%03d", i)] = "v"
	}
	return m
}

func TestPublish_EachRuleOfAnEventIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*eventbusv1.PublishRequest)
		fields []string
		parts  []string
	}{
		"valid":             {nil, nil, nil},
		"no event":          {func(r *eventbusv1.PublishRequest) { r.Event = nil }, []string{"event"}, []string{"event: must be set"}},
		"empty event":       {func(r *eventbusv1.PublishRequest) { r.Event = &eventbusv1.Event{} }, []string{"event.domain", "event.job_id", "event.stage"}, nil},
		"domain empty":      {func(r *eventbusv1.PublishRequest) { r.Event.Domain = "" }, []string{"event.domain"}, []string{event.DomainRule}},
		"domain syntax":     {func(r *eventbusv1.PublishRequest) { r.Event.Domain = "Scan" }, []string{"event.domain"}, []string{`"Scan"`, event.DomainRule}},
		"domain unknown":    {func(r *eventbusv1.PublishRequest) { r.Event.Domain = "nope" }, []string{"event.domain"}, []string{`"nope"`, "must be one of scan, chat"}},
		"job empty":         {func(r *eventbusv1.PublishRequest) { r.Event.JobId = "" }, []string{"event.job_id"}, []string{`""`, event.JobIDRule}},
		"job slash":         {func(r *eventbusv1.PublishRequest) { r.Event.JobId = "a/b" }, []string{"event.job_id"}, []string{`"a/b"`}},
		"job dot":           {func(r *eventbusv1.PublishRequest) { r.Event.JobId = "." }, []string{"event.job_id"}, nil},
		"job dots":          {func(r *eventbusv1.PublishRequest) { r.Event.JobId = ".." }, []string{"event.job_id"}, nil},
		"job three dots":    {func(r *eventbusv1.PublishRequest) { r.Event.JobId = "..." }, nil, nil},
		"job longest":       {func(r *eventbusv1.PublishRequest) { r.Event.JobId = strings.Repeat("a", 128) }, nil, nil},
		"job too long":      {func(r *eventbusv1.PublishRequest) { r.Event.JobId = strings.Repeat("a", 129) }, []string{"event.job_id"}, []string{"129 bytes"}},
		"job newline":       {func(r *eventbusv1.PublishRequest) { r.Event.JobId = "a\n" }, []string{"event.job_id"}, []string{`"a\n"`}},
		"stage empty":       {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "" }, []string{"event.stage"}, []string{event.StageRule}},
		"stage newline":     {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "x\ny" }, []string{"event.stage"}, []string{`"x\ny"`}},
		"stage error":       {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "error" }, []string{"event.stage"}, nil},
		"stage gap":         {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "gap" }, []string{"event.stage"}, nil},
		"stage open":        {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "open" }, []string{"event.stage"}, nil},
		"stage message":     {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "message" }, []string{"event.stage"}, nil},
		"stage errors":      {func(r *eventbusv1.PublishRequest) { r.Event.Stage = "errors" }, nil, nil},
		"stage too long":    {func(r *eventbusv1.PublishRequest) { r.Event.Stage = strings.Repeat("s", 65) }, []string{"event.stage"}, nil},
		"progress 0":        {func(r *eventbusv1.PublishRequest) { r.Event.Progress = proto.Int32(0) }, nil, nil},
		"progress 100":      {func(r *eventbusv1.PublishRequest) { r.Event.Progress = proto.Int32(100) }, nil, nil},
		"progress 101":      {func(r *eventbusv1.PublishRequest) { r.Event.Progress = proto.Int32(101) }, []string{"event.progress"}, []string{"101", "0-100"}},
		"progress -1":       {func(r *eventbusv1.PublishRequest) { r.Event.Progress = proto.Int32(-1) }, []string{"event.progress"}, []string{"-1"}},
		"id set":            {func(r *eventbusv1.PublishRequest) { r.Event.Id = "1-1" }, []string{"event.id"}, []string{`"1-1"`, "must be empty"}},
		"seq set":           {func(r *eventbusv1.PublishRequest) { r.Event.Seq = 5 }, []string{"event.seq"}, []string{"5"}},
		"time set":          {func(r *eventbusv1.PublishRequest) { r.Event.PublishTime = &timestamppb.Timestamp{} }, []string{"event.publish_time"}, nil},
		"too large":         {func(r *eventbusv1.PublishRequest) { r.Event.Content = strings.Repeat("y", 300000) }, []string{"event"}, []string{"is 3000", "262144"}},
		"key longest":       {func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = strings.Repeat("~", 128) }, nil, nil},
		"key too long":      {func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = strings.Repeat("~", 129) }, []string{"idempotency_key"}, []string{event.KeyRule}},
		"key with a tab":    {func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = "a\tb" }, []string{"idempotency_key"}, []string{`"a\tb"`}},
		"key not ASCII":     {func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = "é" }, []string{"idempotency_key"}, nil},
		"attributes most":   {func(r *eventbusv1.PublishRequest) { r.Event.Attributes = manyAttributes(MaxAttributes) }, nil, nil},
		"attributes many":   {func(r *eventbusv1.PublishRequest) { r.Event.Attributes = manyAttributes(MaxAttributes + 1) }, []string{"event.attributes"}, []string{"has 65", "at most 64"}},
		"attribute no name": {func(r *eventbusv1.PublishRequest) { r.Event.Attributes = map[string]string{"": "v"} }, []string{"event.attributes"}, []string{"1-128 bytes"}},
		"attribute long": {func(r *eventbusv1.PublishRequest) {
			r.Event.Attributes = map[string]string{strings.Repeat("k", 129): "v"}
		}, []string{"event.attributes"}, nil},
		"result null":        {func(r *eventbusv1.PublishRequest) { r.Event.Result = structpb.NewNullValue() }, nil, nil},
		"result no kind":     {func(r *eventbusv1.PublishRequest) { r.Event.Result = &structpb.Value{} }, []string{"event.result"}, []string{"null_value"}},
		"result NaN":         {func(r *eventbusv1.PublishRequest) { r.Event.Result = structpb.NewNumberValue(math.NaN()) }, []string{"event.result"}, []string{"NaN", "finite"}},
		"result Inf inside":  {func(r *eventbusv1.PublishRequest) { r.Event.Result = nested(2, structpb.NewNumberValue(math.Inf(-1))) }, []string{"event.result"}, []string{"-Inf"}},
		"result kind inside": {func(r *eventbusv1.PublishRequest) { r.Event.Result = nested(3, &structpb.Value{}) }, []string{"event.result"}, nil},
		"result deepest":     {func(r *eventbusv1.PublishRequest) { r.Event.Result = nested(MaxResultNesting, structpb.NewNullValue()) }, nil, nil},
		"result too deep": {func(r *eventbusv1.PublishRequest) {
			r.Event.Result = nested(MaxResultNesting+1, structpb.NewNullValue())
		}, []string{"event.result"}, []string{"at most 32 levels"}},
		"everything at once": {func(r *eventbusv1.PublishRequest) {
			r.IdempotencyKey = "\x00"
			r.Event = &eventbusv1.Event{
				Domain: "nope", JobId: "/", Id: "x", Seq: 1, PublishTime: &timestamppb.Timestamp{}, Stage: "gap",
				Progress: proto.Int32(200), Attributes: map[string]string{"": ""}, Result: &structpb.Value{}, Content: strings.Repeat("y", 262144),
			}
		}, []string{
			"idempotency_key", "event", "event.domain", "event.job_id", "event.id", "event.seq", "event.publish_time",
			"event.stage", "event.progress", "event.attributes", "event.result",
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			wantViolations(t, testValidator().publish(validRequest(tc.change)), tc.fields, tc.parts...)
		})
	}
}

func TestPublish_SizeIsThatOfTheEncodedEvent(t *testing.T) {
	v := testValidator()
	r := validRequest(nil)
	v.maxEventBytes = proto.Size(r.GetEvent())
	wantViolations(t, v.publish(r), nil)
	v.maxEventBytes--
	wantViolations(t, v.publish(r), []string{"event"},
		fmt.Sprintf("is %d bytes", proto.Size(r.GetEvent())), fmt.Sprintf("must be at most %d", v.maxEventBytes))
}

func TestPublish_KeyIsRequiredWhereReplicasMustConfirm(t *testing.T) {
	v := testValidator()
	v.keyRequired = true
	wantViolations(t, v.publish(validRequest(nil)), []string{"idempotency_key"}, "PUBLISH_MIN_REPLICAS")
	wantViolations(t, v.publish(validRequest(func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = "k" })), nil)
}

func TestPublishBatch_NamesEveryBadRequest(t *testing.T) {
	v := testValidator()
	bad := validRequest(func(r *eventbusv1.PublishRequest) { r.Event.Stage, r.IdempotencyKey = "", "é" })
	wantViolations(t, v.batch(&eventbusv1.PublishBatchRequest{Requests: []*eventbusv1.PublishRequest{
		validRequest(nil), bad, validRequest(nil), {}, bad,
	}}), []string{
		"requests[1].idempotency_key", "requests[1].event.stage", "requests[3].event",
		"requests[4].idempotency_key", "requests[4].event.stage",
	})
}

func TestPublishBatch_IsBounded(t *testing.T) {
	v := testValidator()
	batch := func(n int, content string) *eventbusv1.PublishBatchRequest {
		r := validRequest(func(r *eventbusv1.PublishRequest) { r.Event.Content = content })
		return &eventbusv1.PublishBatchRequest{Requests: slices.Repeat([]*eventbusv1.PublishRequest{r}, n)}
	}
	wantViolations(t, v.batch(batch(0, "")), []string{"requests"}, "has 0", "1-1000")
	wantViolations(t, v.batch(batch(1, "")), nil)
	wantViolations(t, v.batch(batch(MaxBatchRequests, "")), nil)
	wantViolations(t, v.batch(batch(MaxBatchRequests+1, "")), []string{"requests"}, "has 1001")
	wantViolations(t, v.batch(batch(31, strings.Repeat("y", 262000))), nil)
	wantViolations(t, v.batch(batch(33, strings.Repeat("y", 262000))), []string{"requests"}, "at most 8388608")
}

func TestSubscribe_EachRuleOfTheRequestIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		r      *eventbusv1.SubscribeRequest
		fields []string
		parts  []string
	}{
		"valid":           {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j"}, nil, nil},
		"cursor":          {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "1737415902456-0"}, nil, nil},
		"empty":           {&eventbusv1.SubscribeRequest{}, []string{"domain", "job_id"}, nil},
		"domain":          {&eventbusv1.SubscribeRequest{Domain: "nope", JobId: "j"}, []string{"domain"}, []string{"scan, chat"}},
		"after_id":        {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "abc"}, []string{"after_id"}, []string{`"abc"`, "[0-9]+-[0-9]+"}},
		"after_id half":   {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "1737415902456"}, []string{"after_id"}, nil},
		"after_id huge":   {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "99999999999999999999-0"}, []string{"after_id"}, nil},
		"after_id symbol": {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "$"}, []string{"after_id"}, nil},
		"replay":          {&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", Replay: 3}, []string{"replay"}, []string{"3", "REPLAY_STATE"}},
		"all": {
			&eventbusv1.SubscribeRequest{Domain: "A", JobId: "/", AfterId: "-", Replay: -1},
			[]string{"domain", "job_id", "after_id", "replay"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := testValidator().subscribe(tc.r)
			wantViolations(t, err, tc.fields, tc.parts...)
		})
	}
	after, ok, err := testValidator().subscribe(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "5-7"})
	if after != (event.ID{Ms: 5, Seq: 7}) || !ok || err != nil {
		t.Errorf("got %v, %v, %v", after, ok, err)
	}
}

func TestListEvents_EachRuleOfTheRequestIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		size   int32
		after  string
		want   int
		fields []string
	}{
		"default":  {0, "", 100, nil},
		"one":      {1, "1-1", 1, nil},
		"most":     {1000, "", 1000, nil},
		"negative": {-1, "", 0, []string{"page_size"}},
		"more":     {1001, "", 0, []string{"page_size"}},
		"after_id": {0, "x", 0, []string{"after_id"}},
		"both":     {1001, "x", 0, []string{"after_id", "page_size"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, size, err := testValidator().list(&eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j", AfterId: tc.after, PageSize: tc.size})
			wantViolations(t, err, tc.fields)
			if err == nil && size != tc.want {
				t.Errorf("size %d, want %d", size, tc.want)
			}
		})
	}
	_, _, err := testValidator().list(&eventbusv1.ListEventsRequest{PageSize: 7000})
	wantViolations(t, err, []string{"domain", "job_id", "page_size"}, "7000", "0-1000")
}

func TestGetState_EachRuleOfTheRequestIsNamed(t *testing.T) {
	v := testValidator()
	wantViolations(t, v.getState(&eventbusv1.GetStateRequest{Domain: "chat", JobId: "j"}), nil)
	wantViolations(t, v.getState(&eventbusv1.GetStateRequest{Domain: "x", JobId: ".."}), []string{"domain", "job_id"})
}

func TestWatch_EachRuleOfTheRequestIsNamed(t *testing.T) {
	names := func(n int) []string { return slices.Repeat([]string{"j"}, n) }
	for name, tc := range map[string]struct {
		r      *eventbusv1.WatchRequest
		fields []string
		parts  []string
	}{
		"domain only": {&eventbusv1.WatchRequest{Domain: "scan"}, nil, nil},
		"everything":  {&eventbusv1.WatchRequest{Domain: "scan", JobIds: names(256), Stages: []string{"vision", "error", "단계"}, Cursor: "1-0,0-0,3-3,4-4"}, nil, nil},
		"no domain":   {&eventbusv1.WatchRequest{}, []string{"domain"}, nil},
		"many jobs":   {&eventbusv1.WatchRequest{Domain: "scan", JobIds: names(257)}, []string{"job_ids"}, []string{"has 257", "at most 256"}},
		"many stages": {&eventbusv1.WatchRequest{Domain: "scan", Stages: names(257)}, []string{"stages"}, []string{"has 257"}},
		"job":         {&eventbusv1.WatchRequest{Domain: "scan", JobIds: []string{"a", "b", "c/d", ""}}, []string{"job_ids[2]", "job_ids[3]"}, []string{`"c/d"`}},
		"stage":       {&eventbusv1.WatchRequest{Domain: "scan", Stages: []string{"a", "", strings.Repeat("s", 257)}}, []string{"stages[1]", "stages[2]"}, nil},
		"cursor":      {&eventbusv1.WatchRequest{Domain: "scan", Cursor: "1-0,x"}, []string{"cursor"}, []string{`"1-0,x"`}},
		"cursor end":  {&eventbusv1.WatchRequest{Domain: "scan", Cursor: "1-0,"}, []string{"cursor"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			wantViolations(t, testValidator().watch(tc.r), tc.fields, tc.parts...)
		})
	}
}
