package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// child is a process of --self. It dies with this one, however that ends.
type child struct {
	name string
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed when it has ended
}

// start runs a program. The caller stops it.
func start(name, program string, env []string, args ...string) (*child, error) {
	c := &child{name: name, cmd: exec.CommandContext(context.Background(), program, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	c.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	c.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		// Linux ties that signal to the thread that forked: it must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // how it ended is in ProcessState
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// stop ends it at once: nothing of it is kept.
func (c *child) stop() error {
	err := c.cmd.Process.Kill()
	<-c.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// await polls until it is ready.
func (c *child) await(ctx context.Context, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !ready(ctx) {
		select {
		case <-c.done:
			return fmt.Errorf("%s has ended: %v\n%s", c.name, c.cmd.ProcessState, c.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w\n%s", c.name, patience, ctx.Err(), c.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// answers tells whether an admin port says ready.
func answers(addr string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		_, err := get(ctx, "http://"+addr+"/readyz")
		return err == nil
	}
}

// owns tells whether a router owns so many shards.
func owns(addr string, least int) func(context.Context) bool {
	return func(ctx context.Context) bool {
		text, err := get(ctx, "http://"+addr+"/metrics")
		n := 0
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "eventbus_shard_owned{") && strings.HasSuffix(line, " 1\n") {
				n++
			}
		}
		return err == nil && n >= least
	}
}

// get reads what answers with 200.
func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(text), nil
}

// accepts tells whether something listens.
func accepts(addr string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		return err == nil && conn.Close() == nil
	}
}

// freeAddr is a port of this machine that nobody listens on.
func freeAddr(ctx context.Context) (string, error) {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}

// freeAddrs are n of them.
func freeAddrs(ctx context.Context, n int) ([]string, error) {
	all := make([]string, n)
	for i := range all {
		var err error
		if all[i], err = freeAddr(ctx); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 8 << 10

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
