package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/headgate-cd/headgate/cmd/internal/proof"
	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Releases implements show.Backend.
func (s *Server) Releases(ctx context.Context, a access.Identity, name string,
	f show.ReleaseFilter) (show.ReleasePage, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.ReleasePage{}, err
	}
	environments, err := s.reconciler.Environments(ctx, a, name)
	if err != nil {
		return show.ReleasePage{}, err
	}
	list, total, beside, err := releasePage(ctx, r, s.gate.ReleasesOf(name), f)
	found := show.ReleasePage{Releases: []show.Release{}, Total: total, Beside: beside}
	for _, rel := range list {
		found.Releases = append(found.Releases, releaseShown(name, rel, environments))
	}
	return found, err
}

// releasePage reads the part of the releases that a filter means, of total.
func releasePage(ctx context.Context, r *repo.Repository, releases *release.Store,
	f show.ReleaseFilter) (list []release.Release, total int, beside show.Beside, err error) {
	tags, err := releases.Tags()
	if err != nil {
		return nil, 0, beside, err
	}
	numbers := make([]int, len(tags))
	for i, t := range tags {
		numbers[i] = t.Number
	}
	b := bounds{most: show.Newest, looked: show.MaxLooked}
	if f.All {
		f.Part, b = show.Part{}, bounds{most: len(tags), looked: len(tags)}
	}
	list, beside, err = page(numbers, f.Part, b, func(at int) (rel release.Release, wanted bool, err error) {
		if rel, err = releases.ReadTag(tags[at]); err != nil {
			return rel, false, err
		}
		if f.Author != "" {
			if by, err := wrote(r, rel, f.Author); !by {
				return rel, false, err
			}
		}
		if f.Path != "" {
			before, _ := repo.ParseHash(rel.Previous) // Zero: the branch began with it
			if differ, err := differs(ctx, r, before, rel.Commit, f.Path); !differ {
				return rel, false, err
			}
		}
		return rel, true, nil
	})
	return list, len(tags), beside, err
}

// releaseShown is what lists show of a release.
func releaseShown(repository string, rel release.Release, environments []show.Environment) show.Release {
	v := show.Release{
		Repository: repository,
		Number:     rel.Number,
		Commit:     rel.Commit.String(),
		Subject:    rel.Subject,
		By:         rel.Manifest.By,
		At:         rel.Manifest.At.UTC(),
		Artifacts:  []show.Artifact{},
	}
	if len(rel.Changes) > 0 {
		v.Change = rel.Changes[0]
	}
	for _, a := range rel.Artifacts {
		v.Artifacts = append(v.Artifacts, show.Artifact(a))
	}
	if rel.SBOM != nil {
		bill := show.Artifact(*rel.SBOM)
		v.SBOM = &bill
	}
	for _, e := range environments {
		if slices.Contains(e.Runs(), rel.Number) {
			v.RunsIn = append(v.RunsIn, e.Name)
		}
	}
	return v
}

// Release implements show.Backend.
func (s *Server) Release(ctx context.Context, a access.Identity, name string, number int) (show.Release, error) {
	if _, err := s.readable(a, name); err != nil {
		return show.Release{}, err
	}
	releases := s.gate.ReleasesOf(name)
	rel, err := releases.Read(number)
	if errors.Is(err, release.ErrNone) {
		return show.Release{}, noRelease(name, number)
	}
	if err != nil {
		return show.Release{}, err
	}
	environments, err := s.reconciler.Environments(ctx, a, name)
	if err != nil {
		return show.Release{}, err
	}
	v := releaseShown(name, rel, environments)
	v.Branch, v.Tree = rel.Branch, rel.Tree

	for before := number - 1; before > 0 && v.Before == 0; before-- { // the one before, mostly
		switch _, err := releases.Read(before); {
		case err == nil:
			v.Before = before
		case !errors.Is(err, release.ErrNone):
			return show.Release{}, err
		}
	}
	if err := releases.Verify(rel); err != nil {
		v.Invalid = err.Error()
	}
	v.Provenance, err = provenanceShown(rel)
	if err != nil {
		v.Invalid = cmp.Or(v.Invalid, "its provenance: "+err.Error())
	}
	return v, nil
}

func noRelease(repository string, number int) error {
	return &show.Error{
		Kind:    show.NotFound,
		What:    fmt.Sprintf("there is no release %d in %s", number, repository),
		Hint:    "see them",
		Command: "release list " + repository,
	}
}

func provenanceShown(rel release.Release) (*show.Provenance, error) {
	statement, err := rel.Statement()
	if err != nil {
		return nil, err
	}
	envelope, err := json.Marshal(rel.Manifest.Provenance)
	if err != nil {
		return nil, err
	}
	build, run := statement.Predicate.BuildDefinition, statement.Predicate.RunDetails
	p := &show.Provenance{
		Key:      rel.Manifest.Verdict.Key,
		Builder:  run.Builder.ID,
		Log:      run.Metadata.InvocationID,
		Started:  run.Metadata.StartedOn.UTC(),
		Finished: run.Metadata.FinishedOn.UTC(),
		Envelope: envelope,
	}
	p.Buildspec, _ = build.ExternalParameters["buildspec"].(string)
	p.Image, _ = build.ExternalParameters["image"].(string)
	p.Network, _ = build.ExternalParameters["network"].(bool)
	for _, d := range build.ResolvedDependencies {
		p.Built = cmp.Or(p.Built, d.Digest["gitCommit"])
	}
	return p, nil
}

// SBOM implements show.Backend.
func (s *Server) SBOM(_ context.Context, a access.Identity, name string, number int) ([]byte, error) {
	if _, err := s.readable(a, name); err != nil {
		return nil, err
	}
	rel, err := s.gate.ReleasesOf(name).Read(number)
	if errors.Is(err, release.ErrNone) {
		return nil, noRelease(name, number)
	}
	if err != nil {
		return nil, err
	}
	if rel.SBOM == nil {
		return nil, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("release %d of %s has no bill of materials: no file of its tree says what it is made of",
				number, name),
		}
	}
	f, err := s.artifacts.OpenBlob(rel.SBOM.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err == nil && fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != rel.SBOM.Digest {
		err = fmt.Errorf("the bill of materials of release %d of %s is damaged in the artifact store", number, name)
	}
	return data, err
}

// releasesOf is what the reconciler knows of releases, each verified.
func (s *Server) releasesOf(r *repo.Repository) ([]record.Release, error) {
	book := s.gate.ReleasesOf(r.Name())
	if book == nil {
		return nil, nil
	}
	list, err := book.List()
	if err != nil {
		return nil, err
	}
	var all []record.Release
	for _, rel := range list {
		all = append(all, proof.ReleaseOf(rel, book.Verify))
	}
	return all, nil
}
