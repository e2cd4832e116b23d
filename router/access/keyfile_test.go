package access_test

import (
	"bytes"
	"crypto"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

// eventually waits until a token is taken, or is not any more.
func eventually(t *testing.T, g *access.Guard, token string, taken bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := g.Verify(t.Context(), token)
		if (err == nil) == taken {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("taken is not %t: %v", taken, err)
		}
	}
}

func TestKey_IsReadAgainWhenItChanges(t *testing.T) {
	p := newPairs()
	var log syncBuffer
	path := file(t, publicPEM(t, p.rsa.Public()))
	g, err := access.New(access.Config{Required: true, Key: path}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rsa, other := sign(t, jwt.SigningMethodRS256, p.rsa, good()), sign(t, jwt.SigningMethodRS256, p.other, good())
	ec := sign(t, jwt.SigningMethodES256, p.ec, good())
	eventually(t, g, rsa, true)
	eventually(t, g, other, false)

	write(publicPEM(t, p.other.Public()))
	eventually(t, g, other, true)
	eventually(t, g, rsa, false) // though it was verified before

	public := publicPEM(t, p.ec.Public()) // of another algorithm
	write(public)
	eventually(t, g, ec, true)
	eventually(t, g, other, false)
	_, err = g.Verify(t.Context(), sign(t, jwt.SigningMethodHS256, public, good()))
	wantKind(t, "HS256 with the public key", err, event.Unauthenticated)

	write([]byte("half a key"))
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(log.String(), "cannot be used"); {
		if _, err := g.Verify(t.Context(), ec); err != nil {
			t.Fatalf("while the file is bad: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was said of a bad file")
		}
	}
	write([]byte(secret))
	eventually(t, g, sign(t, jwt.SigningMethodHS256, []byte(secret), good()), true)
	eventually(t, g, ec, false)
	if n := strings.Count(log.String(), "read again"); n != 3 {
		t.Errorf("%d changes were told, want 3:\n%s", n, log.String())
	}
}

// With AUTH_ALGORITHMS a key of another algorithm is one that cannot be used.
func TestKey_KeepsToThePinnedAlgorithm(t *testing.T) {
	p := newPairs()
	var log syncBuffer
	path := file(t, publicPEM(t, p.rsa.Public()))
	g, err := access.New(access.Config{Required: true, Key: path, Algorithms: []string{"RS256"}}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := os.WriteFile(path, publicPEM(t, p.ec.Public()), 0o600); err != nil {
		t.Fatal(err)
	}
	rsa := sign(t, jwt.SigningMethodRS256, p.rsa, good())
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(log.String(), "AUTH_ALGORITHMS"); {
		if _, err := g.Verify(t.Context(), rsa); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was said")
		}
	}
	_, err = g.Verify(t.Context(), sign(t, jwt.SigningMethodES256, p.ec, good()))
	wantKind(t, "ES256", err, event.Unauthenticated)
}

// A token that was found good before is not taken beyond its end, and a changed one
// is another.
func TestVerify_WhatWasGoodIsNotGoodForEver(t *testing.T) {
	g := guard(t, access.Config{Key: file(t, []byte(secret))})
	soon := time.Now().Add(-access.Leeway + 4*time.Second) // time for three calls
	token := sign(t, jwt.SigningMethodHS256, []byte(secret), good(jwt.MapClaims{"exp": soon.Unix()}))
	first, err := g.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	again, err := g.Verify(t.Context(), token)
	if err != nil || again != first {
		t.Errorf("it was verified again: %v", err)
	}
	_, err = g.Verify(t.Context(), token[:len(token)-2])
	wantKind(t, "a cut one", err, event.Unauthenticated)
	eventually(t, g, token, false)
	if now := time.Now(); now.Before(first.Until.Add(-time.Second)) {
		t.Errorf("refused at %s, before its end at %s", now, first.Until)
	}
}

// syncBuffer is safe for concurrent use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// BenchmarkVerify is what a call's token costs: one that is new, and one that was
// seen before.
func BenchmarkVerify(b *testing.B) {
	p := newPairs()
	for _, alg := range []struct {
		name   string
		method jwt.SigningMethod
		key    any
		public crypto.PublicKey
	}{
		{"HS256", jwt.SigningMethodHS256, []byte(secret), nil},
		{"RS256", jwt.SigningMethodRS256, p.rsa, p.rsa.Public()},
		{"ES256", jwt.SigningMethodES256, p.ec, p.ec.Public()},
		{"EdDSA", jwt.SigningMethodEdDSA, p.ed, p.ed.Public()},
	} {
		text := []byte(secret)
		if alg.public != nil {
			text = publicPEM(b, alg.public)
		}
		var tokens []string
		run := func(most int) func(*testing.B) {
			return func(b *testing.B) {
				g := guard(b, access.Config{Key: file(b, text)})
				for len(tokens) < min(b.N, most) {
					tokens = append(tokens, sign(b, alg.method, alg.key, good(jwt.MapClaims{"sub": "worker-" + strconv.Itoa(len(tokens))})))
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					if _, err := g.Verify(b.Context(), tokens[i%min(b.N, most)]); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		b.Run(alg.name+"/new", run(10_001)) // more than are remembered, so that none is
		b.Run(alg.name+"/known", run(10))
	}
}
