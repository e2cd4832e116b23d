package certs_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eco2-team/eventbus/router/certs"
	"github.com/eco2-team/eventbus/router/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T, p certs.Paths, log *slog.Logger) *certs.Files {
	t.Helper()
	f, err := certs.Load(p, log)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// shake does one handshake, and says a byte each way so that both sides have had
// their word.
func shake(t *testing.T, server, client *tls.Config) (seen tls.ConnectionState, err error) {
	t.Helper()
	a, b := connect(t)
	deadline := time.Now().Add(time.Minute)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	client = client.Clone()
	if client.ServerName == "" {
		client.ServerName = "127.0.0.1"
	}
	s, c := tls.Server(a, server), tls.Client(b, client)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer func() { _, _ = a.Close(), b.Close() }()
	wait.Go(func() {
		if s.HandshakeContext(t.Context()) == nil {
			_, _ = s.Write([]byte{1})
		}
		_ = a.Close()
	})
	if err := c.HandshakeContext(t.Context()); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = c.Read(make([]byte, 1))
	return c.ConnectionState(), err
}

// connect makes two ends of a connection. (A net.Pipe has no room for two that
// speak at once, as TLS may.)
func connect(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if b, err = new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if a, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// becomes waits for a renewal to be seen.
func becomes(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func names(s tls.ConnectionState) string {
	if len(s.PeerCertificates) == 0 {
		return ""
	}
	return strings.Join(s.PeerCertificates[0].DNSNames, " ")
}

func TestServer_ShowsTheRenewedCertificateWithoutARestart(t *testing.T) {
	ca := certstest.New(t)
	p := ca.Issue("first")
	p.CA = ""
	server := load(t, p, slog.New(slog.DiscardHandler)).Server("h2")
	client := ca.Client(certs.Paths{})
	client.NextProtos = []string{"h2"}
	s, err := shake(t, server, client)
	if err != nil || names(s) != "first" || s.NegotiatedProtocol != "h2" {
		t.Fatalf("%v: %s, %s", err, names(s), s.NegotiatedProtocol)
	}
	ca.Renew(p, "second")
	becomes(t, "the second certificate", func() bool { s, err := shake(t, server, client); return err == nil && names(s) == "second" })
}

func TestServer_TakesClientsOfItsCAOnlyAndFollowsTheCA(t *testing.T) {
	ca, other := certstest.New(t), certstest.New(t)
	p := ca.Issue("server")
	server := load(t, p, slog.New(slog.DiscardHandler)).Server()
	mine, foreign := ca.Client(ca.Issue("edge")), ca.Client(other.Issue("edge"))
	mine.ClientSessionCache, foreign.ClientSessionCache = tls.NewLRUClientSessionCache(8), tls.NewLRUClientSessionCache(8)
	if _, err := shake(t, server, mine); err != nil {
		t.Errorf("a client of the CA: %v", err)
	}
	if _, err := shake(t, server, foreign); err == nil {
		t.Error("a client of another CA was let in")
	}
	if _, err := shake(t, server, ca.Client(certs.Paths{})); err == nil {
		t.Error("a client without a certificate was let in")
	}
	text, err := os.ReadFile(other.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.CA, text, 0o600); err != nil {
		t.Fatal(err)
	}
	becomes(t, "the other CA's clients", func() bool { _, err := shake(t, server, foreign); return err == nil })
	// Not by a resumed session, either.
	if _, err := shake(t, server, mine); err == nil {
		t.Error("a client of the CA that has gone was let in")
	}
}

func TestClient_FollowsTheCA(t *testing.T) {
	ca, other := certstest.New(t), certstest.New(t)
	first, second := ca.Issue("router"), other.Issue("router")
	first.CA, second.CA = "", ""
	files := load(t, certs.Paths{CA: ca.File}, slog.New(slog.DiscardHandler))
	servers := []*tls.Config{load(t, first, nil).Server(), load(t, second, nil).Server()}
	if _, err := shake(t, servers[0], files.Client("router")); err != nil {
		t.Error(err)
	}
	if _, err := shake(t, servers[0], files.Client("another")); err == nil {
		t.Error("a server of another name is trusted")
	}
	if _, err := shake(t, servers[1], files.Client("router")); err == nil {
		t.Error("a server of another CA is trusted")
	}
	text, err := os.ReadFile(other.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.File, text, 0o600); err != nil {
		t.Fatal(err)
	}
	becomes(t, "the other CA's server", func() bool { _, err := shake(t, servers[1], files.Client("router")); return err == nil })
}

// A renewal may be seen half written, and an operator may err: what was good
// stays, it is said once, and the key is not in the log.
func TestServer_BadFilesLeaveWhatWasReadBefore(t *testing.T) {
	ca := certstest.New(t)
	p := ca.Issue("first")
	p.CA = ""
	var mu sync.Mutex
	var log bytes.Buffer
	said := func() string { mu.Lock(); defer mu.Unlock(); return log.String() }
	files := load(t, p, slog.New(slog.NewTextHandler(locked{&mu, &log}, nil)))
	server, client := files.Server(), ca.Client(certs.Paths{})
	newer := ca.Issue("second")
	cert, err := os.ReadFile(newer.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Cert, cert, 0o600); err != nil { // without its key
		t.Fatal(err)
	}
	becomes(t, "an error in the log", func() bool {
		s, err := shake(t, server, client)
		if err != nil || names(s) != "first" {
			t.Fatalf("%v: %s", err, names(s))
		}
		return strings.Contains(said(), "cannot be used")
	})
	key, err := os.ReadFile(newer.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	becomes(t, "the second certificate", func() bool { s, err := shake(t, server, client); return err == nil && names(s) == "second" })
	if n := strings.Count(said(), "cannot be used"); n != 1 || strings.Contains(said(), "PRIVATE") || strings.Contains(said(), string(key[40:80])) {
		t.Errorf("the log: %s", said())
	}
}

func TestLoad_NamesTheBadFile(t *testing.T) {
	ca, empty := certstest.New(t), t.TempDir()+"/empty"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := ca.Issue()
	for name, bad := range map[string]certs.Paths{
		"/nowhere": {Cert: "/nowhere", Key: p.Key},
		p.Cert:     {Cert: p.Cert, Key: p.Cert},
		empty:      {CA: empty},
	} {
		if _, err := certs.Load(bad, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

type locked struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
