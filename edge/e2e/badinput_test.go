package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// Each rule of the contract, over HTTP: the answer is the status, always a
// google.rpc.Status, and names the field and what is wrong with it.
func TestBadInput_OverHTTPIsAnsweredWithTheRule(t *testing.T) {
	t.Parallel()
	b := newBus(t, settings{"CORS_ORIGINS": "https://app.example.com"})
	sse, json := header{"Accept", "text/event-stream"}, header{"Content-Type", "application/json"}
	many := strings.Repeat("job_ids=j&", 257)
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []header
		status                   int
		code                     codes.Code
		says                     []string
	}{
		{"unknown domain", "GET", "/api/v1/nope/j/events", "", []header{sse}, 400, codes.InvalidArgument, []string{"domain", `\"nope\"`, "scan, chat"}},
		{"no domain", "GET", "/api/v1/Scan/j/events", "", []header{sse}, 400, codes.InvalidArgument, []string{"domain", `\"Scan\"`, "[a-z][a-z0-9-]{0,31}"}},
		{"job_id with a blank", "GET", "/api/v1/scan/a%20b/events", "", []header{sse}, 400, codes.InvalidArgument, []string{"job_id", `\"a b\"`}},
		{"job_id of dots", "GET", "/api/v1/scan/%2e%2e/events", "", []header{sse}, 400, codes.InvalidArgument, []string{"job_id", `\"..\"`}},
		{"job_id too long", "GET", "/api/v1/scan/" + strings.Repeat("j", 129) + "/events", "", []header{sse}, 400, codes.InvalidArgument, []string{"job_id", "1-128"}},
		{"job_id not ASCII", "GET", "/api/v1/scan/%EC%BA%94/events", "", []header{sse}, 400, codes.InvalidArgument, []string{"job_id"}},
		{"legacy without job_id", "GET", "/api/v1/stream", "", []header{sse}, 400, codes.InvalidArgument, []string{"job_id"}},
		{"cursor", "GET", events("scan", "j") + "?last_event_id=recovery:12", "", []header{sse}, 400, codes.InvalidArgument, []string{"after_id", `\"recovery:12\"`}},
		{"cursor of NDJSON", "GET", events("scan", "j") + "?after_id=1-", "", nil, 400, codes.InvalidArgument, []string{"after_id", `\"1-\"`}},
		{"cursor of another shard count", "GET", "/api/v1/scan/events?cursor=1-0,2-0", "", []header{sse}, 400, codes.InvalidArgument, []string{"cursor", "4 ids"}},
		{"replay", "GET", events("scan", "j") + "?replay=REPLAY_SOME", "", []header{sse}, 400, codes.InvalidArgument, []string{"replay"}},
		{"too many jobs", "GET", "/api/v1/scan/events?" + many, "", []header{sse}, 400, codes.InvalidArgument, []string{"job_ids", "257", "256"}},
		{"a bad one of the jobs", "GET", "/api/v1/scan/events?job_ids=a&job_ids=b%2Fc", "", []header{sse}, 400, codes.InvalidArgument, []string{"job_ids[1]", `\"b/c\"`}},
		{"percent-encoding", "GET", events("scan", "j") + "?after_id=%FF", "", []header{sse}, 400, codes.InvalidArgument, []string{"UTF-8"}},
		{"GET with a body", "GET", events("scan", "j"), "{}", []header{sse}, 400, codes.InvalidArgument, []string{"body"}},
		{"state of nothing", "GET", "/api/v1/scan/nothing/state", "", nil, 404, codes.NotFound, []string{"nothing"}},
		{"state of a bad name", "GET", "/api/v1/scan/a%20b/state", "", nil, 400, codes.InvalidArgument, []string{"job_id"}},
		{"unknown path", "GET", "/api/v2/scan/j/events", "", []header{sse}, 404, codes.NotFound, nil},
		{"long path", "GET", "/api/v1/scan/" + strings.Repeat("j", 2000) + "/events", "", []header{sse}, 414, codes.InvalidArgument, nil},
		{"long query", "GET", events("scan", "j") + "?x=" + strings.Repeat("x", 41<<10), "", []header{sse}, 414, codes.InvalidArgument, nil},

		{"DELETE", "DELETE", events("scan", "j"), "", nil, 405, codes.Unimplemented, []string{"DELETE"}},
		{"PUT", "PUT", events("scan", "j"), "{}", []header{json}, 405, codes.Unimplemented, []string{"PUT"}},
		{"PATCH", "PATCH", events("scan", "j"), "{}", []header{json}, 405, codes.Unimplemented, []string{"PATCH"}},
		{"POST to Watch", "POST", "/api/v1/scan/events", "{}", []header{json}, 405, codes.Unimplemented, nil},
		{"POST to the legacy path", "POST", "/api/v1/stream?job_id=j", "{}", []header{json}, 405, codes.Unimplemented, nil},
		{"POST to the state", "POST", "/api/v1/scan/j/state", "{}", []header{json}, 405, codes.Unimplemented, nil},
		{"POST to the description", "POST", "/openapi.json", "{}", []header{json}, 405, codes.Unimplemented, nil},
		{"overridden method", "POST", "/api/v1/scan/j/state", "", []header{{"X-Http-Method-Override", "GET"}}, 405, codes.Unimplemented, nil},

		{"no content type", "POST", events("scan", "j"), `{"stage":"a"}`, nil, 415, codes.InvalidArgument, []string{"application/json"}},
		{"form", "POST", events("scan", "j"), "stage=a", []header{{"Content-Type", "application/x-www-form-urlencoded"}}, 415, codes.InvalidArgument, []string{"application/json"}},
		{"no body", "POST", events("scan", "j"), "", []header{json}, 400, codes.InvalidArgument, nil},
		{"no JSON", "POST", events("scan", "j"), `{"stage":`, []header{json}, 400, codes.InvalidArgument, nil},
		{"two values", "POST", events("scan", "j"), `{"stage":"a"}{"stage":"b"}`, []header{json}, 400, codes.InvalidArgument, nil},
		{"unknown field", "POST", events("scan", "j"), `{"stage":"a","colour":"red"}`, []header{json}, 400, codes.InvalidArgument, []string{"colour"}},
		{"wrong type", "POST", events("scan", "j"), `{"stage":"a","progress":"half"}`, []header{json}, 400, codes.InvalidArgument, []string{"progress"}},
		{"no stage", "POST", events("scan", "j"), `{"status":"a"}`, []header{json}, 400, codes.InvalidArgument, []string{"event.stage", "must be 1-64"}},
		{"reserved stage", "POST", events("scan", "j"), `{"stage":"error"}`, []header{json}, 400, codes.InvalidArgument, []string{"event.stage", `\"error\"`}},
		{"stage with a line break", "POST", events("scan", "j"), `{"stage":"a\nid: 9"}`, []header{json}, 400, codes.InvalidArgument, []string{"event.stage"}},
		{"long stage", "POST", events("scan", "j"), `{"stage":"` + strings.Repeat("s", 65) + `"}`, []header{json}, 400, codes.InvalidArgument, []string{"event.stage", "1-64"}},
		{"progress", "POST", events("scan", "j"), `{"stage":"a","progress":101}`, []header{json}, 400, codes.InvalidArgument, []string{"event.progress", "101", "0-100"}},
		{"id", "POST", events("scan", "j"), `{"stage":"a","id":"1-0"}`, []header{json}, 400, codes.InvalidArgument, []string{"event.id", "1-0"}},
		{"seq", "POST", events("scan", "j"), `{"stage":"a","seq":7}`, []header{json}, 400, codes.InvalidArgument, []string{"event.seq", "7"}},
		{"publish_time", "POST", events("scan", "j"), `{"stage":"a","publish_time":"2026-01-01T00:00:00Z"}`, []header{json}, 400, codes.InvalidArgument, []string{"event.publish_time"}},
		{"deep result", "POST", events("scan", "j"), `{"stage":"a","result":` + deep + `}`, []header{json}, 400, codes.InvalidArgument, nil},
		{"bad job to publish to", "POST", "/api/v1/scan/a%20b/events", `{"stage":"a"}`, []header{json}, 400, codes.InvalidArgument, []string{"job_id"}},
		{"unknown domain to publish to", "POST", "/api/v1/nope/j/events", `{"stage":"a"}`, []header{json}, 400, codes.InvalidArgument, []string{"domain", `\"nope\"`}},
		{"long key", "POST", events("scan", "j"), `{"stage":"a"}`, []header{json, {"Idempotency-Key", strings.Repeat("k", 129)}}, 400, codes.InvalidArgument, []string{"idempotency_key", "128"}},
		{"key not ASCII", "POST", events("scan", "j"), `{"stage":"a"}`, []header{json, {"Idempotency-Key", "캔"}}, 400, codes.InvalidArgument, []string{"idempotency_key"}},
		{"large event", "POST", events("scan", "j"), `{"stage":"a","content":"` + strings.Repeat("x", 300_000) + `"}`, []header{json}, 400, codes.InvalidArgument, []string{"262144"}},
		{"oversize body", "POST", events("scan", "j"), `{"stage":"a","content":"` + strings.Repeat("x", 2<<20) + `"}`, []header{json}, 413, codes.InvalidArgument, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := b.in(t).ask(c.method, c.path, c.body, append(c.headers, header{"Origin", "https://app.example.com"})...)
			if got := a.header.Get("Content-Type"); a.status != c.status || got != "application/json" {
				t.Fatalf("%d %s %s, want %d", a.status, got, a.body, c.status)
			}
			if got := object(t, []byte(a.body))["code"]; got != float64(c.code) {
				t.Errorf("code %v, want %v: %s", got, c.code, a.body)
			}
			for _, s := range c.says {
				if !strings.Contains(a.body, s) {
					t.Errorf("it does not say %s: %s", s, a.body)
				}
			}
			if got := a.header.Get("Access-Control-Allow-Origin"); got != "https://app.example.com" {
				t.Errorf("a page cannot read it: Access-Control-Allow-Origin %q", got)
			}
			if allow := a.header.Get("Allow"); (allow != "") != (c.status == http.StatusMethodNotAllowed) {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
	t.Run("nothing of it was published", func(t *testing.T) {
		wantOnly(t, b.in(t), done("scan", "j"))
	})
}

// Each rule of the contract, over gRPC: a BadRequest names field, value and rule.
func TestBadInput_OverGRPCNamesFieldValueAndRule(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	ctx := testContext(t)
	publish := func(change func(*eventbusv1.PublishRequest)) func() error {
		r := &eventbusv1.PublishRequest{Event: &eventbusv1.Event{Domain: "scan", JobId: "j", Stage: "a"}}
		change(r)
		return func() error { _, err := b.calls.Publish(ctx, r); return err }
	}
	event := func(change func(*eventbusv1.Event)) func() error {
		return publish(func(r *eventbusv1.PublishRequest) { change(r.Event) })
	}
	subscribe := func(r *eventbusv1.SubscribeRequest) func() error {
		return func() error { _, err := b.calls.subscribe(ctx, r); return err }
	}
	watch := func(r *eventbusv1.WatchRequest) func() error {
		return func() error {
			s, err := b.calls.Watch(ctx, r)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}
	list := func(r *eventbusv1.ListEventsRequest) func() error {
		return func() error { _, err := b.calls.ListEvents(ctx, r); return err }
	}
	batch := func(n int) func() error {
		r := &eventbusv1.PublishBatchRequest{}
		for range n {
			r.Requests = append(r.Requests, &eventbusv1.PublishRequest{Event: &eventbusv1.Event{Domain: "scan", JobId: "j", Stage: "a"}})
		}
		if n > 1 {
			r.Requests[1].Event.Stage = "gap"
		}
		return func() error { _, err := b.calls.PublishBatch(ctx, r); return err }
	}
	for _, c := range []struct {
		name  string
		call  func() error
		field string
		says  []string
	}{
		{"no event", publish(func(r *eventbusv1.PublishRequest) { r.Event = nil }), "event", nil},
		{"long key", publish(func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = strings.Repeat("k", 129) }), "idempotency_key", []string{"128"}},
		{"key of control characters", publish(func(r *eventbusv1.PublishRequest) { r.IdempotencyKey = "a\x00b" }), "idempotency_key", []string{"printable ASCII"}},
		{"no domain", event(func(e *eventbusv1.Event) { e.Domain = "" }), "event.domain", nil},
		{"unknown domain", event(func(e *eventbusv1.Event) { e.Domain = "video" }), "event.domain", []string{`"video"`, "scan, chat"}},
		{"no job_id", event(func(e *eventbusv1.Event) { e.JobId = "" }), "event.job_id", []string{"1-128"}},
		{"job_id of dots", event(func(e *eventbusv1.Event) { e.JobId = ".." }), "event.job_id", []string{`".."`}},
		{"job_id with a slash", event(func(e *eventbusv1.Event) { e.JobId = "a/b" }), "event.job_id", []string{`"a/b"`}},
		{"long job_id", event(func(e *eventbusv1.Event) { e.JobId = strings.Repeat("j", 129) }), "event.job_id", []string{"1-128"}},
		{"no stage", event(func(e *eventbusv1.Event) { e.Stage = "" }), "event.stage", []string{"1-64"}},
		{"reserved stage", event(func(e *eventbusv1.Event) { e.Stage = "message" }), "event.stage", []string{`"message"`}},
		{"stage of two lines", event(func(e *eventbusv1.Event) { e.Stage = "a\r\nid: 1" }), "event.stage", nil},
		{"seq", event(func(e *eventbusv1.Event) { e.Seq = 5 }), "event.seq", []string{"5"}},
		{"id", event(func(e *eventbusv1.Event) { e.Id = "5-0" }), "event.id", []string{"5-0"}},
		{"publish_time", event(func(e *eventbusv1.Event) { e.PublishTime = timestamppb.Now() }), "event.publish_time", nil},
		{"progress over", event(func(e *eventbusv1.Event) { e.Progress = new(int32(101)) }), "event.progress", []string{"101", "0-100"}},
		{"progress under", event(func(e *eventbusv1.Event) { e.Progress = new(int32(-1)) }), "event.progress", []string{"-1"}},
		{"empty value", event(func(e *eventbusv1.Event) { e.Result = &structpb.Value{} }), "event.result", nil},
		{"large event", event(func(e *eventbusv1.Event) { e.Content = strings.Repeat("x", 262_144) }), "event", []string{"262144"}},
		{"empty batch", batch(0), "requests", []string{"1-1000"}},
		{"large batch", batch(1001), "requests", []string{"1001"}},
		{"a bad one of a batch", batch(3), "requests[1].event.stage", []string{`"gap"`}},
		{"subscribe to a bad job", subscribe(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "a b"}), "job_id", []string{`"a b"`}},
		{"subscribe to nothing", subscribe(&eventbusv1.SubscribeRequest{}), "domain", nil},
		{"subscribe after nonsense", subscribe(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", AfterId: "recovery:12"}), "after_id", []string{`"recovery:12"`}},
		{"subscribe with another replay", subscribe(&eventbusv1.SubscribeRequest{Domain: "scan", JobId: "j", Replay: 9}), "replay", []string{"9"}},
		{"watch an unknown domain", watch(&eventbusv1.WatchRequest{Domain: "video"}), "domain", []string{`"video"`}},
		{"watch too many jobs", watch(&eventbusv1.WatchRequest{Domain: "scan", JobIds: make([]string, 257)}), "job_ids", []string{"257", "256"}},
		{"watch after nonsense", watch(&eventbusv1.WatchRequest{Domain: "scan", Cursor: "1-0,x"}), "cursor", []string{"1-0,x"}},
		{"watch after another shard count", watch(&eventbusv1.WatchRequest{Domain: "scan", Cursor: "1-0"}), "cursor", []string{"4 ids"}},
		{"list too many", list(&eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j", PageSize: 1001}), "page_size", []string{"1001", "0-1000"}},
		{"list after nonsense", list(&eventbusv1.ListEventsRequest{Domain: "scan", JobId: "j", AfterId: "x"}), "after_id", []string{`"x"`}},
		{"state of a bad job", func() error {
			_, err := b.calls.GetState(ctx, &eventbusv1.GetStateRequest{Domain: "scan", JobId: "."})
			return err
		}, "job_id", []string{`"."`}},
	} {
		t.Run(c.name, func(t *testing.T) { wantViolation(t, c.call(), c.field, c.says) })
	}
	t.Run("over the message limit", func(t *testing.T) {
		err := event(func(e *eventbusv1.Event) { e.Content = strings.Repeat("x", 17<<20) })() // 16 MiB are allowed
		if got := status.Code(err); got != codes.ResourceExhausted {
			t.Errorf("%v, want RESOURCE_EXHAUSTED of the transport", err)
		}
	})
	t.Run("nothing of it was published", func(t *testing.T) {
		wantOnly(t, b.in(t), done("scan", "j"))
	})
}

// wantOnly publishes a job's last event, which must be its first, too.
func wantOnly(t *testing.T, b *bus, e *eventbusv1.Event) {
	t.Helper()
	id := b.calls.publish(e)
	same(t, "events", ids(b.open(events(e.GetDomain(), e.GetJobId())).rest()), []string{id})
}

// What the bus refuses because of what it knows, not of how it looks.
func TestBadInput_AfterTheEndIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	last := &eventbusv1.PublishRequest{Event: done("scan", "over"), IdempotencyKey: "done"}
	first, err := b.calls.Publish(testContext(t), last)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.calls.Publish(testContext(t), &eventbusv1.PublishRequest{Event: token("scan", "over", 0)}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("by gRPC: %v, want FAILED_PRECONDITION", err)
	}
	a := b.ask(http.MethodPost, events("scan", "over"), `{"stage":"late"}`, header{"Content-Type", "application/json"})
	if a.status != http.StatusBadRequest || object(t, []byte(a.body))["code"] != float64(codes.FailedPrecondition) {
		t.Errorf("by HTTP: %d %s", a.status, a.body)
	}
	b.streams.CLI(t, legacy("over", "reward")...)
	again, err := b.calls.Publish(testContext(t), last)
	if err != nil || !again.GetDuplicate() || again.GetId() != first.GetId() {
		t.Errorf("the last event itself, with its key: %v, %v; want a duplicate", again, err)
	}
	eventually(t, "the legacy event is counted as dropped", func() bool {
		_, text := get(t, b.router.admin, "/metrics")
		return strings.Contains(text, `eventbus_dropped_total{domain="scan",reason="over"} 1`)
	})
	same(t, "events", ids(b.open(events("scan", "over")).rest()), []string{first.GetId()})
}

func wantViolation(t *testing.T, err error, field string, says []string) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument {
		t.Fatalf("%v, want INVALID_ARGUMENT", err)
	}
	for _, d := range st.Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			if v.GetField() != field {
				continue
			}
			for _, s := range append(says, "must") {
				if !strings.Contains(v.GetDescription(), s) || !strings.Contains(st.Message(), field) {
					t.Errorf("%s: %q, message %q; want %s", field, v.GetDescription(), st.Message(), s)
				}
			}
			return
		}
	}
	t.Errorf("no violation of %s: %s", field, fmt.Sprint(st.Proto()))
}
