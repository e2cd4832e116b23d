package access

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/eco2-team/eventbus/router/event"
)

func identity(t testing.TB, subscribe, publish []string) *Identity {
	t.Helper()
	id := &Identity{}
	var err error
	if id.subscribe, err = parsePatterns(subscribe); err == nil {
		id.publish, err = parsePatterns(publish)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestGrants_CoverWhatTheySayAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		grant, domain, job string
		want               bool
	}{
		{"scan/a", "scan", "a", true},
		{"scan/a", "scan", "ab", false},
		{"scan/a", "chat", "a", false},
		{"scan/a", "scan", "A", false},
		{"scan/*", "scan", "a", true},
		{"scan/*", "chat", "a", false},
		{"scan/*", "scanner", "a", false},
		{"scan/user-7-*", "scan", "user-7-x", true},
		{"scan/user-7-*", "scan", "user-7-", true},
		{"scan/user-7-*", "scan", "user-7", false},
		{"scan/user-7-*", "scan", "user-70-x", false},
		{"scan/..*", "scan", "..a", true},
		{"*/a", "scan", "a", true},
		{"*/a", "chat", "b", false},
		{"*/*", "chat", "b", true},
	} {
		id := identity(t, []string{c.grant}, nil)
		if got := id.MaySubscribe(c.domain, c.job) == nil; got != c.want {
			t.Errorf("%s for %s/%s: %t", c.grant, c.domain, c.job, got)
		}
		if err := id.MayPublish(c.domain, c.job); event.KindOf(err) != event.Denied {
			t.Errorf("a grant to subscribe lets publish: %v", err)
		}
		id = identity(t, nil, []string{"other/x", c.grant})
		if got := id.MayPublish(c.domain, c.job) == nil; got != c.want {
			t.Errorf("publish %s for %s/%s: %t", c.grant, c.domain, c.job, got)
		}
		if err := id.MaySubscribe(c.domain, c.job); event.KindOf(err) != event.Denied {
			t.Errorf("a grant to publish lets subscribe: %v", err)
		}
	}
}

func TestGrants_WatchNeedsAllOfItsJobsOrTheDomain(t *testing.T) {
	for _, c := range []struct {
		grants []string
		jobs   []string
		want   bool
	}{
		{[]string{"scan/a", "scan/b"}, []string{"a", "b"}, true},
		{[]string{"scan/a"}, []string{"a", "b"}, false},
		{[]string{"scan/a", "chat/b"}, []string{"a", "b"}, false},
		{[]string{"scan/*"}, []string{"a", "b"}, true},
		{[]string{"scan/*"}, nil, true},
		{[]string{"*/*"}, nil, true},
		{[]string{"*/a", "scan/a", "scan/a*", "chat/*"}, nil, false},
		{[]string{"*/a", "scan/a", "scan/a*", "chat/*"}, []string{}, false},
		{nil, nil, false},
	} {
		if got := identity(t, c.grants, []string{"scan/*"}).MayWatch("scan", c.jobs) == nil; got != c.want {
			t.Errorf("%v for %v: %t", c.grants, c.jobs, got)
		}
	}
}

func TestPattern_IsAWholeSegmentOrATrailingWildcard(t *testing.T) {
	for _, s := range []string{
		"", "/", "*", "scan", "scan/", "/a", "**/a", "sc*/a", "*n/a", "Scan/a", "scan/*a", "scan/a*b", "scan/**", "scan/a**",
		"scan/a/b", "scan/a b", "scan/.", "scan/..", "scan/?", "scan/a\n", " scan/a", "scan/" + strings.Repeat("a", 129), "scan/[a]", "scan/é",
	} {
		if p, err := parsePattern(s); err == nil {
			t.Errorf("%q is %+v", s, p)
		}
	}
}

// The rules once more, as regular expressions: a pattern that is taken covers
// just what reads like it, and no text but a pattern is taken.
func TestPattern_MatchesAsItReads(t *testing.T) {
	grammar := regexp.MustCompile(`^(\*|[a-z][a-z0-9-]{0,31})/(\*|[A-Za-z0-9._:-]{1,127}\*|[A-Za-z0-9._:-]{1,128})$`)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-b*]{0,2}/?[a-b.*]{0,3}`).Draw(t, "pattern")
		p, err := parsePattern(text)
		_, job, _ := strings.Cut(text, "/")
		if want := grammar.MatchString(text) && job != "." && job != ".."; (err == nil) != want {
			t.Fatalf("%q: %v", text, err)
		}
		if err != nil {
			return
		}
		reads := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(text), `\*`, ".*") + "$")
		name := rapid.StringMatching(`[a-b]{1,2}/[a-b.]{1,3}`).Draw(t, "name")
		domain, id, _ := strings.Cut(name, "/")
		if got := p.covers(domain, id); got != reads.MatchString(name) {
			t.Fatalf("%q covers %q: %t", text, name, got)
		}
	})
}

func TestDenied_ShowsAnyNameAsShortText(t *testing.T) {
	err := identity(t, nil, nil).MayPublish(strings.Repeat("d", 1<<20), "\x00\r\n\xff")
	if len(err.Error()) > 400 || !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\x00\r\n") {
		t.Errorf("%q", err)
	}
}
