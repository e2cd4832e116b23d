package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/router/access"
)

func TestConfig_BadOnesNameSettingAndRule(t *testing.T) {
	for name, c := range map[string]struct {
		config access.Config
		says   []string
	}{
		"nothing to verify with": {access.Config{Required: true}, []string{"AUTH_REQUIRED", "AUTH_KEY", "AUTH_JWKS_URL"}},
		"both":                   {access.Config{Required: true, Key: "k", JWKSURL: "https://i.example"}, []string{"either"}},
		"a key that is not used": {access.Config{Key: "k"}, []string{"AUTH_KEY", "AUTH_REQUIRED=true"}},
		"a URL that is not used": {access.Config{JWKSURL: "https://i.example"}, []string{"AUTH_JWKS_URL", "AUTH_REQUIRED=true"}},
		"no URL":                 {access.Config{Required: true, JWKSURL: "issuer"}, []string{"AUTH_JWKS_URL", `"issuer"`, "https://"}},
		"none":                   {access.Config{Required: true, Key: "k", Algorithms: []string{"none"}}, []string{"AUTH_ALGORITHMS", `"none"`, "HS256"}},
		"HS256 with JWKS":        {access.Config{Required: true, JWKSURL: "https://i.example", Algorithms: []string{"RS256", "HS256"}}, []string{"AUTH_ALGORITHMS", "HS256"}},
		"a proxy":                {access.Config{TrustedProxies: []string{"proxy"}}, []string{"TRUSTED_PROXIES", `"proxy"`, "CIDR"}},
	} {
		err := c.config.Check()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %s", name, err, s)
			}
		}
	}
	for _, c := range []access.Config{{}, {Issuer: "i", Audience: "a"}, {Required: true, Key: "k"}, {Required: true, JWKSURL: "http://i.example/keys"}} {
		if err := c.Check(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestNew_RefusesKeysThatAreWeakOrOfAnotherForm(t *testing.T) {
	p := newPairs()
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // it is to be refused
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(p.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p.rsa)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		algs []string
		says string
	}{
		"a short secret":            {strings.Repeat("x", 31), nil, "32"},
		"a short RSA key":           {string(publicPEM(t, weak.Public())), nil, "2048"},
		"another curve":             {string(publicPEM(t, p384.Public())), nil, "P-256"},
		"a private key":             {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), nil, "PRIVATE KEY"},
		"a public key as DER":       {string(der), nil, "PEM"},
		"a public key as JWK":       {`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZpt","e":"AQAB"}`, nil, "PEM"},
		"a public key of SSH":       {"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGj7 me@host", nil, "PEM"},
		"PEM that is cut":           {"-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOC", nil, "PEM"},
		"HS256 with a public key":   {string(publicPEM(t, p.rsa.Public())), []string{"HS256"}, "RS256"},
		"HS256 beside a public key": {string(publicPEM(t, p.rsa.Public())), []string{"RS256", "HS256"}, "RS256"},
		"RS256 with a secret":       {secret, []string{"RS256"}, "HS256"},
	} {
		_, err := access.New(access.Config{Required: true, Key: file(t, []byte(c.text)), Algorithms: c.algs}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", name, err, c.says)
		}
	}
	if _, err := access.New(access.Config{Required: true, Key: "/nowhere"}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "AUTH_KEY") {
		t.Errorf("no file: %v", err)
	}
}
