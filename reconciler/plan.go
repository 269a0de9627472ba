package reconciler

import (
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// View is all that matters about one environment of one repository at one
// instant. Worker.look gathers it; Plan decides on nothing else.
type View struct {
	Now      time.Time
	Releases []int     // landed, ascending
	Upstream *Upstream // the environment that goes first; nil: takes what lands
	Declared *Declared // nil: nothing was ever promoted
	Begun    repo.Hash // the branch's empty first commit, while Declared is nil
	Outcome  Outcome   // recorded about Declared
	Observed Observed  // reported by the target, about any commit
	Told     repo.Hash // declared commit that the target was last given
	Proposal *Proposal // nil: none is open
	Wanted   *Rendered // what release Want(v) would declare; nil when Want is 0
	Answer   *Answer   // what policy says about Proposal; nil: not asked
}

// Upstream is the environment named by `after`.
type Upstream struct {
	Name    string
	Release int  // newest release that its declared state covers; 0: none
	Healthy bool // its target says now that exactly this is healthy
}

// Declared is the tip of an environment's branch.
type Declared struct {
	Commit   repo.Hash
	Sequence int // commits in the branch; the target's fence
	Release  int // that is in the tree
	Covers   int // newest release with the same content, at least Release
	ID       string
	Held     bool
}

// Proposal is the commit at promote/<environment>.
type Proposal struct {
	Commit, Parent, Tree repo.Hash
	Release              int
	ID                   string
	Approvals            []Approval // of Tree, by distinct users
}

// Rendered is what declaring a release would mean.
type Rendered struct {
	Release  int
	Tree     repo.Hash // of the whole promotion commit
	Same     bool      // Declared has this very content, and no hold to lift
	Unproven bool      // its signature or provenance does not verify
	Problem  string    // why the release cannot be declared here
}

// Answer is a policy's decision about one proposal.
type Answer struct {
	Proposal  repo.Hash
	Decision  policies.Decision
	NotBefore time.Time // when a condition of time changes; zero: none does
}

// Observed is what the target reports.
type Observed struct {
	Commit  string
	State   target.State
	Since   time.Time
	Message string
	Serving []Served
}

// Kind says what an Action does.
type Kind string

// The kinds of actions. All but Wake change something, and Plan stops asking
// for each once it has been done.
const (
	Converge  Kind = "converge"  // give Declared to the target
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
	Approvals []Approval
	Outcome   Outcome
	At        time.Time
	Reason    string
}

// Want is the release that ought to be declared or proposed next, 0 for none:
// without `after` the newest that landed; else the newest that is declared and
// healthy there. A release already proposed stays wanted while the environment
// before it is on its way to something newer, and is not once that has been
// rolled back.
func Want(v View) int {
	if len(v.Releases) == 0 {
		return 0
	}
	newest := v.Releases[len(v.Releases)-1]
	if v.Upstream != nil {
		newest = v.Upstream.Release
	}
	wanted := 0
	switch {
	case v.Upstream == nil || v.Upstream.Healthy:
		wanted = newest
	case v.Proposal != nil && v.Proposal.Release <= newest:
		wanted = v.Proposal.Release
	}
	if !slices.Contains(v.Releases, wanted) || v.Declared != nil && wanted <= v.Declared.Covers {
		return 0
	}
	return wanted
}

// Plan says what to do next. Doing it all and planning again comes to rest;
// doing a part of it, being killed, and planning again comes to the same rest.
func Plan(v View) []Action {
	var do []Action
	tip := v.Begun
	if d := v.Declared; d != nil {
		tip = d.Commit
		if v.Told != d.Commit {
			do = append(do, Action{Kind: Converge, Release: d.Release})
		}
		if next, changed := v.Outcome.next(d.Commit, v.Observed); changed {
			do = append(do, Action{Kind: Note, Release: d.Release, Outcome: next})
		}
	}

	p, wanted := v.Proposal, v.Wanted
	drop := func(reason string) []Action {
		if p == nil {
			return do
		}
		return append(do, Action{Kind: Drop, Release: p.Release, Reason: reason})
	}
	switch {
	case p != nil && v.Declared != nil && p.ID == v.Declared.ID:
		return drop("promoted")
	case wanted == nil:
		return drop("no longer wanted")
	case wanted.Problem != "":
		return drop(wanted.Problem)
	case wanted.Same:
		if p != nil {
			return drop("same content as declared")
		}
		return append(do, Action{Kind: Cover, Release: wanted.Release})
	case p == nil:
		return append(do, Action{Kind: Propose, Release: wanted.Release})
	case p.Release != wanted.Release || p.Tree != wanted.Tree || p.Parent != tip:
		return append(do, Action{Kind: Supersede, Release: wanted.Release, Approvals: kept(v)})
	}

	if v.Answer == nil || v.Answer.Proposal != p.Commit {
		return do
	}
	if v.Answer.Decision == policies.Auto && mayMove(v) {
		return append(do, Action{Kind: Promote, Release: p.Release})
	}
	if v.Answer.NotBefore.After(v.Now) {
		do = append(do, Action{Kind: Wake, At: v.Answer.NotBefore})
	}
	return do
}

// kept are the approvals that a proposal's successor inherits: those of the
// same content. A hold set since asks for a new yes: what people approved
// before the rollback, they approved without knowing of it.
func kept(v View) []Approval {
	if v.Wanted.Tree != v.Proposal.Tree {
		return nil
	}
	if v.Declared != nil && v.Declared.Held && v.Declared.Commit != v.Proposal.Parent {
		return nil
	}
	return v.Proposal.Approvals
}

// mayMove is what no policy can allow: a release that does not verify, past a
// hold without a person, or past an environment that is not healthy with it.
func mayMove(v View) bool {
	if v.Wanted.Unproven || v.Declared != nil && v.Declared.Held && len(v.Proposal.Approvals) == 0 {
		return false
	}
	return v.Upstream == nil || v.Upstream.Healthy && v.Upstream.Release >= v.Proposal.Release
}
