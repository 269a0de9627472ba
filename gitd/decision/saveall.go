package decision

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
	moved, undo, err := r.Witness()
	if err != nil {
		return nil, fmt.Errorf("save decisions: %w", err)
	}
	wrote := false
	defer func() {
		if !wrote {
			undo()
		}
	}()
	for {
		tip, err := r.Ref(Ref)
		if err != nil {
			return nil, fmt.Errorf("save decisions: %w", err)
		}
		saved, last := make([]repo.Hash, len(recs)), tip
		number, err := nextNumber(ctx, r, tip)
		if err != nil {
			return nil, fmt.Errorf("save decisions: %w", err)
		}
		for i, rec := range recs {
			if last, err = write(r, at, rec, last, number+i, moved); err != nil {
				return nil, err
			}
			moved, saved[i] = nil, last
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
		wrote = true
		crash.Point("decision.all-saved")
		return saved, nil
	}
}

// write makes the commit of one record, which names where the server's other
// records were.
func write(r *repo.Repository, at time.Time, rec Record, parent repo.Hash, number int,
	moved []repo.Ref) (repo.Hash, error) {
	body := strings.ReplaceAll(string(rec.JSON), "\n\n", "\n")
	trailers := []repo.Trailer{
		{Key: "Question", Value: rec.Query},
		{Key: "About", Value: rec.About},
		{Key: "Decision", Value: rec.Answer},
		{Key: "Policy", Value: rec.Policy},
		{Key: "Digest", Value: rec.Digest},
		{Key: keyNumber, Value: strconv.Itoa(number)},
	}
	for _, ref := range moved {
		trailers = append(trailers, repo.Trailer{Key: keyMoved, Value: ref.Name + " " + ref.Hash.String()})
	}
	var parents []repo.Hash
	if parent != repo.Zero {
		parents = []repo.Hash{parent}
	}
	commit, err := r.WriteCommit(repo.NewCommit{
		Parents: parents,
		At:      at,
		Message: repo.Message(rec.Query+": "+rec.About+": "+rec.Answer, body, trailers...),
	})
	if err != nil {
		return repo.Zero, fmt.Errorf("save decision: %w", err)
	}
	return commit, nil
}
