// Package forges has stand-ins for GitHub, Gitea and GitLab, for tests. Each keeps
// real repositories behind git's own smart HTTP, posts signed webhooks when it is
// told to, and answers the part of the forge's API that this project uses, with
// pages, rate limits, errors and slow answers. It imports nothing of the project:
// what it knows is what the forges document.
package forges

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Name of the one repository that a stand-in has.
const Name = "owner/name"

// Place is where a forge is.
type Place struct {
	Kind  string // github, gitea, gitlab
	URL   string // of the repository
	Dir   string // of the repository, bare
	Push  string // where people push to
	Token string // that whoever asks must have; empty: nobody must
}

// Where is the place itself.
func (p Place) Where() Place { return p }

// People is what people do at a forge, and see there: a stand-in, or a real one.
type People interface {
	Where() Place
	Close()

	// Propose opens a request of a branch of the repository, or with fork one whose head
	// is a branch of another repository: what is at a ref below refs/forks, where people
	// push it to. Proposing a branch that is proposed brings its newest commit.
	Propose(author, branch string, fork bool) (*Request, error)
	// Merge merges a request by the forge's button: with a merge commit on its target, or
	// with squash as one commit on it.
	Merge(author string, number int, squash bool) error
	// CloseRequest closes a request by its author's wish.
	CloseRequest(number int) error
	// Say writes a comment on a request.
	Say(author string, request int, body string) (int64, error)
	// Permit gives somebody a level: read, write or admin; empty takes it away.
	Permit(login, level string) error
	// SwitchOff switches a webhook off, as forges do after failures.
	SwitchOff(address string) error

	// Request is a request as it is now.
	Request(number int) (Request, error)
	// Statuses are those published of a commit, oldest first.
	Statuses(commit string) []Status
	// Comments are those on a request, oldest first.
	Comments(request int) []Comment
	// Hooks are the addresses of the webhooks that were made by the API, with their
	// secrets where the forge shows them.
	Hooks() map[string]string
}

// Forge is a stand-in. It is safe for concurrent use.
type Forge struct {
	Place

	server *http.Server
	root   string // of the API

	mu       sync.Mutex
	requests []*Request
	comments []*Comment
	statuses []Status
	levels   map[string]string // login: read, write, admin
	faults   []Fault
	calls    map[string]int // by method and path
	ids      int64

	unchanged int // answers that all is as it was

	hooks       []hook
	posted      []posted
	runs        []*CheckRun
	deployments []Deployment
	answers     []Protection

	app   *App
	given map[string]given // tokens of its installation
}

// Deployment is one that was made, with what was said of it last.
type Deployment struct {
	ID                                                 int64
	Environment, Commit, Description, State, URL, Text string
}

// Protection is an answer to whether a run may go to an environment.
type Protection struct {
	Run                         string
	Environment, State, Comment string
}

// Deployments are those that were made, oldest first.
func (f *Forge) Deployments() []Deployment {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.deployments)
}

// Protections are the answers that were given, oldest first.
func (f *Forge) Protections() []Protection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.answers)
}

// Request is a pull or merge request.
type Request struct {
	Number int
	Title  string
	State  string // open, closed, merged
	Author string
	Branch string // of the head
	Target string
	Fork   bool
	Body   string
	Merger string // who merged it by the forge's button
	ref    string
}

// Comment is one on a request.
type Comment struct {
	ID               int64
	Request          int
	Author, Body     string
	Created, Updated time.Time
}

// Status is what was published of a commit.
type Status struct{ Commit, Context, State, Description, URL string }

// Fault is an answer that a call gets instead of the one it should have.
type Fault struct {
	Status     int
	RetryAfter string
	Delay      time.Duration // before the answer
	Only       string        // in the call's path; empty: any
}

// New starts a stand-in whose repository is empty. git must be in the PATH.
func New(kind, root, token string) (*Forge, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, filepath.FromSlash(Name)+".git")
	f := &Forge{
		Place:  Place{Kind: kind, Dir: dir, Push: dir, Token: token},
		root:   map[string]string{"github": "/api/v3/", "gitea": "/api/v1/", "gitlab": "/api/v4/"}[kind],
		levels: map[string]string{},
		calls:  map[string]int{},
		ids:    1000,
		given:  map[string]given{},
	}
	if f.root == "" {
		return nil, fmt.Errorf("there is no stand-in for %q", kind)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.URL = "http://" + listener.Addr().String() + "/" + Name + ".git"
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", f.Dir},
		{"-C", f.Dir, "config", "http.receivepack", "true"},
		{"-C", f.Dir, "config", "receive.denyNonFastForwards", "false"},
	} {
		if _, err := git(args...); err != nil {
			return nil, err
		}
	}
	backend := &cgi.Handler{Path: program, Args: []string{"http-backend"}, Env: []string{
		"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
	}}
	api := f.api()
	f.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, f.root) {
			f.called(w, r, api)
			return
		}
		if err, wrong := f.mayGit(r).(said); wrong {
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			http.Error(w, err.text, err.status)
			return
		}
		backend.ServeHTTP(w, r)
	})}
	go f.server.Serve(listener)
	return f, nil
}

// Close implements People.
func (f *Forge) Close() { f.server.Close() }

func git(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=forge", "GIT_AUTHOR_EMAIL=forge@example.com", "GIT_COMMITTER_NAME=forge",
		"GIT_COMMITTER_EMAIL=forge@example.com",
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %v: %w: %s", args, err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// called answers one call of the API, or has it go wrong.
func (f *Forge) called(w http.ResponseWriter, r *http.Request, api http.Handler) {
	path := strings.TrimPrefix(r.URL.Path, f.root)
	f.mu.Lock()
	f.calls[r.Method]++
	var fault Fault
	if i := slices.IndexFunc(f.faults, func(x Fault) bool { return strings.Contains(path, x.Only) }); i >= 0 {
		fault = f.faults[i]
		f.faults = slices.Delete(f.faults, i, i+1)
	}
	f.mu.Unlock()
	if r.URL.RawQuery != "" && f.Token != "" && strings.Contains(r.URL.RawQuery, f.Token) {
		http.Error(w, "a token is in the address", http.StatusTeapot)
		return
	}
	time.Sleep(fault.Delay)
	if fault.Status != 0 {
		if fault.RetryAfter != "" {
			w.Header().Set("Retry-After", fault.RetryAfter)
		}
		http.Error(w, `{"message":"not now"}`, fault.Status)
		return
	}
	shown := map[string]string{
		"github": strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "),
		"gitea":  strings.TrimPrefix(r.Header.Get("Authorization"), "token "),
		"gitlab": r.Header.Get("PRIVATE-TOKEN"),
	}[f.Kind]
	refused := f.authentic
	if !ofApps(path) {
		permission, level := permissionOf(r.Method, path)
		refused = func(token string) error { return f.may(token, permission, level) }
	}
	if err, wrong := refused(shown).(said); wrong {
		http.Error(w, fmt.Sprintf(`{"message":%q}`, err.text), err.status)
		return
	}
	api.ServeHTTP(w, r)
}

// Break has the next calls go wrong, one for each fault.
func (f *Forge) Break(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, faults...)
}

// Calls is how many calls of the API were made by a method.
func (f *Forge) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// Permit implements People.
func (f *Forge) Permit(login, level string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.levels[login] = level
	return nil
}

// Propose implements People.
func (f *Forge) Propose(author, branch string, fork bool) (*Request, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.requests, func(r *Request) bool { return r.Branch == branch && r.State == "open" })
	if i < 0 {
		return f.propose(Request{Title: "Take " + branch, Author: author, Branch: branch, Target: "main", Fork: fork})
	}
	r := f.requests[i]
	return r, f.follow(r)
}

func (f *Forge) propose(r Request) (*Request, error) {
	r.Number, r.State = len(f.requests)+1, "open"
	r.ref = fmt.Sprintf("refs/pull/%d/head", r.Number)
	if f.Kind == "gitlab" {
		r.ref = fmt.Sprintf("refs/merge-requests/%d/head", r.Number)
	}
	if err := f.follow(&r); err != nil {
		return nil, err
	}
	f.requests = append(f.requests, &r)
	return &r, nil
}

// Merge implements People.
func (f *Forge) Merge(author string, number int, squash bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.request(number)
	if err != nil || r.State != "open" {
		return errors.Join(err, fmt.Errorf("request %d is %v", number, r))
	}
	target := "refs/heads/" + r.Target
	tree, err := git("-C", f.Dir, "merge-tree", "--write-tree", target, r.ref)
	if err != nil {
		return err
	}
	args := []string{"-C", f.Dir, "commit-tree", tree, "-p", target, "-m", "Merge request"}
	if !squash {
		args = append(args, "-p", r.ref)
	}
	commit, err := git(args...)
	if err != nil {
		return err
	}
	r.State, r.Merger = "merged", author
	_, err = git("-C", f.Dir, "update-ref", target, commit)
	return err
}

// follow brings a request's head to where its branch is. A branch of a fork is kept
// below refs/forks.
func (f *Forge) follow(r *Request) error {
	from := "refs/heads/" + r.Branch
	if r.Fork {
		from = "refs/forks/" + r.Branch
	}
	commit, err := git("-C", f.Dir, "rev-parse", "--verify", "-q", from)
	if err != nil {
		return err
	}
	_, err = git("-C", f.Dir, "update-ref", r.ref, commit)
	return err
}

// CloseRequest implements People.
func (f *Forge) CloseRequest(number int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.request(number)
	if err == nil {
		r.State = "closed"
	}
	return err
}

// Say implements People.
func (f *Forge) Say(author string, request int, body string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.say(author, request, body).ID, nil
}

func (f *Forge) say(author string, request int, body string) *Comment {
	f.ids++
	now := time.Now().UTC().Truncate(time.Second)
	c := &Comment{ID: f.ids, Request: request, Author: author, Body: body, Created: now, Updated: now}
	f.comments = append(f.comments, c)
	return c
}

// Request implements People.
func (f *Forge) Request(number int) (Request, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.request(number)
	if err != nil {
		return Request{}, err
	}
	return *r, nil
}

var errNone = errors.New("there is no such request")

// request finds a request, and has it merged if its target has come to hold its
// head, as GitHub and GitLab do.
func (f *Forge) request(number int) (*Request, error) {
	if number < 1 || number > len(f.requests) {
		return nil, errNone
	}
	r := f.requests[number-1]
	if r.State != "open" {
		return r, nil
	}
	if !r.Fork {
		if err := f.follow(r); err != nil && f.holds(r) {
			return r, err
		}
	}
	if f.Kind != "gitea" && f.holds(r) {
		r.State = "merged"
	}
	return r, nil
}

func (f *Forge) holds(r *Request) bool {
	_, err := git("-C", f.Dir, "merge-base", "--is-ancestor", r.ref, "refs/heads/"+r.Target)
	return err == nil
}

// Statuses implements People; with "" they are those of all commits.
func (f *Forge) Statuses(commit string) (list []Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.statuses {
		if commit == "" || s.Commit == commit {
			list = append(list, s)
		}
	}
	return list
}

// Comments implements People.
func (f *Forge) Comments(request int) (list []Comment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.comments {
		if c.Request == request {
			list = append(list, *c)
		}
	}
	return list
}
