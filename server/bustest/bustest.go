// Package bustest runs the real eventbus binary on a real Redis for the tests of
// what is outside of it: client packages, command line, documents.
//
// It owns the binary, which it builds once for a test binary, its processes and
// their ports. It imports nothing of the bus but router/redistest:
//
//	test → bustest → eventbus serve → redis-server
//
// Nothing outside tests imports it. A package that does has
//
//	func TestMain(m *testing.M) { bustest.Main(m) }
package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eco2-team/eventbus/router/redistest"
)

// Patience is how long a test waits for what must come, also on a loaded machine.
const Patience = time.Minute

// Main is a TestMain: it builds the binary, runs the tests and looks for goroutines
// that they left.
func Main(m *testing.M) { verify(m) }

// MainWithBus is Main with a bus for what has no testing.TB: examples. Its gRPC
// address is in the environment variable.
func MainWithBus(m *testing.M, variable string) { verify(withBus{m, variable}) }

func verify(m goleak.TestingM) {
	if err := build(); err != nil {
		exit(1, fmt.Errorf("build eventbus: %w", err))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { exit(code, os.RemoveAll(ownDir())) }))
}

func exit(code int, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code) //nolint:revive // it is main's end, in tests
}

// withBus runs tests beside a bus.
type withBus struct {
	m        *testing.M
	variable string
}

// Run implements goleak.TestingM.
func (w withBus) Run() int {
	code, err := w.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

func (w withBus) run() (code int, err error) {
	dir, err := os.MkdirTemp("", "eventbus-bustest-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	redis, err := redistest.Start(ctx, dir)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	b := &Bus{Redis: redis}
	var locks []net.PacketConn
	defer func() {
		for _, l := range locks {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, addr := range []*string{&b.GRPC, &b.HTTP, &b.Admin} {
		var lock net.PacketConn
		if *addr, lock, err = reserve(ctx); err != nil {
			return 1, err
		}
		locks = append(locks, lock)
	}
	b.Process = newProcess(b.settings(), "serve")
	if err := b.start(); err != nil {
		return 1, err
	}
	defer b.Kill()
	for b.ready(ctx) != nil {
		if ctx.Err() != nil || !b.Running() {
			return 1, fmt.Errorf("the bus is not ready:\n%s", b.Log())
		}
	}
	if err := os.Setenv(w.variable, b.GRPC); err != nil {
		return 1, err
	}
	return w.m.Run(), nil
}

// Program is the path of the binary: what E2E_BINARY names, else one of our own.
func Program() string {
	if path := os.Getenv("E2E_BINARY"); path != "" {
		return path
	}
	return filepath.Join(ownDir(), "eventbus")
}

func ownDir() string {
	return filepath.Join(os.TempDir(), "eventbus-bustest-"+strconv.Itoa(os.Getpid()))
}

// build makes it, with the race detector where the tests have it: a race fails the
// test whose process reports it.
func build() error {
	if os.Getenv("E2E_BINARY") != "" {
		return nil
	}
	args := []string{"build", "-ldflags=-s -w", "-o", Program()}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(context.Background(), "go", append(args, "github.com/eco2-team/eventbus")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// Settings of a process, by the names of their environment variables.
type Settings map[string]string

// Bus is router and edge in one process, on a Redis of its own.
type Bus struct {
	*Process
	Redis *redistest.Server
	// GRPC, HTTP and Admin are its addresses, host:port. They stay over restarts.
	GRPC, HTTP, Admin string
}

// New starts a bus that takes events by HTTP, too, and waits until it is ready. It
// ends with tb.
func New(tb testing.TB, change ...Settings) *Bus {
	tb.Helper()
	return NewOn(tb, redistest.New(tb), change...)
}

// NewOn starts a bus on a Redis that is there.
func NewOn(tb testing.TB, redis *redistest.Server, change ...Settings) *Bus {
	tb.Helper()
	b := &Bus{Redis: redis, GRPC: Address(tb), HTTP: Address(tb), Admin: Address(tb)}
	env := b.settings()
	for _, c := range change {
		maps.Copy(env, c)
	}
	b.Process = Start(tb, env, "serve")
	b.WaitReady(tb)
	return b
}

func (b *Bus) settings() Settings {
	return Settings{
		"REDIS_STREAMS_URL": b.Redis.URL(), "GRPC_ADDR": b.GRPC, "HTTP_ADDR": b.HTTP, "ADMIN_ADDR": b.Admin, "POD_NAME": "bus",
		"HTTP_PUBLISH": "true", "HEARTBEAT_INTERVAL": "1s", "HEAD_CHECK_INTERVAL": "1s", "LEASE_TTL": "1s", "PROBE_INTERVAL": "1s",
		"DRAIN_TIMEOUT": "5s",
	}
}

// Restart kills the bus and starts it anew; it does not wait until it is ready.
func (b *Bus) Restart(tb testing.TB) {
	tb.Helper()
	b.Kill()
	b.Start(tb)
}

// WaitReady waits until the bus takes events.
func (b *Bus) WaitReady(tb testing.TB) {
	tb.Helper()
	Eventually(tb, "the bus is ready", func() bool {
		if !b.Running() {
			tb.Fatalf("the bus has ended:\n%s", b.Log())
		}
		return b.ready(tb.Context()) == nil
	})
}

func (b *Bus) ready(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Admin+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: Patience}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// Eventually waits for a condition.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			tb.Fatalf("not within %v: %s", Patience, what)
		case <-tick.C:
		}
	}
}

// Address reserves a port of 127.0.0.1 for the test, in the manner of redistest:
// below the ephemeral range, so that no outgoing connection sits on it while its
// server is down, and locked by the UDP port of the same number, so that no other
// test binary takes it.
func Address(tb testing.TB) string {
	tb.Helper()
	addr, lock, err := reserve(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = lock.Close() })
	return addr
}

func reserve(ctx context.Context) (addr string, lock net.PacketConn, err error) {
	const first, end, tries = 22000, 30000, 200
	for range tries {
		addr = fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(end-first))
		if lock, err = new(net.ListenConfig).ListenPacket(ctx, "udp4", addr); err != nil {
			continue
		}
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp4", addr); err != nil {
			_ = lock.Close()
			continue
		}
		return addr, lock, l.Close()
	}
	return "", nil, fmt.Errorf("no free port after %d tries: %w", tries, err)
}
