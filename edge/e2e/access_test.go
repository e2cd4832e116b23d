package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/certs/certstest"
	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

const secret = "a secret that has thirty-two bytes, and some more"

func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mint makes a token; its claims are the grants.
func mint(t testing.TB, subscribe, publish []string) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "tester", "exp": time.Now().Add(time.Hour).Unix(), "iss": "issuer", "aud": "eventbus",
		"eventbus": map[string]any{"subscribe": subscribe, "publish": publish},
	}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func requireTokens(t testing.TB) settings {
	t.Helper()
	return settings{"AUTH_REQUIRED": "true", "AUTH_KEY": writeFile(t, secret), "AUTH_ISSUER": "issuer", "AUTH_AUDIENCE": "eventbus", "HTTP_PUBLISH": "false", "LOG_LEVEL": "debug"}
}

// visitor is a browser's way to an edge.
type visitor struct {
	t    testing.TB
	base string
	web  *http.Client
}

func newVisitor(t testing.TB, base string, config *tls.Config) visitor {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return visitor{t, base, &http.Client{Transport: tr}}
}

// open asks, and returns the status and the first line that begins so.
func (v visitor) open(method, path, token, body, line string) (int, string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, v.base+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if method == http.MethodGet {
		r.Body, r.ContentLength = http.NoBody, 0
		r.Header.Set("Accept", "text/event-stream")
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := v.web.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), line) {
			return resp.StatusCode, lines.Text()
		}
	}
	return resp.StatusCode, ""
}

// keepsTheDoor checks a bus that requires tokens, from both sides.
func keepsTheDoor(t testing.TB, bus eventbusv1.EventBusServiceClient, v visitor) {
	t.Helper()
	both := mint(t, []string{"scan/*"}, []string{"scan/*"})
	grpcAs := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(testContext(t), "authorization", "Bearer "+token)
	}
	e := token("scan", "job", 1)
	if _, err := bus.Publish(testContext(t), &eventbusv1.PublishRequest{Event: e}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC without a token: %v", err)
	}
	if _, err := bus.Publish(grpcAs(mint(t, []string{"scan/*"}, nil)), &eventbusv1.PublishRequest{Event: e}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("gRPC without a grant: %v", err)
	}
	if _, err := bus.Publish(grpcAs(both), &eventbusv1.PublishRequest{Event: e}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	path := events("scan", "job")
	if code, text := v.open(http.MethodGet, path, "", "", `{"code":16`); code != http.StatusUnauthorized || text == "" {
		t.Errorf("SSE without a token: %d %s", code, text)
	}
	if code, _ := v.open(http.MethodGet, path, mint(t, []string{"chat/*"}, nil), "", ""); code != http.StatusForbidden {
		t.Errorf("SSE without a grant: %d", code)
	}
	if code, text := v.open(http.MethodGet, path, both, "", "data: "); code != http.StatusOK || !strings.Contains(text, `"t1 "`) {
		t.Errorf("SSE: %d %s", code, text)
	}
	if code, text := v.open(http.MethodGet, "/api/v1/scan/events", both, "", ": subscribed"); code != http.StatusOK || text == "" {
		t.Errorf("SSE of the domain: %d %s", code, text)
	}
	if code, _ := v.open(http.MethodPost, path, mint(t, []string{"scan/*"}, nil), `{"stage":"s"}`, ""); code != http.StatusForbidden {
		t.Errorf("POST without a grant: %d", code)
	}
	for token, want := range map[string]int{"": http.StatusUnauthorized, both: http.StatusForbidden, mint(t, []string{"*/*"}, nil): http.StatusOK} {
		if code, text := v.open(http.MethodGet, "/api/inspect/v1/cluster", token, "", "{"); code != want || code == http.StatusOK && !strings.Contains(text, `"members"`) {
			t.Errorf("the cluster: %d %s, want %d", code, text, want)
		}
	}
	if code, text := v.open(http.MethodPost, path, both, `{"stage":"s"}`, `{"id":`); code != http.StatusOK || text == "" {
		t.Errorf("POST: %d %s", code, text)
	}
}

func noTokenIn(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		// All tokens of these tests begin so.
		if begin, _, _ := strings.Cut(mint(t, nil, nil), "."); strings.Contains(n.Log(), begin) {
			t.Errorf("%s logs a token", n.name)
		}
	}
}

func TestAccess_ServeRequiresTokensAndItsPartsTrustEachOther(t *testing.T) {
	t.Parallel()
	env := quick()
	maps.Copy(env, requireTokens(t))
	web, rpcs := bustest.Address(t), bustest.Address(t)
	maps.Copy(env, settings{"REDIS_STREAMS_URL": redistest.New(t).URL(), "HTTP_ADDR": web, "GRPC_ADDR": rpcs, "POD_NAME": "all", "CONSOLE": "true"})
	n := newNode(t, env, "serve")
	keepsTheDoor(t, newRPC(t, rpcs), newVisitor(t, "http://"+web, nil))
	noTokenIn(t, n)
}

func TestAccess_AnEdgeReadsByItsOwnToken(t *testing.T) {
	t.Parallel()
	env := requireTokens(t)
	env["ROUTER_TOKEN_FILE"] = writeFile(t, mint(t, []string{"*/*"}, nil)+"\n")
	b := newBus(t, env)
	keepsTheDoor(t, b.calls, newVisitor(t, "http://"+b.http, nil))
	noTokenIn(t, b.router, b.edge)
}

func TestAccess_AnEdgeReadsByItsCertificateOverTLS(t *testing.T) {
	t.Parallel()
	ca := certstest.New(t)
	router, edge, web := ca.Issue("router.internal"), ca.Issue("edge.internal"), ca.Issue("www")
	env := requireTokens(t)
	maps.Copy(env, settings{
		"GRPC_TLS_CERT": router.Cert, "GRPC_TLS_KEY": router.Key, "GRPC_TLS_CLIENT_CA": ca.File, "AUTH_CLIENT_NAMES": "edge.internal",
		"ROUTER_TLS_CA": ca.File, "ROUTER_TLS_CERT": edge.Cert, "ROUTER_TLS_KEY": edge.Key, "ROUTER_TLS_NAME": "router.internal",
		"HTTP_TLS_CERT": web.Cert, "HTTP_TLS_KEY": web.Key,
	})
	b := newBus(t, env)
	conn, err := grpc.NewClient(b.grpc, grpc.WithTransportCredentials(credentials.NewTLS(ca.Client(ca.Issue("worker.internal")))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	v := newVisitor(t, "https://"+b.http, ca.Client(web))
	keepsTheDoor(t, eventbusv1.NewEventBusServiceClient(conn), v)
	// A renewal needs no restart, on either side.
	ca.Renew(web, "renewed")
	ca.Renew(router, "router.internal")
	eventually(t, "the renewed certificate is shown", func() bool {
		c, err := (&tls.Dialer{Config: ca.Client(web)}).DialContext(testContext(t), "tcp", b.http)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames[0] == "renewed"
	})
	if resp, err := v.web.Get(v.base + "/openapi.json"); err != nil { //nolint:noctx // one page
		t.Error(err)
	} else {
		if resp.Proto != "HTTP/2.0" {
			t.Errorf("it speaks %s", resp.Proto)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

func TestAdmin_CanBeOff(t *testing.T) {
	t.Parallel()
	web := bustest.Address(t)
	p := run(t, "dev", settings{"ADMIN_ADDR": "off", "HTTP_ADDR": web, "GRPC_ADDR": "127.0.0.1:0", "POD_NAME": "dev", "DRAIN_TIMEOUT": "1s"}, "dev", "--no-demo")
	eventually(t, "it serves", func() bool { code, _ := get(t, web, "/openapi.json"); return code == http.StatusOK })
	if !p.Running() {
		t.Error("it ended")
	}
}
