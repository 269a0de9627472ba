package reconciler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// declaration is headgate.yaml at the tip of the gated branch. A repository to
// which nothing has landed has no environments.
func (rc *Reconciler) declaration(r *repo.Repository) (*headgateyaml.File, repo.Hash, error) {
	tip, err := r.Ref(rc.Branch(r.Name()))
	if err != nil || tip == repo.Zero {
		return headgateyaml.Default(), repo.Zero, err
	}
	file, err := rc.fileAt(r, tip)
	return file, tip, err
}

// environments are those that headgate.yaml declares, in its order, and after
// them those that it does not name any more but that go on: to end one is a
// promotion of nothing, judged like any other.
func (rc *Reconciler) environments(r *repo.Repository) ([]headgateyaml.Environment, error) {
	file, _, err := rc.declaration(r)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(file.Environments)
	refs, err := r.Refs(record.EnvironmentRef(""))
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		name := strings.TrimPrefix(ref.Name, record.EnvironmentRef(""))
		if _, declared := file.Environment(name); declared {
			continue
		}
		settings, gone, err := rc.leaving(r, name)
		if err != nil {
			return nil, err
		}
		if settings.Name != "" && !gone {
			all = append(all, settings)
		}
	}
	return all, nil
}

// leaving are the settings of an environment that headgate.yaml does not name any
// more, by what was promoted to it last; the zero ones when nothing ever was. gone
// reports whether it has been removed, so that nothing but history is left.
func (rc *Reconciler) leaving(r *repo.Repository, environment string) (e headgateyaml.Environment, gone bool, err error) {
	all, err := record.History(r, r.Name(), environment, 2)
	if err != nil || len(all) == 0 {
		return e, false, err
	}
	gone = all[0].Removal
	for _, c := range all {
		if c.Removal {
			continue
		}
		file, err := rc.fileAt(r, c.Source)
		if err != nil {
			return e, gone, err
		}
		if settings, ok := file.Environment(environment); ok {
			return settings, gone, nil
		}
	}
	return headgateyaml.Environment{Name: environment, Target: headgateyaml.Services}, gone, nil
}

// NotIn are the environments of a repository to which something is promoted and
// that a headgate.yaml does not name.
func (rc *Reconciler) NotIn(repository string, file *headgateyaml.File) (names []string, err error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, err
	}
	all, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if _, named := file.Environment(e.Name); named {
			continue
		}
		tip, err := record.Tip(r, applicationOf(r, e), e.Name)
		if err != nil {
			return nil, err
		}
		if tip != nil && !tip.Removal {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// fileAt is the headgate.yaml of a landed commit. The file was checked before it
// landed; one that is bad all the same stops everything that depends on it.
func (rc *Reconciler) fileAt(r *repo.Repository, commit repo.Hash) (*headgateyaml.File, error) {
	key := r.Name() + " " + commit.String()
	if file, ok := rc.files.get(key); ok {
		return file, nil
	}
	tree, err := r.TreeOf(commit)
	if err != nil {
		return nil, err
	}
	file, err := headgateyaml.In(r.FilesOf(tree).ReadFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s at %s: %w", headgateyaml.Name, r.Name(), show.Short(commit.String()), err)
	}
	rc.files.put(key, file)
	return file, nil
}

// applicationOf is the application that runs in an environment.
func applicationOf(r *repo.Repository, e headgateyaml.Environment) string {
	return cmp.Or(e.Application, r.Name())
}

// ofApplication are releases with those artifacts that are the application's own.
func ofApplication(releases []record.Release, file *headgateyaml.File, application string) []record.Release {
	app, ok := file.Application(application)
	if !ok || app.Artifacts == nil {
		return releases
	}
	own := slices.Clone(releases)
	for i, rel := range own {
		own[i].Artifacts = slices.DeleteFunc(slices.Clone(rel.Artifacts), func(a record.Artifact) bool {
			return !slices.Contains(app.Artifacts, a.Name)
		})
	}
	return own
}

// gone reports whether err says that there is no such environment.
func gone(err error) bool {
	var e *show.Error
	return errors.As(err, &e) && e.Kind == show.NotFound
}
