package console

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, method, path string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	maps.Copy(req.Header, header)
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, req)
	return w
}

// paths are the files and their content types.
func paths() map[string]string {
	return map[string]string{
		"/":          "text/html; charset=utf-8",
		"/app.js":    "text/javascript; charset=utf-8",
		"/style.css": "text/css; charset=utf-8",
		"/icon.svg":  "image/svg+xml",
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
		text := strings.ReplaceAll(ask(t, http.MethodGet, path, nil).Body.String(), `xmlns="http://www.w3.org/2000/svg"`, "") // a name, not an address
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if path == "/app.js" {
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
	if found := inline.FindString(indexHTML); found != "" {
		t.Errorf("index.html has %q", found)
	}
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\('style'`)
	if found := markup.FindString(appJS); found != "" {
		t.Errorf("app.js has %q", found)
	}
}

func TestPage_HasTheHooksThatThePackageNames(t *testing.T) {
	for _, hook := range []string{
		"domain", "domain-open", "watch", "job", "follow-open", "follow", "connection", "progress", "tokens", "counts",
		"publish-job", "publish-new", "publish-stage", "publish-status", "publish-progress", "publish-message",
		"publish-content", "publish-final", "publish-send", "publish-result",
	} {
		if n := strings.Count(indexHTML, `data-testid="`+hook+`"`); n != 1 {
			t.Errorf("index.html has the hook %q %d times, want once", hook, n)
		}
	}
}

// Every id that the script asks for is in the page, and every label has its control.
func TestPage_ScriptAndPageNameTheSameElements(t *testing.T) {
	for _, m := range regexp.MustCompile(`(?:\$|onSubmit)\('([a-z-]+)'`).FindAllStringSubmatch(appJS, -1) {
		if !strings.Contains(indexHTML, `id="`+m[1]+`"`) {
			t.Errorf("app.js asks for #%s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?:\sfor|aria-labelledby|list)="([a-z-]+)"`).FindAllStringSubmatch(indexHTML, -1) {
		if !strings.Contains(indexHTML, `id="`+m[1]+`"`) {
			t.Errorf("index.html refers to #%s", m[1])
		}
	}
}
