package edge

import (
	"bytes"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
)

const testSecret = "a secret that has thirty-two bytes, and some more"

// guarded makes an edge that requires tokens signed with testSecret, and has one
// of its own.
func guarded(tb testing.TB) setting {
	tb.Helper()
	key := filepath.Join(tb.TempDir(), "key")
	if err := os.WriteFile(key, []byte(testSecret), 0o600); err != nil {
		tb.Fatal(err)
	}
	g, err := access.New(access.Config{Required: true, Key: key}, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.Close)
	return func(c *Config, o *Options) {
		c.HTTPPublish, c.AuthCookie = false, "eventbus_token"
		o.Access, o.RouterToken = g, "the-edge"
	}
}

type grants struct{ subscribe, publish []string }

func reads(patterns ...string) grants { return grants{subscribe: patterns} }

func mint(tb testing.TB, exp time.Time, g grants) string {
	tb.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "tester", "exp": exp.Unix(), "eventbus": map[string]any{"subscribe": g.subscribe, "publish": g.publish},
	}).SignedString([]byte(testSecret))
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func hour() time.Time { return time.Now().Add(time.Hour) }

func bearer(token string) header { return header{"Authorization", "Bearer " + token} }

func cookie(token string) header { return header{"Cookie", "a=b; eventbus_token=" + token} }

// routes are all routes of the API for a job, and what they need a grant for.
func routes(job string) map[string]struct{ method, path string } {
	return map[string]struct{ method, path string }{
		"events":  {http.MethodGet, jobPath(job)},
		"legacy":  {http.MethodGet, "/api/v1/stream?job_id=" + job},
		"watch":   {http.MethodGet, "/api/v1/scan/events?job_ids=granted&job_ids=" + job},
		"watch 2": {http.MethodGet, "/api/v1/scan/events?jobIds=" + job}, // the gateway reads both
		"state":   {http.MethodGet, "/api/v1/scan/" + job + "/state"},
		"publish": {http.MethodPost, jobPath(job)},
	}
}

func TestAccess_RefusalsAreRealStatusesOnEveryRoute(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, guarded(t), func(c *Config, _ *Options) { c.CORSOrigins = []string{"https://app.example.com"} })
	only := grants{[]string{"scan/granted"}, []string{"scan/granted"}}
	valid := mint(t, hour(), only)
	origin, content := header{"Origin", "https://app.example.com"}, header{"Content-Type", "application/json"}
	for name, r := range routes("another") {
		ask := func(h ...header) answer {
			return e.ask(r.method, r.path, map[string]string{http.MethodPost: `{"stage":"s"}`}[r.method], append(h, origin, content, acceptSSE())...)
		}
		for what, h := range map[string][]header{
			"no token": nil, "expired": {bearer(mint(t, time.Now().Add(-time.Minute), only))}, "changed": {bearer(valid + "x")},
			"another scheme": {{"Authorization", "Basic dTpw"}}, "two": {bearer(valid), bearer(valid)},
			"a bad header beside a good cookie": {bearer("x"), cookie(valid)}, "a bad cookie": {cookie("x")},
		} {
			a := ask(h...)
			if said := a.refused(t, http.StatusUnauthorized, codes.Unauthenticated); strings.Contains(said.Message, valid) {
				t.Errorf("%s, %s: %s", name, what, said.Message)
			}
			if a.header.Get("WWW-Authenticate") != "Bearer" || a.header.Get("Access-Control-Allow-Origin") != origin[1] || a.header.Get("Access-Control-Allow-Credentials") != "true" {
				t.Errorf("%s, %s: %v", name, what, a.header)
			}
		}
		a := ask(bearer(valid))
		a.refused(t, http.StatusForbidden, codes.PermissionDenied)
		if a.header.Get("Access-Control-Allow-Origin") != origin[1] {
			t.Errorf("%s: %v", name, a.header)
		}
	}
	if n := f.subscribes.Load() + f.watches.Load() + f.states.Load(); n != 0 || f.lastPublish.Load() != nil {
		t.Errorf("%d calls reached the router", n)
	}
	same(t, "topics", counter(e.metrics.topics), 0)
}

func TestAccess_GrantsOpenEveryRoute(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, guarded(t))
	f.publish("granted", &eventbusv1.Event{Stage: "s", Status: "started"})
	f.finish("granted")
	token := mint(t, hour(), grants{[]string{"scan/granted"}, []string{"scan/granted"}})
	f.set(func() { f.watch = []*eventbusv1.WatchResponse{nil} })
	for name, r := range routes("granted") {
		body := map[string]string{http.MethodPost: `{"stage":"s","final":true}`}[r.method] // so that the streams end
		if a := e.ask(r.method, r.path, body, bearer(token), header{"Content-Type", "application/json"}, acceptSSE()); a.status != http.StatusOK {
			t.Errorf("%s by header: %d %s", name, a.status, a.body)
		}
		a := e.ask(r.method, r.path, body, cookie(token), header{"Content-Type", "application/json"}, acceptSSE())
		if r.method == http.MethodPost {
			// A page of another site can make a browser send it.
			a.refused(t, http.StatusUnauthorized, codes.Unauthenticated)
		} else if a.status != http.StatusOK {
			t.Errorf("%s by cookie: %d %s", name, a.status, a.body)
		}
	}
	if e.ask(http.MethodGet, "/openapi.json", "").status != http.StatusOK {
		t.Error("the description of the API is closed")
	}
}

func TestAccess_WatchOfADomainNeedsItsWildcard(t *testing.T) {
	e := newEdge(t, newFakeRouter(t), guarded(t))
	e.ask(http.MethodGet, "/api/v1/scan/events", "", acceptSSE(), bearer(mint(t, hour(), reads("scan/a*", "chat/*")))).
		refused(t, http.StatusForbidden, codes.PermissionDenied)
	e.open("/api/v1/scan/events", bearer(mint(t, hour(), reads("scan/*")))).opened()
}

// A topic that is open for one browser is not open for all.
func TestAccess_JoiningASharedTopicNeedsAGrantOfOnesOwn(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, guarded(t))
	e.open(jobPath("j"), bearer(mint(t, hour(), reads("scan/j")))).opened()
	e.ask(http.MethodGet, jobPath("j"), "", acceptSSE(), bearer(mint(t, hour(), reads("scan/k")))).
		refused(t, http.StatusForbidden, codes.PermissionDenied)
	e.ask(http.MethodGet, jobPath("j"), "", acceptSSE()).refused(t, http.StatusUnauthorized, codes.Unauthenticated)
	same(t, "streams from the router", f.subscribes.Load(), int64(1))
}

func TestAccess_AStreamEndsWithItsTokenAndTheReconnectIsRefused(t *testing.T) {
	t.Parallel() // it waits
	f := newFakeRouter(t)
	e := newEdge(t, f, guarded(t))
	f.steps("j", 1)
	f.set(func() { f.watch = []*eventbusv1.WatchResponse{{}} })
	lasting := e.open(jobPath("j"), bearer(mint(t, hour(), reads("scan/j")))).opened()
	lasting.ids(1)
	// It is taken for another five seconds or six.
	token := mint(t, time.Now().Add(-access.Leeway+6*time.Second), reads("scan/*"))
	streams := map[string]*browser{
		"job": e.open(jobPath("j"), cookie(token)).opened(), "watch": e.open("/api/v1/scan/events", bearer(token)).opened(),
	}
	streams["job"].ids(1)
	lines := e.lines(jobPath("j"), bearer(token))
	for name, b := range streams {
		frame := b.next()
		if field(frame, "event") != "error" || !strings.Contains(frame, `"code":16`) && !strings.Contains(frame, `"code": 16`) || field(frame, "id") != "" {
			t.Errorf("%s ends with %q", name, frame)
		}
		b.ended()
	}
	last := ""
	for line := lines(); line != "EOF"; line = lines() {
		if line != "" {
			last = line
		}
	}
	if !strings.HasPrefix(last, `{"error":`) {
		t.Errorf("the NDJSON ends with %q", last)
	}
	e.ask(http.MethodGet, jobPath("j"), "", acceptSSE(), cookie(token), lastEventID("1700000000001-0")).
		refused(t, http.StatusUnauthorized, codes.Unauthenticated)
	f.steps("j", 1)
	lasting.ids(1) // the other browser of the topic goes on
}

// TestAccess_QueryTokenIsOffUnlessWantedAndLeavesNoTrace: where it is on, it is
// for EventSource, so it lets nobody publish.
func TestAccess_QueryTokenIsOffUnlessWantedAndLeavesNoTrace(t *testing.T) {
	var mu sync.Mutex
	var logs bytes.Buffer
	for _, on := range []bool{false, true} {
		f := newFakeRouter(t)
		e := newEdge(t, f, guarded(t), func(c *Config, o *Options) {
			c.AuthQueryToken = on
			o.Log = slog.New(slog.NewTextHandler(lockedWriter{&mu, &logs}, &slog.HandlerOptions{Level: slog.LevelDebug - 100}))
		})
		token := mint(t, hour(), grants{[]string{"scan/*"}, []string{"scan/*"}})
		f.finish("j")
		for name, path := range map[string]string{
			"job": jobPath("j") + "?access_token=" + token, "legacy": "/api/v1/stream?job_id=j&access_token=" + token,
			"state": "/api/v1/scan/j/state?access_token=" + token,
		} {
			a := e.ask(http.MethodGet, path, "", acceptSSE())
			if on && a.status != http.StatusOK {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			} else if !on {
				a.refused(t, http.StatusUnauthorized, codes.Unauthenticated)
			}
			if strings.Contains(a.body, token) {
				t.Errorf("%s: %s", name, a.body)
			}
		}
		e.ask(http.MethodPost, jobPath("j")+"?access_token="+token, `{"stage":"s"}`, header{"Content-Type", "application/json"}).
			refused(t, http.StatusUnauthorized, codes.Unauthenticated)
		e.ask(http.MethodGet, jobPath("j")+"?access_token="+token[1:], "", acceptSSE()).refused(t, http.StatusUnauthorized, codes.Unauthenticated)
		mu.Lock()
		if parts := strings.Split(token, "."); strings.Contains(logs.String(), parts[1]) || strings.Contains(logs.String(), parts[2]) {
			t.Errorf("on=%t: the token is in the log:\n%s", on, logs.String())
		}
		mu.Unlock()
	}
	if logs.Len() == 0 {
		t.Error("nothing was logged at all")
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// What routers are asked for browsers is asked by the edge; only a publish is the
// browser's own.
func TestAccess_TheRouterSeesTheEdgeAndThePublishersToken(t *testing.T) {
	f := newFakeRouter(t)
	var mu sync.Mutex
	seen := map[string]string{}
	f.set(func() {
		f.refuseCaller = func(method, authorization string) error {
			mu.Lock()
			defer mu.Unlock()
			seen[method] = authorization
			return nil
		}
	})
	e := newEdge(t, f, guarded(t))
	token := mint(t, hour(), grants{[]string{"scan/*"}, []string{"scan/*"}})
	ids := f.steps("j", 2)
	f.set(func() { f.watch = []*eventbusv1.WatchResponse{nil} })
	e.open(jobPath("j"), bearer(token)).opened().ids(2)
	e.open(jobPath("j"), bearer(token), lastEventID(ids[0])).opened().ids(1)
	e.open("/api/v1/scan/events", bearer(token)).opened()
	e.ask(http.MethodGet, "/api/v1/scan/j/state", "", bearer(token))
	e.ask(http.MethodPost, jobPath("j"), `{"stage":"s"}`, bearer(token), header{"Content-Type", "application/json"})
	mu.Lock()
	defer mu.Unlock()
	own := "Bearer the-edge"
	want := map[string]string{"Relay": own, "Watch": own, "GetState": own, "Publish": "Bearer " + token}
	got := maps.Clone(seen)
	if list, ok := got["ListEvents"]; ok { // only where a browser was behind
		same(t, "ListEvents", list, own)
		delete(got, "ListEvents")
	}
	same(t, "authorization", got, want)
}

func TestAccess_PublishingFollowsTheRouterToo(t *testing.T) {
	f := newFakeRouter(t)
	f.set(func() {
		f.refuseCaller = func(method, _ string) error {
			if method == "Publish" {
				return status.Error(codes.PermissionDenied, "no grant")
			}
			return nil
		}
	})
	e := newEdge(t, f, guarded(t))
	e.ask(http.MethodPost, jobPath("j"), `{"stage":"s"}`, bearer(mint(t, hour(), grants{nil, []string{"scan/j"}})), header{"Content-Type", "application/json"}).
		refused(t, http.StatusForbidden, codes.PermissionDenied)
}

// That the edge itself is not let in is no browser's fault.
func TestAccess_AnEdgeThatRoutersRefuseAsksBrowsersToComeBack(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, guarded(t))
	f.steps("j", 1)
	token := mint(t, hour(), reads("scan/*"))
	open := e.open(jobPath("j"), bearer(token)).opened()
	open.ids(1)
	f.set(func() {
		f.refuseCaller = func(string, string) error { return status.Error(codes.Unauthenticated, "expired") }
		f.fault = func(method string) error {
			if method == "stream" {
				return status.Error(codes.Unauthenticated, "the edge's token has expired")
			}
			return nil
		}
	})
	f.stop() // streams end with the token
	f.start()
	a := e.ask(http.MethodGet, jobPath("k"), "", acceptSSE(), bearer(token))
	if a.status != http.StatusOK || !strings.HasPrefix(a.body, "retry: ") || strings.Contains(a.body, "error") {
		t.Errorf("%d %q", a.status, a.body)
	}
	e.ask(http.MethodGet, "/api/v1/scan/k/state", "", bearer(token)).refused(t, http.StatusServiceUnavailable, codes.Unavailable)
	f.set(func() { f.fault, f.refuseCaller = nil, nil })
	f.steps("j", 1)
	open.ids(1) // and nothing was lost
}

func TestOwnName_FollowsItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	o := &ownName{file: path, log: slog.New(slog.DiscardHandler)}
	want := func(text string) {
		t.Helper()
		if got, _ := o.current(); got != text {
			t.Errorf("got %q; want %q", got, text)
		}
	}
	later := func() { o.read = o.read.Add(-tokenEvery) }
	want("first")
	write("second")
	want("first") // files are not read for each call
	later()
	want("second")
	write("")
	later()
	want("second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("second")
	if _, err := RouterOptions(Config{RouterTokenFile: path}, "", o.log); err == nil || !strings.Contains(err.Error(), "ROUTER_TOKEN_FILE") {
		t.Errorf("no file at the start: %v", err)
	}
}

// Such an edge would read for everybody what the routers protect.
func TestNew_AnEdgeWithATokenRequiresTokens(t *testing.T) {
	conn, err := Dial("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = New(Config{RouterTokenFile: "token"}, conn, Options{Log: slog.New(slog.DiscardHandler), Metrics: fresh()})
	if err == nil || !strings.Contains(err.Error(), "AUTH_REQUIRED") {
		t.Errorf("got %v", err)
	}
}
