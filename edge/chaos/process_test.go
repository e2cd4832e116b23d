package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// settings of a process, by the names of their environment variables.
type settings map[string]string

// node is a process that is ended and started again where it was. Faults use it
// one after the other.
type node struct {
	name  string
	args  []string
	env   settings
	admin string
	log   *logFile

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; nil before the first start
}

func newNode(t testing.TB, name string, env settings, args ...string) *node {
	t.Helper()
	n := &node{name: name, args: args, env: env, admin: address(t, "127.0.0.1"), log: newLogFile(t, name)}
	n.env["ADMIN_ADDR"] = n.admin
	t.Cleanup(func() {
		if err := n.kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, n.log.tail())
		}
		n.log.close()
	})
	return n
}

// start starts it where it does not run.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.runs() {
		return nil
	}
	cmd, done := exec.Command(binary(), n.args...), make(chan struct{}) //nolint:noctx // it ends by signals
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GOTRACEBACK=all"}
	for k, v := range n.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
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
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.cmd, n.done = cmd, done
	return nil
}

// runs needs mu.
func (n *node) runs() bool {
	if n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runs()
}

func (n *node) signal(s os.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.runs() {
		return nil
	}
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v to %s: %w", s, n.name, err)
	}
	return nil
}

// kill ends it at once and returns when it is gone.
func (n *node) kill() error {
	if err := n.signal(syscall.SIGKILL); err != nil {
		return err
	}
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	if done != nil {
		<-done
	}
	return nil
}

// errStuck: SIGTERM did not end it in time.
var errStuck = errors.New("did not end after SIGTERM")

// stop asks it to end, as a supervisor does, and returns when it is gone. It must
// end by itself, with exit code 0.
func (n *node) stop(patience time.Duration) error {
	n.mu.Lock()
	done, cmd := n.done, n.cmd
	n.mu.Unlock()
	if done == nil {
		return nil
	}
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-done:
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return fmt.Errorf("%s ended with exit code %d", n.name, code)
		}
		return nil
	case <-timeout.C:
		return errors.Join(fmt.Errorf("%s: %w within %v", n.name, errStuck, patience), n.signal(syscall.SIGQUIT), n.kill())
	}
}

// readyz is what its probe says; status 0 where nothing answers.
func (n *node) readyz(ctx context.Context) (code int, text string) {
	return get(ctx, n.admin, "/readyz")
}

// waitReady waits until it is ready, or ctx ends.
func (n *node) waitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		code, text := n.readyz(ctx)
		if code == http.StatusOK {
			return nil
		}
		if !n.running() {
			return fmt.Errorf("%s has ended", n.name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %d %s", n.name, code, text)
		case <-tick.C:
		}
	}
}

// get asks an admin port; status 0 where nothing answers.
func get(ctx context.Context, addr, path string) (code int, text string) {
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// metric is the sum of a metric's samples whose line holds all of the labels; 0
// where it has none.
func (n *node) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code, text := get(ctx, n.admin, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics of %s: %d %s", n.name, code, text)
	}
	sum := 0.0
lines:
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue lines
			}
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += f
	}
	return sum
}

// logFile is a process's log over all its starts.
type logFile struct {
	mu   sync.Mutex
	file *os.File
}

func newLogFile(t testing.TB, name string) *logFile {
	t.Helper()
	dir := *logDir
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()+"-"+name)+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return &logFile{file: f}
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Write(p)
}

// tail is the end of the log.
func (l *logFile) tail() string {
	const size = 8 << 10
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := l.file.Stat()
	if err != nil {
		return err.Error()
	}
	b := make([]byte, min(size, info.Size()))
	if _, err := l.file.ReadAt(b, info.Size()-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return string(b)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.file.Close() // only read by people
}
