package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

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

// process is one run of the binary. It dies with the test, and with the test
// binary however that ends.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
}

// run starts the binary. Settings come from env only, not from the environment of
// the test, which may have its own POD_NAME.
func run(t testing.TB, name string, env map[string]string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(program(), args...), done: make(chan struct{})} //nolint:noctx // it ends by signals
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GOTRACEBACK=all"}
	for k, v := range env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		// Linux ties that signal to the thread that forked: it must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in ProcessState
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.kill()
		if log := p.log.String(); strings.Contains(log, "DATA RACE") {
			t.Errorf("%s: data race", name)
		}
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, p.log.String())
		}
	})
	return p
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends it at once and returns when it is gone.
func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill %s: %v", p.name, err)
	}
	<-p.done
}

// terminate asks it to stop, as a supervisor does.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("terminate %s: %v", p.name, err)
	}
}

// exit waits for its end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	eventually(p.t, p.name+" ends", func() bool { return !p.running() })
	return p.cmd.ProcessState.ExitCode()
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 32 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailSize; over > tailSize {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-tailSize):])
}

// address reserves a port of 127.0.0.1 for the test, in the manner of redistest:
// below the ephemeral range, so that no outgoing connection sits on it while its
// server is down, and locked by the UDP port of the same number, so that no other
// test binary takes it.
func address(t testing.TB) string {
	t.Helper()
	const first, end, tries = 22000, 30000, 200
	for range tries {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(end-first))
		lock, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp4", addr)
		if err != nil {
			continue
		}
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", addr)
		if err != nil {
			_ = lock.Close()
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = lock.Close() })
		return addr
	}
	t.Fatalf("no free port after %d tries", tries)
	return ""
}
