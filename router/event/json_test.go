package event_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1" //nolint:depguard // AppendJSON must be the JSON of this message
	"github.com/eco2-team/eventbus/router/event"
)

// lastMs is the end of the year 9999.
const lastMs = 253402300799999

// anyText has what escaping may get wrong: control characters, quotes, line ends,
// what HTML and JavaScript mind, and the ends of UTF-8's ranges.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Just(""), rapid.String(),
		rapid.StringOf(rapid.RuneFrom([]rune("a\x00\x01\t\n\r\x1f \"\\/<>&'\x7f\u0080\u2028\u2029\ufffd\uffff\U00010000\U0010ffff"))),
	)
}

// anyResult is JSON text on one line, as the bus itself writes it.
func anyResult() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "no result") {
			return ""
		}
		b, err := json.Marshal(anyValue(2).Draw(t, "result"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	})
}

func anyValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 5
		if depth > 0 {
			kinds = 7
		}
		switch rapid.IntRange(1, kinds).Draw(t, "kind") {
		case 1:
			return nil
		case 2:
			return rapid.Bool().Draw(t, "bool")
		case 3:
			return rapid.Float64().Draw(t, "number")
		case 4:
			return json.Number(rapid.SampledFrom([]string{"9007199254740993", "1e5", "-0", "0.10"}).Draw(t, "digits"))
		case 5:
			return anyText().Draw(t, "string")
		case 6:
			return rapid.SliceOfN(anyValue(depth-1), 0, 3).Draw(t, "list")
		}
		return rapid.MapOfN(anyText(), anyValue(depth-1), 0, 3).Draw(t, "object")
	})
}

func anyEvent() *rapid.Generator[*event.Event] {
	return rapid.Custom(func(t *rapid.T) *event.Event {
		e := &event.Event{
			ID:     event.ID{Ms: rapid.Uint64Range(0, lastMs).Draw(t, "ms"), Seq: rapid.Uint64().Draw(t, "n")},
			Domain: anyText().Draw(t, "domain"), JobID: anyText().Draw(t, "job_id"), Seq: rapid.Uint32().Draw(t, "seq"),
			Stage: anyText().Draw(t, "stage"), Status: anyText().Draw(t, "status"), Message: anyText().Draw(t, "message"),
			Content: anyText().Draw(t, "content"), Result: anyResult().Draw(t, "result"), Final: rapid.Bool().Draw(t, "final"),
			Traceparent: anyText().Draw(t, "traceparent"),
		}
		e.PublishMs = e.ID.Ms
		if rapid.Bool().Draw(t, "late") && e.ID.Ms > 0 {
			e.PublishMs = rapid.Uint64Range(1, e.ID.Ms).Draw(t, "publish_time")
		}
		if rapid.Bool().Draw(t, "has progress") {
			e.Progress, e.HasProgress = rapid.Int32().Draw(t, "progress"), true
		}
		if m := rapid.MapOfN(anyText(), anyText(), 0, 3).Draw(t, "attributes"); len(m) > 0 {
			e.Attributes = m
		}
		return e
	})
}

func TestEventJSON_HasTheFormOfTheContract(t *testing.T) {
	full := &event.Event{
		ID: event.ID{Ms: 1737415902456}, Domain: "scan", JobID: "j-1", Seq: 3, Stage: "vision", Status: "completed",
		Progress: 0, HasProgress: true, Message: "a \"b\" \\ \x00\x1f\t\r\n </é", Content: "tok\xffen", Result: `[1, {"b":[]}]`,
		Attributes: map[string]string{"node": "n\n1"}, Final: true, PublishMs: 1737415902007, Traceparent: "00-ab-cd-01",
	}
	want := `{"id":"1737415902456-0","domain":"scan","job_id":"j-1","seq":3,"stage":"vision","status":"completed","progress":0,` +
		`"message":"a \"b\" \\ \u0000\u001f\t\r\n </é","content":"tok` + "\ufffd" + `en","result":[1, {"b":[]}],` +
		`"attributes":{"node":"n\n1"},"final":true,"publish_time":"2025-01-20T23:31:42.007Z","traceparent":"00-ab-cd-01"}`
	if got := string(full.AppendJSON(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// What is unset is left out; seq, stage and the names are always there.
	bare := &event.Event{ID: event.ID{Ms: 1, Seq: 2}, Domain: "scan", JobID: "j", Stage: "s"}
	want = `{"id":"1-2","domain":"scan","job_id":"j","seq":0,"stage":"s","publish_time":"1970-01-01T00:00:00.000Z"}`
	if got := string(bare.AppendJSON(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestEventJSON_IsPutTogetherFromItsParts: the projection script does so, with the
// id and seq of the job log.
func TestEventJSON_IsPutTogetherFromItsParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		if len(e.Attributes) > 1 {
			e.Attributes = nil // their order changes
		}
		parts := `{"id":"` + e.ID.String() + `"` + string(e.AppendJSONHead(nil)) + strconv.Itoa(int(e.Seq)) + string(e.AppendJSONTail(nil))
		if got := string(e.AppendJSON([]byte("before "))); got != "before "+parts {
			t.Fatalf("got %s, want %s", got, parts)
		}
	})
}

func TestEventJSON_IsOneLineThatDecodesToTheSameEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		b := e.AppendJSON(nil)
		if !json.Valid(b) || !utf8.Valid(b) || bytes.ContainsAny(b, "\r\n\x00") {
			t.Fatalf("got %q", b)
		}
		var got event.Event
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, &got); d != "" {
			t.Fatalf("%s\n%s", b, d)
		}
	})
}

// generic is the event as encoding/json would have it.
func generic(e *event.Event) map[string]any {
	m := map[string]any{
		"id": e.ID.String(), "domain": e.Domain, "job_id": e.JobID, "seq": e.Seq, "stage": e.Stage,
		"publish_time": e.PublishTime().Format("2006-01-02T15:04:05.000Z"),
	}
	for name, v := range map[string]string{
		"status": e.Status, "message": e.Message, "content": e.Content, "traceparent": e.Traceparent,
	} {
		if v != "" {
			m[name] = v
		}
	}
	if e.HasProgress {
		m["progress"] = e.Progress
	}
	if e.Result != "" {
		m["result"] = json.RawMessage(e.Result)
	}
	if len(e.Attributes) > 0 {
		m["attributes"] = e.Attributes
	}
	if e.Final {
		m["final"] = true
	}
	return m
}

func TestEventJSON_SaysWhatEncodingJSONSays(t *testing.T) {
	decode := func(t *rapid.T, b []byte) map[string]any {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		var m map[string]any
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		want, err := json.Marshal(generic(e))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(decode(t, want), decode(t, e.AppendJSON(nil))); d != "" {
			t.Fatal(d)
		}
	})
}

func TestEventJSON_IsReadByProtojsonIntoTheMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		want := &eventbusv1.Event{
			Id: e.ID.String(), Domain: e.Domain, JobId: e.JobID, Seq: e.Seq, Stage: e.Stage, Status: e.Status, Message: e.Message,
			Content: e.Content, Attributes: e.Attributes, Final: e.Final, PublishTime: timestamppb.New(e.PublishTime()),
			Traceparent: e.Traceparent,
		}
		if e.HasProgress {
			want.Progress = &e.Progress
		}
		if e.Result != "" {
			want.Result = new(structpb.Value)
			if err := protojson.Unmarshal([]byte(e.Result), want.Result); err != nil {
				t.Fatal(err)
			}
		}
		got := new(eventbusv1.Event)
		if err := protojson.Unmarshal(e.AppendJSON(nil), got); err != nil {
			t.Fatalf("%s: %v", e.AppendJSON(nil), err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}

func TestEventJSON_BytesThatAreNotUTF8AreReplaced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		e := &event.Event{Stage: s, Message: s, Attributes: map[string]string{s: s}}
		b := e.AppendJSON(nil)
		if !json.Valid(b) || !utf8.Valid(b) {
			t.Fatalf("got %q", b)
		}
		var got struct{ Stage string }
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		// Each bad byte is one U+FFFD, as in encoding/json.
		if want := string([]rune(s)); got.Stage != want {
			t.Fatalf("got %q, want %q", got.Stage, want)
		}
	})
}

func TestEventJSON_AppendAttributesIsOneObject(t *testing.T) {
	if got := string(event.AppendAttributes([]byte("x"), nil)); got != "x{}" {
		t.Errorf("got %s", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(anyText(), anyText()).Draw(t, "attributes")
		var got map[string]string
		if err := json.Unmarshal(event.AppendAttributes(nil, m), &got); err != nil || !cmp.Equal(got, m) {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}

func TestEventJSON_UnreadableIsAnError(t *testing.T) {
	for _, s := range []string{
		`[]`, `"x"`, `{}`, `{"id":""}`, `{"id":"1"}`, `{"id":1}`, `{"id":"1-0","seq":-1}`, `{"id":"1-0","seq":4294967296}`,
		`{"id":"1-0","progress":"5"}`, `{"id":"1-0","publish_time":"yesterday"}`, `{"id":"1-0","publish_time":5}`,
		`{"id":"1-0","attributes":{"a":1}}`, `{"id":"1-0","final":1}`,
	} {
		e := event.Event{JobID: "before"}
		if err := json.Unmarshal([]byte(s), &e); err == nil || e.JobID != "before" {
			t.Errorf("%s: got %+v, %v", s, e, err)
		}
	}
}

func TestEventJSON_UnsetFieldsAreUnset(t *testing.T) {
	var got event.Event
	err := json.Unmarshal([]byte(`{"id":"7-1","progress":null,"publish_time":null,"attributes":null,"unknown":[1]}`), &got)
	if d := cmp.Diff(event.Event{ID: event.ID{Ms: 7, Seq: 1}, PublishMs: 7}, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	err = json.Unmarshal([]byte(`{"id":"7-1","result":null}`), &got)
	if err != nil || got.Result != "null" {
		t.Errorf("null is a result: %q, %v", got.Result, err)
	}
}

// benchEvent is a token of a chat, the most frequent event.
func benchEvent() *event.Event {
	return &event.Event{
		ID: event.ID{Ms: 1737415902456, Seq: 3}, Domain: "chat", JobID: "904fb02f-3e06-482c-b271-e641d3275d6b", Seq: 412,
		Stage: "token", Status: "streaming", Content: "Ein \"Satz\" über Äpfel,\n", Progress: 40, HasProgress: true,
		Attributes: map[string]string{"node": "answer"}, PublishMs: 1737415902456,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}

func TestEventJSON_AppendingDoesNotAllocate(t *testing.T) {
	e, b := benchEvent(), make([]byte, 0, 1024)
	if got := testing.AllocsPerRun(1000, func() { b = e.AppendJSON(b[:0]) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e, buf := benchEvent(), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

func FuzzEventJSON(f *testing.F) {
	f.Add(string(benchEvent().AppendJSON(nil)))
	f.Add(`{"id":"1-0","domain":"scan","job_id":"j","seq":1,"stage":"s","result":{"a":[]},"publish_time":"2025-01-20T23:31:42.456Z"}`)
	f.Add(`{"id":"1-0","result":"\ud800","message":"\udfff","attributes":{"\ud800":"x","\udc00":"y"}}`)
	f.Add(`{"id":"1-0","publish_time":"0000-01-01T00:00:00+23:59","progress":-2147483648}`)
	f.Add(`{"ID":"1-0","Id":"2-0","result":null}`)
	f.Fuzz(func(t *testing.T, s string) {
		var e event.Event
		if err := json.Unmarshal([]byte(s), &e); err != nil {
			return
		}
		b := e.AppendJSON(nil)
		if !json.Valid(b) {
			t.Fatalf("%q becomes %q", s, b)
		}
		if e.Result == "" && (!utf8.Valid(b) || strings.ContainsAny(string(b), "\r\n")) {
			t.Fatalf("%q becomes %q", s, b)
		}
		var again event.Event
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatalf("%q becomes %q: %v", s, b, err)
		}
		// A time beyond what can be said is the last that can be.
		e.PublishMs, again.PublishMs = min(e.PublishMs, lastMs), min(again.PublishMs, lastMs)
		if d := cmp.Diff(e, again, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}
