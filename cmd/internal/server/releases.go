package server

import (
	"context"
	"slices"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Releases implements show.Backend.
func (s *Server) Releases(ctx context.Context, a access.Identity, name string) ([]show.Release, error) {
	if _, err := s.readable(a, name); err != nil {
		return nil, err
	}
	list, err := s.gate.ReleasesOf(name).List()
	if err != nil {
		return nil, err
	}
	environments, err := s.reconciler.Environments(ctx, a, name)
	if err != nil {
		return nil, err
	}
	shown := []show.Release{}
	for _, rel := range slices.Backward(list) {
		v := show.Release{
			Repository: name,
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
		for _, e := range environments {
			if slices.Contains(e.Runs(), rel.Number) {
				v.RunsIn = append(v.RunsIn, e.Name)
			}
		}
		shown = append(shown, v)
	}
	return shown, nil
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
		all = append(all, ToReconcile(rel, book.Verify(rel)))
	}
	return all, nil
}

// ToReconcile is a release as the reconciler knows it.
func ToReconcile(rel release.Release, verifies error) record.Release {
	to := record.Release{
		Number:   rel.Number,
		Commit:   rel.Commit,
		By:       rel.Manifest.By,
		Authors:  rel.AlsoBy,
		Subject:  rel.Subject,
		At:       rel.Manifest.At,
		Verifies: verifies,
	}
	if len(rel.Changes) > 0 {
		to.Change = rel.Changes[0]
	}
	for _, a := range rel.Artifacts {
		to.Artifacts = append(to.Artifacts, record.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size, Image: a.Type == artifact.Image})
	}
	return to
}
