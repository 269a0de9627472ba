package event

import (
	"fmt"
	"net/netip"
	"syscall"
)

// Networks whose addresses are not somebody else's: what answers there trusts
// whoever is inside (spec security.md, SSRF). Loopback, private, link-local,
// multicast and unspecified addresses are known to package netip.
var insideNetworks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared by carriers, and by clouds for their own services
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
}

// Prefixes of IPv6 addresses that hold an IPv4 address, and at which byte.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
	{netip.MustParsePrefix("::/96"), 12},
}

// inside reports whether an address may be a machine that trusts its network.
func inside(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	switch {
	case a.IsLoopback(), a.IsPrivate(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(),
		a.IsInterfaceLocalMulticast():
		return true
	}
	for _, n := range insideNetworks {
		if n.Contains(a) {
			return true
		}
	}
	for _, e := range embedding {
		if e.prefix.Contains(a) {
			bytes := a.As16()
			return inside(netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])))
		}
	}
	return false
}

// addressError is why an endpoint is not spoken to.
type addressError struct{ addr netip.Addr }

func (e addressError) Error() string {
	return fmt.Sprintf("%s is an address inside: give its network as allow", e.addr)
}

// control refuses connections to addresses inside, but for those allowed. It
// sees what a name was resolved to, each time: names that lead elsewhere the
// second time gain nothing.
func control(allow []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		addr := at.Addr().Unmap()
		for _, n := range allow {
			if n.Contains(addr) {
				return nil
			}
		}
		if inside(addr) {
			return addressError{addr}
		}
		return nil
	}
}
