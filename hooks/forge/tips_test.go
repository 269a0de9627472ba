package forge

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// redOrGreen builds: red is a tree with a file called red.
type redOrGreen struct{}

func (redOrGreen) Build(_ context.Context, j gate.Job) (gate.Result, error) {
	_, err := j.Repository.File(j.Tree, "red")
	switch {
	case err == nil:
		return gate.Result{Phase: "build", Command: "test ! -e red", Exit: 1, LogLine: 1}, nil
	case !errors.Is(err, repo.ErrNoFile):
		return gate.Result{}, err
	}
	return gate.Result{Green: true, LogDigest: "sha256:00"}, nil
}

// TestMergeQueue: what GitHub's own merge queue asks about, by the webhook merge_group alone,
// is built as the next tip of its target and answered at its commit; it becomes no release and
// moves nothing here, and of one that the queue has thrown away nothing more is said.
func TestMergeQueue(t *testing.T) {
	t.Parallel()
	a := newAppTest(t, "")
	a.hub.Gate = gate.New(gate.Config{
		Store:    a.hub.Store,
		Access:   a.hub.Access,
		Settings: gate.FileSettings,
		Builder:  redOrGreen{},
		Retry:    20 * time.Millisecond,
		Log:      a.hub.Log,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.hub.Gate.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	defer a.run()()

	clone := a.forged.clone
	git := func(args ...string) string { return strings.TrimSpace(a.forged.git(clone, args...)) }
	write := func(name, text string) {
		t.Helper()
		a.must(os.WriteFile(filepath.Join(clone, name), []byte(text), 0o644))
		git("add", ".")
	}
	group := func(action, commit string) {
		t.Helper()
		body := fmt.Appendf(nil, `{"action": %q, "merge_group": {"head_sha": %q, "base_ref": "refs/heads/main"},
			"repository": {"full_name": "owner/name"}}`, action, commit)
		r, err := http.NewRequest(http.MethodPost, a.server.URL+"/webhooks/hub", bytes.NewReader(body))
		a.must(err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-GitHub-Event", "merge_group")
		r.Header.Set("X-GitHub-Delivery", action+commit)
		r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum([]byte(hookSecret), body)))
		resp, err := http.DefaultClient.Do(r)
		a.must(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Fatalf("merge_group: %s", resp.Status)
		}
	}
	says := func(commit, state, text string) {
		t.Helper()
		a.eventually(commit+" is "+state, func() bool {
			all := a.Statuses(commit)
			if len(all) == 0 {
				return false
			}
			last := all[len(all)-1]
			return last.Context == checkName && last.State == state && strings.Contains(last.Description, text)
		})
	}

	write("buildspec.yml", "version: 0.2\nphases: {build: {commands: [\"test ! -e red\"]}}\n")
	a.forged.commit("first")
	git("push", "-q", "origin", "HEAD:main")
	main := git("rev-parse", "HEAD")
	a.hub.Retry()
	says(main, "success", "release 1")

	ask := func(number int, subject string) (commit, branch string) {
		t.Helper()
		a.forged.commit(subject)
		commit, branch = git("rev-parse", "HEAD"), fmt.Sprintf("gh-readonly-queue/main/pr-%d-%s", number, main)
		git("push", "-q", "origin", "HEAD:refs/heads/"+branch)
		group("checks_requested", commit)
		return commit, branch
	}
	write("words", "hello\n")
	green, branch := ask(7, "Say hello")
	says(green, "success", "green")
	write("red", "\n")
	red, _ := ask(8, "Break it")
	says(red, "failure", "test ! -e red")

	// GitHub merges what was green: its tree has been built.
	git("push", "-q", "origin", green+":refs/heads/main", ":refs/heads/"+branch)
	group("destroyed", green)
	says(green, "success", "release 2")
	mirror, err := a.hub.Store.Repository("hello")
	a.must(err)
	if releases, err := mirror.Refs("refs/releases/"); err != nil || len(releases) != 2 {
		t.Errorf("releases %v, %v", releases, err)
	}
	for _, s := range a.Statuses(red) {
		if strings.Contains(s.Description, "release") {
			t.Errorf("of a commit that the queue has thrown away: %+v", s)
		}
	}
	a.eventually("each webhook was processed", func() bool { return a.status().Pending == 0 })
}
