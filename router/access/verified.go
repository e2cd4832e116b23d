package access

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
)

// maxVerified is how many good tokens are remembered; the one that was not asked for
// longest is forgotten, which costs a verification.
const maxVerified = 10_000

// verified remembers the tokens that were found good, because a caller sends the
// same one with each call and a signature costs more than the call (BenchmarkVerify).
// It knows them by their hash, until they expire or their key is not the one that
// keys finds any more. A bad token is not remembered. It is safe for concurrent use.
type verified struct {
	keys   keys
	byHash *lru.Cache[tokenHash, goodToken]
}

type tokenHash [sha256.Size]byte

type goodToken struct {
	identity *Identity
	// head is what keys reads of a token, key what it found.
	head *jwt.Token
	key  any
}

func newVerified(k keys) (*verified, error) {
	c, err := lru.New[tokenHash, goodToken](maxVerified)
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	return &verified{keys: k, byHash: c}, nil
}

// find returns the identity of a token that is still good, else nil. It blocks as
// keys does.
func (v *verified) find(ctx context.Context, h tokenHash) *Identity {
	t, ok := v.byHash.Get(h)
	if !ok {
		return nil
	}
	if key, err := v.keys(ctx, t.head); err != nil || !sameKey(key, t.key) || !time.Now().Before(t.identity.Until) {
		v.byHash.Remove(h)
		return nil
	}
	return t.identity
}

// keep remembers a token that was verified with that key.
func (v *verified) keep(h tokenHash, t *jwt.Token, key any, id *Identity) {
	head := &jwt.Token{Method: t.Method, Header: map[string]any{"alg": t.Header["alg"]}}
	if kid, ok := t.Header["kid"]; ok {
		head.Header["kid"] = kid
	}
	v.byHash.Add(h, goodToken{id, head, key})
}

// sameKey is false for what is not one key: a token without kid is tried with all
// that are published.
func sameKey(a, b any) bool {
	if x, ok := a.([]byte); ok {
		y, ok := b.([]byte)
		return ok && subtle.ConstantTimeCompare(x, y) == 1
	}
	x, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && x.Equal(b)
}
