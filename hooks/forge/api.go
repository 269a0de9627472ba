package forge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/secret"
)

// API is what is asked of a forge about one of its repositories. All
// implementations pass one suite (api_test.go). Every call asks the forge; none
// is repeated by itself. An error is ErrNotFound, a *BusyError, which says when to
// come back, or anything else, after which coming back later may help.
type API interface {
	// Request is a pull or merge request as it is now.
	Request(ctx context.Context, number int) (Request, error)
	// Requests are the open ones, oldest first.
	Requests(ctx context.Context) ([]Request, error)
	// Newest is the newest request of a branch of the repository itself to a target, open
	// or not. ErrNotFound: there is none among the newest of all.
	Newest(ctx context.Context, branch, target string) (Request, error)
	// Close closes a request, if it is still open: one whose head has landed as a commit,
	// or with Zero one that has become pointless.
	Close(ctx context.Context, number int, landed repo.Hash) error
	// Open opens a request of a branch of the repository itself; Edit gives it other
	// words.
	Open(ctx context.Context, branch, target, title, text string) (int, error)
	Edit(ctx context.Context, number int, title, text string) error

	// Publish says how a commit is, under the one name that this server has.
	Publish(ctx context.Context, commit repo.Hash, c Check) error

	// Comments are those on a request that were written since a time, or changed,
	// oldest first.
	Comments(ctx context.Context, request int, since time.Time) ([]Comment, error)
	// Write writes a comment on a request, or with an id that one again.
	Write(ctx context.Context, request int, id int64, text string) (int64, error)

	// SetHook has the webhook for an address be there, with a secret; PingHook has the
	// forge post to it. ErrNotFound: there is none, or the token may not see it.
	SetHook(ctx context.Context, address, secret string) error
	PingHook(ctx context.Context, address string) error

	// Hook is how the webhook for an address is, there.
	Hook(ctx context.Context, address string) (HookState, error)

	// MayWrite reports whether somebody may push to the repository, now.
	MayWrite(ctx context.Context, who Person) (bool, error)
}

// HookState is how a forge has a webhook.
type HookState string

const (
	HookOn   HookState = "on"
	HookOff  HookState = "off" // by somebody there, or by the forge after failures
	HookNone HookState = "none"
)

// hookState is on or off.
func hookState(on bool) HookState {
	if on {
		return HookOn
	}
	return HookOff
}

// Request is a pull or merge request.
type Request struct {
	Number int
	Title  string
	State  RequestState
	Head   repo.Hash
	Branch string // of the head, in whichever repository
	Target string // branch, short name
	Author Person
	Fork   bool   // its head is in another repository, or in one that is gone
	Merger Person // who merged it; Request says so, and Requests does not
}

// newest finds the first of a list, newest first, that is of a branch and to a target.
func newest(list []Request, branch, target string) (Request, error) {
	for _, r := range list {
		if !r.Fork && r.Branch == branch && r.Target == target {
			return r, nil
		}
	}
	return Request{}, ErrNotFound
}

// RequestState is open, closed or merged.
type RequestState string

const (
	Open   RequestState = "open"
	Closed RequestState = "closed"
	Merged RequestState = "merged"
)

// Person is somebody at the forge.
type Person struct {
	Login string `json:"login"`
	ID    int64  `json:"id"`
}

// Comment is one on a request.
type Comment struct {
	ID      int64
	Author  Person
	Text    string
	Created time.Time
	Edited  bool
}

// Check is what is said about a commit.
type Check struct {
	State CheckState `json:"state"`
	Text  string     `json:"text"` // one line
	URL   string     `json:"url"`  // of the change here
	// Running says of one that is pending that its build runs.
	Running bool `json:"running,omitempty"`
}

// CheckState is one of four, which every forge has in some words.
type CheckState string

const (
	CheckPending CheckState = "pending"
	CheckSuccess CheckState = "success"
	CheckFailure CheckState = "failure"
)

// checkName is what checks are called at the forge. It never changes: people
// require it there by name.
const checkName = "headgate"

// ErrNotFound is what a forge answers that has no such thing, or does not show it
// to the holder of the token.
var ErrNotFound = errors.New("the forge has no such thing, or the token may not see it")

// BusyError is a forge that says when to come back.
type BusyError struct {
	Status int
	After  time.Duration
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("the forge is busy (HTTP %d) and wants to be asked again in %s", e.Status,
		e.After.Round(time.Second))
}

// Bounds of what a forge is asked and answers.
const (
	apiTimeout  = 30 * time.Second // for one call
	maxAnswer   = 16 << 20
	maxBusy     = time.Hour // that a forge may ask for
	pageSize    = 50
	maxRequests = 1000 // open ones that are looked at
	maxComments = 1000 // of one request at once
	maxText     = 64 << 10
	maxHooks    = 500 // webhooks of a repository that are looked at
)

// openAPI is the API of a repository whose address git knows as cloneURL, for who shows
// a credential. kept is what was answered before; nil: nothing is kept.
func openAPI(kind Kind, cloneURL, repository string, shown credential, kept *answers) (API, error) {
	base, err := apiBase(kind, cloneURL, repository)
	if err != nil {
		return nil, err
	}
	client := apiClient(kind, base.Host, shown, kept)
	owner, name := path.Split(repository)
	owner = strings.TrimSuffix(owner, "/")
	switch kind {
	case GitHub:
		app, _ := shown.(*installation)
		return newGitHub(client, base, owner, name, app), nil
	case Gitea:
		return &gitea{rest: rest{client: client, base: base}, owner: owner, name: name}, nil
	case GitLab:
		return &gitLab{rest: rest{client: client, base: base}, project: url.PathEscape(repository)}, nil
	}
	return nil, fmt.Errorf("there is no API for a forge of the kind %q", kind)
}

// apiClient calls the API at a host.
func apiClient(kind Kind, host string, shown credential, kept *answers) *http.Client {
	return &http.Client{
		Timeout:   apiTimeout,
		Transport: &apiTransport{kind: kind, host: host, credential: shown, kept: kept},
		// An address that the forge answers with is not one that administrators chose.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the forge redirects its API elsewhere")
		},
	}
}

// apiBase is where a forge's API is, with a slash at its end.
func apiBase(kind Kind, cloneURL, repository string) (*url.URL, error) {
	u, err := url.Parse(cloneURL)
	if err != nil {
		return nil, err
	}
	root, ok := strings.CutSuffix(strings.TrimSuffix(u.Path, ".git"), "/"+repository)
	if !ok {
		return nil, fmt.Errorf("the url does not end in /%s.git: nothing says where the forge's API is", repository)
	}
	if kind == GitHub && strings.EqualFold(u.Hostname(), "github.com") {
		return url.Parse("https://api.github.com/")
	}
	u.Path = root + map[Kind]string{GitHub: "/api/v3/", Gitea: "/api/v1/", GitLab: "/api/v4/"}[kind]
	return u, nil
}

// apiTransport shows the token, to the forge and nobody else, and turns what a busy
// forge says into an error.
type apiTransport struct {
	kind       Kind
	host       string
	credential credential
	kept       *answers
}

func (t *apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != t.host {
		return nil, fmt.Errorf("the forge's API is at %s, not at %s", t.host, r.URL.Host)
	}
	token, err := t.credential.token(r.Context())
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	resp, err := t.show(r, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || r.Body != nil && r.GetBody == nil ||
		!t.credential.refused(token) {
		return resp, err
	}
	resp.Body.Close()
	if token, err = t.credential.token(r.Context()); err != nil {
		return nil, err
	}
	again := r.Clone(r.Context())
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	return t.show(again, token)
}

// show calls with a token.
func (t *apiTransport) show(r *http.Request, shown secret.Value) (*http.Response, error) {
	r = r.Clone(r.Context())
	token := string(shown.Reveal())
	switch {
	case token == "":
	case t.kind == GitLab:
		r.Header.Set("PRIVATE-TOKEN", token)
	case t.kind == Gitea:
		r.Header.Set("Authorization", "token "+token)
	default:
		r.Header.Set("Authorization", "Bearer "+token)
	}
	keeps := t.kept.keeps(r)
	if keeps {
		t.kept.ask(r)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if busy := busyOf(resp, time.Now()); busy != nil {
		resp.Body.Close()
		return nil, busy
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	if keeps {
		return t.kept.answered(r, resp)
	}
	return resp, nil
}

// busyOf reads when to come back, nil if the answer does not say so.
func busyOf(resp *http.Response, now time.Time) *BusyError {
	spent := resp.Header.Get("X-RateLimit-Remaining") == "0"
	wait, told := parseRetryAfter(resp.Header.Get("Retry-After"), now)
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests:
	case status == http.StatusForbidden && (told || spent):
	case status >= 500 && told:
	default:
		return nil
	}
	if !told {
		wait = time.Minute
		if at, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64); err == nil {
			wait = time.Unix(at, 0).Sub(now)
		}
	}
	return &BusyError{Status: resp.StatusCode, After: min(max(wait, time.Second), maxBusy)}
}

// parseRetryAfter reads a Retry-After: seconds, or a date.
func parseRetryAfter(s string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		return time.Duration(min(max(n, 0), int(maxBusy/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(s)
	return at.Sub(now), err == nil
}

// cut is at most n bytes of s, ended where a character does.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}

// hashOf reads a commit that a forge names.
func hashOf(s string) (repo.Hash, error) {
	h, ok := repo.ParseHash(s)
	if !ok {
		return h, fmt.Errorf("the forge names a commit %.60q, which is not the id of one", s)
	}
	return h, nil
}
