package command_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// ran is a command that has ended.
type ran struct {
	out, err string
	code     int
}

// run runs the binary to its end.
func run(t testing.TB, env bustest.Settings, stdin string, args ...string) ran {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bustest.Program(), args...)
	cmd.Env, cmd.Stdin = bustest.Environment(env), strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return ran{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// well is run of a command that must succeed.
func well(t testing.TB, env bustest.Settings, stdin string, args ...string) string {
	t.Helper()
	r := run(t, env, stdin, args...)
	if r.code != 0 {
		t.Fatalf("eventbus %v: exit code %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

func at(b *bustest.Bus) bustest.Settings { return bustest.Settings{"ROUTER_ADDR": b.GRPC} }

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }

func TestPublish_OneEventThenStateAndTail(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	env := at(bus)
	id := strings.TrimSpace(well(t, env, "", "publish", "scan/j", "--stage", "vision", "--status", "started", "--progress", "10",
		"--message", "looking\x1b[2J", "--attribute", "model=v2", "--key", "vision"))
	again := well(t, env, "", "publish", "scan/j", "-s", "vision", "-k", "vision", "--json")
	if want := fmt.Sprintf(`{"id":%q,"duplicate":true}`+"\n", id); again != want {
		t.Errorf("the same key again: %s, want %s", again, want)
	}
	well(t, env, "", "publish", "scan/j", "-s", "done", "--status", "completed", "-f", "-r", `{"kind":"can"}`)

	got := lines(well(t, env, "", "tail", "scan/j"))
	if len(got) != 2 || !strings.HasSuffix(got[0], " 1 vision started 10% looking�[2J model=v2") || !strings.HasSuffix(got[1], ` 2 done completed {"kind":"can"} (final)`) {
		t.Errorf("tail: %q", got)
	}
	if colours := well(t, env, "", "tail", "scan/j", "--color", "always"); !strings.Contains(colours, "\x1b[32mcompleted\x1b[") {
		t.Errorf("tail in colours: %q", colours)
	}
	if state := well(t, env, "", "state", "scan/j"); !strings.Contains(state, " scan/j ") || !strings.Contains(state, " done completed ") {
		t.Errorf("state: %q", state)
	}
	var event struct {
		ID, Cursor, Stage string
		Seq               int
		Result            map[string]string
	}
	for i, line := range lines(well(t, env, "", "tail", "scan/j", "--json")) {
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.Seq != i+1 || event.ID == "" || event.Cursor != event.ID {
			t.Errorf("tail --json: %s: %v", line, err)
		}
	}
	if event.Result["kind"] != "can" {
		t.Errorf("the last event: %+v", event)
	}
	if rest := well(t, env, "", "tail", "scan/j", "--after", event.ID); rest != "" {
		t.Errorf("after the final event: %q", rest)
	}
	if r := run(t, env, "", "state", "scan/other"); r.code != 1 || !strings.Contains(r.err, "notfound") {
		t.Errorf("state of no job: %+v", r)
	}
	if r := run(t, env, "", "publish", "scan/j", "-s", "late"); r.code != 1 || !strings.Contains(r.err, "failedprecondition") {
		t.Errorf("after the end: %+v", r)
	}
	if r := run(t, env, "", "publish", "scan", "-s", "late"); r.code != 1 || !strings.Contains(r.err, `"scan": must be DOMAIN/JOB`) {
		t.Errorf("no job: %+v", r)
	}
}

func TestPublish_LinesInOrderTheBadOnesByNumber(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	env := at(bus)
	var in strings.Builder
	const n = 2000
	for i := range n {
		fmt.Fprintf(&in, `{"stage":"token","status":"streaming","content":"t%d"}`+"\n", i)
	}
	in.WriteString("\n{\"stage\":\"not a stage\"}\nno json\n" + `{"stage":"done","final":true}` + "\n")
	r := run(t, env, in.String(), "publish", "chat/c", "--key", "first")
	if r.code != 1 || len(lines(r.out)) != n+1 || !strings.Contains(r.err, fmt.Sprintf("line %d: invalidargument: ", n+2)) ||
		!strings.Contains(r.err, fmt.Sprintf("line %d: is no JSON", n+3)) || !strings.Contains(r.err, "2 lines were not published") {
		t.Errorf("exit code %d, %d ids\n%s", r.code, len(lines(r.out)), r.err)
	}
	// What tail --json shows, publish takes: a copy, which is one however often.
	events := well(t, env, "", "tail", "--json", "chat/c")
	for range 2 {
		well(t, env, events, "publish", "chat/copy", "--key", "copy")
	}
	copied := lines(well(t, env, "", "tail", "--json", "chat/copy"))
	if len(copied) != n+1 {
		t.Fatalf("the copy has %d events", len(copied))
	}
	for i, line := range copied[:n] {
		if !strings.Contains(line, fmt.Sprintf(`"content":"t%d"`, i)) || !strings.Contains(line, fmt.Sprintf(`"seq":%d,`, i+1)) {
			t.Fatalf("event %d of the copy: %s", i, line)
		}
	}
	// Requests bring their job and their key.
	request := `{"event":{"domain":"scan","job_id":"r","stage":"done","final":true},"idempotency_key":"once"}` + "\n"
	if ids := lines(well(t, env, request+request, "publish")); len(ids) != 2 || ids[0] != ids[1] {
		t.Errorf("a request twice: %v", ids)
	}
}

func TestTail_GoesOnAfterCutsAndRestarts(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	door := bustest.NewDoor(t, bus.GRPC)
	env := at(bus)
	p := bustest.Start(t, bustest.Settings{"ROUTER_ADDR": door.Addr}, "tail", "--json", "scan/j")
	const n = 6
	for i := range n {
		well(t, env, "", "publish", "scan/j", "-s", fmt.Sprintf("stage-%d", i))
		bustest.Eventually(t, "it is shown", func() bool { return strings.Contains(p.Log(), fmt.Sprintf("stage-%d", i)) })
		switch i {
		case n / 2:
			bus.Restart(t)
			bus.WaitReady(t)
		default:
			door.Cut()
		}
	}
	well(t, env, "", "publish", "scan/j", "-s", "done", "-f")
	bustest.Eventually(t, "it ends by itself", func() bool { return !p.Running() })
	for seq := 1; seq <= n+1; seq++ {
		if got := strings.Count(p.Log(), fmt.Sprintf(`"seq":%d,`, seq)); got != 1 {
			t.Errorf("event %d is shown %d times", seq, got)
		}
	}
}

func TestTail_OfADomainShowsAllJobsUntilASignal(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	env := at(bus)
	p := bustest.Start(t, env, "tail", "scan", "--stage", "seen")
	jobs := []string{"a", "b", "c"}
	bustest.Eventually(t, "it shows each job", func() bool { // it is live only: publish until it is there
		shown := 0
		for _, j := range jobs {
			well(t, env, "", "publish", "scan/"+j, "-s", "seen")
			well(t, env, "", "publish", "scan/"+j, "-s", "unseen")
			if strings.Contains(p.Log(), " scan/"+j+" ") {
				shown++
			}
		}
		return shown == len(jobs)
	})
	if strings.Contains(p.Log(), "unseen") {
		t.Errorf("a stage that was not asked for:\n%s", p.Log())
	}
	if code := p.End(syscall.SIGINT); code != 0 {
		t.Errorf("after Ctrl-C the exit code is %d:\n%s", code, p.Log())
	}
	if r := run(t, env, "", "tail", "scan/a", "chat/b"); r.code != 1 || !strings.Contains(r.err, "must be of one domain") {
		t.Errorf("two domains: %+v", r)
	}
}

func TestCheck_TellsOfAHealthyBusAndOfABrokenOne(t *testing.T) {
	t.Parallel()
	redis := redistest.New(t, redistest.WithAppendOnly(), redistest.WithConfig("maxmemory", "100mb"), redistest.WithConfig("maxmemory-policy", "noeviction"))
	bustest.NewOn(t, redis)
	env := bustest.Settings{"REDIS_STREAMS_URL": redis.URL(), "POD_NAME": "checker"}
	if out := well(t, env, "", "check", "--strict"); !strings.Contains(out, "ok    bus scan: each of the 4 shards is read: bus 4") {
		t.Errorf("a healthy bus:\n%s", out)
	}
	if _, err := redis.Client().ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Result(); err != nil {
		t.Fatal(err)
	}
	r := run(t, env, "", "check")
	if r.code != 1 || !strings.Contains(r.out, "FAIL  streams "+redis.Addr()+": may evict") || !strings.Contains(r.out, "→ CONFIG SET maxmemory-policy noeviction") {
		t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.err)
	}
	for _, line := range lines(run(t, env, "", "check", "--json").out) {
		var f struct{ Level, Subject, Text string }
		if err := json.Unmarshal([]byte(line), &f); err != nil || f.Level == "" || f.Subject == "" || f.Text == "" {
			t.Errorf("--json: %s: %v", line, err)
		}
	}
	env["LEASE_TTL"] = "1ms"
	if r := run(t, env, "", "check"); r.code != 1 || !strings.Contains(r.out, "LEASE_TTL") || !strings.Contains(r.out, "must be at least 500ms") {
		t.Errorf("a bad setting: %+v", r)
	}
}

func TestCompletion_WorksInBash(t *testing.T) {
	t.Parallel()
	ask := func(words ...string) []string {
		t.Helper()
		script := `source <("$1" completion bash); shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _eventbus; printf '%s\n' "${COMPREPLY[@]}"`
		args := append([]string{"-c", script, "bash", bustest.Program(), bustest.Program()}, words...)
		out, err := exec.CommandContext(t.Context(), "bash", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return lines(string(out))
	}
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"ta"}, "tail"},
		{[]string{"tail", "--col"}, "--color"},
		{[]string{"tail", "--color", ""}, "always auto never"},
		{[]string{"tail", "--color=n"}, "--color=never"},
		{[]string{"tail", "scan", "--replay", "s"}, "state"},
		{[]string{"completion", ""}, "bash fish zsh"},
		{[]string{"router", "--domai"}, "--domains"},
		{[]string{"compl"}, "completion"}, // and not the hidden one
	} {
		if got := strings.Join(ask(c.words...), " "); got != c.want {
			t.Errorf("%q: %q, want %q", c.words, got, c.want)
		}
	}
	for _, shell := range []string{"zsh", "fish"} {
		if out := well(t, nil, "", "completion", shell); !strings.Contains(out, "eventbus") {
			t.Errorf("%s: %q", shell, out)
		}
	}
}

// --help is the manual: what it is, an example, and each flag.
func TestHelp_IsAManual(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"publish", "tail", "state", "check", "completion"} {
		help := well(t, nil, "", name, "--help")
		if !strings.Contains(help, "    eventbus "+name) && !strings.Contains(help, " eventbus "+name) || !strings.Contains(help, "Flags:") {
			t.Errorf("%s --help has no example:\n%s", name, help)
		}
	}
}
