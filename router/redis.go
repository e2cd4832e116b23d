package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/eco2-team/eventbus/router/event"
)

// Redis clients are built here and nowhere else.

// tuning is what differs between the clients of one Redis.
type tuning struct {
	// retries after a failed round trip; -1: none, for commands that must not run
	// twice.
	retries int
	// pool is the most connections, to each node.
	pool int
	// read is how long a reply may take; more than a blocking command's block.
	read time.Duration
}

const (
	dialTimeout = 2 * time.Second
	readTimeout = 3 * time.Second
)

// connect makes a client from a URL as REDIS_STREAMS_URL documents it. It does
// not dial.
func connect(raw string, t tuning) (redis.UniversalClient, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("must be redis://, rediss://, redis+sentinel:// or redis+cluster://")
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 && strings.Contains(rest[i:], "@") {
		return nil, errUnescaped
	}
	base, topology, _ := strings.Cut(scheme, "+")
	if base != "redis" && base != "rediss" {
		return nil, fmt.Errorf("unknown scheme %q; must be redis://, rediss://, redis+sentinel:// or redis+cluster://", scheme)
	}
	switch topology {
	case "":
		o, err := redis.ParseURL(raw)
		if err != nil {
			return nil, redact(err)
		}
		o.MaxRetries, o.PoolSize, o.ReadTimeout, o.DialTimeout = t.retries, t.pool, t.read, dialTimeout
		o.ContextTimeoutEnabled, o.MaintNotificationsConfig = true, noNotices()
		return redis.NewClient(o), nil
	case "sentinel":
		return connectSentinel(base, rest, t)
	case "cluster":
		return connectCluster(base, rest, t)
	}
	return nil, fmt.Errorf("unknown scheme %q; must be redis://, rediss://, redis+sentinel:// or redis+cluster://", scheme)
}

// hosts is what a URL with several hosts names.
type hosts struct {
	user  *url.Userinfo
	addrs []string
	path  string
	query url.Values
}

func parseHosts(rest, port string) (hosts, error) {
	rest, rawQuery, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	var h hosts
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		u, err := url.Parse("redis://" + authority[:i+1] + "host")
		if err != nil {
			return h, redact(err)
		}
		h.user, authority = u.User, authority[i+1:]
	}
	for a := range strings.SplitSeq(authority, ",") {
		if a == "" {
			return h, errors.New("a host is empty")
		}
		if strings.LastIndexByte(a, ':') <= strings.LastIndexByte(a, ']') { // not the colons of an IPv6 address
			a += ":" + port
		}
		h.addrs = append(h.addrs, a)
	}
	h.path = strings.Trim(path, "/")
	var err error
	h.query, err = url.ParseQuery(rawQuery)
	return h, redact(err)
}

// connectSentinel maps redis+sentinel://user:password@h1,h2/master/db to
// go-redis's form. User and password are the master's; the sentinels' come as
// sentinel_username and sentinel_password.
func connectSentinel(base, rest string, t tuning) (redis.UniversalClient, error) {
	h, err := parseHosts(rest, "26379")
	if err != nil {
		return nil, err
	}
	master, db, _ := strings.Cut(h.path, "/")
	if master == "" {
		return nil, errors.New("the master's name is missing: redis+sentinel://host:26379,host:26379/master-name/db")
	}
	q := h.query
	sentinel := url.UserPassword(q.Get("sentinel_username"), q.Get("sentinel_password"))
	if sentinel.String() == ":" {
		sentinel = nil
	}
	q.Del("sentinel_username")
	q.Del("sentinel_password")
	q.Set("master_name", master)
	q["addr"] = h.addrs[1:]
	if h.user != nil {
		password, _ := h.user.Password()
		q.Set("username", h.user.Username())
		q.Set("password", password)
	}
	u := url.URL{Scheme: base, User: sentinel, Host: h.addrs[0], Path: "/" + db, RawQuery: q.Encode()}
	o, err := redis.ParseFailoverURL(u.String())
	if err != nil {
		return nil, redact(err)
	}
	anyServerName(o.TLSConfig)
	o.MaxRetries, o.PoolSize, o.ReadTimeout, o.DialTimeout = t.retries, t.pool, t.read, dialTimeout
	o.ContextTimeoutEnabled = true
	return redis.NewFailoverClient(o), nil
}

func connectCluster(base, rest string, t tuning) (redis.UniversalClient, error) {
	h, err := parseHosts(rest, "6379")
	if err != nil {
		return nil, err
	}
	if h.path != "" {
		return nil, errors.New("a Cluster has no databases: nothing may follow the hosts")
	}
	h.query["addr"] = h.addrs[1:]
	u := url.URL{Scheme: base, User: h.user, Host: h.addrs[0], RawQuery: h.query.Encode()}
	o, err := redis.ParseClusterURL(u.String())
	if err != nil {
		return nil, redact(err)
	}
	anyServerName(o.TLSConfig)
	o.MaxRetries, o.PoolSize, o.ReadTimeout, o.DialTimeout = t.retries, t.pool, t.read, dialTimeout
	o.ContextTimeoutEnabled, o.MaintNotificationsConfig = true, noNotices()
	return redis.NewClusterClient(o), nil
}

// noNotices does not ask for notices of maintenance, which only Redis Enterprise sends.
// go-redis writes down in the options of a client that its server has none, and a
// connection of its own (see carrier) has them with another lock: a race.
func noNotices() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// anyServerName lets each connection check the name that it dials; go-redis sets
// the first host's for all.
func anyServerName(c *tls.Config) {
	if c != nil {
		c.ServerName = ""
	}
}

var urlSeparator = regexp.MustCompile(`,(rediss?(?:\+[a-z]+)?://)`)

// splitURLs cuts a list of URLs, whose hosts may be lists themselves.
func splitURLs(s string) []string {
	return strings.Split(urlSeparator.ReplaceAllString(s, "\x00$1"), "\x00")
}

// errUnescaped stands for every error of reading a URL: their texts repeat parts of
// it, and a password may be among them.
var errUnescaped = errors.New("is not a valid URL: a port is no number, or / ? # % or @ in a user or password is not percent-encoded")

// redact keeps passwords out of error texts.
func redact(err error) error {
	_, isURL := errors.AsType[*url.Error](err)
	_, isEscape := errors.AsType[url.EscapeError](err)
	if isURL || isEscape {
		return errUnescaped
	}
	return err
}

// unavailable is err as the caller may see it: Redis is full, or away. The end of
// the caller's own context stays what it is.
func unavailable(err error) error {
	if event.KindOf(err) != event.Internal || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if redis.IsOOMError(err) || strings.Contains(err.Error(), "OOM command not allowed") {
		return &event.Error{Kind: event.Exhausted, Text: "the log is full: Redis is out of memory", RetryAfter: time.Second, Err: err}
	}
	if errors.Is(err, io.EOF) {
		// To a subscription io.EOF is the end of its job: a connection that broke must
		// not pass for it.
		err = fmt.Errorf("connection closed by Redis: %v", err) //nolint:errorlint // that is the point
	}
	return &event.Error{Kind: event.Unavailable, Text: "the log cannot be reached; try again", Err: err}
}
