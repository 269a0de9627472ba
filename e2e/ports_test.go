package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// given are the ports that freePorts gave already.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// freePorts returns the first of n free ports of 127.0.0.1 in a row. They lie
// below those that the kernel hands out by itself, so that nobody is given one
// of them while a server that will come back to it is down.
func freePorts(n int) (int, error) {
	const lowest = 10240
	highest := 32768
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(text), &highest) // else it stays Linux's own default
	}
	if highest < lowest+1000 {
		return 0, fmt.Errorf("the kernel hands out ports from %d on: too few are left below", highest)
	}
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		first := lowest + rand.IntN(highest-n-lowest)
		if free(first, n) {
			for port := range n {
				given.ports[first+port] = true
			}
			return first, nil
		}
	}
	return 0, errors.New("no free ports")
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		if given.ports[port] {
			return false
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
