package access

import (
	"net/netip"
	"strings"
	"testing"
)

// TestAddress: services that name no address listen where server.yaml says, and on
// loopback as long as it says nothing.
func TestAddress(t *testing.T) {
	const rest = "users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVhYXEyv5bcCcwG8xH6T2CnHFvcFbbz0fVfPq1nG3ax]}}\ngroups: {administrators: [ada]}\n"
	for text, want := range map[string]string{
		"":                          "127.0.0.1",
		"address:\n":                "127.0.0.1",
		"address: 0.0.0.0\n":        "0.0.0.0",
		`address: "::"` + "\n":      "::",
		"address: 10.1.2.3\n":       "10.1.2.3",
		`address: "::ffff:1.2.3.4"`: "1.2.3.4",
	} {
		c, err := Parse(FileName, []byte(strings.TrimSuffix(text, "\n")+"\n"+rest))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := c.Resolve(netip.AddrPortFrom(netip.Addr{}, 80)); got.Addr().String() != want || got.Port() != 80 {
			t.Errorf("%q: services listen on %s, want %s", text, got, want)
		}
		named := netip.MustParseAddrPort("10.9.9.9:80")
		if got := c.Resolve(named); got != named {
			t.Errorf("%q: %s became %s", text, named, got)
		}
	}
	for _, text := range []string{"address: everywhere\n", "address: [0.0.0.0]\n", "address: 0.0.0.0:80\n",
		"address: fe80::1%eth0\n"} {
		if _, err := Parse(FileName, []byte(text+rest)); err == nil ||
			!strings.Contains(err.Error(), "is not an IP address") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := (*Config)(nil).Address(); got != Loopback {
		t.Errorf("no file: %s", got)
	}
}
