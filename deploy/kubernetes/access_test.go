package kubernetes_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/deploy/internal/port"
)

// authority is a CA that signs what the component tls wants to have.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "eventbus"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

// secret has the files of a Secret of the type kubernetes.io/tls, and the CA.
func (a *authority) secret(name string) map[string][]byte {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return map[string][]byte{"tls.crt": pemOf("CERTIFICATE", der), "tls.key": pemOf("PRIVATE KEY", private), "ca.crt": pemOf("CERTIFICATE", a.cert.Raw)}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issuer signs tokens.
type issuer struct{ private ed25519.PrivateKey }

func newIssuer(t *testing.T) (i issuer, public []byte) {
	t.Helper()
	key, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{private}, pemOf("PUBLIC KEY", der)
}

func (i issuer) token(t *testing.T, grants map[string][]string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"sub": "test", "exp": time.Now().Add(time.Hour).Unix(), "eventbus": grants})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + encode(claims)
	return text + "." + encode(ed25519.Sign(i.private, []byte(text)))
}

// process runs a deployment's container on this machine: the binary, the settings of its
// config map, the files of its Secrets at another root. What a test overrides are addresses.
func process(t *testing.T, objects []object, name, namespace string, secrets map[string]map[string][]byte, override map[string]string) {
	t.Helper()
	d := deploymentOf(t, objects, name)
	root := t.TempDir()
	for _, v := range d.Spec.Template.Spec.Volumes {
		files := secrets[v.Secret.SecretName]
		if files == nil {
			t.Fatalf("%s wants a Secret %s", name, v.Secret.SecretName)
		}
		for _, m := range d.Spec.Template.Spec.Containers[0].VolumeMounts {
			if m.Name != v.Name {
				continue
			}
			if err := os.MkdirAll(root+m.MountPath, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, content := range files {
				if err := os.WriteFile(filepath.Join(root+m.MountPath, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	env := []string{}
	for k, v := range settingsOf(t, objects, namespace, d) {
		if strings.HasPrefix(v, "/etc/") {
			v = root + v
		}
		if o, ok := override[k]; ok {
			v = o
		}
		env = append(env, k+"="+v)
	}
	for k, v := range override {
		env = append(env, k+"="+v) // the last one counts
	}
	var log bytes.Buffer
	cmd := exec.Command(eventbus(t), name)
	cmd.Env, cmd.Stderr = env, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, log.String())
		}
	})
}

// secured is a router and an edge with the settings of the component access.
type secured struct {
	issuer       issuer
	authority    *authority
	grpc, http   string
	routerSecret map[string][]byte
}

func startSecured(t *testing.T) secured {
	t.Helper()
	objects := render(t, renders()["access"])
	redis := newServer(t, []string{"redis-server", "/redis/redis.conf", "--replicaof", "no", "one"})
	redis.start()
	redisURL := "redis://127.0.0.1:" + strconv.Itoa(redis.port)
	issuer, public := newIssuer(t)
	s := secured{issuer: issuer, authority: newAuthority(t), grpc: port.Addr(t), http: port.Addr(t)}
	s.routerSecret = s.authority.secret("router.event-router.svc")
	secrets := map[string]map[string][]byte{
		"eventbus-auth": {"key.pem": public}, "router-tls": s.routerSecret, "edge-tls": s.authority.secret("edge.sse-gateway.svc"),
	}
	process(t, objects, "router", "event-router", secrets, map[string]string{
		"REDIS_STREAMS_URL": redisURL, "REDIS_PUBSUB_URL": redisURL, "GRPC_ADDR": s.grpc, "ADMIN_ADDR": "off", "POD_NAME": "router-0", "DRAIN_TIMEOUT": "1s",
	})
	admin := port.Addr(t)
	process(t, objects, "edge", "sse-gateway", secrets, map[string]string{"ROUTER_ADDR": s.grpc, "HTTP_ADDR": s.http, "ADMIN_ADDR": admin, "DRAIN_TIMEOUT": "1s"})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for status(ctx, "http://"+admin+"/readyz") != http.StatusOK {
		if ctx.Err() != nil {
			t.Fatal("the edge reaches no router")
		}
		time.Sleep(50 * time.Millisecond)
	}
	return s
}

func (s secured) do(t *testing.T, method, path, body string, header map[string]string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Body.Close() })
	return r
}

// The settings, the mounts and the certificates' names fit each other: an event goes through,
// and who has no certificate or no token gets nothing.
func TestAccess_TheComponentLetsInWhoHasAGrantAndNobodyElse(t *testing.T) {
	s := startSecured(t)
	const path = "/api/v1/scan/job-1/events"
	publisher := s.issuer.token(t, map[string][]string{"publish": {"scan/*"}})
	reader := s.issuer.token(t, map[string][]string{"subscribe": {"scan/job-1"}})
	stranger, _ := newIssuer(t)

	for name, c := range map[string]struct {
		method, path string
		header       map[string]string
		want         int
	}{
		"no token":           {http.MethodGet, path, nil, http.StatusUnauthorized},
		"a stranger's token": {http.MethodGet, path, map[string]string{"Authorization": "Bearer " + stranger.token(t, map[string][]string{"subscribe": {"*/*"}})}, http.StatusUnauthorized},
		"another job":        {http.MethodGet, "/api/v1/scan/job-2/events", map[string]string{"Authorization": "Bearer " + reader}, http.StatusForbidden},
		"a reader publishes": {http.MethodPost, path, map[string]string{"Authorization": "Bearer " + reader, "Content-Type": "application/json"}, http.StatusForbidden},
		"a worker publishes": {http.MethodPost, path, map[string]string{"Authorization": "Bearer " + publisher, "Content-Type": "application/json"}, http.StatusOK},
	} {
		body := ""
		if c.method == http.MethodPost {
			body = `{"stage":"vision","status":"started"}`
		}
		if got := s.do(t, c.method, c.path, body, c.header).StatusCode; got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}

	stream := s.do(t, http.MethodGet, path, "", map[string]string{"Accept": "text/event-stream", "Cookie": "eventbus_token=" + reader})
	for lines := bufio.NewScanner(stream.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the stream ended: %d %v", stream.StatusCode, lines.Err())
		}
		if lines.Text() == "event: vision" {
			break
		}
	}
}

func TestAccess_RoutersTakeOnlyCertificatesOfOurCA(t *testing.T) {
	s := startSecured(t)
	trust := x509.NewCertPool()
	trust.AddCert(s.authority.cert)
	pair := func(secret map[string][]byte) tls.Certificate {
		c, err := tls.X509KeyPair(secret["tls.crt"], secret["tls.key"])
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]struct {
		certificates []tls.Certificate
		taken        bool
	}{
		"none":        {nil, false},
		"another CA":  {[]tls.Certificate{pair(newAuthority(t).secret("edge.sse-gateway.svc"))}, false},
		"of our CA":   {[]tls.Certificate{pair(s.authority.secret("worker"))}, true},
		"the routers": {[]tls.Certificate{pair(s.routerSecret)}, true},
	} {
		config := &tls.Config{RootCAs: trust, ServerName: "router.event-router.svc", NextProtos: []string{"h2"},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.certificates) == 0 {
					return new(tls.Certificate), nil
				}
				return &c.certificates[0], nil
			}}
		conn, err := tls.Dial("tcp", s.grpc, config)
		if err == nil { // TLS 1.3: the refusal comes with the first reading; a gRPC server that takes us speaks first
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			_, err = io.ReadFull(conn, make([]byte, 9))
			_ = conn.Close()
		}
		if taken := err == nil; taken != c.taken {
			t.Errorf("%s: taken %t (%v), want %t", name, taken, err, c.taken)
		}
	}
}
