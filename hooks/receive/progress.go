package receive

import (
	"context"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Proposal is a push to a gated branch that was judged and may enter the queue.
type Proposal struct {
	Repository, Branch string
	Commit             repo.Hash
	By                 show.Actor
	Key                string
	Options            []string
	Decision           repo.Hash
}

// Accepted is what the gate made of a Proposal, durably.
type Accepted struct {
	Change, Revision int
	Attached         bool
	PushedAt         time.Time
}

// Kind of Progress.
type Kind string

// Kinds.
const (
	Queued     Kind = "queued"
	Building   Kind = "building"
	Verdict    Kind = "verdict"
	Landed     Kind = "landed"
	Refused    Kind = "refused"
	Conflict   Kind = "conflict"
	Withdrawn  Kind = "withdrawn"
	Restarting Kind = "restarting"
)

// Progress is one change of state of a change.
type Progress struct {
	At           time.Time
	Kind         Kind
	Place        int
	Behind       int
	Candidate    repo.Hash
	Tree         repo.Hash
	With         string
	Log          string
	Reused       bool
	GreenSince   time.Time
	From         string
	Reason       string
	Short        string
	Details      []string
	Hint         string
	Landed       repo.Hash
	FastForward  bool
	Old          repo.Hash
	Release      int
	Took         time.Duration
	Expected, By time.Time
	Percent      int
}

// Gate is hooks/gate.
type Gate interface {
	Propose(ctx context.Context, p Proposal) (Accepted, error)
	Follow(ctx context.Context, repository string, change int) iter.Seq[Progress]
	Withdraw(ctx context.Context, repository string, change int, by show.Actor) error
}
