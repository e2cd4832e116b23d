package redistest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Server is one redis-server on 127.0.0.1. All methods are safe for concurrent use; faults happen one after the other.
type Server struct {
	settings settings
	dir      string
	lease    *portLease
	onFault  func(error) // of the test that owns the server; may be nil
	client   *redis.Client

	mu     sync.Mutex // guards the fields below, and makes a fault one step
	proc   *process   // nil or ended: the server is down
	paused bool
	closed bool
}

// New starts a server with an empty directory and waits until it answers. It fails tb where that is impossible. At the
// end of tb the server is killed, and its log shown if tb failed.
func New(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	ctx, cancel := withTimeout()
	defer cancel()
	s, err := Start(ctx, tb.TempDir(), opts...)
	if err != nil {
		tb.Fatalf("start redis-server: %v", err)
	}
	own(tb, s.Close, s)
	return s
}

// Start starts a server that keeps its files in dir (which must exist) and waits until it answers, or until ctx ends.
// The caller closes it.
func Start(ctx context.Context, dir string, opts ...Option) (*Server, error) {
	set := newSettings(opts)
	if err := set.makeTLS(dir); err != nil {
		return nil, err
	}
	return startServer(ctx, dir, set)
}

// own ties servers to tb: faults that do not happen fail it, and at its end close is called.
func own(tb testing.TB, closeAll func() error, servers ...*Server) {
	tb.Helper()
	for _, s := range servers {
		s.onFault = func(err error) { tb.Errorf("redistest: %v", err) }
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			for _, s := range servers {
				tb.Logf("log of redis-server %s:\n%s", s.Addr(), s.LogTail())
			}
		}
		if err := closeAll(); err != nil {
			tb.Errorf("redistest: %v", err)
		}
	})
}

func (s *settings) makeTLS(dir string) (err error) {
	if s.wantTLS && s.tls == nil {
		s.tls, err = newTLSFiles(dir)
	}
	return err
}

func startServer(ctx context.Context, dir string, set settings) (*Server, error) {
	return startOn(ctx, dir, set, func() (*portLease, error) { return set.lease(ctx) })
}

// startOn tries ports until one is really free: between probe and bind a process without a lease may take it.
func startOn(ctx context.Context, dir string, set settings, next func() (*portLease, error)) (*Server, error) {
	for try := 1; ; try++ {
		lease, err := next()
		if err != nil {
			return nil, err
		}
		s := &Server{settings: set, dir: dir, lease: lease}
		s.client = s.newClient()
		if err = os.WriteFile(s.conf(), []byte(set.render(dir, lease.port)), 0o600); err == nil {
			err = s.start(ctx)
		}
		if err == nil {
			return s, nil
		}
		err = errors.Join(err, s.Close())
		if set.port != 0 || try == portTries || !errors.Is(err, errPortTaken) {
			return nil, err
		}
		if err := os.Remove(s.logFile()); err != nil { // or its "in use" would be read again
			return nil, err
		}
	}
}

func (s settings) lease(ctx context.Context) (*portLease, error) {
	if s.port != 0 {
		return tryPort(ctx, s.port, s.role)
	}
	return leasePort(ctx, s.role)
}

func (s *Server) conf() string    { return filepath.Join(s.dir, "redis.conf") }
func (s *Server) logFile() string { return filepath.Join(s.dir, "redis.log") }

// Port is the TCP port. It stays the same over restarts.
func (s *Server) Port() int { return s.lease.port }

// Addr is "127.0.0.1:port".
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.lease.port) }

// Dir is where the server keeps its files: redis.conf, redis.log, the append-only file.
func (s *Server) Dir() string { return s.dir }

// URL is "redis://[:password@]127.0.0.1:port/0", with TLS "rediss://…".
func (s *Server) URL() string { return s.settings.url("redis", []*Server{s}, "/0") }

// url joins servers to one URL; with TLS the scheme's "redis" becomes "rediss".
func (s settings) url(scheme string, servers []*Server, path string) string {
	if s.tls != nil {
		scheme = strings.Replace(scheme, "redis", "rediss", 1)
	}
	user := ""
	if s.password != "" {
		user = url.UserPassword("", s.password).String() + "@"
	}
	return scheme + "://" + user + strings.Join(addrs(servers), ",") + path
}

func addrs(servers []*Server) []string {
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.Addr()
	}
	return addrs
}

// CAFile is the PEM file of the CA, "" without TLS.
func (s *Server) CAFile() string {
	if s.settings.tls == nil {
		return ""
	}
	return s.settings.tls.ca
}

// TLSConfig is a new client configuration that trusts the server, nil without TLS.
func (s *Server) TLSConfig() *tls.Config {
	if s.settings.tls == nil {
		return nil
	}
	return s.settings.tls.clientConfig()
}

// Client is a go-redis client of this server for assertions, always the same one. It sends each command once, without
// retries, obeys the deadline of a call's context, reconnects after a restart and is closed with the server.
func (s *Server) Client() *redis.Client { return s.client }

func (s *Server) newClient() *redis.Client {
	password := s.settings.password
	if s.settings.role == roleSentinel {
		password = ""
	}
	return redis.NewClient(&redis.Options{
		Addr:      s.Addr(),
		Password:  password,
		TLSConfig: s.TLSConfig(),
		// After PoolSize refused connections go-redis refuses by itself for up to a second, also when the server is back:
		// a number that a test does not reach. Few connections are kept.
		PoolSize:              1000,
		MaxIdleConns:          2,
		MaxRetries:            -1,
		DialerRetries:         1,
		DisableIdentity:       true,
		ContextTimeoutEnabled: true,
		// Probing for it costs a round trip and an error in each connection.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// logTailSize bounds what LogTail returns: the end of a log is what explains a failure.
const logTailSize = 16 << 10

// LogTail is the end of the server's log, at most 16 KiB, over all its starts.
func (s *Server) LogTail() string {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-logTailSize):])
}
