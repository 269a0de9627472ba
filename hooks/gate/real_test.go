package gate

import (
	"context"
	"os"
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

// realBuilder runs builds in the sandbox, as the server does.
type realBuilder struct {
	t         *testing.T
	logs      *buildlog.Dir
	artifacts *artifact.Store
	work      string
	began     chan string // log ids
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
	return &realBuilder{t: t, logs: logs, artifacts: store, work: dir, began: make(chan string, 10)}
}

func (b *realBuilder) Build(ctx context.Context, j Job) (Result, error) {
	log, err := b.logs.Create(j.Log, nil)
	if err != nil {
		return Result{}, err
	}
	defer log.Discard()
	dir := filepath.Join(b.work, j.Log)
	if err := os.MkdirAll(filepath.Join(dir, "source"), 0o700); err != nil {
		return Result{}, err
	}
	if err := j.Repository.Checkout(ctx, j.Tree, filepath.Join(dir, "source")); err != nil {
		return Result{}, err
	}
	b.began <- j.Log
	r, err := build.Run(ctx, build.Request{
		ID: j.Log, Source: filepath.Join(dir, "source"), Work: dir, Buildspec: j.Buildspec, Timeout: j.Timeout, Network: j.Network,
		Number: j.Change, Repository: j.Repository.Name(), Branch: j.Branch, Commit: j.Candidate.String(), Tree: j.Tree.String(), Initiator: j.By,
	}, &host.Host{}, log, b.artifacts)
	if err != nil {
		return Result{}, err
	}
	if r.Status == build.Stopped {
		return Result{}, context.Canceled
	}
	digest, err := log.Finish(string(r.Status))
	result := Result{Green: r.Status == build.Succeeded, Reason: r.Reason, Phase: r.Phase, Command: r.Command, Exit: r.Exit, LogLine: r.LogLine, LogDigest: digest}
	for _, a := range r.Artifacts {
		result.Artifacts = append(result.Artifacts, verdict.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size})
	}
	return result, err
}

func TestRealBuilds(t *testing.T) {
	b := newRealBuilder(t)
	w := newWorld(t, func(c *Config) { c.Builder = b })
	spec := "version: 0.2\nphases:\n  build:\n    commands:\n      - ./check\nartifacts:\n  files: [app]\n"
	base := w.commit("begin", map[string]string{"buildspec.yml": spec, "check": "#!/bin/sh\n", "app": "v1\n"})
	// The check is not executable: red, with the command and its exit status.
	p := w.end(w.propose(ada, base).Change)
	if p.Kind != Refused || !strings.Contains(p.Reason, "./check") || !strings.Contains(p.Reason, "126") || p.Log == "" {
		t.Fatalf("%+v", p)
	}
	<-b.began
	good := w.commit("check with sh", map[string]string{"buildspec.yml": strings.Replace(spec, "./check", "sh ./check", 1)}, base)
	p = w.land(ada, good)
	<-b.began
	rel, err := release.Of(w.r).Read(p.Release)
	if err != nil {
		t.Fatal(err)
	}
	if len(rel.Artifacts) != 1 || !b.artifacts.Has(rel.Artifacts[0].Digest) {
		t.Fatalf("%+v", rel.Artifacts)
	}
	if err := rel.Verify(w.r, repo.Signers{w.store.Signer().PublicKey()}); err != nil {
		t.Fatal(err)
	}
	said := false
	for e, err := range b.logs.Follow(t.Context(), rel.Manifest.Verdict.LogDigest, false) {
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
	w := newWorld(t, func(c *Config) { c.Builder = b })
	a := w.propose(ada, w.commit("begin", map[string]string{
		"buildspec.yml": "version: 0.2\nphases:\n  build:\n    commands: [\"sleep 600\"]\n",
	}))
	<-b.began
	w.stop()
	if tip, err := w.r.Ref(verdict.Ref); err != nil || tip != repo.Zero {
		t.Fatalf("it left a verdict: %s, %v", tip, err)
	}
	w.start()
	<-b.began
	if err := w.gate.Withdraw(t.Context(), "hello", a.Change, ada); err != nil {
		t.Fatal(err)
	}
	if p := w.end(a.Change); p.Kind != Withdrawn {
		t.Fatalf("%+v", p)
	}
	w.until("its sandbox is gone", func() bool { running, _ := w.gate.Busy(); return running == 0 })
}
