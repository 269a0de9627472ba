package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// problem is the error page, and the error as JSON.
type problem struct {
	Status  int       `json:"status"`
	Kind    show.Kind `json:"kind,omitempty"`
	What    string    `json:"error"`
	Where   []string  `json:"where,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	ID      string    `json:"id,omitempty"` // finds the line in the server's journal
	Nearest []link    `json:"nearest,omitempty"`
	Safe    string    `json:"-"` // what is still safe
	SignIn  string    `json:"-"` // where nobody becomes somebody, and comes back
	Request string    `json:"-"`
}

// link is an address with its name.
type link struct {
	Text string `json:"text"`
	Href string `json:"href"`
}

// nearby is an error that knows what exists near the address that does not.
type nearby struct {
	err     error
	nearest []link
}

func (e *nearby) Error() string { return e.err.Error() }
func (e *nearby) Unwrap() error { return e.err }

// fail answers with err: *show.Error for the person who asked, anything else
// as the server's own fault, with an id that finds the journal's line.
func (q *request) fail(err error) {
	out, _ := q.w.(*outcome)
	if err == nil {
		return
	}
	var other *elsewhere
	if errors.As(err, &other) && (out == nil || !out.started) {
		http.Redirect(q.w, q.r, other.to, http.StatusSeeOther)
		return
	}
	if q.r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // the visitor has left, or the server stops
	}
	if out != nil && out.started {
		q.Log.Error("broke off an answer", "path", q.r.URL.Path, "user", q.actor.User, "err", err)
		return
	}
	p := q.problem(err)
	if p.Status == http.StatusServiceUnavailable {
		q.w.Header().Set("Retry-After", "5")
	}
	for _, name := range []string{"Content-Length", "ETag"} {
		q.w.Header().Del(name)
	}
	q.w.Header().Set("Cache-Control", "no-store")
	if q.wantsJSON() {
		if err := q.writeJSON(p.Status, p); err != nil {
			q.Log.Error("could not write an error", "path", q.r.URL.Path, "err", err)
		}
		return
	}
	pg := &page{Title: q.Sentence(p.What), Template: "problem", Data: p, Bare: q.actor.User == ""}
	pg.Crumbs = []crumb{{Text: q.server.Name, Href: "/", Keep: true}, {Text: strings.ToLower(http.StatusText(p.Status))}}
	if err := q.render(pg, p.Status); err != nil {
		q.Log.Error("could not render the error page", "path", q.r.URL.Path, "err", err)
		http.Error(q.w, p.What, p.Status)
	}
}

// problem turns an error into words and a status.
func (q *request) problem(err error) *problem {
	p := &problem{Request: q.r.Method + " " + cut(q.r.URL.Path, 200), SignIn: "/sign-in"}
	var near *nearby
	if errors.As(err, &near) {
		p.Nearest = near.nearest
	}
	var method *methodError
	var unknown *unknownError
	var names *show.Error
	switch {
	case errors.As(err, &method):
		p.Status, p.What = http.StatusMethodNotAllowed, method.Error()
		p.Hint = "this address answers " + method.allow
	case errors.As(err, &unknown):
		p.Status, p.Kind, p.What, p.Hint = http.StatusUnauthorized, show.Forbidden, unknown.Error(), unknown.hint
		p.SignIn += "?to=" + url.QueryEscape(q.r.URL.Path)
		if q.r.Method == http.MethodPost {
			p.Safe = "Your session is over, so nothing was done. Sign in, and do it again."
		}
	case errors.As(err, &names):
		p.Status, p.Kind, p.What, p.Where, p.Hint = status(names.Kind), names.Kind, names.What, names.Where, names.Advice(
			q.Backend.Server(q.r.Context()).Login())
	default:
		p.Status, p.ID = http.StatusInternalServerError, newID()
		p.What = "the server could not answer this"
		p.Safe = "Nothing was changed by looking. What has landed, and every verdict, is in Git."
		if q.r.Method == http.MethodPost {
			p.Safe = "It is not certain what became of it: look at the page before you do it again. What has landed is in Git."
		}
		p.Hint = "try again; if it stays, give your operator this id: it finds the line in the server's journal"
		q.Log.Error("could not answer", "id", p.ID, "method", q.r.Method, "path", q.r.URL.Path, "user",
			q.actor.User, "err", err)
	}
	if p.What == "" {
		p.What = "the server refused this"
	}
	return p
}

// crashed answers for a page whose code panicked.
func (q *request) crashed(p any, out *outcome) {
	q.Log.Error("panicked", "path", q.r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if out.started {
		panic(http.ErrAbortHandler) // break the connection: half an answer must not look whole
	}
	q.fail(fmt.Errorf("panic: %v", p))
}

func status(k show.Kind) int {
	switch k {
	case show.NotFound:
		return http.StatusNotFound
	case show.Forbidden:
		return http.StatusForbidden
	case show.Denied, show.Waiting:
		return http.StatusConflict
	case show.Usage:
		return http.StatusBadRequest
	case show.Again:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails; crashes the program instead
	s := hex.EncodeToString(b[:])
	return s[:4] + "-" + s[4:]
}

// nowhere is the error for an address no route has: it names the nearest that
// exists.
func (q *request) nowhere() error {
	seg := strings.Split(strings.Trim(q.r.URL.Path, "/"), "/")
	r, err := q.Backend.Repository(q.r.Context(), q.actor, seg[0])
	if err != nil {
		return q.noRepository(seg[0], notFound("there is nothing at "+cut(q.r.URL.Path, 120), ""))
	}
	base := "/" + r.Name
	words := map[string]string{"queue": base + "/queue", "changes": base + "/changes", "env": base + "/env",
		"releases": base + "/releases", "tests": base + "/tests", "commits": base +
			"/commits", "decisions": base + "/decisions"}
	near := link{Text: r.Name, Href: base}
	if len(seg) > 1 {
		if w := nearest(seg[1], []string{"queue", "changes", "env", "environments", "releases", "promote", "tests", "commits",
			"decisions"}); w != "" {
			switch w {
			case "environments", "promote":
				w = "env"
			}
			near = link{Text: r.Name + "/" + w, Href: words[w]}
		}
	}
	return &nearby{err: notFound("there is nothing at "+cut(q.r.URL.Path, 120), ""), nearest: []link{near}}
}

// noRepository adds to err the repository whose name is nearest to name.
func (q *request) noRepository(name string, err error) error {
	if !isNotFound(err) {
		return err
	}
	all, lerr := q.Backend.Repositories(q.r.Context(), q.actor)
	if lerr != nil {
		return err // the first error is the answer; this one would only hide it
	}
	names := make([]string, len(all))
	for i, r := range all {
		names[i] = r.Name
	}
	near := []link{}
	if n := nearest(name, names); n != "" {
		near = append(near, link{Text: n, Href: "/" + n})
	}
	return &nearby{err: err, nearest: append(near, link{Text: "all repositories", Href: "/"})}
}

// isForPeople reports whether err says to the visitor what is wrong.
func isForPeople(err error) bool {
	var e *show.Error
	return errors.As(err, &e)
}

func isNotFound(err error) bool {
	var e *show.Error
	return errors.As(err, &e) && e.Kind == show.NotFound
}

// nearest is the name with the fewest typing mistakes between it and want, if
// there are few enough to be meant.
func nearest(want string, names []string) string {
	best, least := "", max(2, len([]rune(cut(want, 64)))/2)+1
	for _, n := range slices.Sorted(slices.Values(names)) {
		if d := mistakes(cut(want, 64), n); d < least {
			best, least = n, d
		}
	}
	return best
}

// mistakes is the Levenshtein distance, ignoring case.
func mistakes(a, b string) int {
	x, y := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(x); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(y); j++ {
			d := diagonal
			if x[i-1] != y[j-1] {
				d++
			}
			diagonal = row[j]
			row[j] = min(d, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(y)]
}
