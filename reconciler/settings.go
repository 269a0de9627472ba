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
	"github.com/headgate-cd/headgate/gitd/yamlfile"
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
func (rc *Reconciler) leaving(r *repo.Repository,
	environment string) (e headgateyaml.Environment, gone bool, err error) {
	all, err := record.History(r, r.Name(), environment, 2)
	if err != nil || len(all) == 0 {
		return e, false, err
	}
	now, err := rc.successor(r, environment)
	if err != nil {
		return e, false, err
	}
	gone = all[0].Removal || now != ""
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

// Against says what landing a headgate.yaml would mean for the environments that a
// repository has: which go on without being named, which get another name, and what
// cannot be.
func (rc *Reconciler) Against(repository string,
	file *headgateyaml.File) (leaving []string, renamed []headgateyaml.Environment, problems yamlfile.Problems, err error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, nil, nil, err
	}
	taken := map[string]bool{}
	for _, e := range file.Environments {
		from, why, err := rc.renames(r, e)
		if err != nil {
			return nil, nil, nil, err
		}
		switch {
		case from != nil:
			taken[e.Was] = true
			renamed = append(renamed, e)
		case why != "":
			problems = append(problems, yamlfile.Problem{
				File: headgateyaml.Name,
				Line: e.LineOf("was"),
				What: fmt.Sprintf("environment %q cannot go on from %q: %s", e.Name, e.Was, why),
				Fix:  "take was: out, or choose another name",
			})
		}
		switch now, err := rc.goesOnAs(r, e.Name); {
		case err != nil:
			return nil, nil, nil, err
		case now != "" && from == nil:
			problems = append(problems, yamlfile.Problem{
				File: headgateyaml.Name,
				Line: e.Line,
				What: fmt.Sprintf("environment %q is called %q now, and goes on under that name", e.Name, now),
				Fix:  fmt.Sprintf("choose another name, or give %s its old one again: was: %s", now, now),
			})
		}
		other, err := rc.otherApplication(r, e, from)
		if err != nil {
			return nil, nil, nil, err
		}
		if other != "" {
			problems = append(problems, yamlfile.Problem{
				File: headgateyaml.Name,
				Line: e.Line,
				What: fmt.Sprintf("environment %q runs application %q, and cannot be moved to %q", cmp.Or(e.Was, e.Name), other,
					applicationOf(r, e)),
				Fix: fmt.Sprintf("give %s an environment under a name of its own; %s goes on until its removal is approved",
					applicationOf(r, e), cmp.Or(e.Was, e.Name)),
			})
		}
	}

	all, err := rc.environments(r)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, e := range all {
		if _, named := file.Environment(e.Name); named || taken[e.Name] {
			continue
		}
		tip, err := record.Tip(r, applicationOf(r, e), e.Name)
		if err != nil {
			return nil, nil, nil, err
		}
		if tip != nil && !tip.Removal {
			leaving = append(leaving, e.Name)
		}
	}
	return leaving, renamed, problems, nil
}

// goesOnAs is the name that an environment has now, "" when that is its own or when
// nothing is declared under the new one any more.
func (rc *Reconciler) goesOnAs(r *repo.Repository, environment string) (string, error) {
	now, err := rc.successor(r, environment)
	if err != nil || now == "" {
		return "", err
	}
	tip, err := record.Tip(r, r.Name(), now)
	if err != nil || tip == nil || tip.Removal {
		return "", err
	}
	return now, nil
}

// otherApplication is the application that is declared in an environment, or in the
// one that it goes on from, when that is not its own.
func (rc *Reconciler) otherApplication(r *repo.Repository, e headgateyaml.Environment,
	from *record.Commit) (string, error) {
	if from == nil {
		var err error
		if from, err = record.Tip(r, applicationOf(r, e), e.Name); err != nil || from == nil {
			return "", err
		}
		if now, err := rc.successor(r, e.Name); err != nil || now != "" {
			return "", err
		}
	}
	names, err := record.Applications(r, from.Tree)
	for _, name := range names {
		if name != applicationOf(r, e) {
			return name, err
		}
	}
	return "", err
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
