package server

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
)

// genText is any text that a proto string may hold.
func genText() *rapid.Generator[string] { return rapid.String() }

func genValue(levels int) *rapid.Generator[*structpb.Value] {
	return rapid.Custom(func(t *rapid.T) *structpb.Value {
		most := 5
		if levels == 0 {
			most = 3
		}
		switch rapid.IntRange(0, most).Draw(t, "kind") {
		case 0:
			return structpb.NewNullValue()
		case 1:
			return structpb.NewBoolValue(rapid.Bool().Draw(t, "bool"))
		case 2:
			f := rapid.Float64().Filter(func(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) })
			return structpb.NewNumberValue(f.Draw(t, "number"))
		case 3:
			return structpb.NewStringValue(genText().Draw(t, "string"))
		case 4:
			items := rapid.SliceOfN(genValue(levels-1), 0, 4).Draw(t, "list")
			return structpb.NewListValue(&structpb.ListValue{Values: items})
		}
		fields := rapid.MapOfN(genText(), genValue(levels-1), 0, 4).Draw(t, "object")
		return structpb.NewStructValue(&structpb.Struct{Fields: fields})
	})
}

func genPublished() *rapid.Generator[*eventbusv1.Event] {
	return rapid.Custom(func(t *rapid.T) *eventbusv1.Event {
		m := &eventbusv1.Event{
			Domain:      rapid.StringMatching(`[a-z][a-z0-9-]{0,31}`).Draw(t, "domain"),
			JobId:       rapid.StringMatching(`[A-Za-z0-9._:-]{1,128}`).Draw(t, "job_id"),
			Stage:       rapid.StringMatching(`[A-Za-z0-9._:-]{1,64}`).Draw(t, "stage"),
			Status:      genText().Draw(t, "status"),
			Message:     genText().Draw(t, "message"),
			Content:     genText().Draw(t, "content"),
			Attributes:  rapid.MapOfN(genText(), genText(), 0, 5).Draw(t, "attributes"),
			Final:       rapid.Bool().Draw(t, "final"),
			Traceparent: genText().Draw(t, "traceparent"),
		}
		if rapid.Bool().Draw(t, "has progress") {
			m.Progress = new(rapid.Int32Range(0, 100).Draw(t, "progress"))
		}
		if rapid.Bool().Draw(t, "has result") {
			m.Result = genValue(4).Draw(t, "result")
		}
		return m
	})
}

func TestConvert_WhatIsPublishedIsWhatSubscribersGet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genPublished().Draw(t, "event")
		e := fromProto(in)
		e.ID = event.ID{Ms: rapid.Uint64Range(0, math.MaxInt64).Draw(t, "ms"), Seq: rapid.Uint64().Draw(t, "n")}
		e.Seq = rapid.Uint32().Draw(t, "seq")
		e.PublishMs = rapid.Uint64Range(0, 253402300799999).Draw(t, "publish ms")
		wire, err := proto.Marshal(toProto(e))
		if err != nil {
			t.Fatal(err)
		}
		if len(wire) > wireBound(e) {
			t.Fatalf("%d bytes on the wire; bound %d", len(wire), wireBound(e))
		}
		got := &eventbusv1.Event{}
		if err := proto.Unmarshal(wire, got); err != nil {
			t.Fatal(err)
		}
		want := proto.CloneOf(in)
		want.Id, want.Seq = e.ID.String(), e.Seq
		want.PublishTime = timestamppb.New(time.UnixMilli(int64(e.PublishMs)))
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Fatalf("-want +got:\n%s", d)
		}
	})
}

func TestConvert_ResultTextIsJSONThatEncodingJSONReadsAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := genValue(4).Draw(t, "value")
		var got any
		if err := json.Unmarshal(appendJSON(nil, v), &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(v.AsInterface(), got); d != "" {
			t.Fatalf("-want +got:\n%s", d)
		}
	})
}

// reference reads JSON by encoding/json alone.
func reference(text string) *structpb.Value {
	var a any
	if json.Unmarshal([]byte(text), &a) == nil {
		if v, err := structpb.NewValue(a); err == nil {
			return v
		}
	}
	return structpb.NewStringValue(validUTF8(text))
}

func sameAsReference(t interface {
	Helper()
	Fatalf(string, ...any)
}, text string,
) {
	t.Helper()
	got, want := parseJSON(text), reference(text)
	if !proto.Equal(got, want) {
		t.Fatalf("parse %q\ngot  %v\nwant %v", text, got, want)
	}
	if _, err := proto.Marshal(got); err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
}

func TestConvert_AnyResultTextIsReadAsEncodingJSONDoes(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `0`, `-0`, `1.5e300`, `123456789012345678901234567890`, `""`, `"a"`, `[]`, `{}`, ` [ 1 , 2 ] `,
		"\t{ \"a\" :\n[ { } , [ ] , null ] }\r\n", `{"a":1,"a":2}`, `{"a":{"b":1},"a":{"c":2}}`, `"\ud800"`, `"\udc00x\ud83d\ude00"`,
		`"\"\\\/\b\f\n\r\té"`, `{"\u0061":1,"a":2}`, `"<>&"`, "\"\u2028\"", "\"\x7f\"", "\"bad \xff utf8\"", "{\"\xff\":1}", `"\\"`, `["\\","\""]`,
		// no JSON, or none that a double can hold
		``, ` `, `1e999`, `{"a":[-1e999]}`, `01`, `1 2`, `{`, `[1,]`, `{"a"}`, `nul`, `tru`, `NaN`, "plain text", "\xff\xfe", "\"a\nb\"", `"\x"`,
	} {
		sameAsReference(t, text)
	}
}

func TestConvert_ResultNestedTooDeepIsItsText(t *testing.T) {
	deep := strings.Repeat("[", event.MaxResultDepth) + strings.Repeat("]", event.MaxResultDepth)
	if parseJSON(deep).GetListValue() == nil {
		t.Errorf("%d levels are read", event.MaxResultDepth)
	}
	wire, err := proto.Marshal(&eventbusv1.Event{Result: parseJSON(strings.Repeat(`{"a":`, event.MaxResultDepth) + "1" + strings.Repeat("}", event.MaxResultDepth))})
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(wire, &eventbusv1.Event{}); err != nil {
		t.Errorf("a subscriber cannot read %d levels: %v", event.MaxResultDepth, err)
	}
	deeper := "[" + deep + "]"
	if got := parseJSON(deeper).GetStringValue(); got != deeper {
		t.Errorf("got %.40q, want the text", got)
	}
}

func FuzzResultText(f *testing.F) {
	for _, s := range []string{`{"a":[1,"\ud800",{"b":null}]}`, `[[1e999]]`, "\"\xff\"", ` {"a" : true , "a":false}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Count(text, "[")+strings.Count(text, "{") < event.MaxResultDepth {
			sameAsReference(t, text)
		}
	})
}

func TestConvert_BytesThatAreNoUTF8DoNotBreakTheStream(t *testing.T) {
	bad := "a\xffb"
	e := &event.Event{
		Domain: "scan", JobID: "j", Stage: bad, Status: bad, Message: bad, Content: bad, Result: bad, Traceparent: bad,
		Attributes: map[string]string{bad: bad, "ok": "ok"},
	}
	m := toProto(e)
	if _, err := proto.Marshal(m); err != nil {
		t.Fatal(err)
	}
	want := &eventbusv1.Event{
		Id: "0-0", Domain: "scan", JobId: "j", Stage: "a\ufffdb", Status: "a\ufffdb", Message: "a\ufffdb", Content: "a\ufffdb",
		Traceparent: "a\ufffdb", Result: structpb.NewStringValue("a\ufffdb"),
		Attributes: map[string]string{"a\ufffdb": "a\ufffdb", "ok": "ok"}, PublishTime: &timestamppb.Timestamp{},
	}
	if d := cmp.Diff(want, m, protocmp.Transform()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if e.Attributes[bad] != bad {
		t.Error("the shared event was changed")
	}
}

func TestConvert_WireBoundHoldsForTheWorstJSON(t *testing.T) {
	for name, text := range map[string]string{
		"numbers": "[" + strings.Repeat("1,", 4000) + "1]",
		"empties": "[" + strings.Repeat(`"",`, 4000) + "0]",
		"lists":   "[" + strings.Repeat(`[],`, 4000) + "0]",
		"objects": "[" + strings.Repeat(`{"":1},`, 4000) + "0]",
		"nested":  "[" + strings.Repeat(strings.Repeat("[", 900)+strings.Repeat("]", 900)+",", 10) + "0]",
		"bad":     `"` + strings.Repeat("\xff", 4000) + `"`,
	} {
		e := &event.Event{Result: text}
		if n := proto.Size(toProto(e)); n > wireBound(e) {
			t.Errorf("%s: %d bytes of JSON are %d on the wire; bound %d", name, len(text), n, wireBound(e))
		}
	}
}

func TestConvert_GapAndItsOldestID(t *testing.T) {
	if gapToProto(nil) != nil {
		t.Error("no gap became one")
	}
	got := gapToProto(&event.Gap{Reason: event.LogReset, Oldest: event.ID{Ms: 7, Seq: 1}})
	want := &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_LOG_RESET, OldestId: "7-1"}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if got := gapToProto(&event.Gap{Reason: event.HistoryExpired}); got.GetOldestId() != "" || got.GetReason() != eventbusv1.Gap_REASON_HISTORY_EXPIRED {
		t.Errorf("got %v", got)
	}
}

// BenchmarkResult is the reason for jsonvalue.go: a typical result, by it and by
// the libraries.
func BenchmarkResult(b *testing.B) {
	text := `{"items":[{"label":"plastic bottle","score":0.97,"box":[12,34,120,240]},{"label":"can","score":0.81,"box":[1,3,10,24]}],"model":"v3","ok":true}`
	v := reference(text)
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			parseJSON(text)
		}
	})
	b.Run("read-encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			reference(text)
		}
	})
	b.Run("read-protojson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := protojson.Unmarshal([]byte(text), &structpb.Value{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = string(appendJSON(nil, v))
		}
	})
	b.Run("write-encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(v.AsInterface()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("write-protojson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := protojson.Marshal(v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkToProto is what each event costs each gRPC subscriber before encoding.
func BenchmarkToProto(b *testing.B) {
	e := &event.Event{
		ID: event.ID{Ms: 1737415902456}, Domain: "chat", JobID: "904fb02f-3e06-482c-b271-e641d3275d6b", Seq: 7, Stage: "token",
		Status: "streaming", Content: "hello", PublishMs: 1737415902456,
	}
	b.ReportAllocs()
	for b.Loop() {
		toProto(e)
	}
}
