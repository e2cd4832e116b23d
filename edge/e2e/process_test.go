package e2e

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/server/bustest"
)

// TestMain builds the binary that all tests run.
func TestMain(m *testing.M) { bustest.Main(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("timed out after %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

// testContext bounds one call.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// process is one run of the binary.
type process struct {
	*bustest.Process
	t    testing.TB
	name string
}

func run(t testing.TB, name string, env map[string]string, args ...string) *process {
	t.Helper()
	return &process{bustest.Start(t, env, args...), t, name}
}

// terminate asks it to stop, as a supervisor does.
func (p *process) terminate() { p.Signal(syscall.SIGTERM) }

// exit waits for its end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	eventually(p.t, p.name+" ends", func() bool { return !p.Running() })
	return p.Wait()
}
