package access

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// Bounds of keys.
const (
	minSecretBytes = 32   // of HS256, as RFC 7518 wants
	minRSABits     = 2048 // as RFC 7518 wants
)

// The pace of reading published keys.
const (
	// jwksEvery is how long a key that was withdrawn is still accepted.
	jwksEvery = 5 * time.Minute
	// jwksUnknown bounds how often a token with an unknown key makes us ask the
	// issuer, whoever sends such tokens.
	jwksUnknown = 10 * time.Second
	// jwksPatience bounds how long such a token waits.
	jwksPatience = 3 * time.Second
)

// keys finds the key of a token.
type keys func(ctx context.Context, t *jwt.Token) (any, error)

// parseKey reads what is in AUTH_KEY: the key, and the one algorithm that goes with
// it.
func parseKey(text []byte) (key any, alg string, err error) {
	if block, _ := pem.Decode(text); block != nil {
		return publicKey(block)
	}
	secret := bytes.TrimSpace(text)
	if err := checkSecret(secret); err != nil {
		return nil, "", err
	}
	return secret, hs256, nil
}

// checkSecret refuses what others may know: a public key in a form that is not
// read here must not become a secret.
func checkSecret(b []byte) error {
	if _, err := x509.ParsePKIXPublicKey(b); err == nil {
		return errors.New("a public key must be PEM")
	}
	if _, err := x509.ParseCertificate(b); err == nil {
		return errors.New("a certificate must be PEM")
	}
	for _, begin := range []string{"-----BEGIN", "{", "ssh-", "ecdsa-"} {
		if bytes.HasPrefix(b, []byte(begin)) {
			return fmt.Errorf("a secret must not begin with %s: it looks like a key of another form; public keys must be PEM", begin)
		}
	}
	if len(b) < minSecretBytes {
		return fmt.Errorf("the secret has %d bytes; it must have at least %d", len(b), minSecretBytes)
	}
	return nil
}

func publicKey(block *pem.Block) (key any, alg string, err error) {
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	default:
		return nil, "", fmt.Errorf("PEM block %q must be a public key or a certificate", block.Type)
	}
	if err != nil {
		return nil, "", err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return nil, "", fmt.Errorf("the RSA key has %d bits; it must have at least %d", k.N.BitLen(), minRSABits)
		}
		return k, rs256, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, "", fmt.Errorf("the curve is %s; it must be P-256", k.Curve.Params().Name)
		}
		return k, es256, nil
	case ed25519.PublicKey:
		return k, eddsa, nil
	}
	return nil, "", fmt.Errorf("%T must be an RSA, ECDSA or Ed25519 key", key)
}

// errNoKeys: the issuer could not be asked, so nothing is known about the token.
var errNoKeys = errors.New("access: the issuer's keys could not be read")

// published are the keys at AUTH_JWKS_URL.
type published struct {
	keyfunc.Keyfunc
	log *slog.Logger
	// failed is when reading them failed last, in Unix nanoseconds.
	failed atomic.Int64
}

// failure, in a context, is set where the issuer was asked and did not answer.
type failure struct{}

// newPublished begins to read; ctx ends it. An issuer that is away now is asked
// again.
func newPublished(ctx context.Context, url string, log *slog.Logger) (*published, error) {
	p := &published{log: log}
	var err error
	p.Keyfunc, err = keyfunc.NewDefaultOverrideCtx(ctx, []string{url}, keyfunc.Override{
		HTTPTimeout:       jwksPatience,
		RateLimitWaitMax:  jwksPatience,
		RefreshInterval:   jwksEvery,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(jwksUnknown), 1),
		RefreshErrorHandlerFunc: func(u string) func(context.Context, error) {
			return func(ctx context.Context, err error) {
				p.failed.Store(time.Now().UnixNano())
				if mark, ok := ctx.Value(failure{}).(*bool); ok {
					*mark = true
				}
				log.Warn("the issuer's keys could not be read", "url", u, "error", err)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("AUTH_JWKS_URL: %w", err)
	}
	return p, nil
}

// find is a keys. It asks the issuer where it does not know the key, at most once
// in jwksUnknown, for at most jwksPatience.
func (p *published) find(ctx context.Context, t *jwt.Token) (any, error) {
	asked := false
	key, err := p.KeyfuncCtx(context.WithValue(ctx, failure{}, &asked))(t)
	if set, ok := key.(jwt.VerificationKeySet); ok && err == nil && len(set.Keys) == 0 {
		return nil, errNoKeys // a token without kid is tried with all keys
	}
	if err == nil {
		return key, nil
	}
	// Not asked because somebody was told to wait: what the last answer was counts.
	waits := !errors.Is(err, jwkset.ErrKeyNotFound) && time.Since(time.Unix(0, p.failed.Load())) < jwksUnknown
	if asked || waits {
		return nil, errNoKeys
	}
	return nil, err
}
