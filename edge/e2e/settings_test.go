package e2e

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// setting is one of the documented ones: its default, "–" where there is none or it is
// not one word, and whose it is.
type setting struct{ value, process string }

// documented reads the page of settings, a row each.
func documented(t testing.TB) map[string]setting {
	t.Helper()
	text, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]setting{}
	row := regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| (?:`([^`]+)`|(–)) \\| (router|edge|both) \\|")
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		if _, twice := out[m[1]]; twice {
			t.Errorf("%s is documented twice", m[1])
		}
		out[m[1]] = setting{m[2] + m[3], m[4]}
	}
	if rows := strings.Count(string(text), "\n| `"); rows != len(out) {
		t.Errorf("%d rows, of which %d say name, default and process", rows, len(out))
	}
	return out
}

func TestSettings_EachIsDocumentedWithItsDefault(t *testing.T) {
	t.Parallel()
	all := documented(t)
	commands := map[string][]string{
		"router": {"router", "both"}, "edge": {"edge", "both"},
		"serve": {"router", "edge", "both"}, "dev": {"router", "edge", "both"},
	}
	for command, parts := range commands {
		help := helpOf(t, command)
		for name := range help {
			if s, ok := all[name]; !ok || !slices.Contains(parts, s.process) {
				t.Errorf("%s has %s, and docs/settings.md says %q", command, name, s.process)
			}
		}
		for name, s := range all {
			if !slices.Contains(parts, s.process) {
				continue
			}
			entry, ok := help[name]
			flag := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
			switch {
			case !ok:
				t.Errorf("%s has no %s", command, name)
			case !regexp.MustCompile(`^--(\[no-\])?` + flag + `\b`).MatchString(entry):
				t.Errorf("%s --help: %s is not the flag --%s: %s", command, name, flag, entry)
			case !strings.HasPrefix(entry, "--"+flag+"="): // a switch: its default is not in the help
			case s.value != "–" && !regexp.MustCompile(`^--\S+="?`+regexp.QuoteMeta(s.value)+`(,\.\.\.)?[" ]`).MatchString(entry):
				t.Errorf("%s --help: the default of %s is not %s: %s", command, name, s.value, entry)
			}
		}
	}
}

// helpOf is what --help says of each setting, by its environment variable, in one
// line.
func helpOf(t testing.TB, command string) map[string]string {
	t.Helper()
	p := run(t, command+" --help", nil, command, "--help")
	if code := p.exit(); code != 0 {
		t.Fatalf("%s --help: exit code %d", command, code)
	}
	out := map[string]string{}
	_, flags, _ := strings.Cut(p.Log(), "Flags:")
	flags = regexp.MustCompile(`\n\n\w.*`).ReplaceAllString(flags, "") // names of groups
	for _, entry := range regexp.MustCompile(`\n +--`).Split(flags, -1) {
		entry = "--" + strings.Join(strings.Fields(entry), " ")
		if m := regexp.MustCompile(`\(\$([A-Z_]+)\)\.$`).FindStringSubmatch(entry); m != nil {
			out[m[1]] = entry
		}
	}
	return out
}

// A bad setting ends the process at once, and says which it is, what it is and
// what it may be.
func TestSettings_BadOnesAreFatalAndNameValueAndBound(t *testing.T) {
	t.Parallel()
	good := map[string]settings{
		"router": {"REDIS_STREAMS_URL": "redis://127.0.0.1:1/0"},
		"edge":   {"ROUTER_ADDR": "127.0.0.1:1"},
	}
	for _, c := range []struct {
		command, name, value string
		says                 []string
	}{
		{"router", "REDIS_STREAMS_URL", "", []string{"must be set"}},
		{"router", "REDIS_STREAMS_URL", "http://127.0.0.1", []string{`"http"`, "redis+sentinel://"}},
		{"router", "REDIS_PUBSUB_URL", "redis+cluster://127.0.0.1:1", []string{"standalone or Sentinel"}},
		{"router", "DOMAINS", "scan,Chat", []string{`"Chat"`, "[a-z][a-z0-9-]{0,31}"}},
		{"router", "SHARD_COUNT", "0", []string{"0", "1-1024"}},
		{"router", "SHARD_COUNT", "four", []string{`"four"`}},
		{"router", "CONSUMER_GROUP", "", []string{"must be set"}},
		{"router", "RETENTION", "10ms", []string{"10ms", "1s"}},
		{"router", "IDEMPOTENCY_WINDOW", "30m", []string{"30m", "longer than RETENTION"}},
		{"router", "LEASE_TTL", "1ms", []string{"1ms", "500ms"}},
		{"router", "HEAD_CHECK_INTERVAL", "1ms", []string{"1ms", "100ms"}},
		{"router", "PROBE_INTERVAL", "-5s", []string{"-5s", "100ms"}},
		{"router", "PUBLISH_MIN_REPLICAS", "-1", []string{"-1", "0-16"}},
		{"router", "MAX_EVENT_BYTES", "5000000", []string{"5000000", "4194304"}},
		{"router", "MAX_LAG", "10000", []string{"10000", "1-9999"}},
		{"router", "GRPC_ADDR", "nowhere", []string{`"nowhere"`, "host:port"}},
		{"edge", "ROUTER_ADDR", "", []string{"must be set"}},
		{"edge", "TRACE_URL", "javascript:{trace_id}", []string{"javascript:", "http:// or https://"}},
		{"edge", "CORS_ORIGINS", "https://good.example,*", []string{`"*"`, "https://app.example.com"}},
		{"edge", "CONSOLE", "perhaps", []string{`"perhaps"`, "true"}},
		{"edge", "HEARTBEAT_INTERVAL", "1h", []string{"1h", "10m"}},
		{"edge", "DRAIN_TIMEOUT", "24h", []string{"24h", "10m"}},
		{"edge", "LOG_LEVEL", "loud", []string{`"loud"`, "debug"}},
	} {
		t.Run(c.command+" "+c.name+"="+c.value, func(t *testing.T) {
			t.Parallel()
			env := maps.Clone(good[c.command])
			env["ADMIN_ADDR"] = "127.0.0.1:0"
			env[c.name] = c.value
			p := run(t, c.command, env, c.command)
			code, said := p.exit(), p.Log()
			if code == 0 {
				t.Errorf("exit code 0")
			}
			flag := "--" + strings.ToLower(strings.ReplaceAll(c.name, "_", "-"))
			if !strings.Contains(said, c.name) && !strings.Contains(said, flag) {
				t.Errorf("it does not name %s: %s", c.name, said)
			}
			for _, s := range c.says {
				if !strings.Contains(said, s) {
					t.Errorf("it does not say %s: %s", s, said)
				}
			}
		})
	}
	t.Run("an unknown flag", func(t *testing.T) {
		t.Parallel()
		p := run(t, "edge", nil, "edge", "--no-such-flag=127.0.0.1:1")
		if code := p.exit(); code == 0 || !strings.Contains(p.Log(), "no-such-flag") {
			t.Errorf("exit code %d: %s", code, p.Log())
		}
	})
}
