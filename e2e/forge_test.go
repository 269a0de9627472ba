package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// forge is a stand-in for GitHub that keeps one real repository behind git's own
// smart HTTP, and posts webhooks when a story says so.
type forge struct {
	url    string // of the repository
	dir    string // bare
	token  string // that whoever fetches must have; empty: nobody must
	server *http.Server
}

func newForge(root, token string) (*forge, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, err
	}
	f := &forge{dir: filepath.Join(root, "owner", "name.git"), token: token}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.url = "http://" + listener.Addr().String() + "/owner/name.git"
	backend := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{
		"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
	}}
	f.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != f.token {
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	})}
	go f.server.Serve(listener)
	_, errs, err := within(waitTimeout, root, os.Environ(), "git", "init", "-q", "--bare", "-b", "main", f.dir)
	if err != nil {
		err = fmt.Errorf("git init: %w: %s", err, errs)
	}
	return f, err
}

// hook posts a webhook about a push, signed with secret; unsigned when it is
// empty.
func (f *forge) hook(server, connection, id, secret string) (status int, answer string, err error) {
	body := []byte(`{"ref":"refs/heads/main","repository":{"full_name":"owner/name"}}`)
	req, err := http.NewRequest(http.MethodPost, server+"/webhooks/"+connection, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", "push")
	req.Header.Set("X-GitHub-Delivery", id)
	if secret != "" {
		m := hmac.New(sha256.New, []byte(secret))
		m.Write(body)
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(m.Sum(nil)))
	}
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode, string(text), err
}

// journeyForge is the one forge of all journeys, whose configurations name its
// address: nothing moves there.
var journeyForge = sync.OnceValues(func() (*forge, error) {
	root := filepath.Join(programs, "forge")
	f, err := newForge(root, "")
	if err != nil {
		return nil, err
	}
	env := append(os.Environ(), append([]string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=f", "GIT_AUTHOR_EMAIL=f@example.com",
		"GIT_COMMITTER_NAME=f", "GIT_COMMITTER_EMAIL=f@example.com"}, sameCommits...)...)
	_, errs, err := within(waitTimeout, root, env, "sh", "-ec", `
		git init -q -b main clone
		cd clone
		git commit -q --allow-empty -m first
		git tag v1
		git push -q ../owner/name.git main v1 main:refs/heads/side`)
	if err != nil {
		err = fmt.Errorf("fill the forge: %w: %s", err, errs)
	}
	return f, err
})

// forgeCmd: forge TOKEN starts a forge, whose repository is empty: $FORGE is its
// address, $FORGE_DIR where a story pushes to.
func forgeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: forge TOKEN")
	}
	f, err := newForge(ts.MkAbs("forge"), args[0])
	ts.Check(err)
	ts.Defer(func() { f.server.Close() })
	harnessOf(ts).forge = f
	ts.Setenv("FORGE", f.url)
	ts.Setenv("FORGE_DIR", f.dir)
}

// hookCmd: hook CONNECTION ID [SECRET] posts a webhook; its status and answer are
// stdout. It fails when the status is no success.
func hookCmd(ts *testscript.TestScript, neg bool, args []string) {
	h := harnessOf(ts)
	if len(args) < 2 || len(args) > 3 || h.forge == nil {
		ts.Fatalf("usage: forge TOKEN, and then hook CONNECTION ID [SECRET]")
	}
	secret := ""
	if len(args) == 3 {
		secret = args[2]
	}
	status, answer, err := h.forge.hook(h.HTTP, args[0], args[1], secret)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s", status, answer)
	if status/100 != 2 {
		err = errors.New(answer)
	}
	if (err != nil) != neg {
		ts.Fatalf("hook %v: %d %s", args, status, answer)
	}
}
