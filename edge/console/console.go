// Package console is a page that shows the bus at work: the live jobs of a
// domain, one job followed as a browser follows it, and a form that publishes a
// test event. It is plain files in the binary: no build step, nothing from
// another host, no inline script or style.
//
// It only serves the page. The page then calls the edge's own HTTP API, on the
// same origin, with no rights of its own:
//
//	Handler → index.html, app.js → GET  …/{domain}/events           (the list: fetch)
//	                             → GET  …/{domain}/{job_id}/state   (the stage it is at)
//	                             → GET  …/{domain}/{job_id}/events  (one job: EventSource)
//	                             → POST …/{domain}/{job_id}/events  (the form)
//
// An EventSource hears only event names that it was told, and the event name is
// the stage. So the list is read with fetch, which sees every name; each new one
// is told to the EventSource of the followed job; and what that one still did not
// hear is a hole in seq, which the page reads again from the job's log. What the
// log does not give either is shown in red.
//
// The page keeps its place in the hash: #domain or #domain/job_id.
// A tab holds two connections open; over HTTP/1.1 a browser has six per host, so
// a third tab waits.
//
// Hooks for browser tests (which cannot use chromedp.Poll: the policy forbids eval), by data-testid unless said otherwise:
//
//	domain, domain-open     the domain to watch, and its button
//	watch                   state of the list: connecting live reconnecting refused
//	[data-job=ID]           a job of the list, a button, newest first; with data-stage,
//	                        data-status, data-seq, and data-final done|failed at the end
//	job, follow-open        the job id to follow, and its button
//	follow                  the followed job; data-connection, and data-ready-state of
//	                        its EventSource (0 connecting, 1 open, 2 closed for good)
//	connection              its state as text: connecting live reconnecting finished refused
//	progress                its progress bar
//	stage                   a stage, in order of appearance; with data-stage, data-status
//	result                  a stage's result, JSON
//	tokens                  the content of all streaming events
//	gap, error, hole, over  a notice of that kind (also data-kind)
//	counts                  data-seq, data-events, data-repaired (read again),
//	                        data-duplicates, data-holes (events missing)
//	publish-job, -new, -stage, -status, -progress, -message, -content, -final, -send
//	publish-result          the answer; data-ok true|false
package console

import (
	"crypto/sha256"
	_ "embed" // the files below
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// The files of the page.
var (
	//go:embed index.html
	indexHTML string
	//go:embed app.js
	appJS string
	//go:embed style.css
	styleCSS string
	//go:embed icon.svg
	iconSVG string
)

// policy lets the page load and call its own origin only. Text from events can
// never become markup: trusted types make the browser refuse it.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// file is a file of the page and its headers.
type file struct {
	body, contentType, etag string
}

func newFile(body, contentType string) file {
	sum := sha256.Sum256([]byte(body))
	return file{body: body, contentType: contentType, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// Handler serves the page at / and its files beside it, to GET and HEAD; any
// other path is 404. It is safe for concurrent use.
func Handler() http.Handler {
	files := map[string]file{
		"/":          newFile(indexHTML, "text/html; charset=utf-8"),
		"/app.js":    newFile(appJS, "text/javascript; charset=utf-8"),
		"/style.css": newFile(styleCSS, "text/css; charset=utf-8"),
		"/icon.svg":  newFile(iconSVG, "image/svg+xml"),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.contentType)
		// no-cache: ask each time, so that a page never meets a script of another release.
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", f.etag)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(f.body)) // answers If-None-Match, HEAD and Range
	})
}
