package server

import (
	"context"
	"crypto/sha256"
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
		if rel.SBOM != nil {
			bill := show.Artifact(*rel.SBOM)
			v.SBOM = &bill
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

// SBOM implements show.Backend.
func (s *Server) SBOM(_ context.Context, a access.Identity, name string, number int) ([]byte, error) {
	if _, err := s.readable(a, name); err != nil {
		return nil, err
	}
	rel, err := s.gate.ReleasesOf(name).Read(number)
	if err != nil {
		return nil, err
	}
	if rel.SBOM == nil {
		return nil, release.ErrNone
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
		all = append(all, proof.ReleaseOf(rel, book.Verify(rel)))
	}
	return all, nil
}
