package gate

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
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
	good := w.commit("check with sh", map[string]string{"buildspec.yml": strings.Replace(spec, "./check", "sh ./check", 1)}, base)
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
	w.until("its sandbox is gone", func() bool { running, _ := w.gate.Busy(); return running == 0 })
}
