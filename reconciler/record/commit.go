package record

import (
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Commit is one commit of an environment's branch, read.
type Commit struct {
	Promotion
	Hash, Parent, Tree repo.Hash
	At                 time.Time
	Held               *Hold
	Outcome            Outcome
}

// Covers is the newest release that the commit stands for.
func (c Commit) Covers() int {
	release, _ := c.Outcome.Newest(c.Release, c.Source)
	return release
}

// CoveredSource is the landed commit of that release, Zero when nothing runs.
func (c Commit) CoveredSource() repo.Hash {
	if c.Removal {
		return repo.Zero
	}
	_, source := c.Outcome.Newest(c.Release, c.Source)
	return source
}

// Tip reads the newest commit of an environment's branch, nil when nothing was
// ever promoted to it.
func Tip(r *repo.Repository, application, environment string) (*Commit, error) {
	all, err := History(r, application, environment, 1)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}

// History reads an environment's branch, newest first, at most limit commits. The
// initial commit is none of them.
func History(r *repo.Repository, application, environment string, limit int) ([]Commit, error) {
	at, err := r.Ref(EnvironmentRef(environment))
	if err != nil {
		return nil, err
	}
	return HistoryFrom(r, application, at, limit)
}

// HistoryFrom is History from a commit of the branch on, which is included.
func HistoryFrom(r *repo.Repository, application string, at repo.Hash, limit int) ([]Commit, error) {
	var all []Commit
	for at != repo.Zero && len(all) < limit {
		if initial, err := IsInitial(r, at); err != nil {
			return nil, err
		} else if initial {
			break
		}
		c, err := read(r, application, at)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		at = c.Parent
	}
	return all, nil
}

// read reads one commit of an environment's branch.
func read(r *repo.Repository, application string, at repo.Hash) (Commit, error) {
	object, err := r.Commit(at)
	if err != nil {
		return Commit{}, err
	}
	c := Commit{Hash: at, Tree: object.TreeHash, At: object.Committer.When.UTC()}
	if len(object.ParentHashes) > 0 {
		c.Parent = object.ParentHashes[0]
	}

	ok := false
	if c.Promotion, ok = ParsePromotion(object.Message, object.TreeHash); !ok {
		return c, fmt.Errorf("commit %s of an environment of %s does not read as a promotion",
			show.Short(at.String()), r.Name())
	}
	if c.Held, err = holdOf(r, object.TreeHash, application); err != nil {
		return c, err
	}
	c.Outcome, err = OutcomeOf(r, at)
	return c, err
}

// Proposal is the commit at promote/<environment>. Its Promotion is the zero one
// when it does not read as such: then this server did not make it.
type Proposal struct {
	Promotion
	Commit, Parent, Tree repo.Hash
	At                   time.Time // when it was proposed first; approvals make commits too
}

// ProposalFor reads an environment's open proposal, nil when there is none.
func ProposalFor(r *repo.Repository, environment string) (*Proposal, error) {
	at, err := r.Ref(ProposalRef(environment))
	if err != nil || at == repo.Zero {
		return nil, err
	}
	c, err := r.Commit(at)
	if err != nil {
		return nil, err
	}

	p := &Proposal{Commit: at, Tree: c.TreeHash, At: c.Author.When.UTC()}
	if len(c.ParentHashes) > 0 {
		p.Parent = c.ParentHashes[0]
	}
	if read, ok := ParsePromotion(c.Message, c.TreeHash); ok {
		p.Promotion = read
	}
	return p, nil
}

// keyInitial is the trailer of an environment's initial commit.
const keyInitial = "Environment-Began"

// Initial makes the initial commit of an environment's branch, which is empty.
// Nothing runs because of it; it is there so that the first approval can be
// pushed like any other: git completes `origin/promote/production:env/production`
// only to a branch that the server already has.
func Initial(r *repo.Repository, application, environment string, at time.Time) (repo.Hash, error) {
	message := repo.Message(
		fmt.Sprintf("begin environment %s of %s", environment, application), "",
		repo.Trailer{Key: keyInitial, Value: environment})
	return r.WriteCommit(repo.NewCommit{At: at, Message: message})
}

// IsInitial reports whether a commit is an environment's initial one: it says so,
// has no parent and holds nothing.
func IsInitial(r *repo.Repository, at repo.Hash) (bool, error) {
	c, err := r.Commit(at)
	if err != nil {
		return false, err
	}
	if len(c.ParentHashes) > 0 || repo.TrailerValue(c.Message, keyInitial) == "" {
		return false, nil
	}
	entries, err := r.Tree(c.TreeHash)
	return len(entries) == 0, err
}

// Made reports whether a commit is this server's work and says a promotion: with
// that id, that content and that parent. The error, when the promotion is that
// one, is about its signature.
func Made(r *repo.Repository, commit repo.Hash, id string, tree, parent repo.Hash) (bool, error) {
	c, err := r.Commit(commit)
	if err != nil {
		return false, nil // not a commit, or not one that we have
	}
	p, ok := ParsePromotion(c.Message, c.TreeHash)
	if !ok || p.ID != id || c.TreeHash != tree || !slices.Equal(c.ParentHashes, Parents(parent)) {
		return false, nil
	}

	kind, raw, err := r.Raw(commit)
	if err != nil {
		return false, err
	}
	err = r.Signer().Signers().VerifyObject(kind, raw)
	return err == nil, err
}

// Parents are the parents of a commit on top of tip, which may be Zero.
func Parents(tip repo.Hash) []repo.Hash {
	if tip == repo.Zero {
		return nil
	}
	return []repo.Hash{tip}
}
