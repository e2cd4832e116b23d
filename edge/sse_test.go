package edge

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tmaxmax/go-sse"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

//nolint:gochecknoglobals // a flag of the test binary
var update = flag.Bool("update", false, "write the golden files")

func sample() *eventbusv1.Event {
	return &eventbusv1.Event{
		Id: "1737415902456-0", Domain: "scan", JobId: "904fb02f-3e06-482c-b271-e641d3275d6b", Seq: 3,
		Stage: "vision", Status: "completed", Progress: proto.Int32(40), Message: "보는 중",
		PublishTime: &timestamppb.Timestamp{Seconds: 1737415902, Nanos: 456_000_000},
	}
}

func with(change func(*eventbusv1.Event)) *eventbusv1.Event {
	e := sample()
	change(e)
	return e
}

func value(tb testing.TB, text string) *structpb.Value {
	tb.Helper()
	v := &structpb.Value{}
	if err := protojson.Unmarshal([]byte(text), v); err != nil {
		tb.Fatal(err)
	}
	return v
}

func mustItem(tb testing.TB, e *eventbusv1.Event) frame {
	tb.Helper()
	var c encoder
	it, err := c.item(e)
	if err != nil {
		tb.Fatal(err)
	}
	return it.Value
}

// The wire is pinned: `go test ./edge -run Golden -update` writes the files anew.
func TestFrame_Golden(t *testing.T) {
	expired := &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_HISTORY_EXPIRED, OldestId: "1737415902456-0"}
	limited, err := status.New(codes.ResourceExhausted, "lag is over MAX_LAG").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(1_500_000_000)})
	if err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(b []byte, sse bool) []byte{
		"event":         golden(t, sample()),
		"minimal":       golden(t, &eventbusv1.Event{Id: "1-0", Domain: "chat", JobId: "j", Seq: 1, Stage: "x"}),
		"final":         golden(t, with(func(e *eventbusv1.Event) { e.Final = true })),
		"zero_progress": golden(t, with(func(e *eventbusv1.Event) { e.Progress = proto.Int32(0) })),
		"token": golden(t, with(func(e *eventbusv1.Event) {
			e.Status, e.Content, e.Progress = "streaming", " 안녕\r\n\x00\"<b>\u2028", nil
		})),
		"result_null":    golden(t, with(func(e *eventbusv1.Event) { e.Result = structpb.NewNullValue() })),
		"result_string":  golden(t, with(func(e *eventbusv1.Event) { e.Result = structpb.NewStringValue("data: x\n\nid: 0-0\n\n") })),
		"result_number":  golden(t, with(func(e *eventbusv1.Event) { e.Result = structpb.NewNumberValue(1e21) })),
		"attributes":     golden(t, with(func(e *eventbusv1.Event) { e.Attributes = map[string]string{"node\n": "a\rb"} })),
		"traceparent":    golden(t, with(func(e *eventbusv1.Event) { e.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" })),
		"legacy_stage":   golden(t, with(func(e *eventbusv1.Event) { e.Stage = "two words\ndata: evil" })),
		"reserved_stage": golden(t, with(func(e *eventbusv1.Event) { e.Stage = "error" })),
		"gap":            func(b []byte, sse bool) []byte { return appendGap(b, sse, expired) },
		"gap_without_id": func(b []byte, sse bool) []byte {
			return appendGap(b, sse, &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_LOG_RESET})
		},
		"gap_of_a_job": func(b []byte, sse bool) []byte { return appendGap(b, sse, &eventbusv1.Gap{Reason: 1, JobId: "j"}) },
		"error": func(b []byte, sse bool) []byte {
			return appendError(b, sse, status.New(codes.PermissionDenied, "no\n\ndata: x"))
		},
		"error_with_retry": func(b []byte, sse bool) []byte { return appendError(b, sse, limited) },
		"opening":          appendOpening,
		"keepalive":        appendKeepalive,
		"away":             func(b []byte, _ bool) []byte { return appendAway(b, 1234) },
		"cursor":           func(b []byte, _ bool) []byte { return appendCursor(b, "1737415902456-0") },
	} {
		for ext, sse := range map[string]bool{".sse": true, ".ndjson": false} {
			if !sse && (name == "away" || name == "cursor") {
				continue
			}
			t.Run(name+ext, func(t *testing.T) {
				got := write(nil, sse)
				if sse && !bytes.HasSuffix(got, []byte("\n\n")) || bytes.Count(got, []byte("\n\n")) > 1 {
					t.Errorf("not one frame: %q", got)
				}
				compare(t, name+ext, got)
			})
		}
	}
}

func golden(t *testing.T, e *eventbusv1.Event) func([]byte, bool) []byte {
	t.Helper()
	f := mustItem(t, e)
	return func(b []byte, sse bool) []byte { return append(b, f.bytes(sse)...) }
}

func compare(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "frames", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// protojson's blanks differ from build to build.
	tidy := func(b []byte) string {
		return strings.ReplaceAll(strings.ReplaceAll(string(b), `, "`, `,"`), `": `, `":`)
	}
	if d := cmp.Diff(tidy(want), tidy(got)); d != "" {
		t.Error(d)
	}
}

// Whatever is in an event, it is one frame with at most the three fields, and its
// data is the event.
func FuzzFrame(f *testing.F) {
	f.Add("vision", "completed", "text", "content", "k", "v", 0.5, "00-01", uint32(1))
	f.Add("a\nid: 0-0", "\r", "\x00", "\n\ndata: x\n\n", "\r\n", "\u2028", 1e300, "\xff\xfe", uint32(0))
	f.Add("", "error", "{\"", "\\", "\"", "\t", -0.5, "\x7f", uint32(7))
	f.Fuzz(func(t *testing.T, stage, state, message, content, k, v string, number float64, trace string, seq uint32) {
		e := &eventbusv1.Event{
			Id: "1-0", Domain: "scan", JobId: "j", Seq: seq, Stage: stage, Status: state, Message: message, Content: content,
			Attributes: map[string]string{k: v}, Traceparent: trace,
			Result: structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
				structpb.NewNumberValue(number), structpb.NewStringValue(content),
				structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{k: structpb.NewStringValue(v)}}),
			}}),
		}
		fr := mustItem(t, e)
		if bytes.ContainsAny(fr.text, "\r\x00") {
			t.Fatalf("CR or NUL in %q", fr.text)
		}
		fields := bytes.Split(fr.text, []byte("\n"))
		var names []string
		for _, line := range fields[:len(fields)-2] {
			name, _, _ := bytes.Cut(line, []byte(":"))
			names = append(names, string(name))
		}
		if got := strings.Join(names, ","); got != "id,event,data" && got != "id,data" {
			t.Fatalf("fields %s in %q", got, fr.text)
		}
		var events []sse.Event
		for ev, err := range sse.Read(bytes.NewReader(fr.text), &sse.ReadConfig{MaxEventSize: 1 << 24}) {
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, ev)
		}
		if len(events) != 1 || events[0].LastEventID != "1-0" || events[0].Type != "" && events[0].Type != stage {
			t.Fatalf("%d events %+v", len(events), events)
		}
		if !json.Valid([]byte(events[0].Data)) || string(fr.bytes(false)) != events[0].Data+"\n" {
			t.Fatalf("data %q, line %q", events[0].Data, fr.bytes(false))
		}
		if fits(e) {
			sameEvent(t, e, events[0].Data)
		}
	})
}

// fits tells whether protobuf can carry the event at all.
func fits(e *eventbusv1.Event) bool {
	_, err := protojson.Marshal(e)
	return err == nil
}

// sameEvent checks that the data means the event, in protojson's reading.
func sameEvent(tb testing.TB, e *eventbusv1.Event, data string) {
	tb.Helper()
	got := &eventbusv1.Event{}
	if err := protojson.Unmarshal([]byte(data), got); err != nil {
		tb.Fatalf("%v in %q", err, data)
	}
	want := proto.CloneOf(e)
	if want.GetPublishTime() == nil {
		want.PublishTime = got.GetPublishTime()
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		tb.Fatal(d)
	}
}

func TestFrame_AnyJSONValueIsAResult(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `0`, `-0.5`, `1e-7`, `1e21`, `123456789012`, `1.7976931348623157e308`, `5e-324`, `""`, `"a\"b"`,
		`[]`, `{}`, `[1,"zwei",null,[],{}]`, `{"label":"캔","score":0.97,"tags":["a","b"],"deep":{"er":[{}]}}`,
	} {
		e := with(func(e *eventbusv1.Event) { e.Result = value(t, text) })
		f := mustItem(t, e)
		var got struct{ Result json.RawMessage }
		if err := json.Unmarshal(f.bytes(false), &got); err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got.Result, &b); err != nil || !cmp.Equal(a, b) {
			t.Errorf("%s became %s (%v)", text, got.Result, err)
		}
		sameEvent(t, e, string(f.bytes(false)))
	}
}

func TestFrame_EventWithoutAReadableIDIsRefused(t *testing.T) {
	for _, id := range []string{"", "1", "x-0", "1-0\ndata: x"} {
		var c encoder
		if _, err := c.item(with(func(e *eventbusv1.Event) { e.Id = id })); status.Code(err) != codes.Internal {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func BenchmarkFrame(b *testing.B) {
	token := with(func(e *eventbusv1.Event) { e.Status, e.Content, e.Progress = "streaming", " token", nil })
	result := with(func(e *eventbusv1.Event) {
		e.Result = value(b, `{"label":"캔","score":0.97,"tags":["a","b"],"box":[1,2,3,4]}`)
	})
	for name, e := range map[string]*eventbusv1.Event{"token": token, "result": result} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var c encoder
			for b.Loop() {
				if _, err := c.item(e); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/protojson", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := (protojson.MarshalOptions{UseProtoNames: true}).Marshal(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
