package access_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

func TestJWKS_FollowsARotation(t *testing.T) {
	p, i := newPairs(), newIssuer(t)
	i.publish(published{"old", p.rsa}, published{"ec", p.ec}, published{"ed", p.ed})
	g := guard(t, access.Config{JWKSURL: i.URL})
	byOld := sign(t, jwt.SigningMethodRS256, p.rsa, good(), headers{"kid": "old"})
	byNew := sign(t, jwt.SigningMethodRS256, p.other, good(), headers{"kid": "new"})
	for name, token := range map[string]string{
		"RS256":                         byOld,
		"ES256":                         sign(t, jwt.SigningMethodES256, p.ec, good(), headers{"kid": "ec"}),
		"EdDSA":                         sign(t, jwt.SigningMethodEdDSA, p.ed, good(), headers{"kid": "ed"}),
		"no kid, so all keys are tried": sign(t, jwt.SigningMethodRS256, p.rsa, good()),
	} {
		if _, err := g.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := i.reads.Load(); n != 1 {
		t.Errorf("the keys were read %d times", n)
	}
	i.publish(published{"new", p.other})
	if _, err := g.Verify(t.Context(), byNew); err != nil {
		t.Errorf("by the new key: %v", err)
	}
	_, err := g.Verify(t.Context(), byOld)
	wantKind(t, "by the key that was withdrawn", err, event.Unauthenticated)
}

func TestJWKS_KeysDoNotMix(t *testing.T) {
	p, i := newPairs(), newIssuer(t)
	i.publish(published{"a", p.rsa}, published{"b", p.other}, published{"c", p.ec})
	g := guard(t, access.Config{JWKSURL: i.URL, Algorithms: []string{"RS256"}})
	for name, token := range map[string]string{
		"a's name on b's signature":  sign(t, jwt.SigningMethodRS256, p.other, good(), headers{"kid": "a"}),
		"ES256, which is not pinned": sign(t, jwt.SigningMethodES256, p.ec, good(), headers{"kid": "c"}),
		"RS256 by name of an EC key": sign(t, jwt.SigningMethodRS256, p.rsa, good(), headers{"kid": "c"}),
		"HS256 with the public key":  sign(t, jwt.SigningMethodHS256, publicPEM(t, p.rsa.Public()), good(), headers{"kid": "a"}),
		"a kid that is no text":      sign(t, jwt.SigningMethodRS256, p.rsa, good(), headers{"kid": 7}),
		"no key at all":              sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good(), headers{"kid": "a"}),
	} {
		_, err := g.Verify(t.Context(), token)
		wantKind(t, name, err, event.Unauthenticated)
	}
}

// Whoever sends tokens with keys that nobody knows must not make us flood the
// issuer, nor hold up others.
func TestJWKS_UnknownKeysAskTheIssuerRarely(t *testing.T) {
	p, i := newPairs(), newIssuer(t)
	i.publish(published{"a", p.rsa})
	g := guard(t, access.Config{JWKSURL: i.URL})
	var callers sync.WaitGroup
	for n := range 50 {
		callers.Go(func() {
			_, err := g.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, p.other, good(), headers{"kid": strings.Repeat("x", n+1)}))
			wantKind(t, "an unknown key", err, event.Unauthenticated)
		})
	}
	callers.Wait()
	if n := i.reads.Load(); n > 2 {
		t.Errorf("the issuer was asked %d times", n)
	}
	if _, err := g.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, p.rsa, good(), headers{"kid": "a"})); err != nil {
		t.Error(err)
	}
}

// 401 ends a browser's EventSource for ever; that the issuer is away must not.
func TestJWKS_AnIssuerThatIsAwayIsNoVerdict(t *testing.T) {
	p, i := newPairs(), newIssuer(t)
	i.down.Store(true)
	g := guard(t, access.Config{JWKSURL: i.URL})
	token := sign(t, jwt.SigningMethodRS256, p.rsa, good(), headers{"kid": "a"})
	for name, text := range map[string]string{
		"first": token, "no kid": sign(t, jwt.SigningMethodRS256, p.rsa, good()),
	} {
		_, err := g.Verify(t.Context(), text)
		wantKind(t, name, err, event.Unavailable)
	}
	_, err := g.Verify(t.Context(), token)
	wantKind(t, "again, too soon to ask", err, event.Unavailable)
	// What can be told without the issuer is told.
	_, err = g.Verify(t.Context(), "garbage")
	wantKind(t, "garbage", err, event.Unauthenticated)
}

func TestJWKS_KeysStayWhileTheIssuerIsAway(t *testing.T) {
	p, i := newPairs(), newIssuer(t)
	i.publish(published{"a", p.rsa})
	g := guard(t, access.Config{JWKSURL: i.URL})
	i.down.Store(true)
	_, err := g.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, p.other, good(), headers{"kid": "b"}))
	wantKind(t, "a key that may be new", err, event.Unavailable)
	if _, err := g.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, p.rsa, good(), headers{"kid": "a"})); err != nil {
		t.Errorf("a key that is known: %v", err)
	}
}
