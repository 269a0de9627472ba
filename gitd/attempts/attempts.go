// Package attempts limits how often a secret may be tried from one place.
package attempts

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bounds: what is guessed has 2^50 spellings or more; these leave a guesser no
// chance and an honest typist plenty.
const (
	Each = 10   // a minute, for one network
	All  = 300  // a minute, for all together
	kept = 4096 // networks remembered at once
)

// Limiter counts attempts by network in windows of a minute. The zero Limiter is
// ready; it is safe for concurrent use.
type Limiter struct {
	mu     sync.Mutex // guards the rest
	window time.Time
	all    int
	each   map[netip.Prefix]int
}

// Take uses up one attempt, or says how long to wait for the next.
func (l *Limiter) Take(remote string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := now.Sub(l.window); l.each == nil || since >= time.Minute || since < 0 {
		l.window, l.all, l.each = now, 0, map[netip.Prefix]int{}
	}
	wait := l.window.Add(time.Minute).Sub(now)
	who := Network(remote)
	if l.all >= All || l.each[who] >= Each || len(l.each) >= kept && l.each[who] == 0 {
		return wait
	}
	l.all++
	l.each[who]++
	return 0
}

// Network is the network of a client: its address, or of IPv6 the /64. All of
// loopback is one, for a browser on this machine uses both families by turns.
func Network(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{} // unknown addresses share one count
	}
	if a = a.Unmap(); a.IsLoopback() {
		a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
