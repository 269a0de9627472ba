package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// signInView is the page that takes the one-time code.
type signInView struct {
	Code, To, Problem string
	Command           string
}

func signInForm(q *request) error {
	if own := q.ownAddress(); own != "" && !q.wantsJSON() {
		http.Redirect(q.w, q.r, own, http.StatusTemporaryRedirect)
		return nil
	}
	query := q.r.URL.Query()
	view := signInView{Code: cut(strings.TrimSpace(query.Get("code")), 64), To: q.localAddress(query.Get("to"))}
	if q.actor.User != "" && view.Code == "" {
		http.Redirect(q.w, q.r, view.To, http.StatusSeeOther)
		return nil
	}
	return q.showSignIn(view, http.StatusOK)
}

func (q *request) showSignIn(view signInView, status int) error {
	view.Command = q.ssh("login")
	if q.wantsJSON() {
		return q.writeJSON(status, map[string]string{"error": view.Problem, "hint": view.Command})
	}
	title := "Sign in"
	if view.Problem != "" {
		title = "Not signed in"
	}
	return q.render(&page{Title: title, Template: "signin", Bare: true, Data: view}, status)
}

// signIn consumes the code and opens the session.
func signIn(q *request) error {
	if own := q.ownAddress(); own != "" {
		return &show.Error{
			Kind: show.Forbidden,
			What: "no session is opened at this address: services of this machine would be sent it too",
			Hint: "sign in at " + own,
		}
	}
	view := signInView{To: q.localAddress(q.form("to"))}
	if wait := q.attempts.Take(q.r.RemoteAddr, q.now); wait > 0 {
		q.w.Header().Set("Retry-After", "60")
		view.Problem = "Too many codes were tried. Wait a minute, then try again; no code was used up."
		return q.showSignIn(view, http.StatusTooManyRequests)
	}
	code := strings.TrimSpace(q.form("code"))
	if code == "" || len(code) > 64 {
		view.Problem = "Type the code that the command prints."
		return q.showSignIn(view, http.StatusUnprocessableEntity)
	}
	user, ok := q.Login.Redeem(code)
	if !ok {
		q.Log.Info("refused a sign-in code", "remote", q.r.RemoteAddr)
		view.Problem = "This code is not valid: it was used already, is older than two minutes, or is mistyped. Print a new one."
		return q.showSignIn(view, http.StatusForbidden)
	}
	if _, ok := q.Actor(q.r.Context(), user); !ok {
		q.Log.Warn("refused a sign-in for a user that is gone", "user", user)
		view.Problem = "The code was right, but its user no longer exists. Ask an administrator of this server."
		return q.showSignIn(view, http.StatusForbidden)
	}
	q.sessions.begin(q.w, user, q.r.RemoteAddr, q.now)
	q.Log.Info("signed in to the console", "user", user, "remote", q.r.RemoteAddr)
	if q.wantsJSON() {
		return q.writeJSON(http.StatusOK, show.Done{What: "signed in as " + user})
	}
	http.Redirect(q.w, q.r, view.To, http.StatusSeeOther)
	return nil
}

func signOut(q *request) error {
	q.sessions.end(q.w, q.r, q.now)
	if q.actor.User != "" {
		q.Log.Info("signed out of the console", "user", q.actor.User)
	}
	if q.wantsJSON() {
		return q.writeJSON(http.StatusOK, show.Done{What: "signed out"})
	}
	http.Redirect(q.w, q.r, "/sign-in", http.StatusSeeOther)
	return nil
}

// localAddress is to when it is an address of this console, else home.
func (q *request) localAddress(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || ambiguousPath(u) {
		return "/"
	}
	if rt := q.routeOf(u.Path); rt == nowhereRoute || rt.events || rt.page == nil && rt.act != nil {
		return "/"
	}
	return u.RequestURI()
}
