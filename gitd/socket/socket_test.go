package socket

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestHolder(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err) // a machine without IPv6
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port
		if got := Holder(port); !strings.HasSuffix(got, fmt.Sprintf(" (process %d)", os.Getpid())) ||
			strings.HasPrefix(got, " ") {
			t.Errorf("%s is held by %q", l.Addr(), got)
		}
		l.Close()
		if got := Holder(port); strings.Contains(got, fmt.Sprint(os.Getpid())) {
			t.Errorf("%s is free, and held by %q", l.Addr(), got)
		}
	}
}
