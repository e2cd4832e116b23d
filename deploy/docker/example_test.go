package docker_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// The example's image is not built here (it installs Debian's packages): its recipe is read,
// and compared with what `make example` runs from.
func TestExampleImage_HasWhatTheExampleRunsFrom(t *testing.T) {
	raw, err := os.ReadFile("example.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	ast, err := parser.Parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	warn := func(rule, description, url, text string, at []parser.Range) { t.Errorf("%s: %s (%v)", rule, text, at) }
	all, _, err := instructions.Parse(ast.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		t.Fatal(err)
	}
	ignored := exampleContext(t)
	installed := map[string]bool{}
	for _, stage := range all {
		for _, c := range stage.Commands {
			switch c := c.(type) {
			case *instructions.CopyCommand:
				for _, source := range c.SourcePaths {
					if c.From == "" && source != "." && (ignored(source) || !exists(source)) {
						t.Errorf("COPY %s: it is not there, or does not reach the build", source)
					}
				}
			case *instructions.RunCommand:
				for word := range strings.FieldsSeq(strings.Join(c.CmdLine, " ")) {
					installed[word] = true
				}
			case *instructions.UserCommand:
				if c.User != "65532:65532" {
					t.Errorf("runs as %q", c.User)
				}
			}
		}
	}
	deps, err := os.ReadFile("../../.ci/deps")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(deps), "= example ]")
	packages := regexp.MustCompile(`=((?:python3|protobuf|libprotobuf)-[a-z-]+)`).FindAllStringSubmatch(example, -1)
	if len(packages) < 6 {
		t.Fatalf(".ci/deps installs only %v", packages)
	}
	for _, m := range packages {
		if !installed[m[1]] {
			t.Errorf("it does not install %s, which .ci/deps does", m[1])
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(filepath.Join("../..", path))
	return err == nil
}

// exampleContext tells what .dockerignore keeps from the build, and fails where that is a
// source, or more than sources.
func exampleContext(t *testing.T) (ignored func(string) bool) {
	t.Helper()
	raw, err := os.ReadFile("example.Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	ignored = func(path string) bool {
		no, err := matcher.MatchesOrParentMatches(path)
		if err != nil {
			t.Fatal(err)
		}
		return no
	}
	needed := append(sourcesOf(t, "../example"), "go.mod", "go.sum", "deploy/example/go.mod", "deploy/example/go.sum", "proto/eventbus/v1/eventbus.proto")
	if !slices.Contains(needed, "deploy/example/api/page/page.js") || !slices.ContainsFunc(needed, func(f string) bool { return strings.HasPrefix(f, "gen/") }) {
		t.Fatalf("these are not all: %v", needed)
	}
	for _, path := range needed {
		if ignored(path) {
			t.Errorf("%s does not reach the build", path)
		}
	}
	for _, path := range []string{".git/HEAD", "README.md", "router/bus.go", "deploy/example/e2e/api_test.go", "deploy/example/scan/scan_test.go", "deploy/kubernetes/base/kustomization.yaml"} {
		if !ignored(path) {
			t.Errorf("%s reaches the build", path)
		}
	}
	return ignored
}
