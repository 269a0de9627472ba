package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// snapshot is one environment of a repository as it was read at one instant: the
// View that Plan decides on, and what acting and showing need besides.
type snapshot struct {
	View
	repo        *repo.Repository
	application string
	environment string
	settings    headgateyaml.Environment
	branchTip   repo.Hash                // of the gated branch
	landed      []record.Release         // ascending
	actual      target.Observed          // Observed, whole
	good        record.Commit            // of Good
	before      headgateyaml.Environment // settings of Upstream
	formerly    []string                 // names that it had, the newest first
	was         []string                 // those of formerly that no other environment has now
	renaming    string                   // the name that it is about to get: headgate.yaml says so
	successor   string                   // whose line goes on from this one; what is declared here is nothing then
	others      string                   // of Wanted.Problem Moved: the application
	evaluated   *evaluation              // of Decision
	taken       *addressTaken            // of Wanted.Problem Taken
}

// load reads everything that matters about an environment. It writes objects
// (the trees that would be promoted) but moves nothing.
func (rc *Reconciler) load(ctx context.Context, r *repo.Repository, environment string) (*snapshot, error) {
	// Read first: what renames a line has landed before, and is in the file that is read
	// after. The other way about an older file would still declare the old name, of which
	// the line has gone on: that is an end of what runs.
	now, err := rc.successor(r, environment)
	if err != nil {
		return nil, err
	}
	file, tip, err := rc.declaration(r)
	if err != nil {
		return nil, err
	}
	settings, declared := file.Environment(environment)
	if !declared {
		if now != "" {
			return nil, calledNow(r.Name(), environment, now)
		}
		if settings, _, err = rc.leaving(r, environment); err != nil {
			return nil, err
		}
		if settings.Name == "" {
			return nil, noEnvironment(r.Name(), environment, file.Environments)
		}
	}
	s := &snapshot{
		repo:        r,
		application: applicationOf(r, settings),
		environment: environment,
		settings:    settings,
		branchTip:   tip,
		successor:   now,
	}
	s.Now, s.Leaving = rc.now(), !declared
	if err := rc.loadNames(s, file); err != nil {
		return nil, err
	}

	if s.landed, err = rc.releases(r); err != nil {
		return nil, err
	}
	s.landed = ofApplication(s.landed, file, settings.Application)
	for _, rel := range s.landed {
		s.Releases = append(s.Releases, rel.Number)
	}
	if err := rc.loadDeclared(ctx, s); err != nil {
		return nil, err
	}
	if now != "" && s.Declared != nil {
		if err := s.declareNothing(); err != nil {
			return nil, err
		}
	}
	s.actual = rc.observed(s.settings, s.key())
	s.Observed = observedOf(s.actual)
	if err := rc.loadGood(s); err != nil {
		return nil, err
	}
	if err := rc.loadUpstream(s, file); err != nil {
		return nil, err
	}
	if s.Proposal, err = record.ProposalFor(r, environment); err != nil {
		return nil, err
	}
	if s.Rejected, err = record.Rejections(r, environment); err != nil {
		return nil, err
	}
	return s, s.loadWanted(rc)
}

// loadNames reads how the environment was called before, and whether that is about
// to change.
func (rc *Reconciler) loadNames(s *snapshot, file *headgateyaml.File) error {
	tip, err := s.repo.Ref(record.EnvironmentRef(s.environment))
	if err != nil {
		return err
	}
	all, err := rc.renamings(s.repo, tip)
	if err != nil {
		return err
	}
	names := []string{s.settings.Was}
	for _, r := range all {
		names = append(names, r.from)
	}
	for _, name := range names {
		if name == "" || name == s.environment || slices.Contains(s.formerly, name) {
			continue
		}
		s.formerly = append(s.formerly, name)
		if _, another := file.Environment(name); !another {
			s.was = append(s.was, name)
		}
	}

	if !s.Leaving {
		s.Renames, _, err = rc.renames(s.repo, s.settings)
		return err
	}
	if e, ok := file.RenamedTo(s.environment); ok {
		from, _, err := rc.renames(s.repo, e)
		if err != nil {
			return err
		}
		// It may have been renamed since successor was read.
		now, err := rc.successor(s.repo, s.environment)
		if from != nil || now == e.Name {
			s.renaming = e.Name
		}
		return err
	}
	return nil
}

// declareNothing makes of what is declared its removal: its line has gone on under
// another name, and this one begins anew.
func (s *snapshot) declareNothing() error {
	empty := repo.TreeObject(nil)
	d := s.Declared
	d.Promotion = record.Promotion{ID: d.ID, Source: d.Source, Removal: true}
	d.Tree, d.Held, d.Outcome = empty.Hash(), nil, record.Outcome{}
	return s.repo.Write(empty)
}

// loadDeclared reads what is declared now, or the initial commit.
func (rc *Reconciler) loadDeclared(ctx context.Context, s *snapshot) error {
	tip, err := record.Tip(s.repo, s.application, s.environment)
	if err != nil {
		return err
	}
	if tip == nil {
		s.Initial, err = s.repo.Ref(record.EnvironmentRef(s.environment))
		return err
	}
	count, err := rc.sequence(ctx, s.repo, tip.Hash, tip.Parent)
	s.Declared = &Declared{Commit: *tip, Sequence: count}
	return err
}

// loadUpstream reads the environment that this one comes after.
func (rc *Reconciler) loadUpstream(s *snapshot, file *headgateyaml.File) (err error) {
	after := s.settings.After
	if after == "" || s.Leaving {
		return nil
	}
	s.Upstream = &Upstream{Name: after}
	if before, ok := file.Environment(after); ok {
		s.before = before
		s.Upstream.Observed = observedOf(rc.observed(before, s.keyIn(after)))
	}
	s.Soak = s.settings.Soak
	if s.Declared != nil { // which judges as well
		file, err := rc.fileAt(s.repo, s.Declared.Source)
		if err != nil {
			return err
		}
		declared, _ := s.settingsIn(file)
		s.Soak = max(s.Soak, declared.Soak)
	}
	return s.Upstream.loadHistory(s, after)
}

// maxBefore bounds how far back an environment is asked how a release stood it.
const maxBefore = 200

// loadHistory reads what an environment declares and declared before, back to what
// the one after it has.
func (u *Upstream) loadHistory(s *snapshot, environment string) error {
	at, err := s.repo.Ref(record.EnvironmentRef(environment))
	if err != nil {
		return err
	}
	for step := 1; at != repo.Zero && len(u.Before) < maxBefore; step = min(2*step, 32) {
		part, err := record.HistoryFrom(s.repo, s.application, at, step)
		if err != nil {
			return err
		}
		at = repo.Zero
		for _, c := range part {
			if u.Declared == nil {
				u.Declared = &c
			} else {
				u.Before = append(u.Before, c)
			}
			if at = c.Parent; c.Removal || c.Covers() <= s.covers() {
				return nil
			}
		}
	}
	return nil
}

// key names what the environment's target converges.
func (s *snapshot) key() target.Key { return s.keyIn(s.environment) }

func (s *snapshot) keyIn(environment string) target.Key {
	return target.Key{Repository: s.repo.Name(), Application: s.application, Environment: environment}
}

// loadWanted renders the release that ought to come next.
func (s *snapshot) loadWanted(rc *Reconciler) error {
	if s.Leaving && s.Declared != nil && !s.Declared.Removal {
		if s.rejected(0) {
			return nil
		}
		tree, err := record.Without(s.repo, s.Declared.Tree, s.application)
		s.Wanted = &Rendered{Removal: true, Tree: tree}
		return err
	}
	for i, release := range Wants(s.View) {
		wanted, err := s.render(rc, release)
		if err != nil {
			return err
		}
		possible := wanted.Problem == "" && !wanted.Unproven
		if i == 0 || possible {
			s.Wanted = wanted
		}
		if possible {
			break // what cannot be declared is in nobody's way
		}
	}
	return nil
}

// render is what declaring a release would mean.
func (s *snapshot) render(rc *Reconciler, release int) (*Rendered, error) {
	rel, _ := s.release(release)
	wanted := &Rendered{Release: release, Unproven: rel.Verifies() != nil}
	if p := s.settings.Path; p != strings.Join(strings.Fields(p), " ") {
		wanted.Problem = OddPath
		return wanted, nil
	}
	if rc.available(rel.Artifacts) != nil {
		wanted.Problem = NoArtifact
		return wanted, nil
	}

	base := repo.Zero
	if s.Declared != nil {
		base = s.Declared.Tree
		names, err := record.Applications(s.repo, base)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(names, func(name string) bool { return name != s.application }); i >= 0 {
			wanted.Problem, s.others = Moved, names[i]
			return wanted, nil
		}
	}
	tree, err := record.Render(s.repo, base, s.application, rel, s.settings.Path)
	if errors.Is(err, record.ErrNoDirectory) {
		wanted.Problem = NoDirectory
		return wanted, nil
	}
	if err != nil {
		return nil, err
	}
	wanted.Tree = tree
	switch a, by, err := rc.taken(s, tree); {
	case err != nil:
		return nil, err
	case by != Holder{}:
		wanted.Problem, s.taken = Taken, &addressTaken{s.repo.Name(), a, by}
		return wanted, nil
	}
	if s.Declared != nil && s.Declared.Held == nil && rel.Verifies() == nil {
		wanted.Same, err = record.SameContent(s.repo, base, s.application, rel, s.settings.Path)
	}
	return wanted, err
}

// problem says why the wanted release cannot be declared, "" when it can.
func (s *snapshot) problem() string {
	if s.Wanted == nil {
		return ""
	}
	switch s.Wanted.Problem {
	case NoDirectory:
		return fmt.Sprintf("release %d has no directory %s, which headgate.yaml gives as the path of %s",
			s.Wanted.Release, s.settings.Path, s.environment)
	case NoArtifact:
		return fmt.Sprintf("the bytes of an artifact of release %d are not on this server any more", s.Wanted.Release)
	case Taken:
		return fmt.Sprintf("release %d cannot be declared: %v", s.Wanted.Release, s.taken)
	case Moved:
		return fmt.Sprintf("application %s is declared in %s: an environment cannot be moved to another application",
			s.others, s.environment)
	case OddPath:
		return fmt.Sprintf("the path %q of environment %s holds unusual white space", s.settings.Path, s.environment)
	}
	return ""
}

// release finds a release by number.
func (s *snapshot) release(number int) (record.Release, bool) {
	i, ok := slices.BinarySearchFunc(s.landed, number, func(r record.Release, n int) int { return r.Number - n })
	if !ok {
		return record.Release{}, false
	}
	return s.landed[i], true
}

// carried are the releases that promoting to would bring, newest first.
func (s *snapshot) carried(to int) []record.Release {
	var rs []record.Release
	for _, r := range slices.Backward(s.landed) {
		if r.Number > s.covers() && r.Number <= to {
			rs = append(rs, r)
		}
	}
	return rs
}

// sourceDeclared is the landed commit that the environment runs, Zero for none.
func (s *snapshot) sourceDeclared() repo.Hash {
	if s.Declared == nil {
		return repo.Zero
	}
	return s.Declared.CoveredSource()
}

// proposedRelease is that of the open proposal, 0 for none.
func (s *snapshot) proposedRelease() int {
	if s.Proposal == nil {
		return 0
	}
	return s.Proposal.Release
}

// proposed names what is proposed.
func (s *snapshot) proposed() string {
	if s.Proposal.Removal {
		return "the removal"
	}
	return fmt.Sprintf("release %d", s.Proposal.Release)
}

// openProposal reports whether there is a proposal that a person could be asked
// about: one by this server on the present state.
func (s *snapshot) openProposal() bool {
	return s.Proposal != nil && s.Proposal.ID != "" && s.Proposal.Parent == s.tip()
}

// sequence is a commit's place in its environment's branch, from 1.
func (rc *Reconciler) sequence(ctx context.Context, r *repo.Repository, commit, parent repo.Hash) (int, error) {
	key := r.Name() + " " + commit.String()
	if n, ok := rc.sequences.get(key); ok {
		return n, nil
	}
	if n, ok := rc.sequences.get(r.Name() + " " + parent.String()); ok {
		rc.sequences.put(key, n+1)
		return n + 1, nil
	}

	out, err := r.Git(ctx, "rev-list", "--count", "--end-of-options", commit.String())
	if err != nil {
		return 0, fmt.Errorf("count commits of an environment of %s: %w", r.Name(), err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, fmt.Errorf("count commits of an environment of %s: git answered %q", r.Name(), out)
	}
	rc.sequences.put(key, n)
	return n, nil
}

// nextSequence is the place that a commit on top of tip will have, which may be Zero.
func (rc *Reconciler) nextSequence(ctx context.Context, r *repo.Repository, tip repo.Hash) (int, error) {
	if tip == repo.Zero {
		return 1, nil
	}
	c, err := r.Commit(tip)
	if err != nil {
		return 0, err
	}
	parent := repo.Zero
	if len(c.ParentHashes) > 0 {
		parent = c.ParentHashes[0]
	}
	n, err := rc.sequence(ctx, r, tip, parent)
	return n + 1, err
}

// observedOf is what of a target's report matters to Plan and to notes.
func observedOf(o target.Observed) record.Report {
	report := record.Report{Commit: o.Commit, State: o.State, Since: o.Since, Message: o.Message, Attempt: o.Attempt, RollBack: o.RollBack}
	for _, u := range o.Units {
		report.Serving = append(report.Serving, record.Served{
			Name:      u.Name,
			Release:   u.Release,
			URL:       u.URL,
			Instances: len(u.Instances),
		})
	}
	return report
}
