// Package certs makes TLS configurations of PEM files that are read again when
// they change, so that a certificate is renewed without a restart. Server and
// edge use it; it knows no protocol above TLS and starts nothing: the files are
// looked at when a connection begins, at most once a second.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how long files are believed not to have changed.
const lookEvery = time.Second

// Paths are PEM files; empty where there is none.
type Paths struct{ Cert, Key, CA string }

// Files are the contents of Paths. They are safe for concurrent use.
type Files struct {
	paths Paths
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex // guards what follows
	looked time.Time
	failed bool // the last reading; said once
	read   [3][]byte
	cert   *tls.Certificate
	pool   *x509.CertPool
}

// Load reads the files.
func Load(p Paths, log *slog.Logger) (*Files, error) {
	f := &Files{paths: p, log: log, now: time.Now}
	if err := f.load(); err != nil {
		return nil, err
	}
	f.looked = f.now()
	return f, nil
}

// load replaces all or, on an error, nothing: a renewal may be half written.
func (f *Files) load() error {
	var read [3][]byte
	for i, path := range []string{f.paths.Cert, f.paths.Key, f.paths.CA} {
		if path == "" {
			continue
		}
		var err error
		if read[i], err = os.ReadFile(path); err != nil { //nolint:gosec // the operator names the file
			return fmt.Errorf("TLS: %w", err)
		}
	}
	if f.read[0] != nil || f.read[2] != nil {
		same := true
		for i := range read {
			same = same && bytes.Equal(read[i], f.read[i])
		}
		if same {
			return nil
		}
	}
	var cert *tls.Certificate
	if f.paths.Cert != "" {
		pair, err := tls.X509KeyPair(read[0], read[1])
		if err != nil {
			return fmt.Errorf("TLS: %s and %s: %w", f.paths.Cert, f.paths.Key, err)
		}
		cert = &pair
	}
	var pool *x509.CertPool
	if f.paths.CA != "" {
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(read[2]) {
			return fmt.Errorf("TLS: %s holds no certificate", f.paths.CA)
		}
	}
	if f.cert != nil || f.pool != nil {
		f.log.Info("TLS files were read again", "certificate", f.paths.Cert, "ca", f.paths.CA)
	}
	f.read, f.cert, f.pool = read, cert, pool
	return nil
}

// current is what the files hold, or held when they last were good.
func (f *Files) current() (*tls.Certificate, *x509.CertPool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		err := f.load()
		if err != nil && !f.failed {
			f.log.Error("TLS files cannot be used; those read before stay", "error", err)
		}
		f.failed = err != nil
	}
	return f.cert, f.pool
}

// Server is the configuration of a server. With a CA, clients must show a
// certificate of it.
func (f *Files) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		// net/http wants to see one of them; the configuration below has the other.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, _ := f.current()
			return cert, nil
		},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, pool := f.current()
			if cert == nil {
				return nil, errors.New("TLS: no certificate")
			}
			c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{*cert}}
			if pool != nil {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool
				// A resumed session would bring a certificate of a CA that has gone.
				c.SessionTicketsDisabled = true
			}
			return c, nil
		},
	}
}

// Client is the configuration of one connection that begins now; name is the
// server's. Without a CA the system's are trusted.
func (f *Files) Client(name string) *tls.Config {
	cert, pool := f.current()
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, RootCAs: pool}
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	return c
}
