// Package console is a page for operators: an event's way with what flows and waits
// at each hop, live jobs and one of them in full, what a browser gets, the cluster,
// and a form that publishes a test event. It is plain files in the binary: no build
// step, nothing from another host, no inline script or style.
//
// It only serves the page. The page then calls the edge's own HTTP API, on the same
// origin, with no rights of its own: with the token that the operator gives it, or
// the browser's cookie.
//
//	Handler → page/index.html, app.js (which page the hash names)
//	  overview.js    → GET  /api/inspect/v1/cluster, by cluster-data.js
//	  jobs.js        → GET  /api/v1/{domain}/events, by api.js, as all streams
//	  job.js         → GET  …/{domain}/{job_id}/events and /state; timeline.js
//	                 → GET  /api/inspect/v1/jobs/{domain}/{job_id} (why did it stop?)
//	  subscriber.js  → GET  …/events, frame by frame
//	  cluster.js     → what cluster-data.js has
//	  publish.js     → POST …/{domain}/{job_id}/events, after rules.js
//
// Streams are read with fetch, which hears every event name, can send a token and
// shows what it reads. It resumes after the last id, as an EventSource does.
//
// What tests hold on to is data-testid (dom.js: hook) and what stands beside it:
//
//	[data-job=ID]  a job of the list, newest first; with data-stage, data-status,
//	               data-seq, data-phase, and data-final done|failed at the end
//	stage          a stage of the timeline, in order of appearance; data-stage, data-status
//	follow         a job; data-connection: connecting live reconnecting finished over refused
//	counts         data-seq, data-events, data-duplicates, data-holes (events missing)
//	answer         data-verdict of the diagnosis
//	gap, error, hole, over   a notice of that kind (also data-kind)
//
// Such tests cannot use chromedp.Poll: the policy forbids eval.
package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// page are its files.
//
//go:embed page
var page embed.FS

// policy lets the page load and call its own origin only. Text from events can
// never become markup: trusted types make the browser refuse it.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// Settings are what the edge tells its page.
type Settings struct {
	// TraceURL is where a trace is shown, with {trace_id} in it; empty: nowhere.
	TraceURL string `json:"trace_url"`
	// Rules of a publish, by field; Handler sets them.
	Rules map[string]Rule `json:"rules"`
}

// Rule is one of router/event in a form that a page can check.
type Rule struct {
	// Pattern is a regular expression of the whole text.
	Pattern string `json:"pattern"`
	// Not are texts that keep the pattern and break the rule.
	Not []string `json:"not,omitempty"`
	// Empty: no text is allowed, too.
	Empty bool `json:"empty,omitempty"`
	// Text is the rule as the router tells it.
	Text string `json:"rule"`
}

func rules() map[string]Rule {
	most := strconv.Itoa
	return map[string]Rule{
		"domain": {Pattern: `[a-z][a-z0-9-]{0,31}`, Text: event.DomainRule},
		"job_id": {Pattern: `[A-Za-z0-9._:-]{1,` + most(event.MaxJobIDLen) + `}`, Not: []string{".", ".."}, Text: event.JobIDRule},
		"stage":  {Pattern: `[A-Za-z0-9._:-]{1,` + most(event.MaxStageLen) + `}`, Not: []string{"gap", "error", "open", "message"}, Text: event.StageRule},
		"key":    {Pattern: `[ -~]{1,` + most(event.MaxIdempotencyKeyLen) + `}`, Empty: true, Text: event.KeyRule},
	}
}

// file is a file of the page and its headers.
type file struct {
	body, contentType, etag string
}

func newFile(body, contentType string) file {
	sum := sha256.Sum256([]byte(body))
	return file{body: body, contentType: contentType, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// files are those of the page by their paths, / being index.html.
func files(s Settings) map[string]file {
	s.Rules = rules()
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // texts always encode
	}
	out := map[string]file{"/settings.json": newFile(string(text), "application/json")}
	list, err := page.ReadDir("page")
	if err != nil {
		panic(err) // it is in the binary
	}
	for _, f := range list {
		body, err := page.ReadFile("page/" + f.Name())
		if err != nil {
			panic(err)
		}
		out["/"+f.Name()] = newFile(string(body), contentType(f.Name()))
	}
	out["/"] = out["/index.html"]
	delete(out, "/index.html")
	return out
}

// contentType does not ask the machine, which may know others.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	}
	return "image/svg+xml"
}

// Handler serves the page at / and its files beside it, to GET and HEAD; any
// other path is 404. It is safe for concurrent use.
func Handler(s Settings) http.Handler {
	all := files(s)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := all[r.URL.Path]
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
