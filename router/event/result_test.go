package event_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

func nested(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

func TestValidResult_IsWhatEveryReaderCanDecode(t *testing.T) {
	for text, want := range map[string]bool{
		"null": true, `"1e400 [["`: true, `"\"1e999"`: true, ` {"a": [1, -2.5e-3, true], "1e999": {}} `: true, "1e308": true, "0": true,
		nested(event.MaxResultDepth): true, "[" + strings.Repeat("[],", 5000) + "1]": true,
		"": false, "x": false, "{} {}": false, "NaN": false, "1e400": false, "[1,-1e309]": false, `{"a":1e999}`: false,
		strings.Repeat("9", 310): false, nested(event.MaxResultDepth + 1): false,
	} {
		if got := event.ValidResult(text); got != want {
			t.Errorf("%.40s: %v", text, got)
		}
	}
}

func FuzzValidResult(f *testing.F) {
	for _, s := range []string{`{"a":[1e5,"\\\"",null]}`, "1e400", "-0", `["\ud800"]`, nested(3)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v any
		err := json.Unmarshal([]byte(s), &v)
		if got := event.ValidResult(s); got != (err == nil) && strings.Count(s, "[")+strings.Count(s, "{") <= event.MaxResultDepth {
			t.Fatalf("%q: %v, %v", s, got, err)
		}
	})
}
