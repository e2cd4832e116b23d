package access_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

func TestVerify_TakesTheSignatureOfItsKeyOnly(t *testing.T) {
	p := newPairs()
	type signer struct {
		method jwt.SigningMethod
		key    any
	}
	signers := map[string]signer{
		"HS256": {jwt.SigningMethodHS256, []byte(secret)}, "RS256": {jwt.SigningMethodRS256, p.rsa},
		"ES256": {jwt.SigningMethodES256, p.ec}, "EdDSA": {jwt.SigningMethodEdDSA, p.ed},
	}
	for alg, key := range map[string][]byte{
		"HS256": []byte(secret + "\n"), "RS256": publicPEM(t, p.rsa.Public()),
		"ES256": publicPEM(t, p.ec.Public()), "EdDSA": publicPEM(t, p.ed.Public()),
	} {
		g := guard(t, access.Config{Key: file(t, key)})
		for name, s := range signers {
			id, err := g.Verify(t.Context(), sign(t, s.method, s.key, good()))
			switch {
			case name != alg:
				wantKind(t, name+" for a key of "+alg, err, event.Unauthenticated)
			case err != nil:
				t.Errorf("%s: %v", alg, err)
			case id.Subject != "worker-7":
				t.Errorf("%s: subject %q", alg, id.Subject)
			}
		}
	}
}

func TestVerify_RefusesWhatIsNotInOrder(t *testing.T) {
	p := newPairs()
	public := publicPEM(t, p.rsa.Public())
	g := guard(t, access.Config{Key: file(t, public), Issuer: "https://issuer.example", Audience: "eventbus"})
	rs := func(c jwt.MapClaims, h ...headers) string { return sign(t, jwt.SigningMethodRS256, p.rsa, c, h...) }
	ok := rs(good())
	if _, err := g.Verify(t.Context(), ok); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Verify(t.Context(), rs(good(jwt.MapClaims{"aud": []string{"x", "eventbus"}, "nbf": nil, "sub": nil, "eventbus": nil}))); err != nil {
		t.Errorf("the least that is needed: %v", err)
	}
	parts := strings.Split(ok, ".")
	forged, err := json.Marshal(good(jwt.MapClaims{"sub": "admin"}))
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, token := range map[string]string{
		"none":                      "",
		"garbage":                   "garbage",
		"two parts":                 parts[0] + "." + parts[1],
		"no signature":              parts[0] + "." + parts[1] + ".",
		"another's signature":       sign(t, jwt.SigningMethodRS256, p.other, good()),
		"changed claims":            parts[0] + "." + base64.RawURLEncoding.EncodeToString(forged) + "." + parts[2],
		"alg none":                  sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good()),
		"alg nOnE":                  base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"nOnE"}`)) + "." + parts[1] + ".",
		"RS384":                     sign(t, jwt.SigningMethodRS384, p.rsa, good()),
		"PS256":                     sign(t, jwt.SigningMethodPS256, p.rsa, good()),
		"HS256 with the public key": sign(t, jwt.SigningMethodHS256, public, good()),
		"HS256 with its trimmed":    sign(t, jwt.SigningMethodHS256, bytes.TrimSpace(public), good()),
		"expired":                   rs(good(jwt.MapClaims{"exp": at(-access.Leeway - 2*time.Second)})),
		"no expiry":                 rs(good(jwt.MapClaims{"exp": nil})),
		"expiry as text":            rs(good(jwt.MapClaims{"exp": "never"})),
		"huge expiry":               rs(good(jwt.MapClaims{"exp": 1e300})),
		"not yet":                   rs(good(jwt.MapClaims{"nbf": at(access.Leeway + 10*time.Second)})),
		"another issuer":            rs(good(jwt.MapClaims{"iss": "https://evil.example"})),
		"no issuer":                 rs(good(jwt.MapClaims{"iss": nil})),
		"another audience":          rs(good(jwt.MapClaims{"aud": "billing"})),
		"no audience":               rs(good(jwt.MapClaims{"aud": nil})),
		"crit":                      rs(good(), headers{"crit": []string{"exp"}}),
		"grants that are no list":   rs(good(jwt.MapClaims{"eventbus": "all"})),
		"a grant that is none":      rs(good(jwt.MapClaims{"eventbus": map[string]any{"subscribe": []string{"sc*n/a"}}})),
		"too long":                  rs(good(jwt.MapClaims{"x": strings.Repeat("x", access.MaxTokenBytes)})),
		"the bearer's word":         "Bearer " + ok,
	} {
		_, err := g.Verify(t.Context(), token)
		wantKind(t, name, err, event.Unauthenticated)
		if err != nil && len(token) > 20 && (strings.Contains(err.Error(), token) || strings.Contains(err.Error(), parts[1])) {
			t.Errorf("%s: the text has the token: %v", name, err)
		}
	}
}

func TestVerify_AcceptsALittleSkewAndNoMore(t *testing.T) {
	g := guard(t, access.Config{Key: file(t, []byte(secret))})
	exp := time.Now().Add(-access.Leeway / 2).Truncate(time.Second)
	id, err := g.Verify(t.Context(), sign(t, jwt.SigningMethodHS256, []byte(secret), good(jwt.MapClaims{"exp": exp.Unix()})))
	if err != nil {
		t.Fatal(err)
	}
	// A stream ends when its token is not taken any more: not before, or the
	// reconnect would be let in and ended at once.
	if want := exp.Add(access.Leeway); !id.Until.Equal(want) {
		t.Errorf("until %s; want %s", id.Until, want)
	}
}

func TestGuard_LetsEverybodyInWhereAccessIsNotRequired(t *testing.T) {
	g, err := access.New(access.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, token := range []string{"", "garbage"} {
		id, err := g.Verify(t.Context(), token)
		if err != nil || id.MayPublish("scan", "a") != nil || id.MayWatch("chat", nil) != nil || !id.Until.IsZero() {
			t.Errorf("%q: %v, %+v", token, err, id)
		}
	}
	if g.Required() || g.Insider() != "" {
		t.Error("it requires something")
	}
}

func TestGuard_TakesItsOwnInsiderAndNoOthers(t *testing.T) {
	c := access.Config{Key: file(t, []byte(secret))}
	g, other := guard(t, c), guard(t, c)
	id, err := g.Verify(t.Context(), g.Insider())
	if err != nil || id.MayWatch("scan", nil) != nil {
		t.Errorf("%v", err)
	}
	_, err = g.Verify(t.Context(), other.Insider())
	wantKind(t, "another process's", err, event.Unauthenticated)
	if len(g.Insider()) < 32 {
		t.Errorf("%d bytes can be guessed", len(g.Insider()))
	}
}

func TestBearer_IsOneTokenAfterTheScheme(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer a.b.c": "a.b.c", "bearer a.b.c": "a.b.c", "BEARER   a.b.c ": "a.b.c",
		"": "", "Bearer": "", "Bearer ": "", "Basic dTpw": "", "a.b.c": "",
	} {
		if got, ok := access.Bearer(value); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %t", value, got, ok)
		}
	}
}
