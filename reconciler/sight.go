package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// sight is what one look at an environment of a repository saw: the View that
// Plan decides on, and what acting and showing need besides.
type sight struct {
	View
	repo        *repo.Repository
	app         string
	settings    headgateyaml.Environment
	environment string
	tip         repo.Hash // of the gated branch
	releases    []Release // ascending
	declared    *declaration
	begun       repo.Hash // the branch's empty first commit, while nothing was ever promoted
	upstream    *upstream
	proposal    Promotion // of View.Proposal
	proposedAt  time.Time
	asked       *asked // of View.Answer
}

// key names what the environment's target converges.
func (s *sight) key() target.Key { return s.keyIn(s.environment) }

func (s *sight) keyIn(environment string) target.Key {
	return target.Key{Repository: s.repo.Name(), Application: s.app, Environment: environment}
}

// declaration is one commit of an environment's branch, read.
type declaration struct {
	Promotion
	Commit, Parent, Tree repo.Hash
	At                   time.Time
	Held                 *Hold
	Outcome              Outcome
}

// upstream is what is known of the environment named by `after`.
type upstream struct {
	settings headgateyaml.Environment
	declared *declaration
	observed target.Observed
	healthy  bool
}

// look reads everything that matters about an environment. It writes objects
// (the trees that would be promoted) but moves nothing.
func (rc *Reconciler) look(ctx context.Context, r *repo.Repository, environment string) (*sight, error) {
	s := &sight{repo: r, app: r.Name(), environment: environment}
	s.Now = rc.now()
	all, tip, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(e headgateyaml.Environment) bool { return e.Name == environment })
	if i < 0 {
		return nil, noEnvironment(r.Name(), environment, all)
	}
	s.settings, s.tip = all[i], tip
	if s.releases, err = rc.releases(r); err != nil {
		return nil, err
	}
	for _, rel := range s.releases {
		s.Releases = append(s.Releases, rel.Number)
	}
	if s.declared, err = rc.declaredIn(r, environment); err != nil {
		return nil, err
	}
	if s.declared == nil {
		if s.begun, err = r.Ref(EnvironmentRef(environment)); err != nil {
			return nil, err
		}
		s.Begun = s.begun
	}
	if d := s.declared; d != nil {
		count, err := rc.sequence(ctx, r, d.Commit, d.Parent)
		if err != nil {
			return nil, err
		}
		s.Declared = &Declared{Commit: d.Commit, Sequence: count, Release: d.Release,
			Covers: d.Outcome.covers(d.Release), ID: d.ID, Held: d.Held != nil}
		s.Outcome = d.Outcome
	}
	s.Observed = seen(rc.observed(s.settings, s.key()))
	if after := s.settings.After; after != "" {
		s.Upstream = &Upstream{Name: after}
		s.upstream = &upstream{}
		if s.upstream.declared, err = rc.declaredIn(r, after); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(all, func(e headgateyaml.Environment) bool { return e.Name == after }); i >= 0 {
			s.upstream.settings = all[i]
			s.upstream.observed = rc.observed(all[i], s.keyIn(after))
		}
		if d := s.upstream.declared; d != nil {
			// Both must say so: the note that this commit became healthy, which dates
			// it, and the target that it is so now.
			s.upstream.healthy = s.upstream.observed.State == target.Healthy &&
				s.upstream.observed.Commit == d.Commit.String() && d.Outcome.State == target.Healthy
			s.Upstream.Release, s.Upstream.Healthy = d.Outcome.covers(d.Release), s.upstream.healthy
		}
	}
	if err := s.lookAtProposal(); err != nil {
		return nil, err
	}
	return s, s.lookAtWanted()
}

// lookAtProposal reads promote/<environment>. A commit there that the server
// did not make is none; Plan then puts a proper one in its place.
func (s *sight) lookAtProposal() error {
	at, err := s.repo.Ref(PromotionRef(s.environment))
	if err != nil || at == repo.Zero {
		return err
	}
	c, err := s.repo.Commit(at)
	if err != nil {
		return err
	}
	parent := repo.Zero
	if len(c.ParentHashes) > 0 {
		parent = c.ParentHashes[0]
	}
	s.proposal, _ = parsePromotion(c.Message, c.TreeHash)
	s.proposedAt = c.Author.When.UTC()
	s.Proposal = &Proposal{Commit: at, Parent: parent, Tree: c.TreeHash, Release: s.proposal.Release,
		ID: s.proposal.ID, Approvals: s.proposal.Approvals}
	return nil
}

// lookAtWanted renders the release that ought to come next.
func (s *sight) lookAtWanted() error {
	wanted := Want(s.View)
	if wanted == 0 {
		return nil
	}
	rel, _ := s.release(wanted)
	s.Wanted = &Rendered{Release: wanted, Unproven: rel.Verifies != nil}
	if p := s.settings.Path; p != strings.Join(strings.Fields(p), " ") {
		s.Wanted.Problem = fmt.Sprintf("the path %q of environment %s holds unusual white space", p, s.environment)
		return nil
	}
	apps, err := render(s.repo, rel, s.settings.Path)
	if errors.Is(err, errNoFolder) {
		s.Wanted.Problem = fmt.Sprintf("release %d has no folder %s, which headgate.yaml gives as the path of %s",
			wanted, s.settings.Path, s.environment)
		return nil
	}
	if err != nil {
		return err
	}
	base := repo.Zero
	if s.declared != nil {
		base = s.declared.Tree
		if s.declared.Held == nil && rel.Verifies == nil {
			if s.Wanted.Same, err = sameContent(s.repo, base, s.app, rel, s.settings.Path); err != nil {
				return err
			}
		}
	}
	s.Wanted.Tree, err = s.repo.TreeWith(base, map[string]repo.Edit{
		appPath(s.app):  {Mode: dirMode, Hash: apps},
		holdPath(s.app): {Remove: true},
	})
	return err
}

// release finds a release by number.
func (s *sight) release(number int) (Release, bool) {
	i, ok := slices.BinarySearchFunc(s.releases, number, func(r Release, n int) int { return r.Number - n })
	if !ok {
		return Release{}, false
	}
	return s.releases[i], true
}

// carried are the releases that promoting to would bring, newest first.
func (s *sight) carried(to int) []Release {
	from := 0
	if s.Declared != nil {
		from = s.Declared.Covers
	}
	var rs []Release
	for _, r := range slices.Backward(s.releases) {
		if r.Number > from && r.Number <= to {
			rs = append(rs, r)
		}
	}
	return rs
}

// sourceDeclared is the landed commit that the environment runs, Zero for none.
func (s *sight) sourceDeclared() repo.Hash {
	if s.declared == nil {
		return repo.Zero
	}
	source := s.declared.Source
	for _, c := range s.declared.Outcome.Covers {
		if h, ok := repo.ParseHash(c.Commit); ok && c.Release == s.Declared.Covers {
			source = h
		}
	}
	return source
}

// declaredIn reads the tip of an environment's branch, nil when nothing was ever
// promoted to it.
func (rc *Reconciler) declaredIn(r *repo.Repository, environment string) (*declaration, error) {
	tip, err := r.Ref(EnvironmentRef(environment))
	if err != nil || tip == repo.Zero {
		return nil, err
	}
	if first, err := isBeginning(r, tip); err != nil || first {
		return nil, err
	}
	d, err := declarationAt(r, tip)
	return &d, err
}

// declarationAt reads one commit of an environment's branch.
func declarationAt(r *repo.Repository, at repo.Hash) (declaration, error) {
	c, err := r.Commit(at)
	if err != nil {
		return declaration{}, err
	}
	d := declaration{Commit: at, Tree: c.TreeHash, At: c.Committer.When.UTC()}
	if len(c.ParentHashes) > 0 {
		d.Parent = c.ParentHashes[0]
	}
	ok := false
	if d.Promotion, ok = parsePromotion(c.Message, c.TreeHash); !ok {
		return d, fmt.Errorf("commit %s of an environment of %s does not read as a promotion", short(at), r.Name())
	}
	if d.Held, err = holdOf(r, c.TreeHash, r.Name()); err != nil {
		return d, err
	}
	d.Outcome, err = outcomeOf(r, at)
	return d, err
}

// history reads an environment's branch, newest first, at most limit commits.
func (rc *Reconciler) history(r *repo.Repository, environment string, limit int) ([]declaration, error) {
	at, err := r.Ref(EnvironmentRef(environment))
	if err != nil {
		return nil, err
	}
	var all []declaration
	for at != repo.Zero && len(all) < limit {
		if first, err := isBeginning(r, at); err != nil {
			return nil, err
		} else if first {
			break
		}
		d, err := declarationAt(r, at)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
		at = d.Parent
	}
	return all, nil
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

// seen is what of a target's report matters to Plan and to notes.
func seen(o target.Observed) Observed {
	s := Observed{Commit: o.Commit, State: o.State, Since: o.Since, Message: o.Message}
	for _, u := range o.Units {
		s.Serving = append(s.Serving, Served{Name: u.Name, Release: u.Release, URL: u.URL, Instances: len(u.Instances)})
	}
	return s
}
