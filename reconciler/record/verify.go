package record

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
)

// Verified is what Verify saw. It proves something only together with its
// counts: nothing wrong among no commits is nothing.
type Verified struct {
	Environments int
	Promotions   int // commits that give an environment a release
	Rollbacks    int // commits that give one back
	Approvals    int // by people
	Decisions    int // records that were there to be checked
	Findings     []Finding
}

// Finding is one thing that is not as it must be.
type Finding struct {
	Ref    string
	Commit repo.Hash
	What   string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s at %s %s", f.Ref, show.Short(f.Commit.String()), f.What)
}

// Verify proves from a clone alone, with nothing but the keys whose signatures
// count, that every environment's branch is one line of signed commits, and
// that each gave the environment exactly a release's bytes: the release exists,
// verifies, and its directory with its manifest is what the commit holds. releases
// are those of the clone, checked by the caller (Release.Verify); a plain clone
// has none of their tags, a mirror has. It reads branches of the clone and, where
// there are none, those of its remotes. It writes nothing. The error is for what
// keeps it from reading; what it finds wrong are findings. What one record says of
// another is checked from both sides: a commit names its decision and the decision's
// place, a note names its commit, an open proposal has been decided about. The chain
// of decisions itself is for decision.Verify.
func Verify(ctx context.Context, r *repo.Repository, signers repo.Signers, releases []Release) (Verified, error) {
	var v verification
	v.repo, v.signers, v.releases, v.line = r, signers, map[int]Release{}, map[repo.Hash]bool{}
	var err error
	if v.decisions, err = decision.Verify(ctx, r, signers); err != nil {
		return v.Verified, err
	}
	for _, rel := range releases {
		v.releases[rel.Number] = rel
	}
	refs, err := environmentRefs(r)
	if err != nil {
		return v.Verified, err
	}
	for _, ref := range refs {
		v.Environments++
		if err := v.branch(ctx, ref); err != nil {
			return v.Verified, fmt.Errorf("verify %s: %w", ref.Name, err)
		}
	}
	if err := v.outcomes(ctx); err != nil {
		return v.Verified, fmt.Errorf("verify %s: %w", Outcomes, err)
	}
	return v.Verified, v.proposals(refs)
}

// outcomes checks that the notes are signed, that there are some where something came of
// one, and that each is of a commit that an environment's branch still holds.
func (v *verification) outcomes(ctx context.Context) error {
	tip, err := v.repo.Ref(Outcomes)
	if err != nil {
		return err
	}
	found := func(at repo.Hash, format string, args ...any) {
		v.Findings = append(v.Findings, Finding{Outcomes, at, fmt.Sprintf(format, args...)})
	}
	if tip == repo.Zero {
		if v.noted != repo.Zero {
			found(v.noted, "is not there, and what was promoted or rolled back from has an outcome")
		}
		return nil
	}
	for at := tip; at != repo.Zero; {
		if err := ctx.Err(); err != nil {
			return err
		}
		kind, raw, err := v.repo.Raw(at)
		if err != nil {
			return err
		}
		if err := v.signers.VerifyObject(kind, raw); err != nil {
			found(at, "%s", err)
		}
		c, err := v.repo.Commit(at)
		if err != nil {
			return err
		}
		if at = repo.Zero; len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	noted, err := v.repo.Noted(Outcomes)
	for _, of := range noted {
		if !v.line[of] {
			found(of, "has a note, and no environment's branch holds it: one was rewound or is not there")
		}
	}
	return err
}

// Prove proves, from the objects of r alone, what a commit of an environment declares: that
// it is a promotion to this environment of this application, and holds exactly the bytes of
// the release that it names, which rel is; the caller has checked both signatures. It
// returns what the commit says.
func Prove(r *repo.Repository, application, environment string, at repo.Hash, rel Release) (Promotion, error) {
	c, err := r.Commit(at)
	if err != nil {
		return Promotion{}, err
	}
	p, ok := ParsePromotion(c.Message, c.TreeHash)
	if !ok || p.Removal || len(c.ParentHashes) > 1 {
		return p, errors.New("the commit does not read as a promotion")
	}
	parent := repo.Zero
	if len(c.ParentHashes) > 0 {
		parent = c.ParentHashes[0]
	}
	if p.ID != PromotionID(application, environment, parent, c.TreeHash) {
		return p, fmt.Errorf("the commit is not one of the environment %s of %s", environment, application)
	}
	var wrong error
	v := verification{repo: r, releases: map[int]Release{rel.Number: rel}}
	_, err = v.content(func(format string, args ...any) {
		if wrong == nil {
			wrong = fmt.Errorf("the commit "+format, args...)
		}
	}, p, c.TreeHash)
	return p, cmp.Or(err, wrong)
}

// justNow reports whether what follows something may still be on its way: a clone
// can be made between two moves.
func justNow(at time.Time) bool {
	since := time.Since(at)
	return 0 <= since && since < time.Minute
}

// proposals checks that each open one is on top of its environment, signed, and was
// decided about.
func (v *verification) proposals(environments []repo.Ref) error {
	for _, e := range environments {
		at := strings.LastIndex(e.Name, "env/")
		environment := e.Name[at+len("env/"):]
		ref := e.Name[:at] + "promote/" + environment
		tip, err := v.repo.Ref(ref)
		if err != nil {
			return err
		}
		if tip == repo.Zero {
			continue
		}
		found := func(format string, args ...any) {
			v.Findings = append(v.Findings, Finding{ref, tip, fmt.Sprintf(format, args...)})
		}
		kind, raw, err := v.repo.Raw(tip)
		if err != nil {
			return err
		}
		if err := v.signers.VerifyObject(kind, raw); err != nil {
			found("%s", err)
		}
		c, err := v.repo.Commit(tip)
		if err != nil {
			return err
		}
		p, ok := ParsePromotion(c.Message, c.TreeHash)
		switch {
		case tip == e.Hash || !ok:
			found("is not a proposal: it was rewound or replaced")
			continue
		case len(c.ParentHashes) != 1 || c.ParentHashes[0] != e.Hash:
			continue // the environment has moved on; the server drops it when it sees that
		}
		about := fmt.Sprintf("release %d to %s", p.Release, environment)
		if p.Removal {
			about = "removal of " + environment
		}
		if !v.decisions.Decided("promote", about) && !justNow(c.Committer.When) {
			found("proposes the %s, and no decision about that is in %s", about, decision.Ref)
		}
	}
	return nil
}

type verification struct {
	Verified
	repo      *repo.Repository
	signers   repo.Signers
	releases  map[int]Release
	decisions *decision.Chain
	line      map[repo.Hash]bool // commits of all environments' branches
	noted     repo.Hash          // a commit that must have an outcome: something came of that
}

// branch walks one environment's branch from its tip to its root.
func (v *verification) branch(ctx context.Context, ref repo.Ref) error {
	// What a rollback restores must stand below it; that is known at the root.
	trees := map[repo.Hash]repo.Hash{} // commit → its apps
	type claim struct{ by, restores, apps repo.Hash }
	var claims []claim
	var line []repo.Hash          // from the tip on
	places := map[repo.Hash]int{} // that commits say they have

	for at := ref.Hash; at != repo.Zero; {
		if err := ctx.Err(); err != nil {
			return err
		}
		found := func(format string, args ...any) {
			v.Findings = append(v.Findings, Finding{ref.Name, at, fmt.Sprintf(format, args...)})
		}
		line = append(line, at)
		before := v.Verified
		again := v.line[at] // another environment was called this one's name until then
		v.line[at] = true
		kind, raw, err := v.repo.Raw(at)
		if err != nil {
			return err
		}
		c, err := v.repo.Commit(at)
		if err != nil {
			return err
		}
		if err := v.signers.VerifyObject(kind, raw); err != nil {
			found("%s", err)
		}
		if len(c.ParentHashes) > 1 {
			found("has %d parents; an environment is one line", len(c.ParentHashes))
		}
		if initial, err := IsInitial(v.repo, at); err != nil {
			return err
		} else if initial {
			break // signed, which was checked, and empty
		}
		p, ok := ParsePromotion(c.Message, c.TreeHash)
		if !ok {
			found("does not read as a promotion: it names no release")
		} else {
			places[at] = p.Sequence
			if p.From.Commit != repo.Zero {
				v.noted = p.From.Commit // it was healthy there
			}
			check := v.content
			if p.Renamed != "" {
				check = v.renamed(c.ParentHashes)
			}
			apps, err := check(found, p, c.TreeHash)
			if err != nil {
				return err
			}
			trees[at] = apps
			if b := p.Rollback; b != nil {
				v.Rollbacks++
				claims = append(claims, claim{at, b.Restores, apps})
				if len(c.ParentHashes) == 0 || b.Of != c.ParentHashes[0] {
					found("rolls back %s, which is not the commit before it", show.Short(b.Of.String()))
				}
			} else if p.Renamed == "" {
				v.Promotions++
			}
			v.approvals(found, c.Message, p)
			if err := v.decided(ctx, found, p); err != nil {
				return err
			}
		}
		if again || p.Renamed != "" { // nothing new to count
			before.Findings = v.Findings
			v.Verified = before
		}
		at = repo.Zero
		if len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	for i, at := range line {
		if says, is := places[at], len(line)-i; says > 0 && says != is {
			v.Findings = append(v.Findings,
				Finding{ref.Name, at, fmt.Sprintf("says that its place is %d, and it is %d", says, is)})
		}
	}
	for _, c := range claims {
		if apps, ok := trees[c.restores]; !ok || apps != c.apps {
			v.Findings = append(v.Findings,
				Finding{ref.Name, c.by, fmt.Sprintf("restores %s, but its content is another", show.Short(c.restores.String()))})
		}
	}
	return nil
}

// renamed checks that a commit which renames an environment declares what was declared
// before. It is for branch in the place of content.
func (v *verification) renamed(
	parents []repo.Hash) func(func(string, ...any), Promotion, repo.Hash) (repo.Hash, error) {
	return func(found func(string, ...any), p Promotion, tree repo.Hash) (repo.Hash, error) {
		was := repo.Zero
		if len(parents) > 0 {
			var err error
			if was, err = v.repo.TreeOf(parents[0]); err != nil {
				return repo.Zero, err
			}
		}
		if was != tree {
			found("renames %s, and declares something else than before", p.Renamed)
		}
		apps, err := v.repo.Lookup(tree, applicationsDir)
		if errors.Is(err, repo.ErrNoFile) {
			err = nil
		}
		return apps.Hash, err
	}
}

// content checks that a commit holds a release's bytes and no others. It
// returns the tree below apps.
func (v *verification) content(found func(string, ...any), p Promotion, tree repo.Hash) (repo.Hash, error) {
	top, err := v.repo.Tree(tree)
	if err != nil {
		return repo.Zero, err
	}
	if p.Removal {
		if len(top) > 0 {
			found("removes the application and holds %d entries", len(top))
		}
		return repo.Zero, nil
	}
	held := false
	for _, e := range top {
		switch e.Name {
		case applicationsDir:
		case holdsDir:
			held = true
		default:
			found("holds %s, which belongs to no application", e.Name)
		}
	}
	// One that renames keeps what there is: see renamed.
	if rollback := p.Rollback != nil; held != rollback && p.Renamed == "" {
		found("hold: %t, rollback: %t; a rollback sets a hold and a promotion lifts it", held, rollback)
	}
	appsEntry, err := v.repo.Lookup(tree, applicationsDir)
	if errors.Is(err, repo.ErrNoFile) {
		found("holds no application")
		return repo.Zero, nil
	}
	if err != nil {
		return repo.Zero, err
	}
	apps, err := v.repo.Tree(appsEntry.Hash)
	if err != nil {
		return repo.Zero, err
	}
	if len(apps) != 1 {
		found("holds %d applications, and names one release", len(apps))
		return appsEntry.Hash, nil
	}
	rel, ok := v.releases[p.Release]
	if !ok {
		found("names release %d, of which there is no tag", p.Release)
		return appsEntry.Hash, nil
	}
	if err := rel.Verifies(); err != nil {
		found("names release %d, which does not verify: %s", p.Release, err)
		return appsEntry.Hash, nil
	}
	switch {
	case rel.Commit != p.Source:
		found("names release %d of %s, but that release is of %s", p.Release, show.Short(p.Source.String()),
			show.Short(rel.Commit.String()))
		return appsEntry.Hash, nil
	}
	own, unknown := rel.only(p.Artifacts)
	for _, a := range unknown {
		found("names artifact %s@%s, which release %d does not have", a.Name, a.Digest, p.Release)
	}
	_, want, err := rendered(v.repo, own, p.Path)
	switch {
	case errors.Is(err, ErrNoDirectory):
		found("names directory %s, which release %d does not have", p.Path, p.Release)
	case err != nil:
		return repo.Zero, err
	case want.Hash() != apps[0].Hash:
		found("holds bytes in apps/%s that are not release %d's %s", apps[0].Name, p.Release, p.Path)
	}
	return appsEntry.Hash, nil
}

// approvals checks that every approval is of this content and counts it.
func (v *verification) approvals(found func(string, ...any), message string, p Promotion) {
	if named := approvalsNamed(message); named != len(p.Approvals) {
		found("carries %d approvals, of which %d are of this content and of different people", named, len(p.Approvals))
	}
	v.Approvals += len(p.Approvals)
}

// decided checks that the commit names a decision that allowed it, at its place in
// the chain.
func (v *verification) decided(ctx context.Context, found func(string, ...any), p Promotion) error {
	if p.Decision.Decision != policies.Auto {
		found("names no decision that allows it")
		return nil
	}
	at := p.Decision.Commit
	if absent := v.decisions.Absent(at, p.Decision.Place); absent != "" {
		found("%s", absent)
		return nil
	}
	rec, err := decision.Read(ctx, v.repo, at)
	if err != nil {
		return err
	}
	if rec.Answer != string(policies.Auto) || rec.Policy != p.Policy {
		found("names decision %s, which does not allow it", decision.ID(at))
	}
	v.Decisions++
	return nil
}
