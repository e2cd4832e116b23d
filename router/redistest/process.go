package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// aptPackage is what to install for a missing program.
func aptPackage(program string) string {
	if program == "redis-cli" {
		return "redis-tools"
	}
	return program
}

func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("redistest needs %s: install the Debian package %s (apt-get install %[2]s): %w",
			program, aptPackage(program), err)
	}
	return path, nil
}

// process is one run of redis-server. done is closed when it has ended and was waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// startProcess runs path with its output appended to logFile. The process is killed when this one dies.
//
// Linux ties that signal to the thread that forked, not to the process: the goroutine below therefore keeps its thread
// until the child is gone.
func startProcess(path, logFile string, args ...string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	// The process outlives every context of a caller: kill ends it.
	cmd := exec.CommandContext(context.Background(), path, args...)
	p := &process{cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		_ = log.Close() // the child has its own descriptor
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // how it ended is of no interest: the log says it
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended tells whether the process is gone, without blocking.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig. A process that is gone already is not an error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to redis-server %d: %w", sig, p.pid(), err)
	}
	return nil
}

// kill ends the process at once, also a paused one, and waits until it is gone.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}
