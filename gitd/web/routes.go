package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/show"
)

// route is one address: a page (which is also JSON and, with /events, a
// stream), or something plain, and perhaps an act by POST.
type route struct {
	pattern string // of http.ServeMux, without a method
	public  bool   // needs no session
	page    func(*request) (*page, error)
	plain   func(*request) error // answers GET by itself
	act     func(*request) error // answers POST
	events  bool                 // the live stream of page
}

// signInPattern is the one form that is sent without a session.
const signInPattern = "/sign-in"

// routes is every address there is; those of pages with a stream have their
// /events beside them.
func routes() []*route {
	own := []*route{
		{pattern: "/{$}", page: homePage},
		{pattern: "/events", page: homePage, events: true},
		{pattern: signInPattern, public: true, plain: signInForm, act: signIn},
		{pattern: "/sign-out", public: true, act: signOut},
		{pattern: "/healthz", public: true, plain: healthz},
		{pattern: "/allowed-signers", public: true, plain: allowedSigners},
		{pattern: "/assets/{asset}", public: true, plain: serveAsset},
		{pattern: "/search", page: searchPage},
	}
	live := []*route{
		{pattern: "/{repo}", page: repositoryPage},
		{pattern: "/{repo}/queue", page: queuePage, act: queueAct},
		{pattern: "/{repo}/changes", page: changesPage},
		{pattern: "/{repo}/changes/{n}", page: changePage, act: changeAct},
		{pattern: "/{repo}/env", page: environmentsPage},
		{pattern: "/{repo}/env/{env}", page: environmentPage, act: environmentAct},
		{pattern: "/{repo}/env/{env}/{commit}", page: deploymentPage},
		{pattern: "/{repo}/promote/{env}", page: promotionPage, act: promotionAct},
		{pattern: "/{repo}/env/{env}/logs", page: logsPage},
		{pattern: "/{repo}/schedules/{schedule}", page: schedulePage, act: runSchedule},
		{pattern: "/{repo}/tests", page: testsPage},
		{pattern: "/{repo}/agents", page: agentsPage},
		{pattern: "/{repo}/forge", page: forgePage, act: forgeAct},
		{pattern: "/{repo}/releases", page: releasesPage},
		{pattern: "/{repo}/releases/{n}", page: releasePage},
	}
	still := []*route{
		{pattern: "/{repo}/changes/{n}/log.txt", plain: logText},
		{pattern: "/{repo}/schedules/{schedule}/{n}/log.txt", plain: runLogText},
		{pattern: "/{repo}/env/{env}/logs.txt", plain: logsText},
		{pattern: "/{repo}/releases/{n}/sbom.json", plain: releaseFile(
			"application/vnd.cyclonedx+json; version=1.6", "cdx.json", billOfMaterials)},
		{pattern: "/{repo}/releases/{n}/provenance.json", plain: releaseFile(
			"application/vnd.dsse.envelope.v1+json", "intoto.jsonl", provenance)},
		{pattern: "/{repo}/changes/{n}/diff", page: changeDiffPage},
		{pattern: "/{repo}/commits", page: commitsPage},
		{pattern: "/{repo}/commits/{revision}", page: commitPage},
		{pattern: "/{repo}/tree/{revision}", page: treePage},
		{pattern: "/{repo}/compare/{from}/{to}", page: comparePage},
		{pattern: "/{repo}/env/{env}/history", page: historyPage},
		{pattern: "/{repo}/decisions", page: decisionsPage},
		{pattern: "/{repo}/decisions/{id}", page: decisionPage},
	}

	all := slices.Concat(own, live, still)
	for _, rt := range live {
		all = append(all, &route{pattern: rt.pattern + "/events", page: rt.page, events: true})
	}
	return all
}

// nowhereRoute answers for every address that no route has.
var nowhereRoute = &route{plain: func(q *request) error { return q.nowhere() }}

// ambiguousRoute answers for every address that is spelled ambiguously.
var ambiguousRoute = &route{public: true,
	plain: func(*request) error { return notFound("there is no such address", "") }}

// endpoint is a route at work.
type endpoint struct {
	site  *site
	route *route
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.site.serve(e.route, w, r) }

// mount registers all routes. Those of repositories have a multiplexer of their
// own, for http.ServeMux takes /assets/{asset} and /{repo}/queue for a conflict,
// not knowing that no repository is called assets (access.Reserved).
func (t *site) mount() {
	t.mux, t.repositories = http.NewServeMux(), http.NewServeMux()
	for _, rt := range routes() {
		mux := t.mux
		if strings.HasPrefix(rt.pattern, "/{repo}") {
			mux = t.repositories
		}
		mux.Handle(rt.pattern, &endpoint{t, rt})
	}
	t.mux.Handle("/{repo}", t.repositories)
	t.mux.Handle("/{repo}/{rest...}", t.repositories)

	t.mux.Handle("/", &endpoint{t, nowhereRoute})
	t.repositories.Handle("/", &endpoint{t, nowhereRoute})
}

// routeOf is the route of a path, nowhereRoute if it has none.
func (t *site) routeOf(path string) *route {
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}}
	h, _ := t.mux.Handler(r)
	if h == http.Handler(t.repositories) {
		h, _ = t.repositories.Handler(r)
	}
	if e, ok := h.(*endpoint); ok {
		return e.route
	}
	return nowhereRoute // a redirection, for a path that is not clean
}

func (rt *route) serve(q *request) error {
	if rt.plain != nil {
		return rt.plain(q)
	}
	if rt.events && q.r.Method == http.MethodHead {
		q.w.Header().Set("Content-Type", eventStream)
		return nil // a stream without a body would never end
	}
	if rt.events {
		return q.stream(rt.page)
	}
	p, err := rt.page(q)
	if err != nil {
		return err
	}
	return q.show(p)
}

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
func (q *request) allowed(rt *route) error {
	for m := range strings.SplitSeq(rt.methods(), ", ") {
		if m == q.r.Method {
			return nil
		}
	}
	q.w.Header().Set("Allow", rt.methods())
	return &methodError{method: q.r.Method, allow: rt.methods()}
}

// ambiguousPath says whether a path is spelled in a way that two programs could read
// differently. Such paths are nowhere: they are not tidied up into pages.
func ambiguousPath(u *url.URL) bool {
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

func healthz(q *request) error {
	q.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok\n"
	if q.Unwell != nil {
		if found := q.Unwell(); len(found) > 0 {
			q.w.Header().Set("Cache-Control", "no-store")
			q.w.WriteHeader(http.StatusServiceUnavailable)
			text = strings.Join(found, "\n") + "\n"
		}
	}
	_, err := q.w.Write([]byte(text))
	return gone(err)
}

func allowedSigners(q *request) error {
	q.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := q.w.Write([]byte(q.server.Signers))
	return gone(err)
}

// gone drops the error of writing to a client that has left: there is nobody
// to tell.
func gone(error) error { return nil }

func notFound(what, hint string) error {
	return &show.Error{Kind: show.NotFound, What: what, Hint: hint}
}
