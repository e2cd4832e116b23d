package router

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

var entryID = event.ID{Ms: 1737415902456, Seq: 7} //nolint:gochecknoglobals // a constant

// legacyEntry is an entry as today's workers write it, with more fields.
func legacyEntry(more ...string) entry {
	fields := []string{
		"job_id", "job-1", "stage", "vision", "status", "started", "seq", "10", "ts", "1737415902.1", "progress", "", "result", "",
	}
	return entry{entryID, append(fields, more...)}
}

// busEntry is an entry of the bus.
func busEntry(more ...string) entry {
	return legacyEntry(append([]string{"seq", "0", "final", "0"}, more...)...)
}

// parsed is what legacyEntry and busEntry mean, changed.
func parsed(change func(*event.Event)) *event.Event {
	e := &event.Event{
		ID: entryID, PublishMs: entryID.Ms, Domain: "scan", JobID: "job-1", Stage: "vision", Status: "started",
	}
	if change != nil {
		change(e)
	}
	return e
}

func attributes(pairs ...string) func(*event.Event) {
	return func(e *event.Event) {
		e.Attributes = make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			e.Attributes[pairs[i]] = pairs[i+1]
		}
	}
}

func TestShardEntry_LegacyRules(t *testing.T) {
	for name, c := range map[string]struct {
		in   entry
		want func(*event.Event)
	}{
		"as workers write it":           {legacyEntry(), nil},
		"seq is the producer's own":     {legacyEntry("seq", "no number"), nil},
		"ts is ignored":                 {legacyEntry("ts", "yesterday"), nil},
		"empty fields are unset":        {legacyEntry("message", "", "content", "", "traceparent", "", "node", "", "trace_id", "", "span_id", "", "other", ""), nil},
		"stage done is final":           {legacyEntry("stage", "done"), func(e *event.Event) { e.Stage, e.Final = "done", true }},
		"status failed is final":        {legacyEntry("status", "failed"), func(e *event.Event) { e.Status, e.Final = "failed", true }},
		"status done is not final":      {legacyEntry("status", "done"), func(e *event.Event) { e.Status = "done" }},
		"stage failed is not final":     {legacyEntry("stage", "failed"), func(e *event.Event) { e.Stage = "failed" }},
		"no status":                     {entry{entryID, []string{"job_id", "job-1", "stage", "vision"}}, func(e *event.Event) { e.Status = "" }},
		"text fields":                   {legacyEntry("message", "m", "content", "c", "traceparent", "00-a-b-01"), func(e *event.Event) { e.Message, e.Content, e.Traceparent = "m", "c", "00-a-b-01" }},
		"node and trace are attributes": {legacyEntry("node", "n", "trace_id", "t", "span_id", "s"), attributes("node", "n", "trace_id", "t", "span_id", "s")},
		"unknown fields are attributes": {legacyEntry("user", "u", "", "no name"), attributes("user", "u", "", "no name")},
		"attributes is an unknown one":  {legacyEntry("attributes", `{"a":"b"}`), attributes("attributes", `{"a":"b"}`)},
		"the last of equal fields":      {legacyEntry("status", "a", "status", "b"), func(e *event.Event) { e.Status = "b" }},

		"progress 0":            {legacyEntry("progress", "0"), func(e *event.Event) { e.HasProgress = true }},
		"progress 100":          {legacyEntry("progress", "100"), func(e *event.Event) { e.Progress, e.HasProgress = 100, true }},
		"progress over 100":     {legacyEntry("progress", "101"), attributes("progress", "101")},
		"progress below 0":      {legacyEntry("progress", "-1"), attributes("progress", "-1")},
		"progress of no number": {legacyEntry("progress", "50%"), attributes("progress", "50%")},
		"progress of a float":   {legacyEntry("progress", "12.5"), attributes("progress", "12.5")},
		"progress beyond int":   {legacyEntry("progress", "99999999999"), attributes("progress", "99999999999")},

		"result object":            {legacyEntry("result", `{"a": [], "n": 9007199254740993}`), func(e *event.Event) { e.Result = `{"a": [], "n": 9007199254740993}` }},
		"result null":              {legacyEntry("result", "null"), func(e *event.Event) { e.Result = "null" }},
		"result that is not JSON":  {legacyEntry("result", `it's "done"`), func(e *event.Event) { e.Result = `"it's \"done\""` }},
		"result of two values":     {legacyEntry("result", `{} {}`), func(e *event.Event) { e.Result = `"{} {}"` }},
		"result of Python":         {legacyEntry("result", `{'a': None}`), func(e *event.Event) { e.Result = `"{'a': None}"` }},
		"result NaN":               {legacyEntry("result", `NaN`), func(e *event.Event) { e.Result = `"NaN"` }},
		"result beyond a double":   {legacyEntry("result", `[1e400]`), func(e *event.Event) { e.Result = `"[1e400]"` }},
		"result of blanks":         {legacyEntry("result", " "), func(e *event.Event) { e.Result = `" "` }},
		"result that is not UTF-8": {legacyEntry("result", "\"\xff\""), func(e *event.Event) { e.Result = "\"\ufffd\"" }},

		"stage outside the rule":  {legacyEntry("stage", "Schritt 1/3 ä"), func(e *event.Event) { e.Stage = "Schritt 1/3 ä" }},
		"stage that is reserved":  {legacyEntry("stage", "error"), func(e *event.Event) { e.Stage = "error" }},
		"stage of 1,000 bytes":    {legacyEntry("stage", strings.Repeat("s", 1000)), func(e *event.Event) { e.Stage = strings.Repeat("s", 1000) }},
		"stage that is not UTF-8": {legacyEntry("stage", "a\xff"), func(e *event.Event) { e.Stage = "a\ufffd" }},

		"texts that are not UTF-8": {
			legacyEntry("status", "\xc3", "message", "a\xffb", "content", "\xed\xa0\x80", "traceparent", "\x80"),
			func(e *event.Event) {
				e.Status, e.Message, e.Content, e.Traceparent = "\ufffd", "a\ufffdb", "\ufffd", "\ufffd"
			},
		},
		"attributes that are not UTF-8": {legacyEntry("n\xff", "v\xff"), attributes("n\ufffd", "v\ufffd")},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseShardEntry("scan", c.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(parsed(c.want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestShardEntry_BusRules(t *testing.T) {
	for name, c := range map[string]struct {
		in   entry
		want func(*event.Event)
	}{
		"as the bus writes it":        {busEntry(), nil},
		"final":                       {busEntry("final", "1"), func(e *event.Event) { e.Final = true }},
		"stage done is not final":     {busEntry("stage", "done"), func(e *event.Event) { e.Stage = "done" }},
		"status failed is not final":  {busEntry("status", "failed"), func(e *event.Event) { e.Status = "failed" }},
		"attributes":                  {busEntry("attributes", `{"a":"b","c":""}`), attributes("a", "b", "c", "")},
		"no attributes":               {busEntry("attributes", `{}`), func(e *event.Event) { e.Attributes = map[string]string{} }},
		"attributes beside unknown":   {busEntry("x", "1", "attributes", `{"a":"b"}`, "y", "2"), attributes("x", "1", "a", "b", "y", "2")},
		"attributes that are numbers": {busEntry("attributes", `{"a":1}`), attributes("attributes", `{"a":1}`)},
		"attributes that are no JSON": {busEntry("attributes", `{"a"`), attributes("attributes", `{"a"`)},
		"a later version's field":     {busEntry("priority", "high"), attributes("priority", "high")},
		"stage of 64 bytes":           {busEntry("stage", strings.Repeat("s", 64)), func(e *event.Event) { e.Stage = strings.Repeat("s", 64) }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseShardEntry("scan", c.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(parsed(c.want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestShardEntry_BadJobIDOrStageIsADeadLetter(t *testing.T) {
	for name, c := range map[string]struct {
		in    entry
		field string
	}{
		"no fields":                 {entry{id: entryID}, "job_id"},
		"no job_id":                 {entry{entryID, []string{"stage", "vision"}}, "job_id"},
		"empty job_id":              {legacyEntry("job_id", ""), "job_id"},
		"job_id outside the rule":   {legacyEntry("job_id", "a b"), "job_id"},
		"job_id .":                  {legacyEntry("job_id", "."), "job_id"},
		"job_id ..":                 {legacyEntry("job_id", ".."), "job_id"},
		"job_id of 129 bytes":       {legacyEntry("job_id", strings.Repeat("j", 129)), "job_id"},
		"job_id that is not UTF-8":  {legacyEntry("job_id", "a\xff"), "job_id"},
		"job_id with a brace":       {legacyEntry("job_id", "a}"), "job_id"},
		"no stage":                  {entry{entryID, []string{"job_id", "job-1"}}, "stage"},
		"empty stage":               {legacyEntry("stage", ""), "stage"},
		"bus: empty stage":          {busEntry("stage", ""), "stage"},
		"bus: stage outside":        {busEntry("stage", "a b"), "stage"},
		"bus: stage is reserved":    {busEntry("stage", "error"), "stage"},
		"bus: stage of 65 bytes":    {busEntry("stage", strings.Repeat("s", 65)), "stage"},
		"bus: stage is not UTF-8":   {busEntry("stage", "a\xff"), "stage"},
		"job_id in another's value": {entry{entryID, []string{"stage", "job_id", "x", "job-1"}}, "job_id"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseShardEntry("scan", c.in)
			if err == nil || got != nil {
				t.Fatalf("got %+v, %v", got, err)
			}
			// The reason becomes a field of the dead letter and a log line.
			if s := err.Error(); !strings.HasPrefix(s, c.field+": ") || !utf8.ValidString(s) || len(s) > 500 {
				t.Errorf("got %q", s)
			}
		})
	}
}

// entryText is text that fields may hold, UTF-8.
func entryText() *rapid.Generator[string] {
	return rapid.OneOf(rapid.Just(""), rapid.String(), rapid.StringOf(rapid.RuneFrom([]rune("a{}[]\"\\\x00\n\r\u2028é"))))
}

// entryEvent is an event as the service hands it to Publish.
func entryEvent() *rapid.Generator[*event.Event] {
	return rapid.Custom(func(t *rapid.T) *event.Event {
		e := &event.Event{
			ID:     event.ID{Ms: rapid.Uint64Range(1, 253402300799999).Draw(t, "ms"), Seq: rapid.Uint64Range(0, 9).Draw(t, "n")},
			Domain: "scan", JobID: rapid.StringMatching(`[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,20}`).Draw(t, "job"),
			Stage:  rapid.StringMatching(`[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,20}`).Filter(event.ValidStage).Draw(t, "stage"),
			Status: entryText().Draw(t, "status"), Message: entryText().Draw(t, "message"), Content: entryText().Draw(t, "content"),
			Result: rapid.SampledFrom([]string{"", "null", "[]", "{}", `{"a":[],"n":9007199254740993}`, `"\ud800"`, "1e99", " [1] "}).Draw(t, "result"),
			Final:  rapid.Bool().Draw(t, "final"), Traceparent: entryText().Draw(t, "traceparent"),
		}
		e.PublishMs = e.ID.Ms
		if rapid.Bool().Draw(t, "has progress") {
			e.Progress, e.HasProgress = rapid.Int32Range(0, 100).Draw(t, "progress"), true
		}
		names := rapid.OneOf(entryText(), rapid.SampledFrom([]string{"final", "job_id", "seq", "orig", "bytes", "attributes", "stage"}))
		if m := rapid.MapOfN(names, entryText(), 0, 4).Draw(t, "attributes"); len(m) > 0 {
			e.Attributes = m
		}
		return e
	})
}

func TestShardEntry_ReadsWhatPublishWrote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := entryEvent().Draw(t, "event")
		got, err := parseShardEntry("scan", entry{want.ID, texts(appendShardFields(nil, want, timestamp(time.Now())))})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestShardFields_AlwaysHaveTheLegacyOnes(t *testing.T) {
	bare := &event.Event{JobID: "job-1", Stage: "vision"}
	got := texts(appendShardFields(nil, bare, timestamp(time.UnixMicro(1737415902456789))))
	want := []string{
		"job_id", "job-1", "stage", "vision", "status", "", "seq", "0", "ts", "1737415902.456789", "progress", "", "result", "", "final", "0",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	full := &event.Event{
		JobID: "job-1", Stage: "done", Status: "completed", HasProgress: true, Progress: 100, Result: "[]", Final: true,
		Message: "m", Content: "c", Attributes: map[string]string{"a": "b"}, Traceparent: "t",
	}
	got = texts(appendShardFields(nil, full, timestamp(time.UnixMicro(1737415902000001))))
	want = []string{
		"job_id", "job-1", "stage", "done", "status", "completed", "seq", "0", "ts", "1737415902.000001", "progress", "100", "result", "[]",
		"final", "1", "message", "m", "content", "c", "attributes", `{"a":"b"}`, "traceparent", "t",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// scriptFields are the fields that the projection script adds.
func scriptFields(e *event.Event, orig string) []string {
	f := append([]string{"seq", "7", "final", boolText(e.Final), "bytes", "12345"}, texts(appendLogFields(nil, e))...)
	if orig != "" {
		f = append(f, "orig", orig)
	}
	return f
}

func TestLogEntry_ReadsWhatTheProjectionWrote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := entryEvent().Draw(t, "event")
		want.Seq = 7
		orig := ""
		if rapid.Bool().Draw(t, "late") {
			want.PublishMs = rapid.Uint64Range(0, want.ID.Ms).Draw(t, "published")
			orig = event.ID{Ms: want.PublishMs, Seq: 3}.String()
		}
		got, err := parseLogEntry("scan", want.JobID, entry{want.ID, scriptFields(want, orig)})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestLogEntry_WithoutASeqIsAnError(t *testing.T) {
	for _, fields := range [][]string{
		nil, {"stage", "s"}, {"seq", "0"}, {"seq", ""}, {"seq", "-1"}, {"seq", "x"}, {"seq", "4294967296"},
	} {
		if got, err := parseLogEntry("scan", "job-1", entry{entryID, fields}); err == nil {
			t.Errorf("%q: got %+v", fields, got)
		}
	}
}

func TestParseEntries_TakesTheReplyOfXRANGE(t *testing.T) {
	got, err := parseEntries([]any{
		[]any{"1-0", []any{"a", "b", "c", "d"}},
		[]any{"1-1", []any{"a", nil, "odd"}},
		[]any{"2-0", []any{}},
	})
	want := []entry{
		{event.ID{Ms: 1}, []string{"a", "b", "c", "d"}},
		{event.ID{Ms: 1, Seq: 1}, []string{"a", ""}},
		{event.ID{Ms: 2}, []string{}},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	if got, err := parseEntries([]any{}); err != nil || len(got) != 0 {
		t.Errorf("empty: %v, %v", got, err)
	}
	for name, reply := range map[string]any{
		"nil": nil, "text": "x", "an entry of text": []any{"1-0"}, "one part": []any{[]any{"1-0"}},
		"no id": []any{[]any{nil, []any{}}}, "a bad id": []any{[]any{"x", []any{}}}, "no fields": []any{[]any{"1-0", nil}},
		"three parts": []any{[]any{"1-0", []any{}, []any{}}},
	} {
		if got, err := parseEntries(reply); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestEntry_GetReturnsTheLastOfEqualFields(t *testing.T) {
	en := entry{entryID, []string{"a", "1", "b", "a", "a", "2"}}
	for name, want := range map[string]string{"a": "2", "b": "a"} {
		if got, ok := en.get(name); !ok || got != want {
			t.Errorf("%s: got %q, %v", name, got, ok)
		}
	}
	for _, name := range []string{"1", "2", ""} {
		if got, ok := en.get(name); ok {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// encodable checks that an event can go out as JSON and as a protobuf message,
// whose strings are UTF-8.
func encodable(t testing.TB, e *event.Event) {
	t.Helper()
	texts := []string{e.Domain, e.JobID, e.Stage, e.Status, e.Message, e.Content, e.Result, e.Traceparent}
	for k, v := range e.Attributes {
		texts = append(texts, k, v)
	}
	if i := slices.IndexFunc(texts, func(s string) bool { return !utf8.ValidString(s) }); i >= 0 {
		t.Fatalf("%q is not UTF-8", texts[i])
	}
	b := e.AppendJSON(nil)
	var back event.Event
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
}

// FuzzShardEntry takes an entry's fields joined by "|".
func FuzzShardEntry(f *testing.F) {
	f.Add("job_id|job-1|stage|vision|status|started|seq|1|ts|1.5|progress|50|result|{}")
	f.Add("job_id|job-1|stage|done|final|1|attributes|{\"a\":\"\\ud800\"}|progress|x")
	f.Add("job_id|job-1|stage|\xff|result|\"\xff|n\xff|v\xff|message|\xed\xa0\x80|odd")
	f.Add("stage|s|job_id|.|final|")
	f.Add("job_id|j|stage|s|result|1e999|result|[[[[]]]]|attributes|null|attributes|{}")
	f.Fuzz(func(t *testing.T, text string) {
		fields := strings.Split(text, "|")
		en := entry{entryID, fields[:len(fields)&^1]} // as parseEntries does
		e, err := parseShardEntry("scan", en)
		if err != nil {
			if e != nil || !utf8.ValidString(err.Error()) {
				t.Fatalf("got %+v, %v", e, err)
			}
			return
		}
		if !event.ValidJobID(e.JobID) || e.Stage == "" || e.ID != entryID || e.Seq != 0 {
			t.Fatalf("got %+v", e)
		}
		encodable(t, e)
		// What it becomes in the job log is read as the same event.
		e.Seq = 7
		again, err := parseLogEntry("scan", e.JobID, entry{e.ID, scriptFields(e, "")})
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Attributes) == 0 {
			e.Attributes = nil
		}
		if d := cmp.Diff(e, again); d != "" {
			t.Fatal(d)
		}
	})
}

// What the publish script makes of its arguments is what the fields of an entry are
// said to be.
func TestPublish_WritesTheFieldsOfAnEntry(t *testing.T) {
	streams := redistest.New(t)
	tb := newBus(t, testConfig(streams.URL(), ""))
	for _, want := range []*event.Event{
		{Domain: "scan", JobID: "job-1", Stage: "vision"},
		{Domain: "scan", JobID: "job-1", Stage: "done", Status: "completed", HasProgress: true, Progress: 100, Result: "[]", Final: true,
			Message: "m", Content: "c", Attributes: map[string]string{"a": "b"}, Traceparent: "t"},
	} {
		if _, err := tb.Publish(testContext(t), []Request{{Event: want}}); err != nil {
			t.Fatal(err)
		}
		reply, err := streams.Client().Do(testContext(t), "XREVRANGE", shardKey("scan", event.ShardOf("job-1", 4)), "+", "-", "COUNT", 1).Result()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseEntries(reply)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d entries, %v", len(got), err)
		}
		ts, _ := got[0].get("ts")
		if d := cmp.Diff(texts(appendShardFields(nil, want, ts)), got[0].fields); d != "" {
			t.Error(d)
		}
	}
}
