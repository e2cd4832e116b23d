package event_test

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
)

func anyID() *rapid.Generator[event.ID] {
	return rapid.Custom(func(t *rapid.T) event.ID {
		return event.ID{Ms: rapid.Uint64().Draw(t, "ms"), Seq: rapid.Uint64().Draw(t, "seq")}
	})
}

func TestParseID_TakesOnlyTwoNumbersOf64Bits(t *testing.T) {
	for text, want := range map[string]event.ID{
		"0-0":             {},
		"1737415902456-0": {Ms: 1737415902456},
		"1-2":             {Ms: 1, Seq: 2},
		"007-01":          {Ms: 7, Seq: 1},
		"18446744073709551615-18446744073709551615": event.MaxID(),
	} {
		if got, err := event.ParseID(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "-", "0", "1-", "-1", "1-2-3", "1--2", "+1-0", "1-+0", "-1-0", " 1-0", "1-0 ", "1-0\n", "1 -0", "1_0-0",
		"0x1-0", "1.0-0", "$", "*", "+", "١-٠", "1\x00-0",
		"18446744073709551616-0", "0-18446744073709551616", "99999999999999999999999-0",
	} {
		if got, err := event.ParseID(text); err == nil || got != (event.ID{}) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestParseID_ErrorShowsTheValueClipped(t *testing.T) {
	_, err := event.ParseID(strings.Repeat("é", 5000) + "\xff\n")
	if err == nil || len(err.Error()) > 300 || !utf8.ValidString(err.Error()) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	_, err = event.ParseID("abc")
	if want := `"abc" is not an id of the form [0-9]+-[0-9]+`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestID_StringIsTheInverseOfParseID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := anyID().Draw(t, "id")
		want := strconv.FormatUint(id.Ms, 10) + "-" + strconv.FormatUint(id.Seq, 10)
		if got := id.String(); got != want {
			t.Fatalf("got %s", got)
		}
		if got, err := event.ParseID(id.String()); err != nil || got != id {
			t.Fatalf("got %v, %v", got, err)
		}
		if got := string(id.Append([]byte("x"))); got != "x"+want {
			t.Fatalf("got %s", got)
		}
	})
}

func TestParseIDs_IsTheInverseOfJoinIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(anyID(), 1, 20).Draw(t, "ids")
		texts := make([]string, len(ids))
		for i, id := range ids {
			texts[i] = id.String()
		}
		joined := event.JoinIDs(ids)
		if joined != strings.Join(texts, ",") {
			t.Fatalf("joined: %s", joined)
		}
		got, err := event.ParseIDs(joined)
		if err != nil || !cmp.Equal(got, ids) {
			t.Fatalf("got %v, %v; want %v", got, err, ids)
		}
	})
	for _, text := range []string{"", ",", "1-0,", ",1-0", "1-0,,2-0", "1-0, 2-0", "1-0;2-0", "1-0,x"} {
		if got, err := event.ParseIDs(text); err == nil || got != nil {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestID_CompareOrdersByTimeThenCounter(t *testing.T) {
	ordered := []event.ID{
		{}, {Seq: 1}, {Seq: math.MaxUint64}, {Ms: 1}, {Ms: 1, Seq: 9}, {Ms: 1, Seq: 10}, {Ms: 2}, {Ms: 10},
		{Ms: math.MaxUint64}, event.MaxID(),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			want := max(min(i-j, 1), -1)
			if got := a.Compare(b); got != want {
				t.Errorf("%s and %s: got %d", a, b, got)
			}
		}
	}
}

func TestID_PrevIsTheLargestBefore(t *testing.T) {
	for _, c := range []struct{ id, want event.ID }{
		{event.ID{}, event.ID{}},
		{event.ID{Seq: 1}, event.ID{}},
		{event.ID{Ms: 5, Seq: 3}, event.ID{Ms: 5, Seq: 2}},
		{event.ID{Ms: 5}, event.ID{Ms: 4, Seq: math.MaxUint64}},
		{event.MaxID(), event.ID{Ms: math.MaxUint64, Seq: math.MaxUint64 - 1}},
	} {
		if got := c.id.Prev(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.id, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		id := anyID().Draw(t, "id")
		prev := id.Prev()
		if id.IsZero() {
			return
		}
		if prev.Compare(id) >= 0 {
			t.Fatalf("%s is not before %s", prev, id)
		}
		if other := anyID().Draw(t, "other"); other.Compare(prev) > 0 && other.Compare(id) < 0 {
			t.Fatalf("%s lies between %s and %s", other, prev, id)
		}
	})
}

func TestID_IsZeroOnlyBeforeEveryEntry(t *testing.T) {
	if !(event.ID{}).IsZero() || (event.ID{Seq: 1}).IsZero() || (event.ID{Ms: 1}).IsZero() {
		t.Error("wrong")
	}
}

func TestID_TimeIsUTCAndAtMostTheYear9999(t *testing.T) {
	for ms, want := range map[uint64]string{
		0:               "1970-01-01T00:00:00Z",
		1737415902456:   "2025-01-20T23:31:42.456Z",
		253402300799999: "9999-12-31T23:59:59.999Z",
		253402300800000: "9999-12-31T23:59:59.999Z",
		math.MaxUint64:  "9999-12-31T23:59:59.999Z",
	} {
		if got := (event.ID{Ms: ms, Seq: 7}).Time().Format(time.RFC3339Nano); got != want {
			t.Errorf("%d: got %s", ms, got)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"0-0", "1737415902456-0", "18446744073709551615-1", "1-2-3", "-1", "٣-1", "", "1-0,2-0"} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^0*([0-9]+)-0*([0-9]+)$`)
	f.Fuzz(func(t *testing.T, s string) {
		id, err := event.ParseID(s)
		m := form.FindStringSubmatch(s)
		if err != nil {
			if len(m) == 3 && len(m[1]) < 20 && len(m[2]) < 20 {
				t.Fatalf("%q: %v", s, err)
			}
			if !utf8.ValidString(err.Error()) {
				t.Fatalf("%q: the error is not UTF-8", s)
			}
			return
		}
		if len(m) != 3 || id.String() != m[1]+"-"+m[2] {
			t.Fatalf("%q is read as %s", s, id)
		}
		ids, err := event.ParseIDs(s + "," + id.String())
		if err != nil || len(ids) != 2 || ids[0] != id || ids[1] != id {
			t.Fatalf("%q twice: %v, %v", s, ids, err)
		}
	})
}
