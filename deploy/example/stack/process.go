package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// grace is what a process gets to end after SIGTERM.
	grace = 40 * time.Second
	// restartPause is what a supervisor waits before it starts a process again.
	restartPause = 500 * time.Millisecond
)

// command is what to start.
type command struct {
	name string
	path string
	args []string
	env  []string
	// kill: it is not asked to end, because nothing of it is worth keeping.
	kill bool
}

// Service is a process that is started again whenever it ends, as Kubernetes does.
type Service struct {
	command
	log string
	// ended is told of each end that nobody asked for.
	ended func(name string, err error)

	stopping chan struct{} // closed by stop
	stopOnce sync.Once
	done     chan struct{} // closed when its keeper has returned

	mu   sync.Mutex
	cmd  *exec.Cmd // guarded by mu; nil while it is down
	runs int       // guarded by mu
}

// startService starts a process with its output appended to dir/name.log.
func startService(dir string, c command, ended func(string, error)) (*Service, error) {
	s := &Service{
		command: c, log: filepath.Join(dir, c.name+".log"), ended: ended,
		stopping: make(chan struct{}), done: make(chan struct{}),
	}
	started := make(chan error, 1)
	go s.keep(started)
	return s, <-started
}

// keep starts the process and waits for its end, again and again. Linux ties "die with
// your parent" to the thread that forked, so this one is kept.
func (s *Service) keep(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.done)
	for first := true; ; first = false {
		cmd, err := s.start()
		if first {
			started <- err
			if err != nil {
				return
			}
		}
		if err == nil {
			err = cmd.Wait()
			s.mu.Lock()
			s.cmd = nil
			s.mu.Unlock()
		}
		select {
		case <-s.stopping:
			return
		default:
		}
		s.ended(s.name, errOr(err))
		timer := time.NewTimer(restartPause)
		select {
		case <-s.stopping:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func errOr(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (s *Service) start() (*exec.Cmd, error) {
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()                                  // the child has its own descriptor
	cmd := exec.CommandContext(context.Background(), s.path, s.args...) //nolint:gosec // our own programs; stop ends them
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.SysProcAttr = out, out, s.env, childAttributes()
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stopping:
		return nil, errors.New("stopped")
	default:
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	s.cmd = cmd
	s.runs++
	return cmd, nil
}

// Name is what it is called in logs.
func (s *Service) Name() string { return s.name }

// Runs is how often it was started.
func (s *Service) Runs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs
}

// Kill ends the process at once, without a chance to clean up. It tells whether there was
// one.
func (s *Service) Kill() bool {
	return s.signal(syscall.SIGKILL)
}

func (s *Service) signal(sig syscall.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && s.cmd.Process.Signal(sig) == nil
}

// stop ends it for good and returns when it is gone.
func (s *Service) stop() {
	s.stopOnce.Do(func() {
		s.mu.Lock()
		close(s.stopping) // under mu: no start slips through
		s.mu.Unlock()
	})
	if s.kill {
		s.signal(syscall.SIGKILL)
	} else {
		s.signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		s.signal(syscall.SIGKILL)
		<-s.done
	}
}
