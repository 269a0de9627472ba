package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/change"
)

// MirrorRef is the record of the tips of gated branches that came from a forge, past
// the gate: a chain of signed commits, one for each, behind one that begins it. Verify takes
// it for what a landing is of other tips. The second parent is the tip, which stays when it is pushed over.
const MirrorRef = "refs/mirror/log"

// mirroredTip is one tip that came from a forge.
type mirroredTip struct {
	branch   string
	old, new repo.Hash // old Zero: what was before is not known; new Zero: the branch was deleted there
	at       time.Time // that it was seen
}

// mirroredTips reads the record, newest first, back to a commit of it, which is left
// out; and the commit that it is at.
func mirroredTips(r *repo.Repository, until repo.Hash) (list []mirroredTip, tip repo.Hash, err error) {
	tip, err = r.Ref(MirrorRef)
	for at := tip; err == nil && at != repo.Zero && at != until; {
		c, err := r.Commit(at)
		if err != nil {
			return list, tip, fmt.Errorf("read %s: %w", MirrorRef, err)
		}
		if len(c.ParentHashes) == 0 {
			break
		}
		m := mirroredTip{branch: repo.TrailerValue(c.Message, "Branch"), at: c.Committer.When}
		m.old, _ = repo.ParseHash(repo.TrailerValue(c.Message, "Old"))
		m.new, _ = repo.ParseHash(repo.TrailerValue(c.Message, "New"))
		list = append(list, m)
		at = c.ParentHashes[0]
	}
	return list, tip, err
}

// mirrorLog is the newest record of each branch, read as far as it has grown.
type mirrorLog struct {
	mu     sync.Mutex
	tip    repo.Hash
	newest map[string]mirroredTip
}

// read returns the newest record of each branch, which is not to be altered, and
// where the record is.
func (m *mirrorLog) read(r *repo.Repository) (map[string]mirroredTip, repo.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list, tip, err := mirroredTips(r, m.tip)
	if err != nil || tip == m.tip {
		return m.newest, tip, err
	}
	newest := map[string]mirroredTip{}
	for _, one := range list {
		if _, later := newest[one.branch]; !later {
			newest[one.branch] = one
		}
	}
	for branch, one := range m.newest {
		if _, later := newest[branch]; !later {
			newest[branch] = one
		}
	}
	m.tip, m.newest = tip, newest
	return newest, tip, nil
}

// gates reports whether a commit gates the branch whose tip it is, by its own
// headgate.yaml. One that cannot be read gates what holds without one.
func gates(r *repo.Repository, commit repo.Hash, branch string) (bool, error) {
	if commit == repo.Zero {
		return false, nil
	}
	tree, err := r.TreeOf(commit)
	if err != nil {
		return false, err
	}
	f, err := fileIn(r, tree)
	if _, wrong := yamlfile.ProblemsIn(err); wrong {
		f, err = headgateyaml.Default(), nil
	}
	return err == nil && f.Gates(branch), err
}

// Gates reports whether a branch of a repository is gated, by the headgate.yaml of its tip.
func (g *Gate) Gates(r *repo.Repository, branch string) (bool, error) {
	tip, err := r.Ref("refs/heads/" + branch)
	if err != nil {
		return false, err
	}
	return gates(r, tip, branch)
}

// RecordMirrored records that a gated branch comes to be at new because a forge has it
// there, before it moves: Zero when it was deleted there. What is on record already, or
// has landed, is left alone, and so are other branches. With old Zero it was not known here.
func (g *Gate) RecordMirrored(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash,
	at time.Time) error {
	l, err := g.loop(r.Name())
	if err != nil {
		return err
	}
	for {
		newest, tip, err := l.mirror.read(r)
		if err != nil {
			return err
		}
		last, recorded := newest[branch]
		if on, err := l.landedAs(branch, repo.Zero, old); err != nil {
			return err
		} else if !on && last.new != old {
			old = repo.Zero // nothing keeps it: it is not known any more one day
		}
		if recorded && last.new == new && (old == repo.Zero || old == last.old) {
			return nil
		}
		gated := recorded && new == repo.Zero
		for _, commit := range []repo.Hash{old, new} {
			if is, err := gates(r, commit, branch); err != nil {
				return err
			} else if is {
				gated = true
			}
		}
		if !gated || new == repo.Zero && !recorded {
			return nil
		}
		if landed, err := l.landedAs(branch, old, new); err != nil || landed {
			return err
		}
		before := tip
		if before == repo.Zero {
			// The chain begins with a commit of its own, so that it never leads into the
			// branch's history.
			if before, err = r.WriteCommit(repo.NewCommit{At: at,
				Message: "tips of " + r.Name() + " that came from its forge\n"}); err != nil {
				return err
			}
		}
		c := repo.NewCommit{Parents: []repo.Hash{before}, At: at}
		subject, facts := fmt.Sprintf("%s was deleted at the forge", branch), trailers("Branch", branch)
		if new != repo.Zero {
			c.Parents = append(c.Parents, new)
			subject, facts = fmt.Sprintf("%s is at %s at the forge", branch, show.Short(new.String())), append(facts,
				trailers("New", new.String())...)
		}
		if old != repo.Zero {
			facts = append(facts, trailers("Old", old.String())...)
		}
		c.Message = repo.Message(subject, "", facts...)
		commit, err := r.WriteCommit(c)
		if err != nil {
			return err
		}
		if err := r.Move(ctx, MirrorRef, tip, commit); !errors.Is(err, repo.ErrMoved) {
			crash.Point("mirror.recorded")
			return err
		}
	}
}

// landedAs reports whether a change has moved a branch from old, or from wherever with
// Zero, to new, or is about to: whoever follows the forge may see it there first.
func (l *loop) landedAs(branch string, old, new repo.Hash) (bool, error) {
	mayBe := func(of change.Summary) bool {
		return of.Branch == branch && (!of.Ended || of.New == new && (old == repo.Zero || of.Old == old))
	}
	for s, err := range l.log.Find(mayBe) {
		if err != nil {
			return false, err
		}
		if e, landed := s.Landing(); landed && e.New == new && (old == repo.Zero || e.Old == old) {
			return true, nil
		}
		if e := s.Last(); e.Kind == change.Tested && e.Candidate == new && (old == repo.Zero || e.Base == old) {
			return true, nil
		}
	}
	return false, nil
}
