package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// request is one request: who asks, for what, when.
type request struct {
	*site
	w       http.ResponseWriter
	r       *http.Request
	actor   access.Identity // nobody before sign-in
	session session
	server  show.Server
	now     time.Time
}

// page is what an address shows: once as HTML, again and again as parts of a
// live stream, or as JSON.
type page struct {
	Title    string // of the window; changes with the verdict
	Crumbs   []crumb
	Tab      string           // which tab is current
	Repo     *show.Repository // whose tabs; nil: no tabs
	Template string           // defined in templates/
	Width    string           // "", "wide" or "narrow"
	Parts    []string         // templates whose one element has the template's name as id, and is replaced live
	Bare     bool             // without the header: sign-in
	Data     any              // for the template
	JSON     any              // the same facts; the structs of gitd/show
	Watch    string           // the repository to watch, "" for all of them
	Live     bool             // has a stream
	Say      string           // the page's state in one sentence, announced when it changes
	Moving   bool             // shows the passing of time: redraw without news
	Log      *logTail         // a log that grows on this page
	// Printed tells of what a page shows beside its repository's news; nil: nothing.
	Printed func(ctx context.Context) <-chan struct{}
	Git     []command // the same facts, elsewhere
}

// titleEnd closes the title of every window.
const titleEnd = " · Headgate"

// crumb is one step of where the visitor is; Keep shows it on a phone too.
type crumb struct {
	Text, Href string
	Keep       bool
}

// command is one line of "the same, elsewhere".
type command struct{ Label, Text string }

// view is what every template gets.
type view struct {
	*page
	D         any
	Request   *request
	Server    show.Server
	Actor     access.Identity
	Admin     bool // the actor may make repositories
	Done      *show.Done
	Token     string // of the session, for its forms
	LiveURL   string
	Now       time.Time
	InTabs    bool
	Attention int
}

func (q *request) arg(name string) string  { return q.r.PathValue(name) }
func (q *request) form(name string) string { return q.r.PostForm.Get(name) }

// number is the {n} of the address.
func (q *request) number() (int, bool) {
	s := q.arg("n")
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0 && strconv.Itoa(n) == s
}

// ssh spells a command for the visitor's terminal.
func (q *request) ssh(command string) string { return q.server.Command(command) }

// SSH is ssh for templates.
func (q *request) SSH(command string) string { return q.ssh(command) }

// wantsJSON says whether the visitor asked for JSON and not for a page.
func (q *request) wantsJSON() bool {
	for accept := range strings.SplitSeq(strings.Join(q.r.Header.Values("Accept"), ","), ",") {
		switch t, _, _ := mime.ParseMediaType(accept); t {
		case "text/html":
			return false
		case "application/json":
			return true
		}
	}
	return false
}

// readForm reads a POST's fields, at most maxBody bytes of them.
func (q *request) readForm() error {
	if t, _, _ := mime.ParseMediaType(q.r.Header.Get("Content-Type")); t != "application/x-www-form-urlencoded" &&
		q.r.ContentLength != 0 {
		return &show.Error{Kind: show.Usage, What: "this address reads application/x-www-form-urlencoded only"}
	}
	q.r.Body = http.MaxBytesReader(q.w, q.r.Body, maxBody)
	if err := q.r.ParseForm(); err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return &show.Error{Kind: show.Usage, What: fmt.Sprintf("the form is larger than %d KiB", maxBody>>10),
				Hint: "shorten it"}
		}
		return &show.Error{Kind: show.Usage, What: "the form could not be read"}
	}
	return nil
}

// show answers with p in the form that was asked for.
func (q *request) show(p *page) error {
	if q.wantsJSON() {
		return q.writeJSON(http.StatusOK, p.JSON)
	}
	return q.render(p, http.StatusOK)
}

func (q *request) writeJSON(status int, facts any) error {
	b, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON of %s: %w", q.r.URL.Path, err)
	}
	h := q.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	q.w.WriteHeader(status)
	_, err = q.w.Write(append(b, '\n'))
	return gone(err)
}

// render writes p whole. It is made in memory first, so that a template that
// fails becomes an error page and not half a page.
func (q *request) render(p *page, status int) error {
	w := q.viewOf(p)
	if p.Live {
		_, hashes, err := q.parts(w)
		if err != nil {
			return err
		}
		w.LiveURL = strings.TrimSuffix(q.r.URL.Path, "/") + "/events?" +
			resume{Parts: hashes, Log: p.Log}.query(q.r.URL.Query())
	}
	if !p.Bare {
		w.Done = q.takeFlash()
	}
	var b bytes.Buffer
	if err := q.pages.ExecuteTemplate(&b, "layout", w); err != nil {
		return fmt.Errorf("render %s: %w", p.Template, err)
	}
	body := terminal.Page(b.Bytes())
	h := q.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	q.w.WriteHeader(status)
	_, err := q.w.Write(body)
	return gone(err)
}

func (q *request) viewOf(p *page) *view {
	w := &view{page: p, D: p.Data, Request: q, Server: q.server, Actor: q.actor, Admin: q.Administers(q.actor), Now: q.now,
		InTabs: p.Repo != nil}
	if q.session.ID != "" {
		w.Token = q.sessions.token(q.session)
	}
	if p.Repo != nil {
		for _, e := range p.Repo.Environments {
			if needsSomebody(e) {
				w.Attention++
			}
		}
	}
	return w
}

// part is one live element, rendered.
type part struct{ id, html string }

// parts renders the live parts of a page, with a short hash of each.
func (q *request) parts(w *view) ([]part, []string, error) {
	parts := make([]part, 0, len(w.Parts))
	hashes := make([]string, 0, len(w.Parts))
	ids := w.Parts
	if w.InTabs {
		ids = append([]string{"tabs"}, ids...)
	}
	for _, id := range ids {
		var b bytes.Buffer
		if err := q.pages.ExecuteTemplate(&b, id, w); err != nil {
			return nil, nil, fmt.Errorf("render part %s: %w", id, err)
		}
		html := terminal.Page(bytes.TrimSpace(b.Bytes()))
		sum := sha256.Sum256(html)
		parts = append(parts, part{id: id, html: string(html)})
		hashes = append(hashes, hex.EncodeToString(sum[:4]))
	}
	return parts, hashes, nil
}

// cut shortens s to n runes.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
