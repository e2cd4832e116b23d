// Package e2e runs the example as a whole: the binary of eventbus, the Scan API, workers in
// Go and Python and old ones, a real Redis, a real RabbitMQ, a real browser.
//
//	scans_test.go    many scans, watched, while workers are killed
//	check_test.go    what a watcher must have seen
//	api_test.go      what the API answers
//	queue_test.go    retries, dead letters, a RabbitMQ that goes away
//	run_test.go      `example run` leaves nothing behind
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/deploy/example/stack"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

const repo = "../../.."

// binaries are what TestMain has built.
type binaries struct{ eventbus, example string }

var built binaries

var scans = flag.Int("scans", 200, "scans of the large test; 20 with -short")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "example-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built = binaries{filepath.Join(dir, "eventbus"), filepath.Join(dir, "example")}
	for path, module := range map[string]string{built.eventbus: repo, built.example: ".."} {
		cmd := exec.Command("go", append(buildFlags(), "-o", path, ".")...)
		cmd.Dir = module
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", module, err, out)
			return 1
		}
	}
	return m.Run()
}

// newStack starts the example; its logs are shown where the test failed.
func newStack(t *testing.T, o stack.Options) *stack.Stack {
	t.Helper()
	absolute, err := filepath.Abs(repo)
	if err != nil {
		t.Fatal(err)
	}
	o.Repo, o.Eventbus, o.Example, o.Dir = absolute, built.eventbus, built.example, t.TempDir()
	begin := time.Now()
	s, err := stack.Start(context.Background(), o)
	t.Cleanup(func() {
		if s != nil {
			s.Close()
		}
		showLogs(t, o.Dir)
	})
	if err != nil {
		t.Fatalf("start the example: %v", err)
	}
	t.Logf("started in %v", time.Since(begin).Round(100*time.Millisecond))
	return s
}

// showLogs shows the end of each log, and all that a race detector wrote.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	const end = 4 << 10
	for _, path := range logs {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if hasRace(raw) {
			t.Errorf("data race in %s:\n%s", filepath.Base(path), raw)
		} else if t.Failed() {
			t.Logf("the end of %s:\n%s", filepath.Base(path), raw[max(0, len(raw)-end):])
		}
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("timed out: %s", what)
		case <-tick.C:
		}
	}
}
