package access_test

import (
	"testing"

	"github.com/eco2-team/eventbus/router/access"
)

func TestClient_IsTheLastAddressThatNoProxyIsTrustedFor(t *testing.T) {
	trusted, err := access.ParseProxies([]string{"10.0.0.0/8", "192.0.2.7", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer, forwarded, want string
	}{
		{"203.0.113.5:4711", "", "203.0.113.5"},
		{"203.0.113.5:4711", "198.51.100.1", "203.0.113.5"}, // a client's own word
		{"10.1.2.3:4711", "198.51.100.1", "198.51.100.1"},
		{"10.1.2.3:4711", "6.6.6.6, 198.51.100.1", "198.51.100.1"}, // it says who forged it
		{"10.1.2.3:4711", "6.6.6.6, 198.51.100.1, 192.0.2.7, 10.9.9.9", "198.51.100.1"},
		{"10.1.2.3:4711", "10.9.9.9", "10.9.9.9"}, // all are proxies: the first
		{"10.1.2.3:4711", "6.6.6.6, unknown", "10.1.2.3"},
		{"10.1.2.3:4711", "", "10.1.2.3"},
		{"[::ffff:10.1.2.3]:1", "198.51.100.1", "198.51.100.1"},
		{"[2001:db8:1:2:3:4:5:6]:1", "", "2001:db8:1:2::"},
		{"[fe80::1%eth0]:1", "", "fe80::"},
		{"[fd00::1]:1", "2001:db8::1", "2001:db8::"},
		{"nonsense", "198.51.100.1", "invalid IP"},
	} {
		if got := trusted.Client(c.peer, []string{c.forwarded}).String(); got != c.want {
			t.Errorf("%s, %q: %s; want %s", c.peer, c.forwarded, got, c.want)
		}
	}
	if got := trusted.Client("10.1.2.3:1", []string{"6.6.6.6", "198.51.100.1"}).String(); got != "198.51.100.1" {
		t.Errorf("two headers: %s", got)
	}
	if got := access.Proxies(nil).Client("10.1.2.3:1", []string{"6.6.6.6"}).String(); got != "10.1.2.3" {
		t.Errorf("without proxies: %s", got)
	}
	for _, s := range []string{"", "proxy", "10.0.0.0/33", "*"} {
		if _, err := access.ParseProxies([]string{s}); err == nil {
			t.Errorf("%q is a proxy", s)
		}
	}
}
