package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

// Kinds of streams, as metrics name them.
const (
	kindJob   = "job"
	kindWatch = "watch"
)

// legacyDomain is the domain of /api/v1/stream.
const legacyDomain = "scan"

// call is what the edge knows of a request beyond what the gateway reads from it.
type call struct {
	// kind is empty for a call that is no stream.
	kind string
	// major is HTTP's version.
	major  int
	sse    bool
	cursor cursor
	// key is the header Idempotency-Key.
	key string
	// identity is who asks.
	identity *access.Identity

	// lines is where the stream may go on without a goroutine; nil where it may not.
	lines *lines
	// chunked is HTTP/1.1's coding of the stream.
	chunked bool

	out     *outlet
	release func()
	// leave lets the next one in; nil where the request was not let in, or its stream
	// was taken over.
	leave func()
}

func (c *call) streams() bool { return c.kind != "" }

// end lets go of what the call holds.
func (c *call) end() {
	c.out.reset()
	if c.release != nil {
		c.out.count() // before it is no stream any more
		c.release()
	}
	c.out.w.finish()
}

// left lets the next one in.
func (c *call) left() {
	if c.leave != nil {
		c.leave()
	}
}

// takenOver tells whether the stream goes on without the call, from the first byte
// on: nothing was written yet.
func (c *call) takenOver() bool {
	if c.lines == nil || c.out.closed || c.out.w.wrote {
		return false
	}
	f, ok := c.out.feed.(*jobFeed)
	return ok && f.topic != nil && c.lines.takeOver(c, f)
}

// cursor is where a browser wants to resume.
type cursor struct {
	// given: replay is ignored.
	given bool
	// unreadable: another system's id, which an EventSource brings on migration
	// day. The browser is told of a gap and gets everything.
	unreadable bool
	// header: it came from the header Last-Event-ID.
	header bool
	text   string
	// after is text as the id of a job's event; zero in a Watch.
	after event.ID
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// callOf is nil where the request did not come through admit.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// route is what a path names.
type route struct {
	kind          string   // of the stream that GET opens
	allow         []string // methods
	domain, jobID string
	legacy        bool
}

// match reads the paths of the contract.
func match(path string) (route, bool) {
	rest, ok := strings.CutPrefix(path, "/api/v1/")
	if !ok {
		return route{}, false
	}
	p := strings.Split(rest, "/")
	get := []string{http.MethodGet}
	switch {
	case len(p) == 1 && p[0] == "stream":
		return route{kind: kindJob, allow: get, legacy: true}, true
	case len(p) == 2 && p[1] == "events":
		return route{kind: kindWatch, allow: get, domain: p[0]}, true
	case len(p) == 3 && p[2] == "events":
		return route{kind: kindJob, allow: []string{http.MethodGet, http.MethodPost}, domain: p[0], jobID: p[1]}, true
	case len(p) == 3 && p[2] == "state":
		return route{allow: get, domain: p[0], jobID: p[1]}, true
	}
	return route{}, false
}

// admit reads what the gateway would not, and makes r fit for it. It may replace
// r's body, query and headers. The call is never nil.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (*call, error) {
	c := &call{major: r.ProtoMajor}
	rt, known := match(r.URL.Path)
	switch {
	case len(r.URL.Path) > maxPathBytes:
		return c, refuse(http.StatusRequestURITooLong, codes.InvalidArgument, "the path is longer than 1 KiB")
	case len(r.URL.RawQuery) > maxQueryBytes:
		return c, refuse(http.StatusRequestURITooLong, codes.InvalidArgument, "the query is longer than 40 KiB")
	case !known:
		return c, refuse(http.StatusNotFound, codes.NotFound, "no such path; see /openapi.json")
	case !slices.Contains(rt.allow, r.Method):
		return c, refuseMethod(r.Method, rt.allow...)
	}
	// A deadline of the browser's choice would end streams; X-HTTP-Method-Override
	// is switched off in the mux.
	r.Header.Del("Grpc-Timeout")
	if r.Method == http.MethodGet {
		c.kind = rt.kind
		c.sse = c.streams() && acceptsSSE(r.Header)
	}
	var err error
	if c.leave, err = s.gate.enter(r); err != nil {
		return c, err
	}
	if c.identity, err = s.authenticate(r); err != nil {
		return c, err
	}
	if r.Method == http.MethodPost {
		return c, s.admitPublish(w, r, rt, c)
	}
	if r.ContentLength != 0 {
		return c, refuse(http.StatusBadRequest, codes.InvalidArgument, "a GET has no body")
	}
	return c, admitGet(r, rt, c)
}

func acceptsSSE(h http.Header) bool {
	for _, v := range h.Values("Accept") {
		if strings.Contains(strings.ToLower(v), contentSSE) {
			return true
		}
	}
	return false
}

// admitGet checks the query and takes the cursor out of it.
func admitGet(r *http.Request, rt route, c *call) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || !utf8.ValidString(r.URL.Path) || !validQuery(q) {
		return refuse(http.StatusBadRequest, codes.InvalidArgument, "the path or query is not valid UTF-8 in percent-encoding")
	}
	if rt.legacy {
		rt.domain, rt.jobID = legacyDomain, first(q, "job_id", "jobId")
		q = url.Values{"domain": {rt.domain}, "job_id": {rt.jobID}, "replay": q["replay"],
			"last_event_id": q["last_event_id"], "after_id": q["after_id"]}
	}
	if err := checkNames(rt); err != nil {
		return err
	}
	if c.streams() {
		if c.cursor, err = readCursor(r.Header, q, c.kind); err != nil {
			return err
		}
	}
	for _, name := range cursorNames() {
		q.Del(name)
	}
	r.URL.RawQuery = q.Encode()
	return nil
}

// checkNames refuses what cannot be a name before a router is asked. The router
// knows the domains.
func checkNames(rt route) error {
	var bad []event.Violation
	if !event.ValidDomain(rt.domain) {
		bad = append(bad, event.Violate("domain", rt.domain, event.DomainRule))
	}
	if rt.kind != kindWatch && !event.ValidJobID(rt.jobID) {
		bad = append(bad, event.Violate("job_id", rt.jobID, event.JobIDRule))
	}
	if len(bad) > 0 {
		return invalid(bad...)
	}
	return nil
}

// cursorNames are the query's names for a cursor, in the order in which they
// count; the gateway itself must not see them.
func cursorNames() []string { return []string{"last_event_id", "after_id", "afterId", "cursor"} }

// readCursor takes the header before the query: an EventSource repeats its URL
// when it resumes. An empty value is an absent one.
func readCursor(h http.Header, q url.Values, kind string) (cursor, error) {
	c := cursor{text: h.Get("Last-Event-ID")}
	c.header = c.text != ""
	if !c.header {
		c.text = first(q, cursorNames()...)
	}
	if c.text == "" {
		return c, nil
	}
	c.given = true
	var err error
	if kind == kindWatch {
		if !readableWatchCursor(c.text) {
			err = errors.New("it is not ids joined by commas")
		}
	} else {
		c.after, err = event.ParseID(c.text)
	}
	switch {
	case err == nil:
		return c, nil
	case c.header:
		return cursor{given: true, header: true, unreadable: true}, nil
	case kind == kindWatch:
		return c, invalid(event.Violate("cursor", c.text, "must be the cursor of a Watch: ids joined by commas"))
	}
	return c, invalid(event.Violate("after_id", c.text, "must be an id of the form [0-9]+-[0-9]+"))
}

// first is the first value that is not empty.
func first(q url.Values, names ...string) string {
	for _, n := range names {
		if v := q.Get(n); v != "" {
			return v
		}
	}
	return ""
}

func validQuery(q url.Values) bool {
	for k, vs := range q {
		for _, v := range append(vs, k) {
			if !utf8.ValidString(v) {
				return false
			}
		}
	}
	return true
}

// admitPublish reads the body and the idempotency key.
func (s *Server) admitPublish(w http.ResponseWriter, r *http.Request, rt route, c *call) error {
	if !s.cfg.HTTPPublish && !s.guard.Required() {
		return refuse(http.StatusForbidden, codes.PermissionDenied, "publishing by HTTP is off; HTTP_PUBLISH=true switches it on")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != contentJSON {
		return refuse(http.StatusUnsupportedMediaType, codes.InvalidArgument, "Content-Type must be application/json")
	}
	rt.kind = ""
	if err := checkNames(rt); err != nil {
		return err
	}
	c.key = r.Header.Get("Idempotency-Key")
	if !event.ValidKey(c.key) {
		return invalid(event.Violate("idempotency_key", c.key, event.KeyRule))
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return refuse(http.StatusRequestEntityTooLarge, codes.InvalidArgument, "the body is larger than 1 MiB")
	}
	if err != nil {
		return refuse(http.StatusBadRequest, codes.InvalidArgument, "the body could not be read")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it is read
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.URL.RawQuery = "" // the body is the event, and nothing else
	return nil
}
