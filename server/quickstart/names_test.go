package quickstart

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/eco2-team/eventbus/server/bustest"
)

// code is what a page says literally: its spans and its lines of shell.
func (p *page) code() []string { return append(p.spans[:len(p.spans):len(p.spans)], p.scripts...) }

func TestPages_ScriptsAreOnesThatBashReads(t *testing.T) {
	t.Parallel()
	for _, p := range pages(t) {
		for _, script := range p.scripts {
			cmd := exec.CommandContext(t.Context(), "bash", "-n")
			cmd.Stdin = strings.NewReader(script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s%s", p.path, err, out, script)
			}
		}
	}
}

func TestPages_MakeTargetsAreThere(t *testing.T) {
	t.Parallel()
	makefile := read(t, "Makefile")
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):|call tool,([a-z-]+),`).FindAllStringSubmatch(makefile, -1) {
		targets[m[1]+m[2]] = true
	}
	mention := regexp.MustCompile(`(?:^|[\n;&|(] *)make ((?:[a-z-]+ ?)+)`)
	found := 0
	for _, p := range pages(t) {
		for _, code := range p.code() {
			for _, m := range mention.FindAllStringSubmatch(code, -1) {
				for target := range strings.FieldsSeq(m[1]) {
					found++
					if !targets[target] {
						t.Errorf("%s: make %s: no such target", p.path, target)
					}
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("%d mentions", found)
	}
}

var (
	// invocation is a call of the program: what precedes it, and its words up to the end
	// of the command.
	invocation = regexp.MustCompile(`(?:^|[\n;&|(] *|-- /|\.bin/|[A-Z]=\S* +)eventbus((?: +(?:'[^']*'|"[^"]*"|[^\s'"|;&)#>` + "`" + `]+))+)`)
	flagWord   = regexp.MustCompile(`^--([a-z][a-z-]*)`)
)

func TestPages_CommandsAndFlagsAreOnesOfTheProgram(t *testing.T) {
	t.Parallel()
	found, known := 0, map[string]string{}
	for _, p := range pages(t) {
		for _, code := range p.code() {
			code = strings.ReplaceAll(code, "\\\n", " ")
			for _, m := range invocation.FindAllStringSubmatch(code, -1) {
				words := strings.Fields(m[1])
				command := ""
				if !strings.HasPrefix(words[0], "-") {
					command, words = words[0], words[1:]
				}
				help, ok := known[command]
				if !ok {
					help = helpOf(t, command)
					known[command] = help
				}
				if help == "" {
					t.Errorf("%s: eventbus %s: no such command", p.path, command)
					continue
				}
				for _, w := range words {
					if f := flagWord.FindStringSubmatch(w); f != nil && !hasFlag(help, f[1]) {
						t.Errorf("%s: eventbus %s has no flag --%s", p.path, command, f[1])
					}
					found++
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("%d words of commands were looked at", found)
	}
}

func hasFlag(help, name string) bool {
	return regexp.MustCompile(`(?m)--(\[no-\])?`+name+`\b`).MatchString(help) || (strings.HasPrefix(name, "no-") && strings.Contains(help, "--[no-]"+name[3:]))
}

// helpOf is what a command says of itself, and empty where there is none.
func helpOf(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), bustest.Program(), strings.Fields(command+" --help")...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// Names in capitals are settings, codes, enum values: each is one that the code has,
// or somebody else's that we name.
func TestPages_NamesAreOnesOfTheCode(t *testing.T) {
	t.Parallel()
	foreign := map[string]bool{
		"SSL_CERT_FILE": true, "STREAM_PREFIXES_STR": true, // Go's, and the Python router's
		"NO_COLOR": true,
	}
	name := regexp.MustCompile(`^(?:[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|eventbus_[a-z_]+|Test[A-Z]\w+)`)
	found := 0
	// Names of metrics are put together; the program tells all of them.
	metrics, err := exec.CommandContext(t.Context(), bustest.Program(), "metrics", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := sources(t) + string(metrics)
	for _, p := range pages(t) {
		for _, span := range p.spans {
			n := name.FindString(span)
			if n == "" || foreign[n] {
				continue
			}
			found++
			if !strings.Contains(known, n) {
				t.Errorf("%s: nothing has the name %s", p.path, n)
			}
		}
	}
	if found < 100 {
		t.Errorf("%d names were looked at", found)
	}
}

func TestPages_PathsAreThere(t *testing.T) {
	t.Parallel()
	top := regexp.MustCompile(`(?m)(^|[\s=])((?:\./)?(?:proto|server|edge|router|gen|deploy|docs)/[\w./-]*\w)`)
	// deploy/x is a Deployment, too.
	kubectl := regexp.MustCompile(`kubectl [^\n]*? deploy/[\w-]+(?:\s|$)`)
	found := 0
	for _, p := range pages(t) {
		for _, code := range p.code() {
			for _, m := range top.FindAllStringSubmatch(kubectl.ReplaceAllString(code, ""), -1) {
				found++
				if _, err := os.Stat(filepath.Join(root, m[2])); err != nil {
					t.Errorf("%s: %s: no such file", p.path, m[2])
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("%d paths were looked at", found)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sources is the text of all that is not a page.
func sources(t *testing.T) string {
	t.Helper()
	text, err := allSources()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var allSources = sync.OnceValues(func() (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git", d.IsDir() && d.Name() == ".bin":
			return filepath.SkipDir
		}
		switch filepath.Ext(p) {
		case ".go", ".proto", ".yaml", ".yml", ".py", ".tf", "":
		default:
			return nil
		}
		if d.IsDir() {
			return nil
		}
		text, err := os.ReadFile(p)
		b.Write(text)
		return err
	})
	return b.String(), err
})
