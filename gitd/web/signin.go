package web

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// signInView is the page that takes the one-time code.
type signInView struct {
	Code, To, Problem string
	Command           string
}

func signInForm(v *visit) error {
	q := v.r.URL.Query()
	view := signInView{Code: cut(strings.TrimSpace(q.Get("code")), 64), To: localAddress(q.Get("to"))}
	if v.actor.Name != "" && view.Code == "" {
		http.Redirect(v.w, v.r, view.To, http.StatusSeeOther)
		return nil
	}
	return v.showSignIn(view, http.StatusOK)
}

func (v *visit) showSignIn(view signInView, status int) error {
	view.Command = v.ssh("login")
	if v.wantsJSON() {
		return v.writeJSON(status, map[string]string{"error": view.Problem, "hint": view.Command})
	}
	title := "Sign in"
	if view.Problem != "" {
		title = "Not signed in"
	}
	return v.render(&page{Title: title, Template: "signin", Bare: true, Data: view}, status)
}

// signIn consumes the code and opens the session.
func signIn(v *visit) error {
	view := signInView{To: localAddress(v.form("to"))}
	if wait := v.attempts.take(v.r.RemoteAddr, v.now); wait > 0 {
		v.w.Header().Set("Retry-After", "60")
		view.Problem = "Too many codes were tried. Wait a minute, then try again; no code was used up."
		return v.showSignIn(view, http.StatusTooManyRequests)
	}
	code := strings.TrimSpace(v.form("code"))
	if code == "" || len(code) > 64 {
		view.Problem = "Type the code that the command prints."
		return v.showSignIn(view, http.StatusUnprocessableEntity)
	}
	user, ok := v.Login.Redeem(code)
	if !ok {
		v.Log.Info("refused a sign-in code", "remote", v.r.RemoteAddr)
		view.Problem = "This code is not valid: it was used already, is older than two minutes, or is mistyped. Print a new one."
		return v.showSignIn(view, http.StatusForbidden)
	}
	if _, ok := v.Actor(v.r.Context(), user); !ok {
		v.Log.Warn("refused a sign-in for a user that is gone", "user", user)
		view.Problem = "The code was right, but its user no longer exists. Ask an administrator of this server."
		return v.showSignIn(view, http.StatusForbidden)
	}
	v.sessions.begin(v.w, user, v.now)
	v.Log.Info("signed in to the console", "user", user, "remote", v.r.RemoteAddr)
	if v.wantsJSON() {
		return v.writeJSON(http.StatusOK, show.Done{What: "signed in as " + user})
	}
	http.Redirect(v.w, v.r, view.To, http.StatusSeeOther)
	return nil
}

func signOut(v *visit) error {
	v.sessions.end(v.w, v.r, v.now)
	if v.actor.Name != "" {
		v.Log.Info("signed out of the console", "user", v.actor.Name)
	}
	if v.wantsJSON() {
		return v.writeJSON(http.StatusOK, show.Done{What: "signed out"})
	}
	http.Redirect(v.w, v.r, "/sign-in", http.StatusSeeOther)
	return nil
}

// localAddress is to when it is an address of this console, else home.
func localAddress(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || odd(u) {
		return "/"
	}
	if rt, _ := match(u.Path); rt == nil || rt.events || rt.page == nil && rt.act != nil {
		return "/"
	}
	return u.RequestURI()
}

// Sign-in attempts: a code has 2^50 spellings and two minutes; these bounds
// leave a guesser no chance and an honest typist plenty.
const (
	attemptsEach = 10   // a minute, for one address (an IPv6 /64)
	attemptsAll  = 300  // a minute, for all together
	attemptsKept = 4096 // addresses remembered at once
)

// limiter counts attempts by remote address in windows of a minute. Safe for
// concurrent use.
type limiter struct {
	mu     sync.Mutex // guards the rest
	window time.Time
	all    int
	each   map[netip.Prefix]int
}

func newLimiter() *limiter { return &limiter{each: map[netip.Prefix]int{}} }

// take uses up one attempt, or says how long to wait for the next.
func (l *limiter) take(remote string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := now.Sub(l.window); since >= time.Minute || since < 0 {
		l.window, l.all = now, 0
		clear(l.each)
	}
	wait := l.window.Add(time.Minute).Sub(now)
	who := prefix(remote)
	if l.all >= attemptsAll || l.each[who] >= attemptsEach || len(l.each) >= attemptsKept && l.each[who] == 0 {
		return wait
	}
	l.all++
	l.each[who]++
	return 0
}

func prefix(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{} // unknown addresses share one count
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
