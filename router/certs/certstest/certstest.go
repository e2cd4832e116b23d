// Package certstest makes certificate authorities and certificates for tests, as
// the files that router/certs reads.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/certs"
)

// CA is a certificate authority, with its certificate in a file.
type CA struct {
	// File is its certificate in PEM.
	File string
	Pool *x509.CertPool

	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes a CA that lives as long as the test.
func New(tb testing.TB) *CA {
	tb.Helper()
	ca := &CA{tb: tb, File: filepath.Join(tb.TempDir(), "ca.pem"), Pool: x509.NewCertPool()}
	ca.key = newKey(tb)
	template := &x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{CommonName: "certstest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	must(tb, err)
	ca.cert, err = x509.ParseCertificate(der)
	must(tb, err)
	ca.Pool.AddCert(ca.cert)
	write(tb, ca.File, "CERTIFICATE", der)
	return ca
}

// Issue makes a certificate for 127.0.0.1 and the names, for servers and clients,
// in files of its own.
func (ca *CA) Issue(names ...string) certs.Paths {
	ca.tb.Helper()
	dir := ca.tb.TempDir()
	p := certs.Paths{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: ca.File}
	ca.Renew(p, names...)
	return p
}

// Renew writes another certificate into the files.
func (ca *CA) Renew(p certs.Paths, names ...string) {
	ca.tb.Helper()
	key := newKey(ca.tb)
	template := &x509.Certificate{
		SerialNumber: serial(ca.tb), Subject: pkix.Name{CommonName: "certstest"},
		NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	must(ca.tb, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(ca.tb, err)
	write(ca.tb, p.Cert, "CERTIFICATE", der)
	write(ca.tb, p.Key, "PRIVATE KEY", keyDER)
}

// Client is a configuration that trusts the CA, with a certificate where the paths
// name one.
func (ca *CA) Client(p certs.Paths) *tls.Config {
	ca.tb.Helper()
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.Pool}
	if p.Cert != "" {
		pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		must(ca.tb, err)
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	return key
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(tb, err)
	return n
}

func write(tb testing.TB, path, kind string, der []byte) {
	tb.Helper()
	must(tb, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
