package router

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
)

func TestAnnouncement_HasTheFormOfTheContract(t *testing.T) {
	e := &event.Event{ID: event.ID{Ms: 5}, Domain: "scan", JobID: "job-1", Seq: 1, Stage: "vision", PublishMs: 5}
	first := announcement{"scan", "job-1", event.ID{}, []*event.Event{e}}
	want := `{"domain":"scan","job_id":"job-1","prev":"0","events":[` + string(e.AppendJSON(nil)) + `]}`
	if got := string(first.append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	later := announcement{"scan", "job-1", event.ID{Ms: 4, Seq: 2}, []*event.Event{e, e}}
	want = `{"domain":"scan","job_id":"job-1","prev":"4-2","events":[` + string(e.AppendJSON(nil)) + "," + string(e.AppendJSON(nil)) + `]}`
	if got := string(later.append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// logged is an event as a job log has it.
func logged(t *rapid.T) *event.Event {
	e := entryEvent().Draw(t, "event")
	e.Seq = rapid.Uint32Min(1).Draw(t, "seq")
	e.Result = strings.TrimSpace(e.Result) // blanks around a value are not part of it
	return e
}

func TestAnnouncement_IsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := announcement{domain: "scan", jobID: rapid.StringMatching(`[A-Za-z0-9._:-]{1,128}`).Draw(t, "job")}
		if rapid.Bool().Draw(t, "has prev") {
			want.prev = event.ID{Ms: rapid.Uint64Min(1).Draw(t, "ms"), Seq: rapid.Uint64().Draw(t, "n")}
		}
		for range rapid.IntRange(0, 3).Draw(t, "events") {
			want.events = append(want.events, logged(t))
		}
		b := want.append(nil)
		if !json.Valid(b) || !utf8.Valid(b) {
			t.Fatalf("got %q", b)
		}
		read, err := parseAnnouncement(string(b))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, decoded(t, read), cmp.AllowUnexported(announcement{}), cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// decoded is what was heard as it was announced.
func decoded(t interface{ Fatal(...any) }, h heard) announcement {
	a := announcement{h.domain, h.jobID, h.prev, nil}
	for _, text := range h.events {
		e, err := text.Event()
		if err != nil {
			t.Fatal(err)
		}
		a.events = append(a.events, e)
	}
	return a
}

func TestAnnouncement_UnreadableIsAnError(t *testing.T) {
	for _, s := range []string{
		"", "x", "[]", "{}", `{"prev":""}`, `{"prev":0}`, `{"prev":"1"}`, `{"prev":"00"}`, `{"prev":"-"}`,
		`{"prev":"0","events":[null]}`, `{"prev":"0","events":[{}]}`, `{"prev":"0","events":{}}`, `{"prev":"0","events":["x"]}`,
		`{"prev":"0"} {}`, `{"prev":"0"`,
	} {
		if got, err := parseAnnouncement(s); err == nil {
			t.Errorf("%s: got %+v", s, got)
		}
	}
}

func FuzzAnnouncement(f *testing.F) {
	e := &event.Event{ID: event.ID{Ms: 5}, Domain: "scan", JobID: "job-1", Seq: 1, Stage: "vision", PublishMs: 5}
	a := announcement{"scan", "job-1", event.ID{Ms: 4}, []*event.Event{e, e}}
	f.Add(string(a.append(nil)))
	f.Add(`{"domain":"scan","job_id":"j","prev":"0","events":[]}`)
	f.Add(`{"domain":"\ud800","job_id":"\u0000","prev":"0","events":[{"id":"1-0"},null]}`)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseAnnouncement(s)
		if err != nil {
			return
		}
		a := decoded(t, h)
		for i, e := range a.events {
			if it := shownText(h.events[i]); it.ID != e.ID || it.Size <= 0 {
				t.Fatalf("got %+v", it)
			}
			// A result is passed on as it is; the rest must be UTF-8.
			e.Result = ""
			encodable(t, e)
		}
		if !event.ValidDomain(a.domain) || !event.ValidJobID(a.jobID) {
			return // the bus writes no such
		}
		again, err := parseAnnouncement(string(a.append(nil)))
		if err != nil || again.prev != a.prev || len(again.events) != len(a.events) {
			t.Fatalf("%+v is read as %+v, %v", a, again, err)
		}
	})
}

func TestShardMessage_IsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := shardMessage{}
		prev := event.MaxID() // what is not known follows nothing
		if rapid.Bool().Draw(t, "has prev") {
			prev = event.ID{Ms: 10, Seq: rapid.Uint64().Draw(t, "n")}
			m.Prev = prev.String()
		}
		var want []item
		at := uint64(100)
		for range rapid.IntRange(0, 3).Draw(t, "events") {
			e := logged(t)
			at += rapid.Uint64Range(1, 5).Draw(t, "step")
			id := event.ID{Ms: at}
			m.At, m.Events = append(m.At, id.String()), append(m.Events, e)
			want = append(want, shardItem(id, e))
		}
		last := event.ID{Ms: at}
		if len(want) == 0 || rapid.Bool().Draw(t, "last is not shown") {
			last = event.ID{Ms: at + 1}
			want = append(want, shardItem(last, nil))
		}
		m.Last = last.String()
		gotPrev, got, err := parseShardMessage(encodeShardMessage(m))
		if err != nil || gotPrev != prev {
			t.Fatalf("prev %s, want %s; %v", gotPrev, prev, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestShardMessage_UnreadableIsAnError(t *testing.T) {
	for _, s := range []string{
		"", "[]", "{}", `{"last":""}`, `{"last":"0"}`, `{"last":"1-0","prev":"0"}`, `{"last":"1-0","prev":"x"}`,
		`{"last":"1-0","at":["1-0"]}`, `{"last":"1-0","events":[{"id":"1-0"}]}`, `{"last":"1-0","at":["1-0"],"events":[null]}`,
		`{"last":"1-0","at":["x"],"events":[{"id":"1-0"}]}`, `{"last":"1-0","at":["1-0"],"events":[{}]}`, `{"last":1}`,
	} {
		if prev, got, err := parseShardMessage([]byte(s)); err == nil {
			t.Errorf("%s: got %s, %+v", s, prev, got)
		}
	}
}

func FuzzShardMessage(f *testing.F) {
	e := &event.Event{ID: event.ID{Ms: 5}, Domain: "scan", JobID: "job-1", Seq: 1, Stage: "vision", PublishMs: 5}
	f.Add(string(encodeShardMessage(shardMessage{Prev: "1-0", Last: "3-0", At: []string{"2-0", "3-0"}, Events: []*event.Event{e, e}})))
	f.Add(`{"prev":"","last":"3-0","at":[],"events":[]}`)
	f.Add(`{"last":"3-0","at":["3-0"],"events":[{"id":"1-0"}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		_, items, err := parseShardMessage([]byte(s))
		if err != nil {
			return
		}
		if len(items) == 0 {
			t.Fatalf("%q has no items", s)
		}
		for i, it := range items {
			if it.Final || it.Size <= 0 || (it.Value == nil && i < len(items)-1) {
				t.Fatalf("%q: item %d is %+v", s, i, it)
			}
			if it.Value != nil {
				it.Value.Result = ""
				encodable(t, it.Value)
			}
		}
	})
}

func TestWatchCursor_HasAnIDForEachShard(t *testing.T) {
	got, err := parseCursor("1-0,0-0,18446744073709551615-3", 3)
	want := []event.ID{{Ms: 1}, {}, {Ms: 18446744073709551615, Seq: 3}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	for _, text := range []string{"", "1-0", "1-0,2-0", "1-0,2-0,3-0,4-0", "1-0,,3-0", "1-0,2-0,x", "1-0,2-0,3-0,", "1-0 2-0 3-0", "0,0,0"} {
		got, err := parseCursor(text, 3)
		if err == nil || got != nil || event.KindOf(err) != event.Invalid || !strings.HasPrefix(err.Error(), "cursor: ") {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func FuzzWatchCursor(f *testing.F) {
	f.Add("1737415902456-0,0-0,1-1,2-2", 4)
	f.Add("0-0", 1)
	f.Add(strings.Repeat("1-1,", 5000), 4)
	f.Add("\xff-1,1-0", 2)
	f.Fuzz(func(t *testing.T, text string, shards int) {
		ids, err := parseCursor(text, shards)
		if err != nil {
			if event.KindOf(err) != event.Invalid || !utf8.ValidString(err.Error()) || len(err.Error()) > 2000 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := parseCursor(event.JoinIDs(ids), shards)
		if err != nil || len(ids) != shards || !cmp.Equal(ids, again) {
			t.Fatalf("%q: %v, then %v, %v", text, ids, again, err)
		}
	})
}
