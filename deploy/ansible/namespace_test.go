//go:build machines

package ansible_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// inside names the environment variable that holds the machines' root, and tells the process that runs the tests from
// the one that was started.
const inside = "EVENTBUS_TEST_MACHINE_ROOT"

// TestMain runs the tests in a process of their own that is alone in its network, and whose end, however it comes, is the
// end of all machines and mounts: the kernel takes them down with the namespaces.
func TestMain(m *testing.M) {
	var code int
	var err error
	if os.Getenv(inside) == "" {
		code, err = outside()
	} else if err = enter(); err == nil {
		code = m.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// outside builds the machines' root where it is missing, which needs a network, and starts this program inside.
func outside() (int, error) {
	if os.Getuid() != 0 {
		return 0, errors.New("machines are booted in namespaces: run this as root")
	}
	root, err := machineRoot()
	if err != nil {
		return 0, err
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+root)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// enter finishes what clone began: mounts of its own, its own processes in /proc, loopback.
func enter() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}

// machineRoot returns the directory that testdata/build-machine made of testdata as it is now, after building it if need be.
func machineRoot() (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir("testdata", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(content), content)
		return err
	})
	if err != nil {
		return "", err
	}
	cache, err := filepath.Abs("../../.bin/machines")
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, hex.EncodeToString(sum.Sum(nil))[:12])
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	fmt.Fprintln(os.Stderr, "building the machines' root: once for each change of testdata, takes minutes")
	if err := os.RemoveAll(cache); err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// What it mounts and starts ends with it, too.
	build := exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "testdata/build-machine", root)
	if out, err := build.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("build-machine: %w:\n%s", err, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	return root, nil
}
