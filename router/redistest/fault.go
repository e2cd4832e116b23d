package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

var (
	errPortTaken = errors.New("another process has the port")
	errExited    = errors.New("redis-server has exited")
	errNotUp     = errors.New("the server is not running")
)

// fault does op alone and reports a failure to the test that owns the server.
func (s *Server) fault(name string, op func() error) error {
	s.mu.Lock()
	err := op()
	s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, s.Addr(), err)
		if s.onFault != nil {
			s.onFault(err)
		}
	}
	return err
}

// Start starts the server again after Kill or Stop, on its port and with its directory, and waits until it answers.
// A server that runs is an error.
func (s *Server) Start() error {
	return s.fault("start", func() error {
		ctx, cancel := withTimeout()
		defer cancel()
		return s.start(ctx)
	})
}

// Kill ends the process at once (SIGKILL) and returns when it is gone: the port refuses connections.
// A server that is down already is no error.
func (s *Server) Kill() error { return s.fault("kill", s.kill) }

// Stop lets the server shut down (SIGTERM) and returns when it is gone. A paused one is resumed first.
// A server that is down already is no error.
func (s *Server) Stop() error { return s.fault("stop", s.stop) }

// Restart is Stop and Start.
func (s *Server) Restart() error {
	return s.fault("restart", func() error {
		if err := s.stop(); err != nil {
			return err
		}
		ctx, cancel := withTimeout()
		defer cancel()
		return s.start(ctx)
	})
}

// Pause freezes the process (SIGSTOP) and returns when it stands: connections stay open, new ones are accepted by the
// kernel, nothing answers.
func (s *Server) Pause() error {
	return s.fault("pause", func() error {
		if !s.running() {
			return errNotUp
		}
		s.paused = true
		if err := s.proc.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		ctx, cancel := withTimeout()
		defer cancel()
		return poll(ctx, "it stands", func(context.Context) error {
			switch stopped, err := s.proc.stopped(); {
			case s.proc.ended():
				return backoff.Permanent(errExited)
			case err != nil:
				return err
			case !stopped:
				return errors.New("it still runs")
			}
			return nil
		})
	})
}

// Resume lets a paused process go on (SIGCONT). One that is not paused goes on anyway.
func (s *Server) Resume() error {
	return s.fault("resume", func() error {
		if !s.running() {
			return errNotUp
		}
		s.paused = false
		return s.proc.signal(syscall.SIGCONT)
	})
}

// Close kills the server, closes Client and gives the port back. The server cannot be started again. Closing twice is
// no error.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.kill()
	if s.closed {
		return err
	}
	s.closed = true
	_ = s.client.Close() // with TLS it cannot say goodbye to a dead server: no news
	return errors.Join(err, s.lease.release())
}

// Running tells whether the process lives, paused or not.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running()
}

// Pid is the process ID, 0 while the server is down. Each start has another.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.proc.pid()
}

// WaitReady blocks until this very process answers commands and has loaded its data, or until ctx ends.
func (s *Server) WaitReady(ctx context.Context) error {
	s.mu.Lock()
	proc := s.proc
	s.mu.Unlock()
	if proc == nil {
		return errNotUp
	}
	return s.waitReady(ctx, proc)
}

// responsive tells whether the process runs and is not paused.
func (s *Server) responsive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running() && !s.paused
}

// running needs mu.
func (s *Server) running() bool { return s.proc != nil && !s.proc.ended() }

// kill needs mu.
func (s *Server) kill() error {
	if !s.running() {
		return nil
	}
	return s.proc.kill()
}

// stop needs mu.
func (s *Server) stop() error {
	if !s.running() {
		return nil
	}
	if err := errors.Join(s.proc.signal(syscall.SIGTERM), s.proc.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	timeout := time.NewTimer(opTimeout)
	defer timeout.Stop()
	select {
	case <-s.proc.done:
		return nil
	case <-timeout.C:
		return errors.Join(fmt.Errorf("no end %v after SIGTERM: killed", opTimeout), s.proc.kill())
	}
}

// start needs mu. If it fails, no process is left.
func (s *Server) start(ctx context.Context) error {
	if s.closed {
		return errors.New("the server is closed")
	}
	if s.running() {
		return errors.New("the server is running")
	}
	path, err := lookPath("redis-server")
	if err != nil {
		return err
	}
	args := []string{s.conf()}
	if s.settings.role == roleSentinel {
		args = append(args, "--sentinel")
	}
	if s.proc, err = startProcess(path, s.logFile(), args...); err != nil {
		return err
	}
	s.paused = false
	err = s.waitReady(ctx, s.proc)
	if err == nil && s.settings.role == roleSentinel {
		err = s.tuneSentinel(ctx)
	}
	if err != nil {
		return errors.Join(err, s.kill())
	}
	return nil
}

func (s *Server) waitReady(ctx context.Context, proc *process) error {
	return poll(ctx, "redis-server "+s.Addr()+" is ready", func(ctx context.Context) error {
		if proc.ended() {
			return backoff.Permanent(s.exitReason())
		}
		return s.answersAs(ctx, proc.pid())
	})
}

// exitReason explains by the log why the process ended on its own.
func (s *Server) exitReason() error {
	log := s.LogTail()
	if strings.Contains(log, "Address already in use") {
		return fmt.Errorf("%w: %w:\n%s", errExited, errPortTaken, log)
	}
	return fmt.Errorf("%w:\n%s", errExited, log)
}

// answersAs succeeds if process pid serves the port and has loaded its data. The test of the pid keeps a stranger that
// sits on the port from passing for the server that is about to fail there.
func (s *Server) answersAs(ctx context.Context, pid int) error {
	// A refused connection costs go-redis a line of log: ask the kernel first.
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr())
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	if err := s.client.Ping(ctx).Err(); err != nil { // LOADING is an error here
		return err
	}
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	if got := infoField(info, "process_id"); got != strconv.Itoa(pid) {
		return fmt.Errorf("process %s answers, not %d", got, pid)
	}
	return nil
}

// infoField is the value of "name:value" in the text of INFO, "" without such a line.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && key == name {
			return value
		}
	}
	return ""
}
