// Package quickstart keeps the documents true. It runs what README.md and
// docs/quickstart.md tell a newcomer to run, each section in a directory of its own,
// against a real bus (quickstart_test.go), and looks up what all pages name: links
// and headings (pages_test.go), commands, flags, settings, targets of make, files
// (names_test.go). What the README's picture shows happens, too (picture_test.go).
package quickstart

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/server/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

const root = "../.."

// block is a fenced block of the page.
type block struct {
	language, text string
	// file is the name that stands before it, "`main.go`:".
	file string
}

// sections are the blocks of a page under each heading.
func sections(t *testing.T, page string) map[string][]block {
	t.Helper()
	out := map[string][]block{}
	fence := regexp.MustCompile("(?ms)(?:`([a-z.]+)`:\n\n)?^```([a-z]+)\n(.*?)^```$")
	for part := range strings.SplitSeq(read(t, page), "\n## ") {
		name, body, _ := strings.Cut(part, "\n")
		for _, m := range fence.FindAllStringSubmatch(body, -1) {
			out[name] = append(out[name], block{file: m[1], language: m[2], text: m[3]})
		}
	}
	return out
}

// place is a directory as a newcomer has it, beside a bus.
type place struct {
	t   *testing.T
	dir string
	bus *bustest.Bus
	out string // of the last sh block
}

// here puts the bus's own addresses in the place of the page's.
func (p *place) here(text string) string {
	return strings.NewReplacer("localhost:9090", p.bus.GRPC, "localhost:8000", p.bus.HTTP).Replace(text)
}

func (p *place) follow(blocks []block) {
	p.t.Helper()
	ran, compared := 0, 0
	for _, b := range blocks {
		switch {
		case b.file != "":
			p.write(b.file, p.here(b.text))
		case b.language == "sh":
			p.shell(p.here(b.text))
			ran++
		case b.language == "text":
			if p.out != b.text {
				p.t.Errorf("it prints\n%s\nand the page says\n%s", p.out, b.text)
			}
			compared++
		default:
			p.t.Errorf("a block of %s that nobody runs:\n%s", b.language, b.text)
		}
	}
	if ran == 0 || compared == 0 {
		p.t.Errorf("%d blocks were run, %d compared", ran, compared)
	}
}

func (p *place) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) shell(script string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 3*bustest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.WaitDelay = time.Second // for what bash leaves behind
	cmd.Dir = p.dir
	tools, err := filepath.Abs(filepath.Join(root, ".bin"))
	if err != nil {
		p.t.Fatal(err)
	}
	// Debian's Python has Debian's packages, whatever else is in PATH. The Go tool finds
	// what it has where it always does.
	path := strings.Join([]string{filepath.Dir(bustest.Program()), tools, "/usr/bin", os.Getenv("PATH")}, ":")
	cmd.Env = append(os.Environ(), "PATH="+path, "ROUTER_ADDR="+p.bus.GRPC, "GOFLAGS=-mod=mod", "NO_COLOR=1")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("%s\n%v\n%s%s", script, err, out.String(), stderr.String())
	}
	p.out = out.String()
}

func TestQuickstarts_DoWhatTheySay(t *testing.T) {
	t.Parallel()
	all := sections(t, "docs/quickstart.md")
	bus := bustest.New(t)
	for _, name := range []string{"curl", "grpcurl", "eventbus", "Go", "Python", "Node"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if len(all[name]) == 0 {
				t.Fatalf("the page has no section %s", name)
			}
			p := &place{t: t, dir: t.TempDir(), bus: bus}
			prepare(p, name)
			p.follow(all[name])
		})
	}
}

// The README's commands do what it says, once the bus runs.
func TestReadme_FiveMinutes(t *testing.T) {
	t.Parallel()
	p := &place{t: t, dir: t.TempDir(), bus: bustest.New(t)}
	said := []string{"make run", "event: done", `"stage": "done"`} // by each block of shell
	for _, b := range sections(t, "README.md")["Five minutes"] {
		if b.language != "sh" {
			continue
		}
		if len(said) == 0 {
			t.Fatalf("nobody knows what this prints:\n%s", b.text)
		}
		if strings.Contains(b.text, "git clone") {
			p.out = b.text // not here: the targets of make are looked up
		} else {
			p.shell(p.here(b.text))
		}
		if !strings.Contains(p.out, said[0]) {
			t.Errorf("%s\nprints\n%s", b.text, p.out)
		}
		said = said[1:]
	}
	if len(said) != 0 {
		t.Errorf("no block prints %q", said)
	}
}

// prepare does what the page says in words.
func prepare(p *place, name string) {
	p.t.Helper()
	switch name {
	case "Go": // a module that requires this one
		here, err := filepath.Abs(root)
		if err != nil {
			p.t.Fatal(err)
		}
		mod := strings.Replace(read(p.t, "go.mod"), "module github.com/eco2-team/eventbus\n", "module worker\n", 1)
		p.write("go.mod", mod+fmt.Sprintf("\nrequire github.com/eco2-team/eventbus v0.0.0\n\nreplace github.com/eco2-team/eventbus => %s\n", here))
		p.write("go.sum", read(p.t, "go.sum"))
	case "Python":
		p.write("eventbus/v1/eventbus.proto", read(p.t, "proto/eventbus/v1/eventbus.proto"))
	}
}
