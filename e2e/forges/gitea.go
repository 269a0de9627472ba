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
