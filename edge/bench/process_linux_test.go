package bench

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's own count of this process is the measure of what is read of it.
func TestProcess_TimeAndMemoryAreThoseOfTheKernel(t *testing.T) {
	all, err := parseProcesses([]string{"me=" + strconv.Itoa(os.Getpid()), "me=" + strconv.Itoa(os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	before, own := mustUsage(t, all), ownCPU()
	limit := time.Now().Add(patience)
	for ownCPU()-own < 200*time.Millisecond && time.Now().Before(limit) { // work
	}
	got, want := mustUsage(t, all).since(before)["me"], 2*(ownCPU()-own) // it was named twice
	if d := got - want; d < -100*time.Millisecond || d > 100*time.Millisecond {
		t.Errorf("%v, the kernel says %v", got, want)
	}
	held, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // the race detector has no shadow of it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(held) }()
	m0, err := memoryOf(all[:1])
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	m1, err := memoryOf(all[:1])
	if err != nil {
		t.Fatal(err)
	}
	if d := m1["me"] - m0["me"]; held[4096] != 1 || d < 60<<20 || d > 80<<20 {
		t.Errorf("64 MiB more are %d bytes more", d)
	}
	if _, err := cpuOf([]process{{"gone", 1 << 30}}); err == nil {
		t.Error("a process that is not there has CPU time")
	}
}

func mustUsage(t *testing.T, all []process) usage {
	t.Helper()
	u, err := cpuOf(all)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
