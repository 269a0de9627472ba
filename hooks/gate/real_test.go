package gate

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/build/cache"
	"github.com/headgate-cd/headgate/hooks/build/host"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// realBuilder is the server's own, and says when a build starts.
type realBuilder struct {
	TreeBuilder
	started chan string // log ids
}

func newRealBuilder(t *testing.T) *realBuilder {
	t.Helper()
	dir := t.TempDir()
	logs, err := buildlog.OpenDir(filepath.Join(dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := artifact.Open(filepath.Join(dir, "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	b := &realBuilder{started: make(chan string, 10)}
	b.TreeBuilder = TreeBuilder{Logs: logs, Artifacts: store, Executor: b, Work: filepath.Join(dir, "work")}
	return b
}

// Overlays lets builds share a cache, as host.Host does.
func (b *realBuilder) Overlays(ctx context.Context) bool { return (&host.Host{}).Overlays(ctx) }

// Start implements build.Executor.
func (b *realBuilder) Start(ctx context.Context, s build.Sandbox) (build.Session, error) {
	b.started <- s.ID
	return (&host.Host{}).Start(ctx, s)
}

func TestRealBuilds(t *testing.T) {
	b := newRealBuilder(t)
	w := newHarness(t, func(c *Config) { c.Builder = b })
	spec := "version: 0.2\nphases:\n  build:\n    commands:\n      - ./check\nartifacts:\n  files: [app]\n"
	base := w.commit("begin", map[string]string{"buildspec.yml": spec, "check": "#!/bin/sh\n", "app": "v1\n"})
	// The check is not executable: red, with the command and its exit status.
	p := w.end(w.propose(ada, base).Change)
	if p.Kind != Refused || !strings.Contains(p.Reason, "./check") || !strings.Contains(p.Reason, "126") || p.Log == "" {
		t.Fatalf("%+v", p)
	}
	<-b.started
	good := w.commit("check with sh", map[string]string{"requirements.txt": "flask==3.0\n",
		"buildspec.yml": strings.Replace(spec, "./check", "sh ./check", 1)}, base)
	p = w.land(ada, good)
	<-b.started
	rel, err := release.Of(w.r).Read(p.Release)
	if err != nil {
		t.Fatal(err)
	}
	if len(rel.Artifacts) != 1 || !b.Artifacts.Has(rel.Artifacts[0].Digest) {
		t.Fatalf("%+v", rel.Artifacts)
	}
	if err := rel.Verify(w.r, repo.Signers{w.store.Signer().PublicKey()}); err != nil {
		t.Fatal(err)
	}
	// What the tree is made of is kept, and signed with the rest.
	if rel.SBOM == nil || rel.SBOM.Name != release.SBOM {
		t.Fatalf("%+v", rel.SBOM)
	}
	f, err := b.Artifacts.OpenBlob(rel.SBOM.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if bill, err := io.ReadAll(f); err != nil || !strings.Contains(string(bill), `"pkg:pypi/flask@3.0"`) {
		t.Errorf("%v %s", err, bill)
	}
	another := rel
	another.SBOM = &verdict.Artifact{Name: release.SBOM, Digest: "sha256:" + strings.Repeat("ab", 32)}
	if err := another.Verify(w.r, repo.Signers{w.store.Signer().PublicKey()}); err == nil {
		t.Error("a release verifies with another bill of materials")
	}
	said := false
	for e, err := range b.Logs.Follow(t.Context(), rel.Manifest.Verdict.LogDigest, false) {
		if err != nil {
			t.Fatal(err)
		}
		said = said || e.Command == "sh ./check"
	}
	if !said {
		t.Fatal("the log that the release names does not show the build")
	}
	if rep := w.verify(); len(rep.Findings) > 0 || rep.Tips != 1 || rep.Releases != 1 {
		t.Fatalf("%+v", rep)
	}
}

// TestStoppedRealBuildSaysNothing: a build that is cut off leaves no verdict and
// no log, and is run again.
func TestStoppedRealBuildSaysNothing(t *testing.T) {
	b := newRealBuilder(t)
	w := newHarness(t, func(c *Config) { c.Builder = b })
	a := w.propose(ada, w.commit("begin", map[string]string{
		"buildspec.yml": "version: 0.2\nphases:\n  build:\n    commands: [\"sleep 600\"]\n",
	}))
	<-b.started
	w.stop()
	if tip, err := w.r.Ref(verdict.Ref); err != nil || tip != repo.Zero {
		t.Fatalf("it left a verdict: %s, %v", tip, err)
	}
	w.start()
	<-b.started
	if err := w.gate.Withdraw(t.Context(), "hello", a.Change, ada); err != nil {
		t.Fatal(err)
	}
	if p := w.end(a.Change); p.Kind != Withdrawn {
		t.Fatalf("%+v", p)
	}
	w.until("its sandbox is gone", func() bool { machine, _ := w.gate.Load(); return machine.Busy == 0 })
}

// TestRealBuildsSeeTheirCommit: a build has the files that git would check out, its
// history and tags, and the submodules that it may have.
func TestRealBuildsSeeTheirCommit(t *testing.T) {
	b := newRealBuilder(t)
	w := newHarness(t, func(c *Config) { c.Builder = b })
	lib, err := w.store.Create(t.Context(), "lib")
	if err != nil {
		t.Fatal(err)
	}
	b.Submodule = func(of, url string) (*repo.Repository, string) {
		if url == "../lib" {
			return lib, ""
		}
		return nil, url + " is not of this server"
	}
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	blob := repo.Blob([]byte("of lib\n"))
	inner := repo.TreeObject([]repo.Entry{{Name: "file", Mode: filemode.Regular, Hash: blob.Hash()}})
	if err := lib.Write(blob, inner); err != nil {
		t.Fatal(err)
	}
	held, err := lib.WriteCommit(repo.NewCommit{Tree: inner.Hash(), At: at, Message: "lib"})
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.Move(t.Context(), "refs/heads/main", repo.Zero, held); err != nil {
		t.Fatal(err)
	}

	// What is pushed past the gate nobody has measured.
	bomb := inner
	for range 40 {
		var entries []repo.Entry
		for i := range 16 {
			entries = append(entries, repo.Entry{Name: fmt.Sprintf("%02d", i), Mode: filemode.Dir, Hash: bomb.Hash()})
		}
		bomb = repo.TreeObject(entries)
		if err := lib.Write(bomb); err != nil {
			t.Fatal(err)
		}
	}
	bombed, err := lib.WriteCommit(repo.NewCommit{Tree: bomb.Hash(), Parents: []repo.Hash{held}, At: at, Message: "bomb"})
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.Move(t.Context(), "refs/heads/main", held, bombed); err != nil {
		t.Fatal(err)
	}

	base := w.commit("begin", map[string]string{"buildspec.yml": "version: 0.2\nphases: {build: {commands: ['true']}}\n",
		".gitattributes": "*.bat eol=crlf\nlog merge=union\n", "log": "1\n"})
	w.land(ada, base)
	<-b.started
	if err := w.r.Move(t.Context(), "refs/tags/v1", repo.Zero, base); err != nil {
		t.Fatal(err)
	}
	other := w.commit("other", map[string]string{"log": "1\n2\n"}, base)
	w.land(ada, other)
	<-b.started

	// A candidate that the gate has merged itself.
	c := w.commit("work", map[string]string{"log": "1\n3\n", "a.bat": "x\n",
		".gitmodules": "[submodule \"a\"]\n\tpath = a\n\turl = ../lib\n[submodule \"b\"]\n\tpath = b\n\turl = https://example.com/b\n[submodule \"c\"]\n\tpath = c\n\turl = ../lib\n" +
			"[submodule \"d\"]\n\tpath = d\n\turl = ../lib\n",
		"buildspec.yml": `version: 0.2
phases:
  build:
    commands:
      - git describe --tags --dirty; git log --format=%s | sort | xargs; git rev-parse HEAD origin/main
      - od -c a.bat | head -1; xargs <log; cat a/file; ls b c
      - test "$(git rev-parse HEAD)" = "$CODEBUILD_RESOLVED_SOURCE_VERSION"
      - '! touch /codebuild/output/objects/x && ! touch "$(find /codebuild/output/objects -type f | head -1)"'
      - git -c user.name=x -c user.email=x@x commit -q --allow-empty -m 'of the build' && git gc -q && git fsck
artifacts: {files: ['**/*']}
`}, base)
	tree, err := w.r.TreeOf(c)
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]repo.Edit{}
	for name, commit := range map[string]repo.Hash{"a": held, "b": held, "c": base, "d": bombed} {
		links[name] = repo.Edit{Mode: filemode.Submodule, Hash: commit}
	}
	if tree, err = w.r.TreeWith(tree, links); err != nil {
		t.Fatal(err)
	}
	c, err = w.r.WriteCommit(repo.NewCommit{Tree: tree, Parents: []repo.Hash{base}, At: at, Message: "work"})
	if err != nil {
		t.Fatal(err)
	}
	p := w.end(w.propose(ada, c).Change)
	var log strings.Builder
	for e, err := range b.Logs.Follow(t.Context(), <-b.started, false) {
		if err != nil {
			t.Fatal(err)
		}
		log.WriteString(e.Text + "\n")
	}
	if p.Kind != Landed {
		t.Fatalf("%+v\n%s", p, log.String())
	}
	for _, want := range []string{
		"v1-3-g" + p.Landed.String()[:7] + "\n",
		"Merge change 3 into main: work begin other work\n",
		p.Landed.String() + "\n" + other.String() + "\n",
		`x  \r  \n`, "\n1 2 3\n", "\nof lib\n",
		"\nsubmodule a: lib at " + held.String()[:7],
		"\nsubmodule b is not checked out: https://example.com/b is not of this server\n",
		"\nsubmodule c is not checked out: no branch and no tag of lib holds " + base.String()[:7] + "\n",
		"\nsubmodule d is not checked out: ",
		" holds more than 1000000 entries\n",
		"artifact main: 6 files",
	} {
		if !strings.Contains("\n"+log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(log.String())
	}
}

// TestRealBuildsShareWhatLanded: what a build has compiled or downloaded is there
// for the next one when its change has landed, and for nobody when it has not.
func TestRealBuildsShareWhatLanded(t *testing.T) {
	b := newRealBuilder(t)
	var err error
	if b.Cache, err = cache.Open(filepath.Join(t.TempDir(), "cache"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	landed := make(chan struct{}, 10)
	w := newHarness(t, func(c *Config) {
		c.Builder = b
		c.Landed = func(_ context.Context, repository, build string) {
			b.Cache.Landed(repository, build)
			b.Cache.Close() // for the test, at once
			landed <- struct{}{}
		}
	})
	const spec = `version: 0.2
phases:
  build:
    commands:
      - mkdir -p $GOCACHE && echo "found $(cat $GOCACHE/a 2>/dev/null), $(ls $GOCACHE | xargs)"
      - sh ./make
`
	build := func(name, script string, parents ...repo.Hash) (commit repo.Hash, kind Kind, log string) {
		t.Helper()
		commit = w.commit(name, map[string]string{"buildspec.yml": spec, "make": script + "\n"}, parents...)
		p := w.end(w.propose(ada, commit).Change)
		for e, err := range b.Logs.Follow(t.Context(), <-b.started, false) {
			if err != nil {
				t.Fatal(err)
			}
			log += e.Text + "\n"
		}
		return commit, p.Kind, log
	}
	wants := func(kind, wanted Kind, log, line string) {
		t.Helper()
		if kind != wanted || !strings.Contains(log, "\n"+line+"\n") {
			t.Errorf("%s and not %s, or no %q in\n%s", kind, wanted, line, log)
		}
	}
	base, kind, log := build("first", "echo 1 >$GOCACHE/a; chmod 444 $GOCACHE/a")
	wants(kind, Landed, log, "found , ")
	_, kind, log = build("poison", "chmod u+w $GOCACHE/a; echo evil >$GOCACHE/a; echo x >$GOCACHE/evil; exit 1", base)
	wants(kind, Refused, log, "found 1, a")
	next, kind, log := build("second", "rm -f $GOCACHE/a; echo 2 >$GOCACHE/b", base)
	wants(kind, Landed, log, "found 1, a")
	_, kind, log = build("third", "true", next)
	wants(kind, Landed, log, "found , b")
	if len(landed) != 3 {
		t.Errorf("%d landed", len(landed))
	}
}
