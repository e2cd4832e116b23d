package router

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

var someTuning = tuning{retries: 2, pool: 7, read: 9 * time.Second} //nolint:gochecknoglobals // a constant

// client is what a URL made, as far as URLs differ.
type client struct {
	Cluster        bool
	Addrs          []string
	User, Password string
	DB             int
	TLS            bool
	Retries, Pool  int
	Read, Dial     time.Duration
	// CtxTimeout: a call ends with its context.
	CtxTimeout bool
}

func describe(t *testing.T, c redis.UniversalClient) client {
	t.Helper()
	var config *tls.Config
	var out client
	switch c := c.(type) {
	case *redis.Client:
		o := c.Options()
		config = o.TLSConfig
		out = client{
			Addrs: []string{o.Addr}, User: o.Username, Password: o.Password, DB: o.DB, Retries: o.MaxRetries, Pool: o.PoolSize,
			Read: o.ReadTimeout, Dial: o.DialTimeout, CtxTimeout: o.ContextTimeoutEnabled,
		}
	case *redis.ClusterClient:
		o := c.Options()
		config = o.TLSConfig
		out = client{
			Cluster: true, Addrs: o.Addrs, User: o.Username, Password: o.Password, Retries: o.MaxRetries, Pool: o.PoolSize,
			Read: o.ReadTimeout, Dial: o.DialTimeout, CtxTimeout: o.ContextTimeoutEnabled,
		}
	default:
		t.Fatalf("a client of type %T", c)
	}
	out.TLS = config != nil
	if _, single := c.(*redis.Client); config != nil && config.ServerName != "" && (!single || out.Addrs[0] == failoverAddr) {
		t.Errorf("every node is expected to be %s", config.ServerName)
	}
	return out
}

// failoverAddr is what go-redis has for an address where sentinels tell it.
const failoverAddr = "FailoverClient"

func TestConnect_MakesTheClientThatTheURLSays(t *testing.T) {
	for raw, want := range map[string]client{
		"redis://h":                              {Addrs: []string{"h:6379"}},
		"redis://h:7000/3":                       {Addrs: []string{"h:7000"}, DB: 3},
		"redis://:p%40%2Fw@h":                    {Addrs: []string{"h:6379"}, Password: "p@/w"},
		"redis://user:pw@h:7000":                 {Addrs: []string{"h:7000"}, User: "user", Password: "pw"},
		"redis://[::1]:7000":                     {Addrs: []string{"[::1]:7000"}},
		"rediss://h":                             {Addrs: []string{"h:6379"}, TLS: true},
		"redis+sentinel://a,b:7,c/main":          {Addrs: []string{failoverAddr}},
		"redis+sentinel://u:p%2F@a/main/2":       {Addrs: []string{failoverAddr}, User: "u", Password: "p/", DB: 2},
		"redis+sentinel://:p%40,q@a,b/main/2/":   {Addrs: []string{failoverAddr}, Password: "p@,q", DB: 2},
		"rediss+sentinel://a,b/main":             {Addrs: []string{failoverAddr}, TLS: true},
		"redis+sentinel://a/m?sentinel_password": {Addrs: []string{failoverAddr}},
		"redis+cluster://a,b:7000,c":             {Cluster: true, Addrs: []string{"a:6379", "b:7000", "c:6379"}},
		"redis+cluster://u:p%2C@a:1,[::1]:2":     {Cluster: true, Addrs: []string{"a:1", "[::1]:2"}, User: "u", Password: "p,"},
		"rediss+cluster://:p@a,b":                {Cluster: true, Addrs: []string{"a:6379", "b:6379"}, Password: "p", TLS: true},
		"redis+cluster://a/":                     {Cluster: true, Addrs: []string{"a:6379"}},
	} {
		t.Run(raw, func(t *testing.T) {
			c, err := connect(raw, someTuning)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			want.Retries, want.Pool, want.Read, want.Dial, want.CtxTimeout = 2, 7, 9*time.Second, dialTimeout, true
			if d := cmp.Diff(want, describe(t, c), cmpopts.SortSlices(strings.Compare)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestConnect_WithoutRetriesACommandIsSentOnce(t *testing.T) {
	for _, raw := range []string{"redis://h", "redis+sentinel://h/main", "redis+cluster://h"} {
		c, err := connect(raw, tuning{retries: -1, pool: 1, read: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(t, c).Retries; got > 0 {
			t.Errorf("%s: %d retries", raw, got)
		}
		_ = c.Close()
	}
}

func TestConnect_OptionsOfTheQueryDoNotWinOverTheBus(t *testing.T) {
	for _, raw := range []string{"redis://h", "redis+sentinel://h/main", "redis+cluster://h"} {
		c, err := connect(raw+"?max_retries=50&pool_size=50&read_timeout=50s&dial_timeout=50s&client_name=x", someTuning)
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(t, c); got.Retries != 2 || got.Pool != 7 || got.Read != 9*time.Second || got.Dial != dialTimeout {
			t.Errorf("%s: got %+v", raw, got)
		}
		_ = c.Close()
	}
}

func TestConnect_BadURLIsAClearErrorWithoutThePassword(t *testing.T) {
	const schemes = "must be redis://, rediss://, redis+sentinel:// or redis+cluster://"
	for raw, want := range map[string]string{
		"":                     schemes,
		"host:6379":            schemes,
		"redis:s3cr3t@h":       schemes,
		"http://:s3cr3t@h":     `unknown scheme "http"; ` + schemes,
		"redis+x://:s3cr3t@h":  `unknown scheme "redis+x"; ` + schemes,
		"unix:///s3cr3t":       `unknown scheme "unix"; ` + schemes,
		"redis://:s3cr3t@h:p":  errUnescaped.Error(),
		"redis://:s3cr3t@h/x":  `redis: invalid database number: "x"`,
		"redis://s3cr3t@h/0/1": "redis: invalid URL path: /0/1",
		"redis://:s3cr3t@h?a=": "redis: unexpected option: a",
		"redis://:s3 cr3t@h":   errUnescaped.Error(),

		"redis+sentinel://:s3cr3t@a,b":        "the master's name is missing: redis+sentinel://host:26379,host:26379/master-name/db",
		"redis+sentinel://:s3cr3t@a,b/":       "the master's name is missing: redis+sentinel://host:26379,host:26379/master-name/db",
		"redis+sentinel://:s3cr3t@a,,b/m":     "a host is empty",
		"redis+sentinel://:s3cr3t@/m":         "a host is empty",
		"redis+sentinel://:s3cr3t@a,b/m/x":    `redis: invalid database number: "x"`,
		"redis+sentinel://:s3cr3t@a,b/m/0/1":  "redis: invalid URL path: /0/1",
		"redis+sentinel://:s3cr3t@a:x,b/m":    errUnescaped.Error(),
		"redis+sentinel://:s3cr3t@a,b:/m":     "redis: unable to parse addr param: b:",
		"redis+sentinel://:s3cr3t@a/m?b=":     "redis: unexpected option: b",
		"redis+sentinel://:s3 cr3t@a/m":       errUnescaped.Error(),
		"redis+sentinel://a/m?sentinel_pw=s3": "redis: unexpected option: sentinel_pw",

		"redis+cluster://:s3cr3t@a,":    "a host is empty",
		"redis+cluster://":              "a host is empty",
		"redis+cluster://:s3cr3t@a:x,b": errUnescaped.Error(),
		"redis+cluster://:s3cr3t@a,b:":  "redis: unable to parse addr param: b:",
		"redis+cluster://:s3cr3t@a?b=":  "redis: unexpected option: b",
	} {
		c, err := connect(raw, someTuning)
		if c != nil || err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "cr3t") {
			t.Errorf("%q: the error tells the password: %v", raw, err)
		}
	}
}

// TestConnect_SentinelsHaveTheirOwnPassword looks at what a sentinel is told.
func TestConnect_SentinelsHaveTheirOwnPassword(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan []byte)
	go func() {
		defer close(told)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		b := make([]byte, 4096)
		var all []byte
		for !bytes.Contains(all, []byte("sentinel-password")) {
			n, err := conn.Read(b)
			if err != nil {
				break
			}
			all = append(all, b[:n]...)
		}
		told <- all
	}()
	c, err := connect("redis+sentinel://user:master-password@"+l.Addr().String()+
		"/main?sentinel_username=watcher&sentinel_password=sentinel-password", tuning{retries: -1, pool: 1, read: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		if got := string(<-told); !strings.Contains(got, "watcher") || strings.Contains(got, "master-password") {
			t.Errorf("the sentinel was told %q", got)
		}
		_ = l.Close()
		cancel()
	}()
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("there is no master")
	}
	<-ctx.Done()
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("the sentinel was not told its password")
	}
	<-told
	_ = c.Close()
}

func TestConnect_ReachesEachTopology(t *testing.T) {
	const password = "p@ss/word,:?#%"
	reach := func(t *testing.T, raw string) {
		t.Helper()
		c, err := connect(raw, someTuning)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		ctx := testContext(t)
		for _, key := range []string{"a", "b", "c"} {
			if err := c.Set(ctx, key, "x", 0).Err(); err != nil {
				t.Errorf("set %s: %v", key, err)
			}
		}
	}
	for name, opts := range map[string][]redistest.Option{
		"": nil, " with a password": {redistest.WithPassword(password)},
		" with TLS": {redistest.WithPassword(password), redistest.WithTLS()},
	} {
		insecure := ""
		if strings.Contains(name, "TLS") {
			insecure = "?skip_verify=true" // the CA is the test's own
		}
		t.Run("standalone"+name, func(t *testing.T) { reach(t, redistest.New(t, opts...).URL()+insecure) })
		t.Run("sentinel"+name, func(t *testing.T) { reach(t, redistest.NewSentinel(t, 1, 1, opts...).URL()+insecure) })
		if insecure == "" { // go-redis knows no such option for a Cluster
			t.Run("cluster"+name, func(t *testing.T) { reach(t, redistest.NewCluster(t, 3, 0, opts...).URL()) })
		}
	}
}

func TestSplitURLs_CutsBetweenURLsNotBetweenTheirHosts(t *testing.T) {
	for list, want := range map[string][]string{
		"":                                {""},
		"redis://a":                       {"redis://a"},
		"redis://a,redis://b":             {"redis://a", "redis://b"},
		"redis://a,rediss://b/1":          {"redis://a", "rediss://b/1"},
		"redis+sentinel://a,b:1/m":        {"redis+sentinel://a,b:1/m"},
		"redis+sentinel://a,b/m,redis://": {"redis+sentinel://a,b/m", "redis://"},
		"redis+sentinel://a,b/m,rediss+sentinel://c,d/n,redis://e": {
			"redis+sentinel://a,b/m", "rediss+sentinel://c,d/n", "redis://e",
		},
		"redis://:a,b@h,redis://:c,redis@i": {"redis://:a,b@h", "redis://:c,redis@i"},
		"redis://a,http://b":                {"redis://a,http://b"},
	} {
		if d := cmp.Diff(want, splitURLs(list)); d != "" {
			t.Errorf("%s: %s", list, d)
		}
	}
}

func TestUnavailable_TellsAFullRedisFromOneThatIsAway(t *testing.T) {
	for text, want := range map[string]event.Kind{
		"OOM command not allowed when used memory > 'maxmemory'.":                            event.Exhausted,
		"ERR Error running script: -OOM command not allowed when used memory > 'maxmemory'.": event.Exhausted,
		"dial tcp 10.0.0.1:6379: connect: connection refused":                                event.Unavailable,
		"READONLY You can't write against a read only replica.":                              event.Unavailable,
	} {
		cause := errors.New(text)
		got := unavailable(cause)
		if event.KindOf(got) != want || !errors.Is(got, cause) {
			t.Errorf("%s: got %v", text, got)
		}
		var e *event.Error
		if want == event.Exhausted && (!errors.As(got, &e) || e.RetryAfter <= 0) {
			t.Errorf("%s: no time to wait", text)
		}
		// Addresses and Redis's words are for the log.
		if strings.Contains(got.Error(), "6379") || strings.Contains(got.Error(), text) {
			t.Errorf("%s: the caller sees %v", text, got)
		}
	}
}

func TestUnavailable_LeavesTheCallersOwnEndAndKnownErrors(t *testing.T) {
	for _, err := range []error{
		context.Canceled, fmt.Errorf("read: %w", context.DeadlineExceeded), event.Errorf(event.Over, "job x is over"),
	} {
		if got := unavailable(err); !errors.Is(got, err) || got.Error() != err.Error() {
			t.Errorf("%v: got %v", err, got)
		}
	}
}

// TestUnavailable_ABrokenConnectionIsNotTheEndOfAJob: subscriptions end with
// io.EOF after the final event.
func TestUnavailable_ABrokenConnectionIsNotTheEndOfAJob(t *testing.T) {
	for _, err := range []error{io.EOF, fmt.Errorf("read tcp: %w", io.EOF)} {
		if got := unavailable(err); errors.Is(got, io.EOF) || event.KindOf(got) != event.Unavailable {
			t.Errorf("%v: got %v", err, got)
		}
	}
}

// The carriers' connections, and those of everybody else, begin at the same time: the race
// detector looks.
func TestConnect_AConnectionOfItsOwnSharesNothingThatIsWritten(t *testing.T) {
	s := redistest.New(t)
	for range 20 {
		c, err := connect(s.URL(), someTuning)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				conn := c.(*redis.Client).EphemeralConn()
				if err := errors.Join(conn.Ping(testContext(t)).Err(), conn.Close()); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				if err := c.Ping(testContext(t)).Err(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		_ = c.Close()
	}
}
