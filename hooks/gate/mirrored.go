package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// MirrorRef is the record of the tips of branches that came from a forge, past the
// gate: a chain of signed commits, one for each, behind one that begins it. Verify takes
// it for what a landing is of other tips. The second parent is the tip, which stays when it is pushed over.
const MirrorRef = "refs/mirror/log"

// mirroredTip is one tip that came from a forge.
type mirroredTip struct {
	branch   string
	old, new repo.Hash // old Zero: what was before is not known
}

// mirroredTips reads the record, newest first, and the commit that it is at.
func mirroredTips(r *repo.Repository) (list []mirroredTip, tip repo.Hash, err error) {
	tip, err = r.Ref(MirrorRef)
	for at := tip; err == nil && at != repo.Zero; {
		c, err := r.Commit(at)
		if err != nil {
			return list, tip, fmt.Errorf("read %s: %w", MirrorRef, err)
		}
		if len(c.ParentHashes) == 0 {
			break
		}
		m := mirroredTip{branch: repo.TrailerValue(c.Message, "Branch")}
		m.old, _ = repo.ParseHash(repo.TrailerValue(c.Message, "Old"))
		m.new, _ = repo.ParseHash(repo.TrailerValue(c.Message, "New"))
		list = append(list, m)
		at = c.ParentHashes[0]
	}
	return list, tip, err
}

// RecordMirrored records that a branch comes to be at new because a forge has it
// there, before it moves. What is on record already, or has landed, is left alone.
func (g *Gate) RecordMirrored(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash, at time.Time) error {
	for {
		list, tip, err := mirroredTips(r)
		if err != nil {
			return err
		}
		known := false
		for _, m := range list {
			known = known || m.branch == branch && m.new == new && (m.old == old || old == repo.Zero)
		}
		if changes := g.Changes(r.Name()); changes != nil && !known {
			all, err := changes.List()
			if err != nil {
				return err
			}
			for _, s := range all {
				e, landed := s.Landing()
				known = known || landed && s.Branch == branch && e.New == new
			}
		}
		if known || new == repo.Zero {
			return nil
		}
		before := tip
		if before == repo.Zero {
			// The chain begins with a commit of its own, so that it never leads into the
			// branch's history.
			if before, err = r.WriteCommit(repo.NewCommit{At: at, Message: "tips of " + r.Name() + " that came from its forge\n"}); err != nil {
				return err
			}
		}
		trailers := trailers("Branch", branch, "New", new.String())
		if old != repo.Zero {
			trailers = append(trailers, repo.Trailer{Key: "Old", Value: old.String()})
		}
		commit, err := r.WriteCommit(repo.NewCommit{
			Parents: []repo.Hash{before, new},
			At:      at,
			Message: repo.Message(fmt.Sprintf("%s is at %s at the forge", branch, show.Short(new.String())), "", trailers...),
		})
		if err != nil {
			return err
		}
		if err := r.Move(ctx, MirrorRef, tip, commit); !errors.Is(err, repo.ErrMoved) {
			return err
		}
	}
}
