package console

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/router/event"
)

func ask(t *testing.T, method, path string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	maps.Copy(req.Header, header)
	w := httptest.NewRecorder()
	Handler(Settings{}).ServeHTTP(w, req)
	return w
}

// paths are the files and their content types.
func paths() map[string]string {
	out := map[string]string{
		"/":              "text/html; charset=utf-8",
		"/style.css":     "text/css; charset=utf-8",
		"/icon.svg":      "image/svg+xml",
		"/settings.json": "application/json",
	}
	for _, name := range []string{
		"api", "app", "cluster-data", "cluster", "dom", "job", "jobs", "overview", "publish", "rules", "settings", "subscriber", "timeline",
	} {
		out["/"+name+".js"] = "text/javascript; charset=utf-8"
	}
	return out
}

func body(t *testing.T, path string) string {
	t.Helper()
	return ask(t, http.MethodGet, path, nil).Body.String()
}

func TestHandler_ServesAllFilesOfThePage(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(files(Settings{}))), slices.Sorted(maps.Keys(paths())); !slices.Equal(got, want) {
		t.Errorf("it serves %v, want %v", got, want)
	}
}

func TestHandler_EveryFileHasItsHeaders(t *testing.T) {
	for path, contentType := range paths() {
		resp := ask(t, http.MethodGet, path, nil)
		if resp.Code != http.StatusOK || resp.Body.String() == "" {
			t.Errorf("GET %s: %d, or empty", path, resp.Code)
		}
		for name, want := range map[string]string{
			"Content-Type":            contentType,
			"Cache-Control":           "no-cache",
			"X-Content-Type-Options":  "nosniff",
			"Content-Security-Policy": policy,
		} {
			if got := resp.Header().Get(name); got != want {
				t.Errorf("GET %s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
}

func TestHandler_KnownETagIsAnsweredWith304(t *testing.T) {
	seen := map[string]string{}
	for path := range paths() {
		etag := ask(t, http.MethodGet, path, nil).Header().Get("ETag")
		if other, taken := seen[etag]; taken || !regexp.MustCompile(`^"[0-9a-f]{32}"$`).MatchString(etag) {
			t.Errorf("%s has the ETag %q (also of %q)", path, etag, other)
		}
		seen[etag] = path
		resp := ask(t, http.MethodGet, path, http.Header{"If-None-Match": {etag}})
		if resp.Code != http.StatusNotModified || resp.Body.String() != "" {
			t.Errorf("GET %s with its ETag: %d, want 304 without a body", path, resp.Code)
		}
		resp = ask(t, http.MethodGet, path, http.Header{"If-None-Match": {`"of-another-release"`}})
		if resp.Code != http.StatusOK {
			t.Errorf("GET %s with an old ETag: %d, want 200", path, resp.Code)
		}
	}
}

func TestHandler_ETagIsOfTheContent(t *testing.T) {
	if newFile("a", "x").etag == newFile("b", "x").etag || newFile("a", "x").etag != newFile("a", "y").etag {
		t.Error("the ETag does not follow the content")
	}
}

func TestHandler_HeadIsGetWithoutABody(t *testing.T) {
	for path, contentType := range paths() {
		resp := ask(t, http.MethodHead, path, nil)
		if resp.Code != http.StatusOK || resp.Header().Get("Content-Type") != contentType || resp.Body.String() != "" {
			t.Errorf("HEAD %s: %d, %q", path, resp.Code, resp.Header().Get("Content-Type"))
		}
	}
}

func TestHandler_OtherMethodsAreRefused(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		resp := ask(t, method, "/", nil)
		if resp.Code != http.StatusMethodNotAllowed || resp.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s /: %d, Allow %q", method, resp.Code, resp.Header().Get("Allow"))
		}
	}
}

func TestHandler_OtherPathsAreNotFound(t *testing.T) {
	for _, path := range []string{"/index.html", "/console.go", "/app.js/", "//", "/../console.go", "/api/v1/scan/events", "/favicon.ico"} {
		if resp := ask(t, http.MethodGet, path, nil); resp.Code != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, resp.Code)
		}
	}
}

func TestPage_TakesNothingFromAnotherHost(t *testing.T) {
	external := regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://|["'(=]\s*//|@import|\bdata:[a-z]`)
	for path := range paths() {
		text := strings.NewReplacer(`xmlns="http://www.w3.org/2000/svg"`, "", `'http://www.w3.org/2000/svg'`, "").Replace(body(t, path)) // a name, not an address
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasSuffix(path, ".js") {
				line, _, _ = strings.Cut(line, "// ") // a comment
			}
			if found := external.FindString(line); found != "" {
				t.Errorf("%s: %q in %q", path, found, line)
			}
		}
	}
}

// The policy would refuse them in the browser; here they fail sooner.
func TestPage_HasNoInlineCodeAndNoHTMLFromText(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<script(?:\s[^>]*)?>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:`)
	if found := inline.FindString(body(t, "/")); found != "" {
		t.Errorf("index.html has %q", found)
	}
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe|createContextualFragment|DOMParser|document\.write|\beval\(|new Function|setAttribute\('style'`)
	for path := range paths() {
		if found := markup.FindString(body(t, path)); strings.HasSuffix(path, ".js") && found != "" {
			t.Errorf("%s has %q", path, found)
		}
	}
}

// Every id that the scripts ask for is in the page, and every label has its control.
func TestPage_ScriptAndPageNameTheSameElements(t *testing.T) {
	index := body(t, "/")
	for path := range paths() {
		for _, m := range regexp.MustCompile(`(?:\$|getElementById)\('([a-z-]+)'`).FindAllStringSubmatch(body(t, path), -1) {
			if !strings.Contains(index, `id="`+m[1]+`"`) {
				t.Errorf("%s asks for #%s", path, m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?:\sfor|aria-labelledby|list)="([a-z-]+)"`).FindAllStringSubmatch(index, -1) {
		if !strings.Contains(index, `id="`+m[1]+`"`) {
			t.Errorf("index.html refers to #%s", m[1])
		}
	}
}

func TestPage_EveryModuleThatIsImportedIsThere(t *testing.T) {
	for path := range paths() {
		for _, m := range regexp.MustCompile(`from '\.(/[a-z-]+\.js)'`).FindAllStringSubmatch(body(t, path), -1) {
			if paths()[m[1]] == "" {
				t.Errorf("%s imports %s", path, m[1])
			}
		}
	}
}

func TestSettings_AreTheEdgesAndTheRoutersRules(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(Settings{TraceURL: "https://tempo/{trace_id}"}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/settings.json", nil))
	var got Settings
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.TraceURL != "https://tempo/{trace_id}" {
		t.Errorf("%s: %v", w.Body, err)
	}
	for field, want := range map[string]string{"domain": event.DomainRule, "job_id": event.JobIDRule, "stage": event.StageRule, "key": event.KeyRule} {
		if got.Rules[field].Text != want {
			t.Errorf("%s: %q, want %q", field, got.Rules[field].Text, want)
		}
	}
}

// ruled are texts that keep rules and break them.
func ruled() []string {
	return []string{
		"", "a", "A", "scan", "scan-2", "-scan", "2scan", "Scan", "scan_x", strings.Repeat("a", 32), strings.Repeat("a", 33), strings.Repeat("a", 64), strings.Repeat("a", 65),
		strings.Repeat("a", 128), strings.Repeat("a", 129), ".", "..", "...", "a.b_c:d-e", "a b", "a/b", "a\nb", "a\n", "\na", "é", "낱말", "a\u0000", "~", "\u007f", "\u2028",
		"gap", "error", "open", "message", "Gap", "gaps", "done", "<b>", "'\"&", "\t", " ", "😀",
	}
}

func TestRules_AreTheRouters(t *testing.T) {
	for field, valid := range map[string]func(string) bool{
		"domain": event.ValidDomain, "job_id": event.ValidJobID, "stage": event.ValidStage, "key": event.ValidKey,
	} {
		rule := rules()[field]
		re := regexp.MustCompile(`^(?:` + rule.Pattern + `)$`)
		for _, text := range ruled() {
			got := rule.Empty && text == "" || re.MatchString(text) && !slices.Contains(rule.Not, text)
			if got != valid(text) {
				t.Errorf("%s %q: the page says %t", field, text, got)
			}
		}
	}
}

// ruleHolds tells what the router says of a text.
func ruleHolds(field, text string) bool {
	return map[string]func(string) bool{
		"domain": event.ValidDomain, "job_id": event.ValidJobID, "stage": event.ValidStage, "key": event.ValidKey,
	}[field](text)
}
