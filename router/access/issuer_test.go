package access_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a secret that has thirty-two bytes, and some more"

// pairs are the keys of the tests.
type pairs struct {
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	ed    ed25519.PrivateKey
	other *rsa.PrivateKey
}

//nolint:gochecknoglobals // made once: RSA takes long
var newPairs = sync.OnceValue(func() pairs {
	var p pairs
	var errs [4]error
	p.rsa, errs[0] = rsa.GenerateKey(rand.Reader, 2048)
	p.other, errs[1] = rsa.GenerateKey(rand.Reader, 2048)
	p.ec, errs[2] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, p.ed, errs[3] = ed25519.GenerateKey(rand.Reader)
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
	return p
})

// file writes a key file.
func file(t testing.TB, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func publicPEM(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func guard(t testing.TB, c access.Config) *access.Guard {
	t.Helper()
	c.Required = true
	g, err := access.New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// good are claims that pass; each change replaces or, with nil, removes one.
func good(changes ...jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{
		"sub": "worker-7", "iss": "https://issuer.example", "aud": "eventbus",
		"exp": time.Now().Add(time.Hour).Unix(), "nbf": time.Now().Add(-time.Hour).Unix(),
		"eventbus": map[string]any{"subscribe": []string{"scan/a"}, "publish": []string{"scan/*"}},
	}
	for _, change := range changes {
		maps.Copy(c, change)
	}
	for name, value := range c {
		if value == nil {
			delete(c, name)
		}
	}
	return c
}

type headers map[string]any

// sign makes a token; the headers beyond alg and typ are given.
func sign(t testing.TB, method jwt.SigningMethod, key any, c jwt.Claims, more ...headers) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	for _, h := range more {
		maps.Copy(token.Header, h)
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func wantKind(t testing.TB, what string, err error, want event.Kind) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: accepted", what)
	} else if event.KindOf(err) != want {
		t.Errorf("%s: %v is of kind %d; want %d", what, err, event.KindOf(err), want)
	}
}

// issuer publishes keys by HTTP.
type issuer struct {
	*httptest.Server
	t     testing.TB
	keys  atomic.Pointer[jwkset.MemoryJWKSet]
	reads atomic.Int64
	down  atomic.Bool
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.publish()
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.reads.Add(1)
		if i.down.Load() {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		text, err := i.keys.Load().JSONPublic(r.Context())
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(text)
	}))
	t.Cleanup(func() {
		i.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return i
}

// published is a key as the issuer names it.
type published struct {
	kid string
	key crypto.PrivateKey
}

// publish replaces what is published.
func (i *issuer) publish(keys ...published) {
	i.t.Helper()
	set := jwkset.NewMemoryStorage()
	for _, k := range keys {
		jwk, err := jwkset.NewJWKFromKey(k.key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: k.kid}})
		if err != nil {
			i.t.Fatal(err)
		}
		if err := set.KeyWrite(context.Background(), jwk); err != nil {
			i.t.Fatal(err)
		}
	}
	i.keys.Store(set)
}
