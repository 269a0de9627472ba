package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// route is one address: a page (which is also JSON and, with /events, a
// stream), or something plain, and perhaps an act by POST.
type route struct {
	pattern string // segments; {name} stands for any one segment
	public  bool   // needs no session
	page    func(*visit) (*page, error)
	plain   func(*visit) error // answers GET by itself
	act     func(*visit) error // answers POST
	events  bool               // the live stream of page
}

// routes is every address there is. Literal segments win over {names} by
// standing first.
var routes []*route

func init() { // not a literal: pages link to each other through match
	routes = []*route{
		{pattern: "/", page: homePage},
		{pattern: "/events", page: homePage, events: true},
		{pattern: "/sign-in", public: true, plain: signInForm, act: signIn},
		{pattern: "/sign-out", public: true, act: signOut},
		{pattern: "/healthz", public: true, plain: healthz},
		{pattern: "/allowed-signers", public: true, plain: allowedSigners},
		{pattern: "/assets/{asset}", public: true, plain: serveAsset},
		{pattern: "/{repo}", page: repositoryPage},
		{pattern: "/{repo}/events", page: repositoryPage, events: true},
		{pattern: "/{repo}/queue", page: queuePage},
		{pattern: "/{repo}/queue/events", page: queuePage, events: true},
		{pattern: "/{repo}/changes", page: changesPage},
		{pattern: "/{repo}/changes/events", page: changesPage, events: true},
		{pattern: "/{repo}/changes/{n}", page: changePage},
		{pattern: "/{repo}/changes/{n}/events", page: changePage, events: true},
		{pattern: "/{repo}/changes/{n}/log.txt", plain: logText},
		{pattern: "/{repo}/env", page: environmentsPage},
		{pattern: "/{repo}/env/events", page: environmentsPage, events: true},
		{pattern: "/{repo}/env/{env}", page: environmentPage, act: rollback},
		{pattern: "/{repo}/env/{env}/events", page: environmentPage, events: true},
		{pattern: "/{repo}/promote/{env}", page: promotionPage, act: approve},
		{pattern: "/{repo}/promote/{env}/events", page: promotionPage, events: true},
		{pattern: "/{repo}/releases", page: releasesPage},
		{pattern: "/{repo}/releases/events", page: releasesPage, events: true},
		{pattern: "/{repo}/releases/{n}", page: releasePage},
		{pattern: "/{repo}/releases/{n}/events", page: releasePage, events: true},
	}
}

func (rt *route) serve(v *visit) error {
	if rt.plain != nil {
		return rt.plain(v)
	}
	if rt.events && v.r.Method == http.MethodHead {
		v.w.Header().Set("Content-Type", eventStream)
		return nil // a stream without a body would never end
	}
	if rt.events {
		return v.stream(rt.page)
	}
	p, err := rt.page(v)
	if err != nil {
		return err
	}
	return v.show(p)
}

func (rt *route) post(v *visit) error { return rt.act(v) }

// methods says what rt answers, for the Allow header.
func (rt *route) methods() string {
	var m []string
	if rt.page != nil || rt.plain != nil {
		m = append(m, "GET", "HEAD")
	}
	if rt.act != nil {
		m = append(m, "POST")
	}
	return strings.Join(m, ", ")
}

// allowed refuses methods that rt does not answer.
func (v *visit) allowed(rt *route) error {
	for m := range strings.SplitSeq(rt.methods(), ", ") {
		if m == v.r.Method {
			return nil
		}
	}
	v.w.Header().Set("Allow", rt.methods())
	return &methodError{method: v.r.Method, allow: rt.methods()}
}

// match finds the route of a path, and what its {names} stand for.
func match(path string) (*route, map[string]string) {
	got := strings.Split(path, "/")
next:
	for _, rt := range routes {
		want := strings.Split(rt.pattern, "/")
		if len(want) != len(got) {
			continue
		}
		var args map[string]string
		for i, w := range want {
			if strings.HasPrefix(w, "{") {
				if got[i] == "" {
					continue next
				}
				if args == nil {
					args = map[string]string{}
				}
				args[w[1:len(w)-1]] = got[i]
			} else if w != got[i] {
				continue next
			}
		}
		if reserved(args["repo"]) {
			continue
		}
		return rt, args
	}
	return nil, nil
}

func reserved(name string) bool {
	for _, r := range Reserved() {
		if r == name {
			return true
		}
	}
	return false
}

// odd says whether a path is spelled in a way that two routers could read
// differently. Such paths are nowhere: they are not tidied up into pages.
func odd(u *url.URL) bool {
	p := u.Path
	switch {
	case u.RawPath != "", !strings.HasPrefix(p, "/"), len(p) > 1024:
		return true
	case strings.Contains(p, "//"), strings.ContainsAny(p, "\\;%\x00"):
		return true
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "." || seg == ".." {
			return true
		}
	}
	return false
}

// methodError is a method that an address does not answer.
type methodError struct{ method, allow string }

func (e *methodError) Error() string { return e.method + " is not answered here" }

func healthz(v *visit) error {
	v.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := v.w.Write([]byte("ok\n"))
	return gone(err)
}

func allowedSigners(v *visit) error {
	v.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := v.w.Write([]byte(v.server.Signers))
	return gone(err)
}

// gone drops the error of writing to a client that has left: there is nobody
// to tell.
func gone(error) error { return nil }

func notFound(what, hint string) error {
	return &show.Error{Kind: show.NotFound, What: what, Hint: hint}
}
