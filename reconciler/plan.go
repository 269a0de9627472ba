package reconciler

import (
	"fmt"
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
	Releases []int         // landed, ascending
	Upstream *Upstream     // the environment that goes first; nil: takes what lands
	Soak     time.Duration // that a release is to stand there before it is preferred to an older one

	Rejected []record.Rejection // by people, newest first
	Declared *Declared          // nil: nothing was ever promoted
	Leaving  bool               // headgate.yaml does not name it any more
	Renames  *record.Commit     // the tip of its branch under the name before, which it is to go on from; nil: of none
	Initial  repo.Hash          // the branch's empty first commit, while Declared is nil
	Observed record.Report      // by the target, about any commit
	Good     repo.Hash          // what is to be rolled back to by itself, should Declared have failed; Zero: nothing
	Given    Given              // what the target was given last
	Drift    target.Drift       // what policy says is to be done about drift
	Proposal *record.Proposal   // nil: none is open; without a Commit: it may be promoted before anybody sees one
	Wanted   *Rendered          // what one of Wants(v) would declare; nil when there is none
	Decision *Decision          // what policy says about Proposal; nil: it was not asked
}

// Upstream is the environment named by `after`.
type Upstream struct {
	Name     string
	Declared *record.Commit  // nil: nothing was ever promoted to it
	Before   []record.Commit // what it declared before, newest first, as far back as it matters
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
	Commit  repo.Hash
	Drift   target.Drift
	Steer   string    // target.Steer, to be compared
	Removed repo.Hash // the commit that has what was given taken back; zero: none has
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
	Moved       Problem = "moved"        // another application is declared here
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
	RollBack  Kind = "roll back" // move env/<environment> to the content of Good, and hold it there
	Promote   Kind = "promote"   // move env/<environment> to the proposal's content
	Rename    Kind = "rename"    // let the branch go on from the one that it had under the name before
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

// Standing is how a release stood an environment: it counts what the release ran,
// also after a newer one came, which has its changes too.
type Standing struct {
	Healthy bool          // it is healthy there, or was until something newer came
	Commit  repo.Hash     // of that environment, by which it is or was
	For     time.Duration // so long, before Since
	Since   time.Time     // since when it, or what is newer, is healthy now; zero: it does not count now
}

// After is how long that is at an instant.
func (s Standing) After(now time.Time) time.Duration {
	if s.Since.IsZero() {
		return s.For
	}
	return s.For + max(0, now.Sub(s.Since))
}

// Standing says how a release stands or stood there. A failure of something newer
// stops its time and takes nothing from it; one of its own begins it again. What was
// rolled back, or rolled back past, does not stand.
func (u *Upstream) Standing(release int) Standing {
	if u.Declared == nil || release == 0 || release > u.Release() {
		return Standing{}
	}
	var s, none Standing
	undone := map[repo.Hash]bool{}
	until := time.Time{} // when the commit after came; zero: it is the last
	for i := range len(u.Before) + 1 {
		c, healthy := u.Declared, u.Healthy()
		if i > 0 {
			c = &u.Before[i-1]
			healthy = c.Outcome.State == target.Healthy && !undone[c.Hash]
		}
		if c.Rollback != nil {
			undone[c.Rollback.Of] = true
		}
		if c.Removal || c.Covers() < release {
			break // what came before it was taken back since
		}
		exactly := c.Release == release ||
			slices.ContainsFunc(c.Outcome.Covers, func(o record.Covered) bool { return o.Release == release })
		switch {
		case exactly && !healthy && !undone[c.Hash] && s.Healthy:
			return s // its time begins after that
		case exactly && !healthy && !undone[c.Hash]:
			return none
		case exactly && healthy && !s.Healthy:
			s.Healthy, s.Commit = true, c.Hash
		}
		switch {
		case healthy && i == 0:
			s.Since = u.HealthySince()
		case healthy:
			s.For += max(0, until.Sub(c.Outcome.HealthySince))
		}
		until = c.At
	}
	if !s.Healthy {
		return none
	}
	return s
}

// Wants are the releases that could be declared or proposed next, the best first;
// the first of them that can be declared here is.
//
// A proposal that a person chose, or that somebody has said yes to, stays: what
// newer releases come, however often, takes nothing from it. Else it is the newest
// release that has stood the environment before for long enough, and where none has
// the one that is open, or will have first. Without an environment before it is the newest that
// landed. What was rejected is not among them, and neither is what is not newer than
// what is declared: back is a rollback.
func Wants(v View) []int {
	if v.Leaving {
		return nil
	}
	var kept, ripe, first, green, waiting []int // newest first
	for _, r := range slices.Backward(v.Releases) {
		if v.Declared != nil && r <= v.Declared.Covers() {
			break
		}
		if v.rejected(r) {
			continue
		}
		open := v.Proposal != nil && v.Proposal.Release == r
		if open && v.Proposal.Chosen != nil {
			kept = append(kept, r)
			continue
		}
		if v.Upstream == nil {
			ripe = append(ripe, r)
		} else {
			standing := v.Upstream.Standing(r)
			switch {
			case !standing.Healthy && open && v.Upstream.converging(r):
				kept = append(kept, r) // a restart, say: what was healthy may be so again in a moment
				continue
			case !standing.Healthy && open && r <= v.Upstream.Release():
				waiting = append(waiting, r)
				continue
			case !standing.Healthy:
				continue
			case standing.After(v.Now) >= v.Soak, open && !standing.Since.IsZero():
				ripe = append(ripe, r) // or will be, when nothing happens
			case open:
				first = append(first, r)
			default:
				green = append(green, r)
			}
		}
		if open && len(v.Proposal.Approvals) > 0 {
			kept = append(kept, r)
		}
	}
	slices.Reverse(green) // the oldest is ripe first
	all := slices.Concat(kept, ripe, first, green, waiting)
	if v.Upstream == nil && len(all) > maxWanted {
		all = all[:maxWanted]
	}
	return all
}

// maxWanted bounds the releases that are tried when newer ones cannot be declared.
const maxWanted = 20

// converging reports whether what the environment declares covers a release and is
// neither healthy nor has failed.
func (u *Upstream) converging(release int) bool {
	return u.Declared != nil && u.Release() >= release && !u.Healthy() && u.Declared.Outcome.State != target.Failed
}

// ripens is when the next release among those wanted will have stood the
// environment before for long enough; zero: none will by time alone.
func (v View) ripens() time.Time {
	var next time.Time
	if v.Upstream == nil || v.Soak == 0 {
		return next
	}
	for _, r := range Wants(v) {
		s := v.Upstream.Standing(r)
		if s.Since.IsZero() || s.After(v.Now) >= v.Soak {
			continue
		}
		if at := s.Since.Add(v.Soak - s.For); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// rejected reports whether a person rejected a release and nobody has chosen it
// since.
func (v View) rejected(release int) bool {
	p := v.Proposal
	for _, r := range v.Rejected {
		if p != nil && p.Release == release && p.Chosen != nil && p.Chosen.Rejections == r.Hash {
			return false
		}
		if r.Release == release && (!r.Removal || r.Declared == v.tip()) {
			return true
		}
	}
	return false
}

// Plan says what to do next. Doing it all and planning again comes to rest;
// doing a part of it, being killed, and planning again comes to the same rest.
func Plan(v View) []Action {
	if v.Renames != nil {
		return []Action{{Kind: Rename}}
	}
	var do []Action
	switch d := v.Declared; {
	case d == nil:
	case d.Removal:
		// What an earlier process gave goes on until it is taken back.
		if v.Given.Commit != repo.Zero || v.Given.Removed != d.Hash && v.Observed.Commit != "" {
			do = append(do, Action{Kind: Remove})
		}
	default:
		if v.Given != (Given{Commit: d.Hash, Drift: v.Drift, Steer: steered(d.Outcome.Steer())}) {
			do = append(do, Action{Kind: Converge, Release: d.Release, Drift: v.Drift})
		}
		switch next, changed, again := d.Outcome.Next(d.Hash, v.Observed, v.Now); {
		case changed:
			do = append(do, Action{Kind: Note, Release: d.Release, Outcome: next})
		case again.After(v.Now):
			do = append(do, Action{Kind: Wake, At: again})
		}
		if v.mustGoBack() {
			return append(do, Action{Kind: RollBack, Release: d.Release})
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
		return append(do, Action{Kind: Cover, Release: wanted.Release})
	case p == nil:
		return append(do, Action{Kind: Propose, Release: wanted.Release})
	case p.Release != wanted.Release || p.Tree != wanted.Tree || p.Parent != v.tip():
		return append(do, Action{Kind: Supersede, Release: wanted.Release, Approvals: kept(v)})
	}

	if v.Decision == nil || v.Decision.Proposal != p.Commit {
		return do
	}
	if v.promotable() {
		return append(do, Action{Kind: Promote, Release: p.Release})
	}
	if v.Decision.NotBefore.After(v.Now) {
		do = append(do, Action{Kind: Wake, At: v.Decision.NotBefore})
	}
	if at := v.ripens(); at.After(v.Now) && !at.Equal(v.Decision.NotBefore) {
		do = append(do, Action{Kind: Wake, At: at})
	}
	return do
}

// steered is what people say to a deployment, to be compared; "" is nothing.
func steered(s target.Steer) string {
	if s.Equal(target.Steer{}) {
		return ""
	}
	return fmt.Sprint(s.Paused, s.Continued, s.Stopped, s.Skipped, s.Retried)
}

// mustGoBack reports whether what is declared has failed for good, as is noted, and
// is to be rolled back by itself. What was rolled back to, and fails as well, is left to
// people: they know why neither works.
func (v View) mustGoBack() bool {
	d := v.Declared
	return v.Good != repo.Zero && v.Observed.RollBack && v.Observed.State == target.Failed &&
		v.Observed.Commit == d.Hash.String() && d.Outcome.State == target.Failed && d.Rollback == nil
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

// unproposed reports whether the wanted release would be proposed. Policy is asked about
// it first: what may be promoted at once needs no proposal, which nobody would see.
func (v View) unproposed() bool {
	return v.Proposal == nil && v.Wanted != nil && v.Wanted.Problem == "" && !v.Wanted.Same
}

// promotable reports whether nothing is missing for the promotion of Proposal.
func (v View) promotable() bool { return v.Decision.Result == policies.Auto && mayMove(v) }

// mayMove is what no policy can allow: a release that does not verify, past a
// hold without a person, or one that did not stand the environment before.
func mayMove(v View) bool {
	if v.Wanted.Unproven || v.held() && len(v.Proposal.Approvals) == 0 {
		return false
	}
	return v.Upstream == nil || v.Upstream.Standing(v.Proposal.Release).Healthy
}
