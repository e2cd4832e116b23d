package bustest

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Process is a run of the binary. It dies with the test, and
// with the test binary however that ends. Its methods are safe for concurrent use,
// save Start.
type Process struct {
	path string
	args []string
	env  Settings
	log  tail

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts the binary. Its settings are env only, not those of the test's
// environment.
func Start(tb testing.TB, env Settings, args ...string) *Process {
	tb.Helper()
	p := newProcess(env, args...)
	tb.Cleanup(func() {
		p.Kill()
		if strings.Contains(p.Log(), "DATA RACE") {
			tb.Errorf("%v: data race", args)
		}
		if tb.Failed() {
			tb.Logf("the end of the log of %v:\n%s", args, p.Log())
		}
	})
	p.Start(tb)
	return p
}

func newProcess(env Settings, args ...string) *Process {
	return &Process{path: Program(), args: args, env: env}
}

// Start starts it again after it has ended.
func (p *Process) Start(tb testing.TB) {
	tb.Helper()
	if err := p.start(); err != nil {
		tb.Fatalf("start %v: %v", p.args, err)
	}
}

func (p *Process) start() error {
	cmd := exec.Command(p.path, p.args...) //nolint:noctx // it ends by signals
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.Env = Environment(p.env)
	cmd.SysProcAttr = dieWithParent()
	started, done := make(chan error), make(chan struct{})
	go func() {
		// Linux ties that signal to the thread that forked: it must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.done = cmd, done
	return nil
}

func (p *Process) current() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd, p.done
}

// Running tells whether it has not ended.
func (p *Process) Running() bool {
	_, done := p.current()
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// Kill ends it at once and returns when it is gone.
func (p *Process) Kill() { p.End(syscall.SIGKILL) }

// End sends a signal, and returns the exit code when it is gone; -1 where the signal
// ended it.
func (p *Process) End(sig syscall.Signal) int {
	if cmd, _ := p.current(); cmd == nil {
		return 0
	}
	p.Signal(sig)
	return p.Wait()
}

// Signal sends a signal, if it has not ended.
func (p *Process) Signal(sig syscall.Signal) {
	cmd, _ := p.current()
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err) // it is our own child
	}
}

// Wait returns the exit code when it is gone; -1 where a signal ended it.
func (p *Process) Wait() int {
	cmd, done := p.current()
	<-done
	return cmd.ProcessState.ExitCode()
}

// PID is its number.
func (p *Process) PID() int {
	cmd, _ := p.current()
	return cmd.Process.Pid
}

// Log is the end of what it wrote.
func (p *Process) Log() string { return p.log.String() }

// Environment is what a process of a test sees: env, and how to find programs.
func Environment(env Settings) []string {
	out := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GOTRACEBACK=all"}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const tailSize = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if over := t.b.Len() + len(p) - 2*tailSize; over > 0 {
		t.b.Next(t.b.Len() - min(tailSize, t.b.Len()))
	}
	return t.b.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
