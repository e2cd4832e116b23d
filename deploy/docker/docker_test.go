// Package docker_test checks the image's recipe, and what it makes, without a container
// engine.
package docker_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/eco2-team/eventbus/deploy/internal/port"
)

// stages parses the Dockerfile as BuildKit does, and fails on its linter's warnings.
func stages(t *testing.T) (build, final instructions.Stage) {
	t.Helper()
	raw, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	ast, err := parser.Parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	warn := func(rule, description, url, text string, at []parser.Range) {
		t.Errorf("%s: %s (%v)", rule, text, at)
	}
	all, _, err := instructions.Parse(ast.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("%d stages", len(all))
	}
	return all[0], all[1]
}

func TestImage_HasTheBinaryAndCertificatesOnly(t *testing.T) {
	_, final := stages(t)
	if final.BaseName != "scratch" {
		t.Errorf("made from %s", final.BaseName)
	}
	user := ""
	var copied []string
	for _, c := range final.Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			copied = append(copied, c.DestPath)
		case *instructions.UserCommand:
			user = c.User
		case *instructions.EntrypointCommand:
			if c.PrependShell || !slices.Equal(c.CmdLine, []string{"/eventbus"}) {
				t.Errorf("entry point %q", c.CmdLine)
			}
		case *instructions.ExposeCommand:
		default:
			t.Errorf("%s in an image without a shell", c.Name())
		}
	}
	if user != "65532:65532" { // a number: runAsNonRoot cannot judge a name
		t.Errorf("runs as %q", user)
	}
	if want := []string{"/etc/ssl/certs/ca-certificates.crt", "/eventbus"}; !slices.Equal(copied, want) {
		t.Errorf("has %q, want %q", copied, want)
	}
}

// buildCommand is the Dockerfile's go build, and Makefile's variables by name.
func buildCommand(t *testing.T) string {
	t.Helper()
	build, _ := stages(t)
	for _, c := range build.Commands {
		if run, ok := c.(*instructions.RunCommand); ok {
			if line := strings.Join(run.CmdLine, " "); strings.Contains(line, "go build") {
				return line
			}
		}
	}
	t.Fatal("no go build")
	return ""
}

func TestImage_IsBuiltAsMakeDoes(t *testing.T) {
	raw, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^LDFLAGS := (.*)$`).FindSubmatch(raw)
	if m == nil {
		t.Fatal("no LDFLAGS in the Makefile")
	}
	want := regexp.MustCompile(`\$\((\w+)\)`).ReplaceAllString(string(m[1]), "$${$1}")
	if got := buildCommand(t); !strings.Contains(got, `-ldflags "`+want+`"`) {
		t.Errorf("%s\nhas not the Makefile's %s", got, want)
	}
	build, _ := stages(t)
	args := map[string]bool{}
	for _, c := range build.Commands {
		if a, ok := c.(*instructions.ArgCommand); ok {
			for _, kv := range a.Args {
				args[kv.Key] = true
			}
		}
	}
	for _, a := range []string{"VERSION", "COMMIT", "DATE", "TARGETOS", "TARGETARCH"} {
		if !args[a] {
			t.Errorf("no build argument %s", a)
		}
	}
}

// What the binary is built from must pass .dockerignore, and nothing that changes for other
// reasons should.
func TestContext_IsWhatTheBuildNeeds(t *testing.T) {
	raw, err := os.Open("Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	patterns, err := ignorefile.ReadAll(raw)
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	ignored := func(path string) bool {
		no, err := matcher.MatchesOrParentMatches(path)
		if err != nil {
			t.Fatal(err)
		}
		return no
	}
	for _, path := range append(sources(t), "go.mod", "go.sum") {
		if ignored(path) {
			t.Errorf("%s does not reach the build", path)
		}
	}
	for _, path := range []string{".git/HEAD", "README.md", "docs/protocol.md", "deploy/docker/Dockerfile", "main_test.go", "router/bus_test.go", ".bin/eventbus"} {
		if !ignored(path) {
			t.Errorf("%s reaches the build", path)
		}
	}
}

// sources are the product's files that go build reads, from its root.
func sources(t *testing.T) []string {
	t.Helper()
	return sourcesOf(t, "../..")
}

// sourcesOf are the files of this repository that go build reads for a module of it.
func sourcesOf(t *testing.T, module string) []string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Standard,Module,GoFiles,EmbedFiles", ".")
	cmd.Dir = module
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir                 string
			Module              *struct{ Path string }
			GoFiles, EmbedFiles []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || !strings.HasPrefix(p.Module.Path, "github.com/eco2-team/eventbus") {
			continue
		}
		for _, f := range slices.Concat(p.GoFiles, p.EmbedFiles) {
			rel, err := filepath.Rel(root, filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, filepath.ToSlash(rel))
		}
	}
	if len(files) < 15 {
		t.Fatalf("only %d files", len(files))
	}
	return files
}

var built struct {
	once sync.Once
	dir  string
	out  []byte
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// buildRoot makes the image's file system, once: it runs the Dockerfile's own go build.
func buildRoot(t *testing.T) string {
	t.Helper()
	line := buildCommand(t)
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "image"); built.err != nil {
			return
		}
		cmd := exec.Command("sh", "-c", strings.Replace(line, "-o /out/eventbus", "-o "+filepath.Join(built.dir, "eventbus"), 1))
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "VERSION=v1.2.3", "COMMIT=c0ffee", "DATE=2026-01-02T03:04:05Z")
		if built.out, built.err = cmd.CombinedOutput(); built.err == nil {
			built.err = os.Chmod(built.dir, 0o555)
		}
	})
	if built.err != nil {
		t.Fatalf("%s: %v\n%s", line, built.err, built.out)
	}
	return built.dir
}

func TestBinary_IsStatic(t *testing.T) {
	f, err := elf.Open(filepath.Join(buildRoot(t), "eventbus"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("needs a dynamic loader")
		}
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("needs libraries %v (%v)", libs, err)
	}
}

// confined runs the image's entry point as a runtime would: its root is read-only and all
// there is, its user 65532. Changing root needs root, or a sudo that asks nothing.
func confined(ctx context.Context, root string, args ...string) *exec.Cmd {
	const script = `set -e; root=$1; shift
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
exec chroot --userspec=65532:65532 --groups= "$root" /eventbus "$@"`
	line := append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", root}, args...)
	if os.Geteuid() != 0 {
		line = append([]string{"sudo", "-n"}, line...)
	}
	return exec.CommandContext(ctx, line[0], line[1:]...)
}

func TestBinary_TellsItsVersionAsUser65532WithAReadOnlyRoot(t *testing.T) {
	root := buildRoot(t)
	out, err := confined(context.Background(), root, "--version").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"v1.2.3", "c0ffee", "2026-01-02T03:04:05Z"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("--version says %q, not %s", out, want)
		}
	}
}

// Everything in one process, in a root with nothing else and nowhere to write.
func TestBinary_ServesAsUser65532WithAReadOnlyRoot(t *testing.T) {
	root := buildRoot(t)
	httpAddr, grpcAddr, adminAddr := port.Addr(t), port.Addr(t), port.Addr(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := confined(ctx, root, "dev", "--no-demo", "--http-addr", httpAddr, "--grpc-addr", grpcAddr, "--admin-addr", adminAddr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := func() bool {
		r, err := http.Get("http://" + adminAddr + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	}
	for !ready() {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v\n%s", err, &log)
		case <-ctx.Done():
			t.Fatal("not ready")
		case <-time.After(50 * time.Millisecond):
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^Uid:\s+65532\s+65532\s+65532\s+65532$`, `(?m)^Gid:\s+65532\s+65532\s+65532\s+65532$`, `(?m)^CapEff:\s+0+$`} {
		if !regexp.MustCompile(want).Match(status) {
			t.Errorf("its status has no %s:\n%s", want, status)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, &log)
	}
}
