package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/redistest"
)

// inNamespace tells the test binary that it has a network of its own.
const inNamespace = "CHAOS_NETWORK_NAMESPACE"

// Five of a hundred packets are lost on every way: between browsers, edges,
// publishers, routers and both Redis. TCP repeats them, late; heartbeats, leases and
// deadlines must bear that.
//
// The test runs once more in a network namespace, whose loopback the kernel's packet
// filter thins out. That needs root and nft; where the kernel refuses, it says so and
// nothing is shown.
func TestLoss_FivePerCentOfAllPackets(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		again(t)
		return
	}
	command(t, "ip", "link", "set", "lo", "up")
	top := &topology{name: "standalone", streams: newSingle(t, redistest.WithAppendOnly()), pubsub: newSingle(t)}
	w := newWorld(t, top, 2, 2)
	r := newRun(t, w)
	r.start(usual())
	r.since.Store(time.Now().UnixNano())
	command(t, "nft", "add table inet loss")
	command(t, "nft", "add chain inet loss in { type filter hook input priority 0 ; }")
	command(t, "nft", "add rule inet loss in meta l4proto tcp numgen random mod 100 < 5 counter drop")
	r.hold(8 * time.Second)
	rules := command(t, "nft", "list table inet loss")
	command(t, "nft", "delete table inet loss")
	r.flows()
	res := r.end(true)
	mustBeWhole(t, res)
	_, counted, _ := strings.Cut(rules, "counter packets ")
	counted, _, _ = strings.Cut(counted, " drop")
	if counted == "" || strings.HasPrefix(counted, "0 ") {
		t.Errorf("no packet was lost:\n%s", rules)
	}
	t.Logf("packets %s lost; %d acknowledged, %d deliveries, silence %v", counted, res.acked, res.tally.events, res.silence.Round(time.Millisecond))
}

// again runs this test in a network namespace.
func again(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // Pdeathsig is this thread's
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1",
		fmt.Sprintf("-chaos.seed=%d", *seedFlag), "-chaos.logs="+*logDir)
	cmd.Env = append(os.Environ(), inNamespace+"=1", "CHAOS_BINARY="+binary())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) ||
		bytes.Contains(out, []byte(refused)) {
		text := fmt.Sprintf("PACKET LOSS IS NOT TESTED HERE: no network namespace, or no packet filter in it: %v", err)
		fmt.Fprintln(os.Stderr, text)
		t.Log(text + "\n" + string(out))
		return
	}
	if err != nil {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// refused is what the child says where it cannot do its part.
const refused = "the kernel refuses"

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil && (bytes.Contains(out, []byte("not supported")) || bytes.Contains(out, []byte("not permitted"))) {
		t.Fatalf("%s: %s %v: %v\n%s", refused, name, args, err, out)
	}
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
