package decision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// SaveAll is Save for the decisions about one push: they are appended in order
// and become part of the chain together, by one move. It returns their commits.
// A single record is saved as Save does.
func SaveAll(ctx context.Context, r *repo.Repository, at time.Time, recs []Record) ([]repo.Hash, error) {
	if len(recs) == 1 {
		h, err := Save(ctx, r, at, recs[0])
		return []repo.Hash{h}, err
	}
	for {
		tip, err := r.Ref(Ref)
		if err != nil {
			return nil, fmt.Errorf("save decisions: %w", err)
		}
		saved, last := make([]repo.Hash, len(recs)), tip
		for i, rec := range recs {
			var parents []repo.Hash
			if last != repo.Zero {
				parents = []repo.Hash{last}
			}
			if last, err = write(r, at, rec, parents); err != nil {
				return nil, err
			}
			saved[i] = last
		}
		if len(recs) == 0 {
			return saved, nil
		}
		crash.Point("decision.all-written")
		switch err := r.Move(ctx, Ref, tip, last); {
		case errors.Is(err, repo.ErrMoved):
			continue
		case err != nil:
			return nil, fmt.Errorf("save decisions: %w", err)
		}
		crash.Point("decision.all-saved")
		return saved, nil
	}
}

// write makes the commit of one record.
func write(r *repo.Repository, at time.Time, rec Record, parents []repo.Hash) (repo.Hash, error) {
	body := strings.ReplaceAll(string(rec.JSON), "\n\n", "\n")
	commit, err := r.WriteCommit(repo.NewCommit{Parents: parents, At: at, Message: repo.Message(
		rec.Query+": "+rec.About+": "+rec.Answer, body,
		repo.Trailer{Key: "Question", Value: rec.Query},
		repo.Trailer{Key: "About", Value: rec.About},
		repo.Trailer{Key: "Decision", Value: rec.Answer},
		repo.Trailer{Key: "Policy", Value: rec.Policy},
		repo.Trailer{Key: "Digest", Value: rec.Digest},
	)})
	if err != nil {
		return repo.Zero, fmt.Errorf("save decision: %w", err)
	}
	return commit, nil
}
