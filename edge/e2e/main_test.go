package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// TestMain builds the binary that all tests run.
func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "build eventbus:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if os.Getenv("E2E_BINARY") == "" {
			if err := os.RemoveAll(filepath.Dir(program())); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		os.Exit(code)
	}))
}

// program is the path of the program under test: that in E2E_BINARY, else our own.
func program() string {
	if path := os.Getenv("E2E_BINARY"); path != "" {
		return path
	}
	return filepath.Join(os.TempDir(), "eventbus-e2e-"+strconv.Itoa(os.Getpid()), "eventbus")
}

// build makes it, with the race detector where the tests have it: a race fails the
// test whose process reports it.
func build() error {
	if os.Getenv("E2E_BINARY") != "" {
		return nil
	}
	args := []string{"build", "-ldflags=-s -w", "-o", program()}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(context.Background(), "go", append(args, "github.com/eco2-team/eventbus")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
