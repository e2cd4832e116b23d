package access

import (
	"net/url"
	"slices"
	"strings"

	"github.com/eco2-team/eventbus/router/event"
)

// Config is what router and edge are told about their callers, both the same; the
// tags are the reference of --help.
type Config struct {
	Required bool   `name:"auth-required" env:"AUTH_REQUIRED" negatable:"" help:"Refuse every call and stream without a token that grants it. Without this, whoever reaches a port may do everything."`
	Key      string `name:"auth-key" env:"AUTH_KEY" placeholder:"FILE" help:"File with the key that tokens are signed with: a public key or certificate in PEM, else a secret of at least 32 bytes. Read again when it changes. This or AUTH_JWKS_URL."`
	JWKSURL  string `name:"auth-jwks-url" env:"AUTH_JWKS_URL" placeholder:"URL" help:"Where the issuer publishes its public keys; read again every 5 minutes, and for a key that is not known."`

	Algorithms []string `name:"auth-algorithms" env:"AUTH_ALGORITHMS" placeholder:"ALG" help:"Signatures that are accepted: HS256, RS256, ES256, EdDSA. Default: the one of AUTH_KEY; RS256, ES256 and EdDSA with AUTH_JWKS_URL."`
	Issuer     string   `name:"auth-issuer" env:"AUTH_ISSUER" placeholder:"NAME" help:"What the claim iss must be. Default: anything."`
	Audience   string   `name:"auth-audience" env:"AUTH_AUDIENCE" placeholder:"NAME" help:"What the claim aud must hold. Default: anything."`

	TrustedProxies []string `name:"trusted-proxies" env:"TRUSTED_PROXIES" placeholder:"CIDR" help:"Proxies whose X-Forwarded-For says which client a limit counts against. Default: none, the peer is the client."`
}

// Algorithms of signatures, as tokens name them.
const (
	hs256 = "HS256"
	rs256 = "RS256"
	es256 = "ES256"
	eddsa = "EdDSA"
)

func algorithms() []string { return []string{hs256, rs256, es256, eddsa} }

func publicAlgorithms() []string { return []string{rs256, es256, eddsa} }

// Check tells of every setting that is out of bounds, with its value. Files are
// read by New.
func (c *Config) Check() error {
	var bad []event.Violation
	refuse := func(field string, value any, rule string) { bad = append(bad, event.Violate(field, value, rule)) }
	for _, a := range c.Algorithms {
		if !slices.Contains(algorithms(), a) {
			refuse("AUTH_ALGORITHMS", a, "must be of "+strings.Join(algorithms(), ", "))
		}
	}
	if _, err := ParseProxies(c.TrustedProxies); err != nil {
		bad = append(bad, err.Violations...)
	}
	switch {
	case !c.Required:
		// A key that is not used is one that somebody relies on.
		for field, value := range map[string]string{"AUTH_KEY": c.Key, "AUTH_JWKS_URL": c.JWKSURL} {
			if value != "" {
				refuse(field, value, "has no effect without AUTH_REQUIRED=true")
			}
		}
	case (c.Key == "") == (c.JWKSURL == ""):
		refuse("AUTH_REQUIRED", nil, "needs either AUTH_KEY or AUTH_JWKS_URL")
	case c.JWKSURL != "":
		u, err := url.Parse(c.JWKSURL)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			refuse("AUTH_JWKS_URL", c.JWKSURL, "must be an https:// or http:// URL")
		}
		if slices.Contains(c.Algorithms, hs256) {
			refuse("AUTH_ALGORITHMS", hs256, "must not be with AUTH_JWKS_URL: published keys are no secrets")
		}
	}
	if len(bad) > 0 {
		return event.Refuse(bad...)
	}
	return nil
}
