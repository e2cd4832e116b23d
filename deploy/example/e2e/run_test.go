package e2e

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// `make example`, and Ctrl-C; and the worst end that it can have.
func TestRun_PlaysAScanAndLeavesNothingBehind(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"Ctrl-C": syscall.SIGINT, "kill -9": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			temp := t.TempDir()
			// Every process inherits PATH: it tells them from those of others.
			mark := filepath.Join(temp, "mark")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, built.example, "run", "--repo", repo, "--eventbus", built.eventbus, "--pace", "1ms")
			cmd.Env = append(os.Environ(), "TMPDIR="+temp, "PATH="+os.Getenv("PATH")+":"+mark)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			printed := readUntil(t, out, "Ctrl-C ends everything")
			if !strings.Contains(printed, "done     completed  100 %") || !strings.Contains(printed, `"status":"completed"`) {
				t.Errorf("it printed no scan:\n%s\n%s", printed, errs.String())
			}
			if n := len(processes(t, mark)); n < 10 {
				t.Errorf("%d processes, want itself, epmd, RabbitMQ, Redis, the bus, the API and 5 workers: the test sees nothing", n)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(out) // a killed one's pipe just ends
			if err := cmd.Wait(); sig == syscall.SIGINT && err != nil {
				t.Errorf("it ended with %v:\n%s\n%s", err, rest, errs.String())
			}
			eventually(t, "all processes are gone", func() bool {
				left := processes(t, mark)
				if len(left) > 0 && sig == syscall.SIGINT {
					t.Errorf("left behind: %v", left)
				}
				return len(left) == 0 || sig == syscall.SIGINT
			})
			if left, _ := filepath.Glob(filepath.Join(temp, "eventbus-example-*")); sig == syscall.SIGINT && len(left) > 0 {
				t.Errorf("files left behind: %v", left)
			}
		})
	}
}

// readUntil reads lines until one contains the text.
func readUntil(t *testing.T, from io.Reader, text string) string {
	t.Helper()
	var all strings.Builder
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), text) {
			return all.String()
		}
	}
	t.Fatalf("it ended before %q: %v\n%s", text, lines.Err(), all.String())
	return ""
}

// processes are those that have the mark in their environment.
func processes(t *testing.T, mark string) []string {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range environments {
		raw, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(raw, []byte(mark)) {
			continue // gone by now, or another one's
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline")) // gone by now
		out = append(out, string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
	}
	return out
}
