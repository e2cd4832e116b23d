package edge

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// rpcStatus is a google.rpc.Status body.
type rpcStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Type            string `json:"@type"`
		FieldViolations []struct {
			Field       string `json:"field"`
			Description string `json:"description"`
		} `json:"field_violations"`
	} `json:"details"`
}

// refused checks that the answer is a google.rpc.Status of this code.
func (a answer) refused(t *testing.T, status int, code codes.Code) rpcStatus {
	t.Helper()
	var body rpcStatus
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
	if a.status != status || a.header.Get("Content-Type") != contentJSON || body.Code != int(code) {
		t.Errorf("%d %s %q; want %d and code %d", a.status, a.header.Get("Content-Type"), a.body, status, code)
	}
	return body
}

func TestRequest_RefusalsAreRealStatusesBeforeTheStream(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	for name, c := range map[string]struct {
		path   string
		status int
		code   codes.Code
		says   string
	}{
		"unknown domain":             {"/api/v1/nope/j/events", 400, codes.InvalidArgument, "DOMAINS"},
		"bad domain":                 {"/api/v1/Nope/j/events", 400, codes.InvalidArgument, "domain"},
		"dots":                       {"/api/v1/scan/%2e%2e/events", 400, codes.InvalidArgument, "job_id"},
		"bad UTF-8 in the path":      {"/api/v1/scan/%ff/events", 400, codes.InvalidArgument, "UTF-8"},
		"bad UTF-8 in the query":     {"/api/v1/scan/j/events?x=%ff", 400, codes.InvalidArgument, "UTF-8"},
		"broken query":               {"/api/v1/scan/j/events?x=%zz", 400, codes.InvalidArgument, "query"},
		"long job":                   {jobPath(strings.Repeat("j", 129)), 400, codes.InvalidArgument, "job_id"},
		"unreadable cursor":          {jobPath("j") + "?last_event_id=recovery:12", 400, codes.InvalidArgument, "recovery:12"},
		"unreadable after_id":        {jobPath("j") + "?after_id=x", 400, codes.InvalidArgument, "after_id"},
		"unknown replay":             {jobPath("j") + "?replay=REPLAY_BACKWARDS", 400, codes.InvalidArgument, "replay"},
		"legacy without job":         {"/api/v1/stream", 400, codes.InvalidArgument, "job_id"},
		"state of a bad job":         {"/api/v1/scan/a%20b/state", 400, codes.InvalidArgument, "job_id"},
		"no state":                   {"/api/v1/scan/j/state", 404, codes.NotFound, "state"},
		"unreadable watch cursor":    {"/api/v1/scan/events?cursor=1-0,x", 400, codes.InvalidArgument, "cursor"},
		"no such path":               {"/api/v1/scan/j/nothing", 404, codes.NotFound, "path"},
		"no such path at all":        {"/favicon.ico", 404, codes.NotFound, "path"},
		"a trailing slash":           {jobPath("j") + "/", 404, codes.NotFound, "path"},
		"no console":                 {"/", 404, codes.NotFound, "path"},
		"long path":                  {"/api/v1/scan/" + strings.Repeat("j", 2000) + "/events", 414, codes.InvalidArgument, "path"},
		"long query":                 {jobPath("j") + "?x=" + strings.Repeat("j", 41<<10), 414, codes.InvalidArgument, "query"},
		"a slash in the job":         {"/api/v1/scan/a%2Fb/events", 404, codes.NotFound, "path"},
		"a parent, not cleaned away": {"/api/v1/scan/../state", 400, codes.InvalidArgument, "job_id"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, h := range [][]header{{acceptSSE()}, nil} {
				body := e.ask(http.MethodGet, c.path, "", h...).refused(t, c.status, c.code)
				if !strings.Contains(body.Message, c.says) {
					t.Errorf("the message does not name %q: %q", c.says, body.Message)
				}
			}
		})
	}
	same(t, "streams left", counter(e.metrics.topics), 0)
}

func TestRequest_BadInputNamesFieldValueAndRule(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	body := e.ask(http.MethodGet, "/api/v1/UP/a%20b/events", "", acceptSSE()).refused(t, 400, codes.InvalidArgument)
	if len(body.Details) != 1 || len(body.Details[0].FieldViolations) != 2 {
		t.Fatalf("%+v", body)
	}
	v := body.Details[0].FieldViolations[1]
	if v.Field != "job_id" || !strings.Contains(v.Description, `"a b"`) || !strings.Contains(v.Description, "[A-Za-z0-9._:-]") {
		t.Errorf("%+v", v)
	}
}

func TestRequest_RoutersErrorsHaveTheirStatus(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	for code, status := range map[codes.Code]int{
		codes.InvalidArgument:   400,
		codes.NotFound:          404,
		codes.ResourceExhausted: 429,
		codes.Unimplemented:     501,
		codes.Unavailable:       503,
		codes.Internal:          500,
	} {
		f.failWith("Subscribe", code)
		a := e.ask(http.MethodGet, jobPath("j"), "")
		a.refused(t, status, code)
		if (a.header.Get("Retry-After") != "") != (status == 429 || status == 503) {
			t.Errorf("%d: Retry-After %q", status, a.header.Get("Retry-After"))
		}
		a = e.ask(http.MethodGet, jobPath("j"), "", acceptSSE())
		if !isTransient(code) {
			a.refused(t, status, code)
		} else if a.status != http.StatusOK || a.header.Get("Content-Type") != contentSSE || !isAway(a.body) {
			// Any other status would end an EventSource for ever.
			t.Errorf("%s for SSE: %d %q", code, a.status, a.body)
		}
		f.heal()
	}
}

func isTransient(c codes.Code) bool {
	return c == codes.ResourceExhausted || c == codes.Unavailable || c == codes.Internal
}

func TestRequest_WrongMethodIs405WithAllow(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	for path, allow := range map[string]string{
		jobPath("j"):                  "GET, POST",
		"/api/v1/stream?job_id=j":     "GET",
		"/api/v1/scan/events":         "GET",
		"/api/v1/scan/j/state":        "GET",
		"/api/v1/scan/j/events?x=PUT": "GET, POST",
		"/openapi.json":               "GET, HEAD",
	} {
		for _, method := range []string{http.MethodDelete, http.MethodPut, http.MethodPatch, http.MethodOptions, "ET"} {
			a := e.ask(method, path, "", acceptSSE(), header{"X-HTTP-Method-Override", "GET"})
			a.refused(t, 405, codes.Unimplemented)
			same(t, "Allow of "+path, a.header.Get("Allow"), allow)
		}
		if allow != "GET, HEAD" {
			if a := e.ask(http.MethodHead, path, ""); a.status != 405 || a.header.Get("Allow") != allow {
				t.Errorf("HEAD %s: %d %q", path, a.status, a.header.Get("Allow"))
			}
		}
	}
}

func TestRequest_PostIsNeverTurnedIntoAnotherMethod(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.finish("j")
	a := e.ask(http.MethodPost, "/api/v1/scan/j/state", "x=y",
		header{"Content-Type", "application/x-www-form-urlencoded"}, header{"X-HTTP-Method-Override", "GET"})
	a.refused(t, 405, codes.Unimplemented)
}

func TestRequest_StateIsTheBareEventAsInTheStream(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	f.finish("j")
	a := e.ask(http.MethodGet, "/api/v1/scan/j/state", "")
	if a.status != 200 || a.header.Get("Content-Type") != contentJSON {
		t.Errorf("%d %v", a.status, a.header)
	}
	same(t, "body", a.body, field(e.open(jobPath("j")).opened().next(), "data"))
}

func TestPublish_TakesTheEventFromTheBodyAndNamesFromThePath(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	a := e.ask(http.MethodPost, jobPath("j")+"?idempotency_key=query&event.stage=query&stage=query",
		`{"domain":"chat","job_id":"other","stage":"vision","progress":0,"result":[1,null]}`,
		header{"Content-Type", "application/json; charset=utf-8"}, header{"Idempotency-Key", "k 1"})
	if a.status != 200 || !strings.Contains(a.body, `"id":`) || strings.Contains(a.body, "duplicate") {
		t.Fatalf("%d %q", a.status, a.body)
	}
	got := f.lastPublish.Load()
	same(t, "key", got.GetIdempotencyKey(), "k 1")
	same(t, "names", []string{got.GetEvent().GetDomain(), got.GetEvent().GetJobId(), got.GetEvent().GetStage()}, []string{"scan", "j", "vision"})
	if got.GetEvent().Progress == nil || got.GetEvent().GetResult().GetListValue() == nil {
		t.Errorf("%v", got)
	}
	e.ask(http.MethodPost, jobPath("j"), `{"stage":"x"}`, header{"Content-Type", "application/json"})
	same(t, "key of a request without the header", f.lastPublish.Load().GetIdempotencyKey(), "")
}

func TestPublish_Refusals(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	asJSON := header{"Content-Type", "application/json"}
	for name, c := range map[string]struct {
		body    string
		headers []header
		status  int
		says    string
	}{
		"no content type":      {"{}", nil, 415, "application/json"},
		"text":                 {"{}", []header{{"Content-Type", "text/plain"}}, 415, "application/json"},
		"form":                 {"stage=x", []header{{"Content-Type", "application/x-www-form-urlencoded"}}, 415, "application/json"},
		"no JSON":              {"{", []header{asJSON}, 400, "not an event"},
		"an unknown field":     {`{"stage":"x","colour":"red"}`, []header{asJSON}, 400, `unknown field "colour"`},
		"more than one value":  {`{"stage":"x"} {}`, []header{asJSON}, 400, "not an event"},
		"a list":               {`[]`, []header{asJSON}, 400, "not an event"},
		"the request":          {`{"event":{"stage":"x"}}`, []header{asJSON}, 400, `unknown field "event"`},
		"too large":            {`{"content":"` + strings.Repeat("y", 1<<20) + `"}`, []header{asJSON}, 413, "1 MiB"},
		"a key out of bounds":  {`{"stage":"x"}`, []header{asJSON, {"Idempotency-Key", strings.Repeat("k", 129)}}, 400, "idempotency_key"},
		"a key of other bytes": {`{"stage":"x"}`, []header{asJSON, {"Idempotency-Key", "ké"}}, 400, "idempotency_key"},
	} {
		t.Run(name, func(t *testing.T) {
			body := e.ask(http.MethodPost, jobPath("j"), c.body, c.headers...).refused(t, c.status, codes.InvalidArgument)
			if !strings.Contains(body.Message, c.says) {
				t.Errorf("the message does not say %q: %q", c.says, body.Message)
			}
		})
	}
	if f.lastPublish.Load() != nil {
		t.Error("something was published")
	}
}

func TestPublish_OffNamesTheSetting(t *testing.T) {
	e := newEdge(t, newFakeRouter(t), func(c *Config, _ *Options) { c.HTTPPublish = false })
	body := e.ask(http.MethodPost, jobPath("j"), "{}", header{"Content-Type", "application/json"}).refused(t, 403, codes.PermissionDenied)
	if !strings.Contains(body.Message, "HTTP_PUBLISH") {
		t.Errorf("%q", body.Message)
	}
}

func TestRequest_GetWithABodyIsRefused(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	e.ask(http.MethodGet, jobPath("j"), "body").refused(t, 400, codes.InvalidArgument)
}

func TestRequest_BrowsersDeadlineIsIgnored(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f)
	b := e.open(jobPath("j"), header{"Grpc-Timeout", "1n"}).opened()
	want := f.steps("j", 1)
	same(t, "event", b.ids(1), want)
}

func TestRequest_OpenAPIIsServed(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	a := e.ask(http.MethodGet, "/openapi.json", "")
	if a.status != 200 || a.header.Get("Content-Type") != contentJSON || !json.Valid([]byte(a.body)) || !strings.Contains(a.body, "/api/v1/") {
		t.Errorf("%d %v", a.status, a.header)
	}
}

func TestCORS_OriginIsEchoedOnEveryResponse(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, func(c *Config, _ *Options) {
		c.CORSOrigins = []string{"https://app.example.com", "https://*.example.org"}
	})
	last := f.finish("over")
	f.publish("j", &eventbusv1.Event{Stage: "x"})
	for _, origin := range []string{"https://app.example.com", "https://a.example.org"} {
		for _, c := range []struct {
			method, path string
			status       int
		}{
			{"GET", "/api/v1/scan/j/state", 200},
			{"GET", jobPath("over"), 200},
			{"GET", jobPath("over") + "?after_id=" + last, 204},
			{"GET", jobPath("over") + "?after_id=x", 400},
			{"GET", "/api/v1/scan/none/state", 404},
			{"GET", "/nothing", 404},
			{"DELETE", jobPath("j"), 405},
			{"POST", jobPath("j"), 415},
		} {
			a := e.ask(c.method, c.path, "", acceptSSE(), header{"Origin", origin})
			same(t, c.path, a.status, c.status)
			same(t, c.path, []string{a.header.Get("Access-Control-Allow-Origin"), a.header.Get("Access-Control-Allow-Credentials"), a.header.Get("Vary")},
				[]string{origin, "true", "Origin"})
		}
	}
	a := e.ask("GET", "/api/v1/scan/j/state", "", header{"Origin", "https://evil.example.net"})
	same(t, "another origin", []string{a.header.Get("Access-Control-Allow-Origin"), a.header.Get("Vary")}, []string{"", "Origin"})
}

func TestCORS_PreflightAllowsTheHeadersThatMatter(t *testing.T) {
	e := newEdge(t, newFakeRouter(t), func(c *Config, _ *Options) { c.CORSOrigins = []string{"https://app.example.com"} })
	for _, names := range []string{"authorization", "content-type,idempotency-key", "cache-control,last-event-id"} {
		a := e.ask(http.MethodOptions, jobPath("j"), "", header{"Origin", "https://app.example.com"},
			header{"Access-Control-Request-Method", "POST"}, header{"Access-Control-Request-Headers", names})
		same(t, names, []string{a.header.Get("Access-Control-Allow-Origin"), a.header.Get("Access-Control-Allow-Headers"), a.header.Get("Access-Control-Allow-Credentials")},
			[]string{"https://app.example.com", names, "true"})
	}
	a := e.ask(http.MethodOptions, jobPath("j"), "", header{"Origin", "https://app.example.com"},
		header{"Access-Control-Request-Method", "POST"}, header{"Access-Control-Request-Headers", "x-other"})
	same(t, "another header", a.header.Get("Access-Control-Allow-Origin"), "")
}

func TestCORS_NoneByDefault(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	a := e.ask("GET", "/api/v1/scan/j/state", "", header{"Origin", "https://app.example.com"})
	same(t, "header", a.header.Get("Access-Control-Allow-Origin"), "")
}
