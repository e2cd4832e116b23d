package access

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/eco2-team/eventbus/router/event"
)

// Proxies are the addresses whose word about their clients is taken. The zero
// value trusts nobody.
type Proxies []netip.Prefix

// ParseProxies reads CIDRs and single addresses; the error names the setting
// TRUSTED_PROXIES.
func ParseProxies(list []string) (Proxies, *event.Error) {
	var out Proxies
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, addrErr := netip.ParseAddr(s); err != nil && addrErr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, event.Refuse(event.Violate("TRUSTED_PROXIES", s, "must be an address or a CIDR, as 10.0.0.0/8"))
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Client is the address that a call comes from: the peer's, or where that is a
// trusted proxy, the last in X-Forwarded-For that is none. Of IPv6 it is the /64,
// which is one customer. It is invalid where peer is no host:port or address.
func (p Proxies) Client(peer string, forwarded []string) netip.Addr {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		host = peer
	}
	at := parseAddr(host)
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !p.trusts(at) {
			break
		}
		next := parseAddr(strings.TrimSpace(hop))
		if !next.IsValid() {
			break // what stands before it is not the proxies' word
		}
		at = next
	}
	if at.Is6() {
		if network, err := at.WithZone("").Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return at
}

func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

func (p Proxies) trusts(a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(a.WithZone("")) })
}
