package reconciler

import (
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// View is all that matters about one environment of one repository at one
// instant. Reconciler.load gathers it; Plan decides on nothing else.
type View struct {
	Now      time.Time
	Releases []int            // landed, ascending
	Upstream *Upstream        // the environment that goes first; nil: takes what lands
	Declared *Declared        // nil: nothing was ever promoted
	Leaving  bool             // headgate.yaml does not name it any more
	Initial  repo.Hash        // the branch's empty first commit, while Declared is nil
	Observed record.Report    // by the target, about any commit
	Given    Given            // what the target was given last
	Drift    target.Drift     // what policy says is to be done about drift
	Proposal *record.Proposal // nil: none is open
	Wanted   *Rendered        // what release Want(v) would declare; nil when Want is 0
	Decision *Decision        // what policy says about Proposal; nil: it was not asked
}

// Upstream is the environment named by `after`.
type Upstream struct {
	Name     string
	Declared *record.Commit // nil: nothing was ever promoted to it
	Observed record.Report
}

// Release is the newest release that its declared state covers; 0: none.
func (u *Upstream) Release() int {
	if u.Declared == nil {
		return 0
	}
	return u.Declared.Covers()
}

// Declared is the tip of an environment's branch.
type Declared struct {
	record.Commit
	Sequence int // commits in the branch; the target's fence
}

// Given is a declared state as a target was given it.
type Given struct {
	Commit repo.Hash
	Drift  target.Drift
}

// Rendered is what declaring a release would mean.
type Rendered struct {
	Release  int
	Tree     repo.Hash // of the whole promotion commit
	Removal  bool      // nothing is to be declared; Release is 0
	Same     bool      // Declared has this very content, and no hold to lift
	Unproven bool      // its signature or provenance does not verify
	Problem  Problem   // why the release cannot be declared here
}

// Problem is why a release cannot be declared in an environment.
type Problem string

// The problems; the zero Problem is none.
const (
	NoDirectory Problem = "no directory" // the release has nothing at the environment's path
	OddPath     Problem = "odd path"     // a path that a trailer cannot hold
	NoArtifact  Problem = "no artifact"  // bytes of the release are gone
	Taken       Problem = "taken"        // another environment has an address that it declares
)

// Decision is a policy's decision about one proposal.
type Decision struct {
	Proposal  repo.Hash
	Result    policies.Decision
	NotBefore time.Time // when a condition of time changes; zero: none does
}

// Kind says what an Action does.
type Kind string

// The kinds of actions. All but Wake change something, and Plan stops asking
// for each once it has been done.
const (
	Converge  Kind = "converge"  // give Declared to the target, and what to do about Drift
	Remove    Kind = "remove"    // take from the target what it was given
	Note      Kind = "note"      // record Outcome about Declared
	Cover     Kind = "cover"     // record that Declared is also Release
	Propose   Kind = "propose"   // put Release at promote/<environment>, with Approvals
	Supersede Kind = "supersede" // the same in place of the open proposal
	Drop      Kind = "drop"      // delete promote/<environment>
	Promote   Kind = "promote"   // move env/<environment> to the proposal's content
	Wake      Kind = "wake"      // plan again at At
)

// Action is one thing to do.
type Action struct {
	Kind      Kind
	Release   int
	Approvals []record.Approval
	Outcome   record.Outcome
	Drift     target.Drift
	At        time.Time
	Reason    Reason
}

// Reason is why a proposal is dropped.
type Reason string

// The reasons.
const (
	Promoted   Reason = "promoted"
	Unwanted   Reason = "no longer wanted"
	Impossible Reason = "cannot be declared" // Rendered.Problem says why
	Same       Reason = "same content as declared"
)

// healthy reports whether an environment is healthy with what it declares. Both
// must say so: the note that this commit became healthy, which dates it, and the
// target that it is so now.
func healthy(declared *record.Commit, observed record.Report) bool {
	return declared != nil && declared.Outcome.State == target.Healthy &&
		observed.State == target.Healthy && observed.Commit == declared.Hash.String()
}

// Healthy reports whether its target says now that exactly what is declared there
// is healthy.
func (u *Upstream) Healthy() bool { return healthy(u.Declared, u.Observed) }

// HealthySince is when it became healthy, by the later of the note and the
// target: a restart interrupts what is known.
func (u *Upstream) HealthySince() time.Time {
	t := u.Declared.Outcome.HealthySince
	if since := u.Observed.Since.UTC().Truncate(time.Second); since.After(t) {
		t = since
	}
	return t.UTC()
}

// Want is the release that ought to be declared or proposed next, 0 for none:
// without `after` the newest that landed; else the newest that is declared and
// healthy there. A release already proposed stays wanted while the environment
// before it is on its way to something newer, and is not once that has been
// rolled back.
func Want(v View) int {
	if len(v.Releases) == 0 || v.Leaving {
		return 0
	}
	newest := v.Releases[len(v.Releases)-1]
	if v.Upstream != nil {
		newest = v.Upstream.Release()
	}

	wanted := 0
	switch {
	case v.Upstream == nil || v.Upstream.Healthy():
		wanted = newest
	case v.Proposal != nil && v.Proposal.Release <= newest:
		wanted = v.Proposal.Release
	}
	if !slices.Contains(v.Releases, wanted) || v.Declared != nil && wanted <= v.Declared.Covers() {
		return 0
	}
	return wanted
}

// Plan says what to do next. Doing it all and planning again comes to rest;
// doing a part of it, being killed, and planning again comes to the same rest.
func Plan(v View) []Action {
	var do []Action
	switch d := v.Declared; {
	case d == nil:
	case d.Removal:
		if v.Given.Commit != repo.Zero {
			do = append(do, Action{Kind: Remove})
		}
	default:
		if v.Given != (Given{d.Hash, v.Drift}) {
			do = append(do, Action{Kind: Converge, Release: d.Release, Drift: v.Drift})
		}
		switch next, changed, again := d.Outcome.Next(d.Hash, v.Observed, v.Now); {
		case changed:
			do = append(do, Action{Kind: Note, Release: d.Release, Outcome: next})
		case again.After(v.Now):
			do = append(do, Action{Kind: Wake, At: again})
		}
	}

	p, wanted := v.Proposal, v.Wanted
	drop := func(reason Reason) []Action {
		if p == nil {
			return do
		}
		return append(do, Action{Kind: Drop, Release: p.Release, Reason: reason})
	}
	switch {
	case p != nil && v.Declared != nil && p.ID == v.Declared.ID:
		return drop(Promoted)
	case wanted == nil:
		return drop(Unwanted)
	case wanted.Problem != "":
		return drop(Impossible)
	case wanted.Same:
		if p != nil {
			return drop(Same)
		}
		return append(do, Action{Kind: Cover, Release: wanted.Release})
	case p == nil:
		return append(do, Action{Kind: Propose, Release: wanted.Release})
	case p.Release != wanted.Release || p.Tree != wanted.Tree || p.Parent != v.tip():
		return append(do, Action{Kind: Supersede, Release: wanted.Release, Approvals: kept(v)})
	}

	if v.Decision == nil || v.Decision.Proposal != p.Commit {
		return do
	}
	if v.Decision.Result == policies.Auto && mayMove(v) {
		return append(do, Action{Kind: Promote, Release: p.Release})
	}
	if v.Decision.NotBefore.After(v.Now) {
		do = append(do, Action{Kind: Wake, At: v.Decision.NotBefore})
	}
	return do
}

// tip is that of the environment's branch.
func (v View) tip() repo.Hash {
	if v.Declared == nil {
		return v.Initial
	}
	return v.Declared.Hash
}

// covers is the newest release that the environment stands for, 0 for none.
func (v View) covers() int {
	if v.Declared == nil {
		return 0
	}
	return v.Declared.Covers()
}

// held reports whether only a person can promote.
func (v View) held() bool { return v.Declared != nil && v.Declared.Held != nil }

// kept are the approvals that a proposal's successor inherits: those of the
// same content. A hold set since asks for a new yes: what people approved
// before the rollback, they approved without knowing of it.
func kept(v View) []record.Approval {
	if v.Wanted.Tree != v.Proposal.Tree {
		return nil
	}
	if v.held() && v.Declared.Hash != v.Proposal.Parent {
		return nil
	}
	return v.Proposal.Approvals
}

// mayMove is what no policy can allow: a release that does not verify, past a
// hold without a person, or past an environment that is not healthy with it.
func mayMove(v View) bool {
	if v.Wanted.Unproven || v.held() && len(v.Proposal.Approvals) == 0 {
		return false
	}
	return v.Upstream == nil || v.Upstream.Healthy() && v.Upstream.Release() >= v.Proposal.Release
}
