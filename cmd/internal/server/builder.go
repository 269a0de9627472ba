package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/gate"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// builder gives the gate what package build does: a tree checked out, built,
// logged, and cleaned up after.
type builder struct {
	logs      *buildlog.Dir
	artifacts *artifact.Store
	executor  build.Executor
	work      string // folder for checkouts; swept at start
}

// Build implements gate.Builder.
func (b *builder) Build(ctx context.Context, j gate.Job) (result gate.Result, err error) {
	log, err := b.logs.Create(j.Log, nil)
	if err != nil {
		return gate.Result{}, err
	}
	defer log.Discard() // of a build that came to no end; a finished log stays
	dir := filepath.Join(b.work, j.Log)
	source := filepath.Join(dir, "source")
	if err := os.MkdirAll(source, 0o700); err != nil {
		return gate.Result{}, fmt.Errorf("make the build's folder: %w", err)
	}
	defer build.RemoveAll(dir)
	if err := j.Repository.Checkout(ctx, j.Tree, source); err != nil {
		return gate.Result{}, err
	}
	r, err := build.Run(ctx, build.Request{
		ID: j.Log, Source: source, Work: dir, Buildspec: j.Buildspec, Variables: j.Variables, Timeout: j.Timeout, Network: j.Network,
		Number: j.Change, Repository: j.Repository.Name(), Branch: j.Branch, Commit: j.Candidate.String(), Tree: j.Tree.String(), Initiator: j.By,
	}, b.executor, log, b.artifacts)
	if err != nil {
		return gate.Result{}, err
	}
	if r.Status == build.Stopped {
		return gate.Result{}, context.Cause(ctx)
	}
	digest, err := log.Finish(string(r.Status))
	if err != nil {
		return gate.Result{}, err
	}
	result = gate.Result{
		Green: r.Status == build.Succeeded, Reason: r.Reason, Phase: r.Phase, Command: r.Command, Exit: r.Exit,
		LogLine: r.LogLine, LogDigest: "sha256:" + digest,
	}
	for _, a := range r.Artifacts {
		result.Artifacts = append(result.Artifacts, verdict.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size})
	}
	return result, nil
}
