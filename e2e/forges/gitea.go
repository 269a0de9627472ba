package forges

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Gitea is a real Gitea or Forgejo, with a repository called Name. What people do there
// they do through its API, each with an account of their own.
type Gitea struct {
	Place

	base    string // of the API
	config  string
	program string
	cmd     *exec.Cmd
	ended   chan struct{}
	log     string // file

	mu    sync.Mutex
	users map[string]bool
	given map[string]bool // who was ever given a level
}

const giteaPassword = "not-a-secret-1"

// OpenGitea starts the program that Gitea or Forgejo is, with everything that it keeps in
// a directory. One that was built without what it shows finds that in the directory that
// GITEA_STATIC_ROOT names.
func OpenGitea(program, root string) (g *Gitea, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host := listener.Addr().String()
	_, port, err := net.SplitHostPort(host)
	if err = errors.Join(err, listener.Close()); err != nil { // it opens its port itself
		return nil, err
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	repositories := filepath.Join(root, "repositories")
	if err := os.MkdirAll(repositories, 0o755); err != nil {
		return nil, err
	}
	g = &Gitea{
		Place: Place{
			Kind: "gitea",
			URL:  "http://" + host + "/" + Name + ".git",
			Dir:  filepath.Join(repositories, filepath.FromSlash(Name)+".git"),
			Push: "http://owner:" + giteaPassword + "@" + host + "/" + Name + ".git",
		},
		base:    "http://" + host + "/api/v1/",
		config:  filepath.Join(root, "app.ini"),
		program: program,
		ended:   make(chan struct{}),
		log:     filepath.Join(root, "gitea.log"),
		users:   map[string]bool{"owner": true},
		given:   map[string]bool{},
	}
	static := ""
	if from := os.Getenv("GITEA_STATIC_ROOT"); from != "" {
		static = "STATIC_ROOT_PATH = " + from
	}
	if err := os.WriteFile(g.config, fmt.Appendf(nil, giteaConfig, root, host, port, static, repositories), 0o600); err != nil {
		return nil, err
	}
	if err := g.start(); err != nil {
		g.Close()
		said, _ := os.ReadFile(g.log)
		return nil, fmt.Errorf("start Gitea: %w\n%s", err, said)
	}
	return g, nil
}

// giteaConfig is app.ini. Webhooks go to this machine, which Gitea does not allow else.
const giteaConfig = `
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
RUN_MODE = prod
WORK_PATH = %[1]s
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[3]s
ROOT_URL = http://%[2]s/
DISABLE_SSH = true
OFFLINE_MODE = true
%[4]s
[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.db
SQLITE_JOURNAL_MODE = WAL
[repository]
ROOT = %[5]s
DEFAULT_BRANCH = main
[security]
INSTALL_LOCK = true
SECRET_KEY = of-a-test
PASSWORD_HASH_ALGO = pbkdf2_v1
[webhook]
ALLOWED_HOST_LIST = *
[log]
MODE = console
LEVEL = warn
[cron]
ENABLED = false
[indexer]
ISSUE_INDEXER_TYPE = db
[mailer]
ENABLED = false
`

func (g *Gitea) command(args ...string) *exec.Cmd {
	cmd := exec.Command(g.program, append(args, "--config", g.config)...)
	cmd.Dir = filepath.Dir(g.config)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "USER=" + cmp.Or(os.Getenv("USER"), "root")}
	return cmd
}

func (g *Gitea) start() error {
	for _, args := range [][]string{
		{"migrate"},
		{"admin", "user", "create", "--admin", "--username", "owner", "--password", giteaPassword,
			"--email", "owner@example.com", "--must-change-password=false"},
	} {
		if out, err := g.command(args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	log, err := os.Create(g.log)
	if err != nil {
		return err
	}
	defer log.Close()
	g.cmd = g.command("web")
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = g.cmd.Wait()
		close(g.ended)
	}()
	if err := g.eventually(func() error { return g.as("owner", "GET", "version", nil, nil) }); err != nil {
		return err
	}

	// A repository whose owner lets requests be called merged that were pushed, and an
	// account for the server with all rights to it.
	if err := errors.Join(
		g.as("owner", "POST", "user/repos", object{"name": "name"}, nil),
		g.as("owner", "PATCH", "repos/"+Name, object{"has_pull_requests": true, "allow_manual_merge": true}, nil),
		g.permit(headgate, "admin"),
	); err != nil {
		return err
	}
	var token struct {
		SHA1 string `json:"sha1"`
	}
	err = g.as(headgate, "POST", "users/"+headgate+"/tokens",
		object{"name": "headgate", "scopes": []string{"write:repository", "write:issue"}}, &token)
	g.Token = token.SHA1
	return err
}

// eventually asks until there is no error, or Gitea has ended.
func (g *Gitea) eventually(ask func() error) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-g.ended:
			return errors.Join(errors.New("it has ended"), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close stops it.
func (g *Gitea) Close() {
	if g.cmd == nil || g.cmd.Process == nil {
		return
	}
	_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	<-g.ended
}

// as calls the API as somebody.
func (g *Gitea) as(login, method, path string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequest(method, g.base+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	r.SetBasicAuth(login, giteaPassword)
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s as %s: %s: %s", method, path, login, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// known has somebody have an account.
func (g *Gitea) known(login string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users[strings.ToLower(login)] {
		return nil
	}
	err := g.as("owner", "POST", "admin/users", object{
		"username":             login,
		"email":                login + "@example.com",
		"password":             giteaPassword,
		"must_change_password": false,
	}, nil)
	g.users[strings.ToLower(login)] = err == nil
	return err
}

func (g *Gitea) permit(login, level string) error {
	if err := g.known(login); err != nil {
		return err
	}
	g.mu.Lock()
	g.given[login] = true
	g.mu.Unlock()
	if level == "" {
		return g.as("owner", "DELETE", "repos/"+Name+"/collaborators/"+login, nil, nil)
	}
	return g.as("owner", "PUT", "repos/"+Name+"/collaborators/"+login, object{"permission": level}, nil)
}

// Permit implements People.
func (g *Gitea) Permit(login, level string) error { return g.permit(login, level) }

type giteaPull struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
	Body   string `json:"body"`
	State  string `json:"state"`
	Merged bool   `json:"merged"`
	User   struct {
		Login string `json:"login"`
	} `json:"user"`
	Head, Base struct {
		Ref  string `json:"ref"`
		SHA  string `json:"sha"`
		Repo struct {
			Name string `json:"full_name"`
		} `json:"repo"`
	}
}

func (p giteaPull) request() Request {
	r := Request{
		Number: p.Number,
		Title:  p.Title,
		Body:   p.Body,
		State:  p.State,
		Author: p.User.Login,
		Branch: p.Head.Ref,
		Target: p.Base.Ref,
		Fork:   p.Head.Repo.Name != Name,
	}
	if p.Merged {
		r.State = "merged"
	}
	return r
}

func pullPath(number int) string { return fmt.Sprintf("repos/%s/pulls/%d", Name, number) }

// Request implements People.
func (g *Gitea) Request(number int) (Request, error) {
	var p giteaPull
	err := g.as("owner", "GET", pullPath(number), nil, &p)
	return p.request(), err
}

// Propose implements People. A fork is the author's own repository; who has a branch in
// this one may write to it, if nothing else was said.
func (g *Gitea) Propose(author, branch string, fork bool) (*Request, error) {
	if err := g.known(author); err != nil {
		return nil, err
	}
	g.mu.Lock()
	given := g.given[author]
	g.mu.Unlock()
	if !fork && !given {
		if err := g.permit(author, "write"); err != nil {
			return nil, err
		}
	}
	head, at := branch, "refs/heads/"+branch
	if fork {
		head, at = author+":"+branch, "refs/forks/"+branch
		var of struct{ Name string }
		if g.as(author, "GET", "repos/"+author+"/name", nil, &of) != nil {
			if err := g.as(author, "POST", "repos/"+Name+"/forks", object{}, nil); err != nil {
				return nil, err
			}
		}
		theirs := strings.Replace(g.Push, "owner:", author+":", 1)
		theirs = strings.Replace(theirs, Name, author+"/name", 1)
		if _, err := git("-C", g.Dir, "push", "-q", "-f", theirs, at+":refs/heads/"+branch); err != nil {
			return nil, err
		}
	}
	commit, err := git("-C", g.Dir, "rev-parse", "--verify", at)
	if err != nil {
		return nil, err
	}
	var list []giteaPull
	// There is no list before it has seen what was pushed first.
	if err := g.eventually(func() error {
		return g.as("owner", "GET", "repos/"+Name+"/pulls?state=open&limit=50", nil, &list)
	}); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(p giteaPull) bool { return p.Head.Ref == branch && (p.Head.Repo.Name != Name) == fork })
	var p giteaPull
	if i >= 0 {
		p = list[i]
	} else if err := g.as(author, "POST", "repos/"+Name+"/pulls",
		object{"head": head, "base": "main", "title": "Take " + branch}, &p); err != nil {
		return nil, err
	}
	// Gitea takes a little to see what has been pushed to it.
	err = g.eventually(func() error {
		if err := g.as("owner", "GET", pullPath(p.Number), nil, &p); err != nil {
			return err
		}
		if p.Head.SHA != commit {
			return fmt.Errorf("request %d is at %s, not at %s", p.Number, p.Head.SHA, commit)
		}
		return nil
	})
	r := p.request()
	return &r, err
}

// Merge implements People, by somebody who is given the right to.
func (g *Gitea) Merge(author string, number int, squash bool) error {
	if err := g.permit(author, "write"); err != nil {
		return err
	}
	how := "merge"
	if squash {
		how = "squash"
	}
	// It is not done before Gitea has found out whether it can be.
	return g.eventually(func() error {
		return g.as(author, "POST", pullPath(number)+"/merge", object{"Do": how}, nil)
	})
}

// CloseRequest implements People.
func (g *Gitea) CloseRequest(number int) error {
	return g.as("owner", "PATCH", pullPath(number), object{"state": "closed"}, nil)
}

// Say implements People.
func (g *Gitea) Say(author string, request int, body string) (int64, error) {
	var c struct {
		ID int64 `json:"id"`
	}
	err := errors.Join(g.known(author), g.as(author, "POST", fmt.Sprintf("repos/%s/issues/%d/comments", Name, request),
		object{"body": body}, &c))
	return c.ID, err
}

// Statuses implements People.
func (g *Gitea) Statuses(commit string) (list []Status) {
	type status struct {
		ID          int64  `json:"id"`
		Context     string `json:"context"`
		State       string `json:"status"`
		Description string `json:"description"`
		URL         string `json:"target_url"`
	}
	var all []status
	for page := 1; commit != ""; page++ {
		var some []status
		if g.as("owner", "GET", fmt.Sprintf("repos/%s/commits/%s/statuses?limit=50&page=%d", Name, commit, page), nil,
			&some) != nil || len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b status) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range all {
		list = append(list, Status{Commit: commit, Context: s.Context, State: s.State, Description: s.Description, URL: s.URL})
	}
	return list
}

// Comments implements People.
func (g *Gitea) Comments(request int) (list []Comment) {
	var all []struct {
		ID      int64     `json:"id"`
		Body    string    `json:"body"`
		Created time.Time `json:"created_at"`
		Updated time.Time `json:"updated_at"`
		User    struct {
			Login string `json:"login"`
		} `json:"user"`
	}
	if g.as("owner", "GET", fmt.Sprintf("repos/%s/issues/%d/comments", Name, request), nil, &all) != nil {
		return nil
	}
	for _, c := range all {
		list = append(list, Comment{
			ID: c.ID, Request: request, Author: c.User.Login, Body: c.Body, Created: c.Created, Updated: c.Updated,
		})
	}
	return list
}

type giteaHook struct {
	ID     int64             `json:"id"`
	Config map[string]string `json:"config"`
	Active bool              `json:"active"`
}

func (g *Gitea) hooks() (list []giteaHook, err error) {
	return list, g.as("owner", "GET", "repos/"+Name+"/hooks?limit=50", nil, &list)
}

// Watch has a webhook of everything that happens go to an address, as somebody makes it
// by hand; with an empty secret none goes there any more.
func (g *Gitea) Watch(address, secret string) error {
	if secret != "" {
		return g.as("owner", "POST", "repos/"+Name+"/hooks", object{
			"type":   "gitea",
			"active": true,
			"events": []string{"push", "create", "delete", "fork", "issues", "issue_comment", "pull_request",
				"pull_request_sync", "pull_request_comment", "pull_request_assign", "pull_request_label", "release",
				"repository", "wiki"},
			"config": object{"url": address, "content_type": "json", "secret": secret},
		}, nil)
	}
	list, err := g.hooks()
	for _, h := range list {
		if h.Config["url"] == address {
			err = errors.Join(err, g.as("owner", "DELETE", fmt.Sprintf("repos/%s/hooks/%d", Name, h.ID), nil, nil))
		}
	}
	return err
}

// Post has a webhook of a push be posted to an address, where one is made if there is none.
func (g *Gitea) Post(address, secret string) error {
	list, err := g.hooks()
	if err != nil {
		return err
	}
	at := func(h giteaHook) bool { return h.Config["url"] == address }
	if !slices.ContainsFunc(list, at) {
		if err := g.Watch(address, secret); err != nil {
			return err
		}
		if list, err = g.hooks(); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(list, at)
	if i < 0 {
		return fmt.Errorf("there is no webhook for %s", address)
	}
	return g.as("owner", "POST", fmt.Sprintf("repos/%s/hooks/%d/tests", Name, list[i].ID), nil, nil)
}

// Hooks implements People. Gitea shows no secrets.
func (g *Gitea) Hooks() map[string]string {
	list, err := g.hooks()
	if err != nil {
		return nil
	}
	all := map[string]string{}
	for _, h := range list {
		all[h.Config["url"]] = ""
	}
	return all
}

// SwitchOff implements People.
func (g *Gitea) SwitchOff(address string) error {
	list, err := g.hooks()
	for _, h := range list {
		if h.Config["url"] == address {
			err = errors.Join(err, g.as("owner", "PATCH", fmt.Sprintf("repos/%s/hooks/%d", Name, h.ID),
				object{"active": false}, nil))
		}
	}
	return err
}

// Log is what it has logged.
func (g *Gitea) Log() string {
	said, _ := os.ReadFile(g.log)
	return string(said)
}
