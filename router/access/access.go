// Package access decides who may publish and who may subscribe: it verifies
// tokens (JWT) and reads the grants in them. It knows no transport: server and
// edge take the token from their calls, ask here before the bus is touched, and
// end streams at Identity.Until. With access off everybody may do everything.
//
//	{"sub": "worker-7", "exp": 1737419502,
//	 "eventbus": {"subscribe": ["scan/904fb02f-3e06-482c-b271-e641d3275d6b"], "publish": ["scan/*"]}}
//
// On an event's way: publisher's token → server, or edge → here → router.Bus;
// browser's token → edge → here → the job's shared topic.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/eco2-team/eventbus/router/event"
)

const (
	// Leeway is how far the issuer's clock may be off. A stream lives as long as its
	// token would be taken.
	Leeway = 5 * time.Second
	// MaxTokenBytes bounds what is parsed.
	MaxTokenBytes = 8 << 10
)

// Guard verifies tokens. It is safe for concurrent use.
type Guard struct {
	keys   keys
	parser *jwt.Parser
	// verified are tokens that need not be verified again.
	verified *verified
	// insider is a token of this process, for its own parts; empty where access is
	// not required.
	insider string
	proxies Proxies
	stop    context.CancelFunc
}

// New makes a guard; close it. It reads AUTH_KEY, or asks AUTH_JWKS_URL, once, for
// a few seconds.
func New(c Config, log *slog.Logger) (*Guard, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	g := &Guard{stop: func() {}}
	g.proxies, _ = ParseProxies(c.TrustedProxies) // checked
	if !c.Required {
		return g, nil
	}
	algs := c.Algorithms
	var err error
	if c.Key != "" {
		var f *keyFile
		if f, err = newKeyFile(c, log); err == nil {
			g.keys, algs = f.find, algorithms() // find pins them to the key's
		}
	} else {
		var ctx context.Context
		ctx, g.stop = context.WithCancel(context.Background())
		var p *published
		if p, err = newPublished(ctx, c.JWKSURL, log); err == nil {
			g.keys = p.find
		}
		if len(algs) == 0 {
			algs = publicAlgorithms()
		}
	}
	if err != nil {
		g.stop()
		return nil, err
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(algs), jwt.WithExpirationRequired(), jwt.WithLeeway(Leeway)}
	if c.Issuer != "" {
		options = append(options, jwt.WithIssuer(c.Issuer))
	}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	g.parser = jwt.NewParser(options...)
	if g.verified, err = newVerified(g.keys); err != nil {
		g.stop()
		return nil, err
	}
	g.insider = rand.Text() + rand.Text()
	return g, nil
}

// Close ends the reading of published keys.
func (g *Guard) Close() { g.stop() }

// Required tells whether callers need a token.
func (g *Guard) Required() bool { return g.keys != nil }

// Proxies are those of the settings.
func (g *Guard) Proxies() Proxies { return g.proxies }

// Insider is a token for the parts of this process, such as the edge of `eventbus
// serve`; no other process takes it. It may do everything, so it must not leave
// the process. It is empty where access is not required.
func (g *Guard) Insider() string { return g.insider }

// Verify tells who the token's owner is. Errors are event.Unauthenticated, with a
// text that does not hold the token, or event.Unavailable where the issuer's keys
// could not be read. It blocks only for the latter, a few seconds.
func (g *Guard) Verify(ctx context.Context, token string) (*Identity, error) {
	switch {
	case !g.Required():
		return everything(""), nil
	case token == "":
		return nil, event.Errorf(event.Unauthenticated, "a token is required")
	case subtle.ConstantTimeCompare([]byte(token), []byte(g.insider)) == 1:
		return everything("this process"), nil
	case len(token) > MaxTokenBytes:
		return nil, event.Errorf(event.Unauthenticated, "the token is longer than %d bytes", MaxTokenBytes)
	}
	hash := tokenHash(sha256.Sum256([]byte(token)))
	if id := g.verified.find(ctx, hash); id != nil {
		return id, nil
	}
	var c claims
	var key any
	parsed, err := g.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("crit is not understood") // RFC 7515, 4.1.11
		}
		var err error
		key, err = g.keys(ctx, t)
		return key, err
	})
	if err != nil {
		return nil, explain(err)
	}
	id := &Identity{Subject: c.Subject, Until: c.ExpiresAt.Add(Leeway)}
	if id.subscribe, err = parsePatterns(c.Eventbus.Subscribe); err == nil {
		id.publish, err = parsePatterns(c.Eventbus.Publish)
	}
	if err != nil {
		return nil, event.Errorf(event.Unauthenticated, "the token's grants: %s", err.Error())
	}
	g.verified.keep(hash, parsed, key, id)
	return id, nil
}

// claims are what counts in a token.
type claims struct {
	jwt.RegisteredClaims
	Eventbus struct {
		Subscribe []string `json:"subscribe"`
		Publish   []string `json:"publish"`
	} `json:"eventbus"`
}

// explain names what is wrong without what the library or the issuer said, which
// may hold parts of the token.
func explain(err error) error {
	if errors.Is(err, errNoKeys) {
		return event.Errorf(event.Unavailable, "tokens cannot be verified now: the issuer's keys could not be read")
	}
	for _, known := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet,
		jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenUnverifiable,
	} {
		if errors.Is(err, known) {
			return event.Errorf(event.Unauthenticated, "the token is not valid: %s", known.Error())
		}
	}
	return event.Errorf(event.Unauthenticated, "the token is not valid")
}

// Expired is how a stream ends whose token does.
func Expired() error {
	return event.Errorf(event.Unauthenticated, "the token has expired; reconnect with a new one")
}

// Service is who may read everything without a token, known by other means, such
// as a client certificate.
func Service(name string) *Identity { return reader(name) }

// Bearer takes the token out of an Authorization header's value; ok is false
// where it is of another kind.
func Bearer(value string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(value, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}
