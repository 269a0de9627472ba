package reconciler

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestManyAtOnce lets people approve, roll back, push and release at the same
// time. Whatever wins, both environments are one line of proven commits.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "ada", "0")
	h.healthy(t, "staging", 1)
	var wait sync.WaitGroup
	bad := make(chan error, 100)
	said := func(err error) {
		var e *show.Error
		if err != nil && !errors.As(err, &e) {
			bad <- err
		}
	}
	for i := range 6 {
		wait.Go(func() {
			for range 4 {
				_, err := h.rc.Approve(t.Context(), "hello", "production", actor([]string{"jun", "sam", "ada"}[i%3]), "", "")
				said(err)
			}
		})
	}
	for range 2 {
		wait.Go(func() {
			for range 3 {
				_, err := h.rc.Rollback(t.Context(), "hello", "staging", 1, actor("jun"), "race")
				said(err)
				_, err = h.rc.Approve(t.Context(), "hello", "staging", actor("jun"), "", "")
				said(err)
			}
		})
	}
	wait.Go(func() {
		for i := range 5 {
			if _, err := h.land(t.Context(), version1("ada", fmt.Sprint(i)), helloFiles(fmt.Sprint(i+1))); err != nil {
				bad <- err
			}
		}
	})
	wait.Go(func() {
		for range 20 {
			if _, err := h.rc.Environments(t.Context(), access.Identity{}, "hello"); err != nil {
				bad <- err
			}
		}
	})
	wait.Wait()
	close(bad)
	for err := range bad {
		t.Error(err)
	}
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	stop()
	releases, err := taggedReleases(h.hello)
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.Verify(t.Context(), h.hello, repo.Signers{h.store.Signer().PublicKey()}, releases)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range v.Findings {
		t.Error(f)
	}
	if v.Promotions < 2 || v.Environments < 1 {
		t.Fatalf("too little happened to prove anything: %+v", v)
	}
	for _, env := range []string{"staging", "production"} {
		all, err := record.History(h.hello, "hello", env, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range all {
			held := i+1 < len(all) && all[i+1].Held != nil
			if held && d.Rollback == nil && len(d.Approvals) == 0 {
				t.Errorf("%s: %s went past a hold by itself", env, show.Short(d.Hash.String()))
			}
			if env == "production" && d.Rollback == nil && len(d.Approvals) == 0 {
				t.Errorf("production: %s has no approval", show.Short(d.Hash.String()))
			}
		}
	}
	t.Logf("%+v", v)
}

// TestBrokenPolicyMovesNothing: undefined is deny, with the reason shown.
func TestBrokenPolicyMovesNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	var mu sync.Mutex
	broken := true
	h.rc.Engine = func(*repo.Repository, repo.Hash) (*policies.Engine, error) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return policies.New(map[string][]byte{"policies/own.rego": []byte("package headgate.promote\ndeny contains x if")})
		}
		return engine()
	}
	h.start(t)
	h.release(t, "ada", "one")
	p := h.proposed(t, "staging", 1)
	if p.Decision != "deny" || !strings.Contains(p.Summary, "the policy is broken") || p.MayApprove {
		t.Fatalf("promotion: %+v", p)
	}
	w, err := h.rc.Why(t.Context(), actor("jun"), "hello", "staging")
	if err != nil || !strings.Contains(w.Answer, "release 1 is not in staging") {
		t.Fatalf("why: %+v, %v", w, err)
	}
	if d, err := record.Tip(h.hello, "hello", "staging"); d != nil || err != nil {
		t.Fatalf("staging moved to %+v, %v", d, err)
	}
	staging, err := h.rc.worker(h.hello, "staging")
	if err != nil {
		t.Fatal(err)
	}
	var next time.Duration
	err = staging.on(t.Context(), func(ctx context.Context) (err error) { next, err = staging.settle(ctx); return err })
	if err != nil || next > retryUnanswered {
		t.Fatalf("asked again in %s, %v", next, err)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	h.rc.Wake("hello")
	h.healthy(t, "staging", 1)
}

// TestSilenceIsNotHealthy: nothing follows from a target that says nothing, or
// that speaks of another commit.
func TestSilenceIsNotHealthy(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.start(t)
	h.release(t, "ada", "one")
	h.eventually(t, "staging", "converging", func(e show.Environment) bool { return e.State == show.Converging })
	h.target.mu.Lock()
	given := h.target.given["staging"][0]
	given.Commit = strings.Repeat("0", 40) // the old version says ok
	h.target.set(given, target.Healthy, "")
	h.target.mu.Unlock()
	e := h.eventually(t, "staging", "unknown", func(e show.Environment) bool { return e.State == show.Unknown })
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	if e.Promotion != nil || !strings.Contains(e.Reason, "has not reported") {
		t.Fatalf("staging: %+v", e)
	}
	if p, err := h.rc.Environment(t.Context(), access.Identity{}, "hello", "production"); err != nil ||
		p.Promotion != nil || p.State != show.Empty {
		t.Fatalf("production: %+v, %v", p, err)
	}
	h.target.report("staging", target.Healthy, "")
	h.proposed(t, "production", 1)
}

// TestRightsAreThoseOfNow: an approval does not outlive its giver's right to
// give it, and policy is asked again when rights change.
func TestRightsAreThoseOfNow(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	h.start(t)
	files := helloFiles("one")
	files["headgate.yaml"] = strings.Replace(helloYAML, "approvals: 1",
		"approvals: {count: 2, own: true, from: release}", 1)
	if _, err := h.land(t.Context(), version1("ada", "one"), files); err != nil {
		t.Fatal(err)
	}
	h.proposed(t, "production", 1)
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	if err := h.setAccess(strings.Replace(serverYAML, "release: [ada, jun]", "release: [ada, sam]", 1)); err != nil {
		t.Fatal(err)
	}
	done, err := h.rc.Approve(t.Context(), "hello", "production", actor("ada"), "", "")
	if err != nil || done.Promoted != repo.Zero || done.Waits != "1 approval" {
		t.Fatalf("jun left the group, and ada approved: %+v, %v", done, err)
	}
	if done, err = h.rc.Approve(t.Context(), "hello", "production", actor("sam"), "", ""); err != nil ||
		done.Promoted == repo.Zero {
		t.Fatalf("sam approved: %+v, %v", done, err)
	}
}

// TestVerifyFromClones reads a mirror, and a plain clone of it with the records.
func TestVerifyFromClones(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.eventually(t, "production", "decided about", func(show.Environment) bool { // after which nothing is written
		all, _, err := decision.List(t.Context(), h.hello, repo.Zero, 10)
		return err == nil && slices.ContainsFunc(all,
			func(d decision.Saved) bool { return strings.Contains(d.About, "production") })
	})
	stop()
	var releases []record.Release
	for i, kind := range []string{"--mirror", "--no-checkout"} {
		dir := filepath.Join(t.TempDir(), "copy")
		if _, err := h.hello.Git(t.Context(), "clone", "--quiet", "--no-local", kind, "--end-of-options", h.hello.Dir(),
			dir); err != nil {
			t.Fatal(err)
		}
		c, err := repo.OpenClone(dir)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			v, err := record.Verify(t.Context(), c, repo.Signers{h.store.Signer().PublicKey()}, releases)
			if err != nil || len(v.Findings) == 0 || !strings.Contains(v.Findings[0].What, "refs/decisions/log is not there") {
				t.Fatalf("without the records: %+v, %v", v, err)
			}
			if _, err := c.Git(t.Context(), "fetch", "--quiet", "origin", "refs/notes/*:refs/notes/*",
				"refs/decisions/*:refs/decisions/*"); err != nil {
				t.Fatal(err)
			}
		}
		if i == 0 {
			if releases, err = taggedReleases(c); err != nil || len(releases) != 1 {
				t.Fatalf("releases of the mirror: %+v, %v", releases, err)
			}
		}
		v, err := record.Verify(t.Context(), c, repo.Signers{h.store.Signer().PublicKey()}, releases)
		if err != nil || v.Environments != 2 || v.Promotions != 1 || v.Decisions != 1 || len(v.Findings) != 0 {
			t.Fatalf("%s: %+v, %v", kind, v, err)
		}
		if v, err = record.Verify(t.Context(), c, repo.Signers{}, releases); err != nil || len(v.Findings) == 0 {
			t.Fatalf("%s, without keys: %+v, %v", kind, v, err)
		}
	}
}

// TestVerifyFindsPlantedFaults: each fault in an environment's branch is found.
func TestVerifyFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	h.proposed(t, "production", 1)
	if _, err := h.rc.Approve(t.Context(), "hello", "production", actor("jun"), "", ""); err != nil {
		t.Fatal(err)
	}
	h.healthy(t, "production", 1)
	stop()
	good, err := h.hello.Ref(record.EnvironmentRef("production"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.hello.Commit(good)
	if err != nil {
		t.Fatal(err)
	}
	releases, err := taggedReleases(h.hello)
	if err != nil {
		t.Fatal(err)
	}
	signers := repo.Signers{h.store.Signer().PublicKey()}
	blob := repo.Blob([]byte("more\n"))
	if err := h.hello.Write(blob); err != nil {
		t.Fatal(err)
	}
	edited := func(path string) repo.Hash {
		tree, err := h.hello.TreeWith(c.TreeHash, map[string]repo.Edit{path: {Mode: filemode.Regular, Hash: blob.Hash()}})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	if !strings.Contains(c.Message, "\nSequence: 2\n") { // the first is the empty one
		t.Errorf("it does not say its place:\n%s", c.Message)
	}
	again := repo.NewCommit{Tree: c.TreeHash, At: h.clock.Now(),
		Message: strings.Replace(c.Message, "Sequence: 2", "Sequence: 1", 1)}
	with := func(change func(*repo.NewCommit)) repo.NewCommit {
		n := again
		change(&n)
		return n
	}
	unproven := append([]record.Release(nil), releases...)
	unproven[0].Verify = func() error { return errors.New("signed by somebody else") }
	replace := strings.NewReplacer
	for name, fault := range map[string]struct {
		commit   repo.NewCommit
		unsigned bool
		releases []record.Release
		want     string
	}{
		"nothing":     {commit: again},
		"unsigned":    {commit: again, unsigned: true, want: "carries no signature"},
		"two parents": {commit: with(func(n *repo.NewCommit) { n.Parents = []repo.Hash{good, good} }), want: "2 parents"},
		"other bytes": {commit: with(func(n *repo.NewCommit) { n.Tree = edited("apps/hello/compose.yaml") }),
			want: "are not release 1"},
		"more bytes": {commit: with(func(n *repo.NewCommit) { n.Tree = edited("apps/hello/more") }),
			want: "are not release 1"},
		"another app": {commit: with(func(n *repo.NewCommit) { n.Tree = edited("apps/more/more") }),
			want: "holds 2 applications"},
		"beside": {commit: with(func(n *repo.NewCommit) { n.Tree = edited("more") }),
			want: "belongs to no application"},
		"a hold": {commit: with(func(n *repo.NewCommit) { n.Tree = edited("holds/hello.json") }),
			want: "a rollback sets a hold"},
		"no such release": {commit: with(
			func(n *repo.NewCommit) { n.Message = replace("Release: 1", "Release: 7").Replace(n.Message) }), want: "no tag"},
		"no release": {commit: with(func(n *repo.NewCommit) { n.Message = "hello" }), want: "does not read as a promotion"},
		"other commit": {commit: with(func(n *repo.NewCommit) {
			n.Message = strings.ReplaceAll(n.Message, releases[0].Commit.String(), good.String())
		}), want: "that release is of"},
		"stale approval": {commit: with(func(n *repo.NewCommit) {
			n.Message = replace("tree="+c.TreeHash.String(), "tree="+good.String()).Replace(n.Message)
		}), want: "1 approvals, of which 0"},
		"no decision": {commit: with(func(n *repo.NewCommit) {
			n.Message = replace("Decision: auto",
				"Decision: manual").Replace(n.Message)
		}), want: "no decision"},
		"no such folder": {commit: with(func(n *repo.NewCommit) {
			n.Message = replace("Path: deploy/production", "Path: deploy/none").Replace(n.Message)
		}), want: "does not have"},
		"another place": {commit: with(func(n *repo.NewCommit) { n.Message = c.Message }),
			want: "says that its place is 2, and it is 1"},
		"release unproven": {commit: again, releases: unproven, want: "does not verify: signed by somebody else"},
	} {
		t.Run(name, func(t *testing.T) {
			commit, err := h.hello.WriteCommit(fault.commit)
			if err != nil {
				t.Fatal(err)
			}
			if fault.unsigned {
				_, raw, err := h.hello.Raw(commit)
				if err != nil {
					t.Fatal(err)
				}
				text := string(raw)
				from, to := strings.Index(text, "gpgsig "), strings.Index(text, "\n\n")
				o := repo.Object{Kind: 1, Content: []byte(text[:from] + text[to+1:])}
				if err := h.hello.Write(o); err != nil {
					t.Fatal(err)
				}
				commit = o.Hash()
			}
			ref := "refs/heads/env/" + strings.ReplaceAll(name, " ", "-")
			if err := h.hello.Move(t.Context(), ref, repo.Zero, commit); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := h.hello.Move(t.Context(), ref, commit, repo.Zero); err != nil {
					t.Error(err)
				}
			}()
			rels := releases
			if fault.releases != nil {
				rels = fault.releases
			}
			v, err := record.Verify(t.Context(), h.hello, signers, rels)
			if err != nil {
				t.Fatal(err)
			}
			var about []string
			for _, f := range v.Findings {
				if f.Ref == ref {
					about = append(about, f.What)
				}
			}
			if fault.want == "" && len(about) > 0 || !strings.Contains(strings.Join(about, "\n"), fault.want) {
				t.Fatalf("found %q, want %q", about, fault.want)
			}
		})
	}
}
