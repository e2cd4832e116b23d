package event_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
)

// checkText fails unless the text says what its event does.
func checkText(t interface{ Fatalf(string, ...any) }, got event.Text, want *event.Event) {
	if bytes.ContainsAny(got.JSON, "\r\n") || !json.Valid(got.JSON) {
		t.Fatalf("%q is not a line of JSON", got.JSON)
	}
	if got.ID != want.ID || got.Seq != want.Seq || got.Final != want.Final {
		t.Fatalf("got %v %d %v of %s", got.ID, got.Seq, got.Final, got.JSON)
	}
	stage := ""
	if event.ValidStage(want.Stage) {
		stage = want.Stage
	}
	if s := string(got.JSON[got.StageStart:got.StageEnd]); s != stage {
		t.Fatalf("the stage is %q in %s", s, got.JSON)
	}
	e, err := got.Event()
	if err != nil {
		t.Fatalf("%s: %v", got.JSON, err)
	}
	if d := cmp.Diff(want, e, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%s", d)
	}
}

func TestText_SaysWhatTheEventDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		checkText(t, e.Text(), e)
		got, err := event.ParseText(string(e.AppendJSON(nil)))
		if err != nil {
			t.Fatal(err)
		}
		checkText(t, got, e)
	})
}

// What another encoder writes reaches nobody in a form that breaks a frame.
func TestText_OfAnotherEncoderIsOneLine(t *testing.T) {
	want := &event.Event{
		ID: event.ID{Ms: 5, Seq: 1}, Domain: "scan", JobID: "j", Seq: 2, Stage: "vision", Status: "ok", Progress: 7, HasProgress: true,
		Message: "a\nb", Result: `{"a":[1,2]}`, Attributes: map[string]string{"k": "v"}, Final: true, PublishMs: 5,
	}
	for name, s := range map[string]string{
		"lines":   "{\"id\":\"5-1\",\r\n\"domain\":\"scan\",\"job_id\":\"j\",\"seq\":2,\"stage\":\"vision\",\"status\":\"ok\",\"progress\":7,\"message\":\"a\\nb\",\n\"result\":{\"a\":[1,\n2]},\"attributes\":{\"k\":\"v\"},\"final\":true}",
		"spaces":  `{"final": true, "attributes": {"k": "v"}, "result":{"a":[1,2]}, "message":"a\nb", "progress": 7, "status": "ok", "stage": "vision", "seq": 2, "job_id": "j", "domain": "scan", "id": "5-1"}`,
		"escapes": `{"id":"5-1","domain":"scan","job_id":"j","seq":2,"stage":"vi\u0073ion","status":"o\u006b","progress":7,"message":"a\u000ab","result":{"a":[1,2]},"attributes":{"k":"v"},"final":true}`,
		"nulls":   `{"id":"5-1","domain":"scan","job_id":"j","seq":2,"stage":"vision","status":"ok","progress":7,"message":"a\nb","content":null,"result":{"a":[1,2]},"attributes":{"k":"v"},"final":true,"publish_time":null}`,
	} {
		got, err := event.ParseText(s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkText(t, got, want)
	}
}

func TestText_UnreadableIsAnError(t *testing.T) {
	for _, s := range []string{
		"null", "[]", `"x"`, "{}", `{"id":5,"stage":"a"}`, `{"id":"x","stage":"a"}`, `{"id":"5-0","seq":"1","stage":"a"}`,
		`{"id":"5-0","seq":-1,"stage":"a"}`, `{"id":"5-0","stage":["a"]}`, `{"id":"5-0","stage":"a","final":1}`,
		`{"id":"5-0","stage":"a","attributes":{"k":1}}`, `{"id":"5-0","stage":"a","progress":1.5}`, `{"id":"5-0","stage":"a","publish_time":"x"}`,
	} {
		if got, err := event.ParseText(s); err == nil {
			t.Errorf("%s: %+v", s, got)
		}
	}
}

// A later version's fields go on to browsers.
func TestText_KeepsFieldsThatAreNotKnown(t *testing.T) {
	s := `{"id":"5-0","domain":"scan","job_id":"j","seq":1,"stage":"a","later":[1,{}]}`
	got, err := event.ParseText(s)
	if err != nil || string(got.JSON) != s {
		t.Errorf("%s %v", got.JSON, err)
	}
}

func FuzzText(f *testing.F) {
	f.Add(`{"id":"5-0","domain":"scan","job_id":"j","seq":1,"stage":"a","result":{"a":"\n"},"final":true}`)
	f.Add("{\"id\":\"5-0\",\"stage\":\"\\u0061\",\"result\":\n1}")
	f.Add(`{"id":"5-0","id":"6-0","stage":"\ud800","stage":"b"}`)
	f.Fuzz(func(t *testing.T, s string) {
		if !json.Valid([]byte(s)) {
			return
		}
		got, err := event.ParseText(s)
		if err != nil {
			return
		}
		e, err := got.Event()
		if err != nil || bytes.ContainsAny(got.JSON, "\r\n") {
			t.Fatalf("%q of %q: %v", got.JSON, s, err)
		}
		if e.ID != got.ID || e.Seq != got.Seq || e.Final != got.Final {
			t.Fatalf("%+v of %q", got, s)
		}
		if stage := string(got.JSON[got.StageStart:got.StageEnd]); stage != "" && stage != e.Stage {
			t.Fatalf("%q: stage %q, not %q", s, stage, e.Stage)
		}
	})
}

func BenchmarkParseText(b *testing.B) {
	e := &event.Event{
		ID: event.ID{Ms: 1737415902456}, Domain: "scan", JobID: "904fb02f-3e06-482c-b271-e641d3275d6b", Seq: 3, Stage: "vision",
		Status: "streaming", Content: string(bytes.Repeat([]byte("x"), 200)), PublishMs: 1737415902456,
	}
	s := string(e.AppendJSON(nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.ParseText(s); err != nil {
			b.Fatal(err)
		}
	}
}
