package redistest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// recorder is a testing.TB that takes down failures instead of failing.
type recorder struct {
	testing.TB

	mu       sync.Mutex // guards failures
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// recordNew is what New does and says.
func recordNew(t *testing.T, opts ...Option) (s *Server, r *recorder) {
	t.Helper()
	r = &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s = New(r, opts...)
	}()
	<-done
	return s, r
}

func TestStandalone_MissingServerFailsTheTestWithThePackageToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	s, r := recordNew(t)
	if s != nil || len(r.failures) != 1 || !strings.Contains(r.failures[0], "apt-get install redis-server") {
		t.Errorf("server %v, failures %q", s, r.failures)
	}
}

func TestStandalone_MissingCLINamesItsOwnPackage(t *testing.T) {
	s := New(t)
	t.Setenv("PATH", t.TempDir())
	if _, err := s.Exec(t.Context(), "PING"); err == nil || !strings.Contains(err.Error(), "apt-get install redis-tools") {
		t.Error(err)
	}
}

func TestStandalone_FaultThatDoesNotHappenFailsTheTest(t *testing.T) {
	s, r := recordNew(t)
	if err := s.Start(); err == nil {
		t.Error("a running server was started")
	}
	if err := errors.Join(s.Kill(), s.Kill()); err != nil {
		t.Error(err)
	}
	for _, fault := range []func() error{s.Pause, s.Resume} {
		if err := fault(); !errors.Is(err, errNotUp) {
			t.Errorf("error = %v, want %v", err, errNotUp)
		}
	}
	if len(r.failures) != 3 {
		t.Errorf("failures of the test: %q", r.failures)
	}
}

func TestStandalone_BadConfigFailsWithTheLog(t *testing.T) {
	_, err := Start(t.Context(), t.TempDir(), WithConfig("no-such-directive", "1"))
	if !errors.Is(err, errExited) || !strings.Contains(err.Error(), "Bad directive") {
		t.Errorf("error = %v", err)
	}
}

func TestStandalone_ErrorReplyIsAnErrorOfExec(t *testing.T) {
	if out, err := New(t).Exec(t.Context(), "NOSUCHCOMMAND"); err == nil {
		t.Errorf("output %q and no error", out)
	}
}

func TestStandalone_DiesWithItsTest(t *testing.T) {
	var s *Server
	t.Run("owner", func(t *testing.T) { s = New(t) })
	dialRefused(t, s.Addr())
	if s.Running() {
		t.Error("the process runs")
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := s.start(t.Context()); err == nil {
		t.Error("a closed server was started")
	}
}

func TestStandalone_OutlivesTheThreadThatStartedIt(t *testing.T) {
	started := make(chan *Server)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		s, err := Start(context.Background(), t.TempDir())
		if err != nil {
			t.Error(err)
		}
		started <- s
	}()
	s := <-started
	if s == nil {
		return
	}
	for range 100 { // threads come and go
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(done)
		}()
		<-done
	}
	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStandalone_DiesWithTheTestBinary(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), ownerEnv+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	addr = strings.TrimSpace(addr)
	if err != nil {
		t.Error(err)
	} else if err := dial(t.Context(), addr); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	do(t, "wait for the end of "+addr, func(ctx context.Context) error {
		return poll(ctx, "it refuses connections", func(ctx context.Context) error {
			if err := dial(ctx, addr); !errors.Is(err, syscall.ECONNREFUSED) {
				return errors.Join(errors.New("it does not refuse"), err)
			}
			return nil
		})
	})
}

func TestPort_ManyServersAtOnceHaveTheirOwn(t *testing.T) {
	ports := map[int]bool{}
	servers, err := startMany(t.Context(), t.TempDir(), "s", 10, func(int) settings { return settings{} })
	if err != nil {
		t.Error(err)
	}
	for _, s := range servers {
		ports[s.Port()] = true
		if s.Port() < firstPort || s.Port() >= endPort {
			t.Errorf("port %d", s.Port())
		}
	}
	if len(ports) != 10 {
		t.Errorf("%d ports", len(ports))
	}
	if err := closeMany(servers); err != nil {
		t.Error(err)
	}
}

func TestPort_IsHeldWhileTheServerIsDown(t *testing.T) {
	s := New(t)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if other, err := Start(t.Context(), t.TempDir(), WithPort(s.Port())); err == nil {
		t.Errorf("%s was given away", other.Addr())
		_ = other.Close()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if other := New(t, WithPort(s.Port())); other.Port() != s.Port() {
		t.Errorf("port %d, want %d", other.Port(), s.Port())
	}
}

func TestPort_TakenByAStrangerAfterTheProbeIsLeftToHim(t *testing.T) {
	taken, err := leasePort(t.Context(), roleData)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", taken.port))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	next := []*portLease{taken}
	s, err := startOn(t.Context(), dir, settings{}, func() (*portLease, error) {
		if len(next) == 0 {
			return leasePort(t.Context(), roleData)
		}
		lease := next[0]
		next = next[1:]
		return lease, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Port() == taken.port {
		t.Errorf("both have port %d", taken.port)
	}
	if log, err := os.ReadFile(filepath.Join(dir, "redis.log")); err != nil || strings.Contains(string(log), "already in use") {
		t.Errorf("the log still has the failed try: %v", err)
	}
	if err := errors.Join(s.Close(), stranger.Close()); err != nil {
		t.Error(err)
	}
}
