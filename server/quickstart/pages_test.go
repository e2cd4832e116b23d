package quickstart

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// page is a file of Markdown, taken apart.
type page struct {
	path    string // from the repository's root
	links   []string
	anchors map[string]bool
	spans   []string // `code` in the text
	scripts []string // blocks of sh
}

// pages are all of the repository.
func pages(t *testing.T) map[string]*page {
	t.Helper()
	out := map[string]*page{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".md" {
			return nil
		}
		source, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		out[filepath.ToSlash(rel)] = parse(filepath.ToSlash(rel), source)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("%d pages", len(out))
	}
	return out
}

func parse(name string, source []byte) *page {
	p := &page{path: name, anchors: map[string]bool{}}
	doc := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Link:
			p.links = append(p.links, string(n.Destination))
		case *ast.Image:
			p.links = append(p.links, string(n.Destination))
		case *ast.AutoLink:
			p.links = append(p.links, string(n.URL(source)))
		case *ast.RawHTML:
			p.html(string(n.Segments.Value(source)))
		case *ast.HTMLBlock:
			p.html(string(n.Lines().Value(source)))
		case *ast.Heading:
			p.heading(plain(n, source))
		case *ast.CodeSpan:
			p.spans = append(p.spans, plain(n, source))
		case *ast.FencedCodeBlock:
			if string(n.Language(source)) == "sh" {
				p.scripts = append(p.scripts, string(n.Lines().Value(source)))
			}
		}
		return ast.WalkContinue, nil
	})
	return p
}

// html is what a page has of it: pictures, links and places.
func (p *page) html(s string) {
	for _, m := range regexp.MustCompile(`\b(?:src|srcset|href)="([^"]+)"`).FindAllStringSubmatch(s, -1) {
		p.links = append(p.links, m[1])
	}
	for _, m := range regexp.MustCompile(`\b(?:id|name)="([^"]+)"`).FindAllStringSubmatch(s, -1) {
		p.anchors[m[1]] = true
	}
}

// heading gives it the name that GitHub gives it.
func (p *page) heading(title string) {
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsNumber(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
	name := slug
	for i := 1; p.anchors[name]; i++ {
		name = fmt.Sprintf("%s-%d", slug, i)
	}
	p.anchors[name] = true
}

// plain is a node's text.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			b.Write(c.Segment.Value(source))
			if c.SoftLineBreak() {
				b.WriteByte(' ')
			}
		default:
			b.WriteString(plain(c, source))
		}
	}
	return b.String()
}

// What is outside is not asked, only read: CI has no network.
func TestPages_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	links := 0
	for _, p := range all {
		for _, link := range p.links {
			links++
			if why := follow(all, p, link); why != "" {
				t.Errorf("%s: %s: %s", p.path, link, why)
			}
		}
	}
	if links < 100 {
		t.Errorf("%d links were looked at", links)
	}
}

func follow(all map[string]*page, from *page, link string) string {
	u, err := url.Parse(link)
	switch {
	case err != nil:
		return err.Error()
	case u.Scheme == "http" || u.Scheme == "https":
		if u.Hostname() == "" {
			return "no host"
		}
		return ""
	case u.Scheme != "" || strings.HasPrefix(u.Path, "/"):
		return "neither http nor a path in this repository"
	}
	target := from.path
	if u.Path != "" {
		target = path.Join(path.Dir(from.path), u.Path)
	}
	if _, err := os.Stat(filepath.Join(root, target)); err != nil || strings.HasPrefix(target, "..") {
		return "no such file"
	}
	if u.Fragment != "" {
		if p := all[target]; p == nil || !p.anchors[u.Fragment] {
			return "no such heading"
		}
	}
	return ""
}

func TestPages_EachIsReachedFromTheReadme(t *testing.T) {
	t.Parallel()
	all := pages(t)
	seen := map[string]bool{"CHANGELOG.md": true}
	var visit func(string)
	visit = func(name string) {
		p := all[name]
		if p == nil || seen[name] {
			return
		}
		seen[name] = true
		for _, link := range p.links {
			u, err := url.Parse(link)
			if err != nil || u.Scheme != "" || u.Path == "" {
				continue
			}
			target := path.Join(path.Dir(name), u.Path)
			visit(target)
			visit(path.Join(target, "README.md")) // what is shown of a directory
		}
	}
	visit("README.md")
	for name := range all {
		if !seen[name] {
			t.Errorf("%s: no page links it", name)
		}
	}
}

// The checks can fail: these are the faults that they are there for.
func TestPages_FaultsAreFound(t *testing.T) {
	t.Parallel()
	p := parse("docs/api.md", []byte("# A `b` c_d, e!\n## Same\n## Same\n[x](../README.md) ![y](no.png) <https://example.com> <a id=\"here\"></a>\n"))
	all := map[string]*page{"docs/api.md": p}
	for _, good := range []string{"#a-b-c_d-e", "#same", "#same-1", "#here", "../README.md", "../docs", "https://example.com/a#b"} {
		if why := follow(all, p, good); why != "" {
			t.Errorf("%s: %s", good, why)
		}
	}
	for _, bad := range []string{"#same-2", "../README", "NOPE.md", "../README.md#no", "/README.md", "https:///x", "ftp://example.com", "../../x", "a b%zz"} {
		if follow(all, p, bad) == "" {
			t.Errorf("%s passes", bad)
		}
	}
	if got := strings.Join(p.links, " "); got != "../README.md no.png https://example.com" {
		t.Errorf("links: %s", got)
	}
}
