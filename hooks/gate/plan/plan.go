// Package plan decides what the gate does next. It is pure: no clock, disk,
// network or goroutine; the same State gives the same Decisions.
//
//   - State is all that is known: the queue, the tips, what candidates turned out
//     to be, the verdicts, the builds that run.
//   - Plan says which candidates to make, which builds are wanted and which no
//     longer, what to land and whom to refuse.
//
// The policy is serial: in each branch the first change of the queue is tested
// on the tip, and lands or is refused. Candidates name lists of changes and
// refusals carry what was seen with and without the change, so that chains and
// batches need no other words.
//
// Making commits, running builds and moving refs is left to package gate.
package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Ref is one revision of one change.
type Ref struct{ Change, Revision int }

func (r Ref) String() string { return fmt.Sprintf("%d.%d", r.Change, r.Revision) }

// Change is one open change, at its newest revision.
type Change struct {
	Ref
	Branch   string
	Priority int  // higher goes first
	Waits    bool // a policy waits for something: others pass it
	Rebuild  bool // only its own red verdict counts, not one earned earlier
}

// Tip is where a branch stands.
type Tip struct {
	Commit string // empty: nothing has landed yet
	Green  bool   // its tree has a green verdict
}

// Candidate is what would be tested: changes, in order, on a tip.
type Candidate struct {
	Branch  string
	Base    string // Tip.Commit
	Changes []Ref
}

// ID names a candidate.
func (c Candidate) ID() string {
	var b strings.Builder
	b.WriteString(c.Branch + "@" + c.Base)
	for _, r := range c.Changes {
		b.WriteString("+" + r.String())
	}
	return b.String()
}

// Made is what making a candidate gave: a build key, or a Problem that makes
// it unfit to be tested.
type Made struct {
	Key     string
	Problem string // empty: none. Opaque to the planner, repeated in the Refusal

	Contained bool // it is built in a container, by workers of their own
}

// Verdict is what is known of a build key.
type Verdict struct {
	Green bool
	Red   []Ref // the revisions for which it was built and red; ignored when Green
}

// Build is a build that runs or waits for a worker.
type Build struct {
	Key       string
	Candidate Candidate
	Elapsed   time.Duration // since it began; 0 while it waits
}

// State is everything that Plan looks at.
type State struct {
	Queue      []Change // in any order
	Tips       map[string]Tip
	Made       map[string]Made    // by Candidate.ID
	Verdicts   map[string]Verdict // by key
	Running    []Build
	Failures   map[string]int // by key: builds that could not run, in a row
	Workers    int            // builds at once, on the machine itself
	Containers int            // and in containers, besides
	Expected   time.Duration  // that a build takes; 0 if unknown
}

// MaxFailures is after how many builds that could not run a change is refused:
// no answer is not green.
const MaxFailures = 3

// Why is the kind of a refusal.
type Why string

const (
	Red     Why = "red"     // the build failed
	Problem Why = "problem" // the candidate could not be made or judged
	Broken  Why = "broken"  // the build could not run
)

// Evidence is what was seen of one candidate or tip.
type Evidence struct {
	Candidate Candidate // without Changes: the tip itself
	Key       string
	Result    string // green, red, or empty for not known
}

// Refusal ends a change.
type Refusal struct {
	Change  Ref
	Why     Why
	Problem string
	With    Evidence
	Without Evidence
}

// Decisions is what to do. The lists are in order of urgency.
type Decisions struct {
	Make   []Candidate // find out what they are, then plan again
	Build  []Build     // all that should run, those that run already included
	Cancel []string    // keys of running builds that nobody wants
	Land   []Candidate // at most one for each branch
	Refuse []Refusal
}

// nearlyDone is how much of its expected time a build must have run so that
// it is finished although something more urgent has come.
const nearlyDone = 0.8

// Plan decides what to do next.
func Plan(s State) Decisions {
	var d Decisions
	wanted := map[string]bool{}
	pending := map[string]bool{} // branches whose wishes are not known yet
	free := map[bool]int{false: s.Workers, true: s.Containers}
	for _, queue := range s.branches() {
		branch := queue[0].Branch
		tip := s.Tips[branch]
		head := s.head(queue)
		if head == nil {
			continue
		}
		c := s.alone(*head)
		made, known := s.Made[c.ID()]
		if !known {
			d.Make = append(d.Make, c)
			pending[branch] = true
			continue
		}
		v := s.Verdicts[made.Key]
		refusal := Refusal{
			Change:  head.Ref,
			With:    Evidence{Candidate: c, Key: made.Key},
			Without: Evidence{Candidate: Candidate{Branch: branch, Base: tip.Commit}},
		}
		if tip.Green {
			refusal.Without.Result = "green"
		}
		switch {
		case made.Problem != "":
			refusal.Why, refusal.Problem = Problem, made.Problem
			d.Refuse = append(d.Refuse, refusal)
		case v.Green:
			d.Land = append(d.Land, c)
		case v.counts(*head):
			refusal.Why, refusal.With.Result = Red, "red"
			d.Refuse = append(d.Refuse, refusal)
		case s.Failures[made.Key] >= MaxFailures:
			refusal.Why = Broken
			d.Refuse = append(d.Refuse, refusal)
		case wanted[made.Key]: // another branch wants the same answer
		case free[made.Contained] > 0:
			free[made.Contained]--
			wanted[made.Key] = true
			d.Build = append(d.Build, Build{Key: made.Key, Candidate: c, Elapsed: s.elapsed(made.Key)})
		}
	}
	for _, b := range s.Running {
		if !wanted[b.Key] && !pending[b.Candidate.Branch] {
			d.Cancel = append(d.Cancel, b.Key)
		}
	}
	slices.Sort(d.Cancel)
	return d
}

// branches is the queue of each branch in order; the branch whose first change
// is the most urgent comes first.
func (s State) branches() [][]Change {
	by := map[string][]Change{}
	for _, c := range s.Queue {
		by[c.Branch] = append(by[c.Branch], c)
	}
	queues := make([][]Change, 0, len(by))
	for _, q := range by {
		Sort(q)
		queues = append(queues, q)
	}
	slices.SortFunc(queues, func(a, b []Change) int { return order(a[0], b[0]) })
	return queues
}

// Sort puts changes into the order in which their turn comes.
func Sort(queue []Change) { slices.SortFunc(queue, order) }

func order(a, b Change) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Change, b.Change))
}

// head is the change whose turn it is, nil if all wait: the first, unless the
// answer for another one on this tip is there, or nearly there, and the first
// is not being built yet.
func (s State) head(queue []Change) *Change {
	var first *Change
	for i := range queue {
		c := &queue[i]
		switch {
		case c.Waits:
		case first == nil:
			first = c
			if s.build(*c) != nil {
				return first
			}
		case s.nearlyDone(*c):
			return c
		}
	}
	return first
}

// alone is the candidate that holds one change on its branch's tip.
func (s State) alone(c Change) Candidate {
	return Candidate{Branch: c.Branch, Base: s.Tips[c.Branch].Commit, Changes: []Ref{c.Ref}}
}

// build is the running build of a change alone on its branch's tip, or nil.
func (s State) build(c Change) *Build {
	id := s.alone(c).ID()
	for i := range s.Running {
		if s.Running[i].Candidate.ID() == id {
			return &s.Running[i]
		}
	}
	return nil
}

func (s State) nearlyDone(c Change) bool {
	if made, known := s.Made[s.alone(c).ID()]; known && made.Problem == "" && s.Verdicts[made.Key].Green {
		return true
	}
	b := s.build(c)
	return b != nil && s.Expected > 0 && float64(b.Elapsed) >= nearlyDone*float64(s.Expected)
}

func (s State) elapsed(key string) time.Duration {
	for _, b := range s.Running {
		if b.Key == key {
			return b.Elapsed
		}
	}
	return 0
}

// counts reports whether a red verdict refuses c.
func (v Verdict) counts(c Change) bool {
	if c.Rebuild {
		return slices.Contains(v.Red, c.Ref)
	}
	return len(v.Red) > 0
}
