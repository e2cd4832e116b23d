package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// The suite's flags.
//
//nolint:gochecknoglobals // package flag has no other way
var (
	full        = flag.Bool("chaos.full", false, "all faults on the topologies named; else the 60-second cut")
	topologies  = flag.String("chaos.topology", "all", "standalone, sentinel, cluster or all")
	seedFlag    = flag.Uint64("chaos.seed", 0, "seed of every random choice; 0: a new one, which is printed")
	only        = flag.String("chaos.fault", "", "only faults whose name matches this regular expression")
	connections = flag.Int("chaos.connections", 1000, "SSE connections of TestSeedR05")
	logDir      = flag.String("chaos.logs", "", "directory for the processes' logs")
)

// TestMain builds the binary that all tests run.
func TestMain(m *testing.M) {
	flag.Parse()
	if *seedFlag == 0 {
		*seedFlag = rand.Uint64N(1_000_000) + 1
	}
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "build eventbus:", err)
		os.Exit(1)
	}
	// toxiproxy leaves goroutines of its own behind where a link is cut while one of
	// them hands a chunk on; nothing of ours waits for them.
	link := goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read")
	toxic := goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run")
	goleak.VerifyTestMain(m, link, toxic, goleak.Cleanup(func(code int) {
		if os.Getenv("CHAOS_BINARY") == "" {
			if err := os.RemoveAll(filepath.Dir(binary())); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		os.Exit(code)
	}))
}

// binary is the path of the program under test: that in CHAOS_BINARY, else our own.
func binary() string {
	if path := os.Getenv("CHAOS_BINARY"); path != "" {
		return path
	}
	return filepath.Join(os.TempDir(), "eventbus-chaos-"+strconv.Itoa(os.Getpid()), "eventbus")
}

func build() error {
	if os.Getenv("CHAOS_BINARY") != "" {
		return nil
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", "-ldflags=-s -w", "-o", binary(), "github.com/eco2-team/eventbus")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// address reserves a port of a loopback address for the test, in the manner of
// redistest: below the ephemeral range, so that no outgoing connection sits on it
// while its server is down, and locked by the UDP port of the same number, so that
// no other test binary takes it.
func address(t testing.TB, host string) string {
	t.Helper()
	const first, end, tries = 22000, 30000, 200
	for range tries {
		port := first + rand.IntN(end-first)
		lock, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		addr := fmt.Sprintf("%s:%d", host, port)
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
