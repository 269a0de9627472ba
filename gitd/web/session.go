package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate-cd/headgate/gitd/attempts"
	"github.com/headgate-cd/headgate/gitd/show"
)

// sessionLife is how long a session lasts from sign-in.
const sessionLife = 12 * time.Hour

// session is what the cookie says. It holds no rights: those are looked up.
//
// Cookies know no ports: every service that the browser reaches on the console's
// host is sent this one, and could replay it. So it is good only from where it
// was opened, and an act takes the session's form token besides.
type session struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	From    string    `json:"from"` // the network that it was opened from
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
}

// sessions makes and checks cookies. Safe for concurrent use.
type sessions struct {
	key    []byte
	secure atomic.Bool // cookies go over https only

	mu sync.Mutex // guards ended
	// ended holds the sessions that were signed out, until they would have
	// expired. A restart forgets it; the browser has dropped the cookie anyway.
	ended map[string]time.Time
}

func newSessions(key []byte) *sessions {
	return &sessions{key: append([]byte(nil), key...), ended: map[string]time.Time{}}
}

// sign seals a value for one purpose; a value sealed for another does not open.
func (s *sessions) sign(purpose string, v any) string {
	body, err := json.Marshal(v)
	if err != nil {
		panic("web: sealing " + purpose + ": " + err.Error()) // our own struct of strings and times
	}
	return base64.RawURLEncoding.EncodeToString(body) + "." + base64.RawURLEncoding.EncodeToString(s.mac(purpose, body))
}

func (s *sessions) open(purpose, sealed string, v any) bool {
	if len(sealed) > 4096 {
		return false
	}
	b, m, ok := strings.Cut(sealed, ".")
	if !ok {
		return false
	}
	body, err := base64.RawURLEncoding.DecodeString(b)
	if err != nil {
		return false
	}
	mac, err := base64.RawURLEncoding.DecodeString(m)
	if err != nil || !hmac.Equal(mac, s.mac(purpose, body)) {
		return false
	}
	return json.Unmarshal(body, v) == nil
}

func (s *sessions) mac(purpose string, body []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte("headgate " + purpose + " 1\n"))
	h.Write(body)
	return h.Sum(nil)
}

// cookieName carries the __Host- prefix where browsers honour it: no other
// host, path or plain-text page can then plant the cookie.
func (s *sessions) cookieName(name string) string {
	if s.secure.Load() {
		return "__Host-headgate-" + name
	}
	return "headgate-" + name
}

func (s *sessions) cookie(name, value string, life time.Duration) *http.Cookie {
	c := &http.Cookie{
		Name: s.cookieName(name), Value: value, Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, Secure: s.secure.Load(), SameSite: http.SameSiteStrictMode,
	}
	if life <= 0 {
		c.MaxAge = -1
	}
	return c
}

// begin opens a session for user, who asks from remote.
func (s *sessions) begin(w http.ResponseWriter, user, remote string, now time.Time) {
	opened := session{
		ID:      rand.Text(),
		User:    user,
		From:    attempts.Network(remote).String(),
		Issued:  now.UTC(),
		Expires: now.UTC().Add(sessionLife),
	}
	http.SetCookie(w, s.cookie("session", s.sign("session", opened), sessionLife))
}

// token is what the forms of a session's pages carry: a page of another origin
// cannot read it, and another session's is not taken.
func (s *sessions) token(of session) string {
	return base64.RawURLEncoding.EncodeToString(s.mac("form", []byte(of.ID)))
}

// holds reports whether a form that was sent carries the session's token.
func (s *sessions) holds(of session, token string) bool {
	return hmac.Equal([]byte(token), []byte(s.token(of)))
}

// end closes the session of r, here and in the browser.
func (s *sessions) end(w http.ResponseWriter, r *http.Request, now time.Time) {
	if c, ok := s.current(r, now); ok {
		s.mu.Lock()
		for id, until := range s.ended {
			if now.After(until) {
				delete(s.ended, id)
			}
		}
		s.ended[c.ID] = c.Expires
		s.mu.Unlock()
	}
	http.SetCookie(w, s.cookie("session", "", -1))
}

// current is the session that r proves, if it does.
func (s *sessions) current(r *http.Request, now time.Time) (session, bool) {
	c, err := r.Cookie(s.cookieName("session"))
	if err != nil {
		return session{}, false
	}
	var got session
	if !s.open("session", c.Value, &got) || got.User == "" || !now.Before(got.Expires) ||
		got.Issued.After(now.Add(time.Minute)) || got.From != attempts.Network(r.RemoteAddr).String() {
		return session{}, false
	}
	s.mu.Lock()
	_, over := s.ended[got.ID]
	s.mu.Unlock()
	return got, !over
}

// know finds out who visits, without asking anything of them.
func (q *request) know() bool {
	if q.ownAddress() != "" {
		return false
	}
	c, ok := q.sessions.current(q.r, q.now)
	if !ok {
		return false
	}
	a, ok := q.Actor(q.r.Context(), c.User)
	if !ok {
		return false
	}
	a.Via = "console"
	q.actor, q.session = a, c
	return true
}

// ownAddress is where this request belongs when the console has a name of its own
// and was reached by another one, which services of this machine are reached by
// too; "" when it is right here.
func (q *request) ownAddress() string {
	base, err := url.Parse(q.server.HTTP)
	if err != nil || base.Hostname() != show.ConsoleHost {
		return ""
	}
	here := url.URL{Host: q.r.Host}
	if strings.EqualFold(here.Hostname(), show.ConsoleHost) {
		return ""
	}
	return q.server.HTTP + q.r.URL.RequestURI()
}

// signIn is know for addresses that need somebody: it answers those who are
// nobody, and says whether to go on.
func (q *request) signIn() bool {
	if q.know() {
		return true
	}
	if q.wantsJSON() || q.r.Method != http.MethodGet && q.r.Method != http.MethodHead ||
		strings.HasSuffix(q.r.URL.Path, "/events") {
		q.fail(&unknownError{hint: q.ssh("login") + " prints an address that signs this browser in"})
		return false
	}
	if own := q.ownAddress(); own != "" {
		http.Redirect(q.w, q.r, own, http.StatusTemporaryRedirect)
		return false
	}
	to := q.r.URL.RequestURI()
	where := "/sign-in"
	if to != "/" {
		where += "?to=" + url.QueryEscape(to)
	}
	if q.r.Header.Get("Sec-Fetch-Site") == "cross-site" && q.r.Header.Get("Sec-Fetch-Mode") == "navigate" {
		// Somebody followed a link from a chat or a mail: the browser keeps a
		// strict cookie back. It sends it once our own page asks.
		q.w.Header().Set("Refresh", "0; url="+where)
		if err := q.render(&page{Title: "Opening", Template: "opening", Bare: true, Data: where}, http.StatusOK); err != nil {
			q.fail(err)
		}
		return false
	}
	http.Redirect(q.w, q.r, where, http.StatusSeeOther)
	return false
}

// unknownError asks for a session.
type unknownError struct{ hint string }

func (e *unknownError) Error() string { return "not signed in" }

// flash carries what an act did over the redirect to the page that shows it.
type flash struct {
	User string    `json:"user"`
	At   time.Time `json:"at"`
	show.Done
}

// setFlash keeps what was done for the next page of this user.
func (q *request) setFlash(d show.Done) {
	http.SetCookie(q.w, q.sessions.cookie("flash",
		q.sessions.sign("flash", flash{User: q.actor.User, At: q.now.UTC(), Done: d}), time.Minute))
}

// takeFlash takes what setFlash kept, once.
func (q *request) takeFlash() *show.Done {
	c, err := q.r.Cookie(q.sessions.cookieName("flash"))
	if err != nil {
		return nil
	}
	http.SetCookie(q.w, q.sessions.cookie("flash", "", -1))
	var d flash
	if !q.sessions.open("flash", c.Value, &d) || d.User != q.actor.User || q.now.Sub(d.At) > time.Minute {
		return nil
	}
	return &d.Done
}
