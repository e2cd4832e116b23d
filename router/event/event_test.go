package event_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
)

// names is a table of a rule: what keeps it and what does not.
func names(t *testing.T, valid func(string) bool, good, bad []string) {
	t.Helper()
	for _, s := range good {
		if !valid(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range bad {
		if valid(s) {
			t.Errorf("%q is taken", s)
		}
	}
}

// notName breaks each rule of names.
func notName() []string {
	return []string{
		"", " ", "a b", "a\n", "\na", "a\x00", "a/b", "a{b}", "a*", "a,b", "ä", "a\xff", "a%", "a?b", "a#b", `a"b`, "а", // Cyrillic
	}
}

func TestValidDomain_KeepsItsRule(t *testing.T) {
	names(t, event.ValidDomain,
		[]string{"a", "scan", "chat", "video-encode", "a1", "a-", "a--b", "a" + strings.Repeat("z", 31)},
		append(notName(), "Scan", "1a", "-a", "a_b", "a.b", "a:b", "a"+strings.Repeat("z", 32)))
}

func TestValidJobID_KeepsItsRule(t *testing.T) {
	names(t, event.ValidJobID,
		[]string{
			"1", "904fb02f-3e06-482c-b271-e641d3275d6b", "A.b_c:d-e", "...", ".a", "a.", "-", "_", ":",
			strings.Repeat("x", 128),
		},
		append(notName(), ".", "..", strings.Repeat("x", 129)))
}

func TestValidStage_KeepsItsRule(t *testing.T) {
	names(t, event.ValidStage,
		[]string{"vision", "done", "failed", "token:1", "a.b-c_d", "Error", "gaps", ".", "..", strings.Repeat("x", 64)},
		append(notName(), "gap", "error", "open", "message", strings.Repeat("x", 65)))
}

func TestValidKey_IsPrintableASCII(t *testing.T) {
	names(t, event.ValidKey,
		[]string{"", " ", "a b", "!", "~", "{x}", "a/b", strings.Repeat("k", 128)},
		[]string{"a\n", "\t", "\x00", "\x1f", "\x7f", "é", "\xff", "a\r", strings.Repeat("k", 129)})
}

func TestEvent_StreamingUnlessFinal(t *testing.T) {
	for _, c := range []struct {
		e    event.Event
		want bool
	}{
		{event.Event{Status: "streaming"}, true},
		{event.Event{Status: "streaming", Final: true}, false},
		{event.Event{Status: "Streaming"}, false},
		{event.Event{Status: "completed"}, false},
		{event.Event{}, false},
	} {
		if got := c.e.Streaming(); got != c.want {
			t.Errorf("%+v: got %v", c.e, got)
		}
	}
}

func TestEvent_PublishTimeIsUTC(t *testing.T) {
	e := event.Event{PublishMs: 1737415902456}
	if got := e.PublishTime().Format(time.RFC3339Nano); got != "2025-01-20T23:31:42.456Z" {
		t.Errorf("got %s", got)
	}
}

// TestEvent_SizeIsAtLeastItsText: rings and batches are bounded by it.
func TestEvent_SizeIsAtLeastItsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEvent().Draw(t, "event")
		n := len(e.Domain) + len(e.JobID) + len(e.Stage) + len(e.Status) + len(e.Message) + len(e.Content) +
			len(e.Result) + len(e.Traceparent)
		for k, v := range e.Attributes {
			n += len(k) + len(v)
		}
		if got := e.Size(); got <= n {
			t.Fatalf("size %d, texts %d", got, n)
		}
	})
}

func TestReason_HasItsNameOfTheProtocol(t *testing.T) {
	for r, want := range map[event.Reason]string{
		event.HistoryExpired: "REASON_HISTORY_EXPIRED", event.LogReset: "REASON_LOG_RESET", 0: "REASON_UNSPECIFIED", 9: "REASON_UNSPECIFIED",
	} {
		if got := r.String(); got != want {
			t.Errorf("%d: got %s", int(r), got)
		}
	}
}
