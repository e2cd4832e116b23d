package event_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/router/event"
)

func TestKindOf_IsTheFirstErrorsOfTheChain(t *testing.T) {
	exhausted := &event.Error{Kind: event.Exhausted, Text: "full", Err: io.ErrShortWrite}
	for _, c := range []struct {
		err  error
		want event.Kind
	}{
		{nil, event.Internal},
		{io.EOF, event.Internal},
		{exhausted, event.Exhausted},
		{fmt.Errorf("publish: %w", exhausted), event.Exhausted},
		{errors.Join(io.EOF, exhausted), event.Exhausted},
		{&event.Error{Kind: event.Unavailable, Err: exhausted}, event.Unavailable},
		{event.Errorf(event.OutOfRange, "over"), event.OutOfRange},
		{event.Refuse(), event.Invalid},
	} {
		if got := event.KindOf(c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
}

func TestError_KeepsItsCauseForTheLog(t *testing.T) {
	err := event.Errorf(event.Unavailable, "read %s: %w", "log", io.ErrUnexpectedEOF)
	if err.Error() != "read log: unexpected EOF" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if plain := event.Errorf(event.Over, "job %d", 7); plain.Error() != "job 7" || errors.Unwrap(plain) != nil {
		t.Errorf("got %v", plain)
	}
}

func TestRefuse_NamesFieldValueAndRuleOfEachViolation(t *testing.T) {
	err := event.Refuse(
		event.Violate("event.job_id", "a b\n", event.JobIDRule),
		event.Violate("page_size", 1001, "must be at most 1000"),
		event.Violate("event", nil, "is required"),
	)
	want := `event.job_id: "a b\n": ` + event.JobIDRule + `; page_size: 1001: must be at most 1000; event: is required`
	if err.Kind != event.Invalid || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if d := cmp.Diff([]event.Violation{
		{Field: "event.job_id", Value: `"a b\n"`, Rule: event.JobIDRule},
		{Field: "page_size", Value: "1001", Rule: "must be at most 1000"},
		{Field: "event", Rule: "is required"},
	}, err.Violations); d != "" {
		t.Error(d)
	}
}

// TestViolate_ShowsAnyValueAsShortText: what callers send ends up in gRPC statuses,
// which carry UTF-8 only, and in log lines.
func TestViolate_ShowsAnyValueAsShortText(t *testing.T) {
	for _, v := range []string{strings.Repeat("€", 100_000), "\xff\xfe", "a\r\nb", "\x00", strings.Repeat("a", 79) + "é"} {
		got := event.Violate("f", v, "r").String()
		if !utf8.ValidString(got) || len(got) > 500 || strings.ContainsAny(got, "\r\n\x00") {
			t.Errorf("got %q", got)
		}
	}
	if got := event.Violate("f", strings.Repeat("a", 81), "r").Value; !strings.Contains(got, "(81 bytes)") {
		t.Errorf("got %s", got)
	}
}
