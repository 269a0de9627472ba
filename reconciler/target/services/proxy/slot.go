package proxy

import (
	"hash/fnv"
	"net/http"
	"strconv"
)

// slots says which requests go to the version that is to take over. Visitors have one
// of a hundred slots; those below the weight are moved, so that one who was moved
// stays so while the weight grows.
type slots struct{ given int }

// turn is the slot of a request that nobody remembers. Any hundred in a row are all of
// them, spread evenly.
func (s *slots) turn() int {
	s.given = (s.given + 61) % 100 // 61 and 100 have no common divisor
	return s.given
}

// assign decides which version a request is for, and sets the cookie that remembers it.
func (p *Pool) assign(f *flight, w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settings.Test != "" && len(p.next) > 0 && r.Header.Get(p.settings.Test) != "" {
		f.next = true
		return
	}
	switch {
	case p.weight <= 0:
	case p.weight >= 100:
		f.next = true
	default:
		f.next = p.slot(w, r) < p.weight
	}
}

func (p *Pool) slot(w http.ResponseWriter, r *http.Request) int {
	name := p.settings.Sticky
	if name == "" {
		return p.slots.turn()
	}
	cookie, err := r.Cookie(name)
	if err == nil && name != OwnCookie {
		h := fnv.New32a()
		_, _ = h.Write([]byte(cookie.Value)) // a hash takes everything
		return int(h.Sum32() % 100)
	}
	if err == nil {
		if slot, err := strconv.Atoi(cookie.Value); err == nil && slot >= 0 && slot < 100 {
			return slot
		}
	}
	slot := p.slots.turn()
	if name == OwnCookie {
		http.SetCookie(w, &http.Cookie{
			Name:     name,
			Value:    strconv.Itoa(slot),
			Path:     "/",
			Secure:   r.TLS != nil,
			HttpOnly: true,
			SameSite: http.SameSiteLaxMode,
		})
	}
	return slot
}
