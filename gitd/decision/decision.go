// Package decision keeps the record of what policies decided: a chain of signed
// commits on refs/decisions/log of the repository that was judged. Each commit's
// message tells people the query and the answer and holds, as JSON, all that
// is needed to evaluate it again.
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

// Ref is the chain; its tip is the newest decision.
const Ref = "refs/decisions/log"

// Record is one decision.
type Record struct {
	Query  string // push, land, promote, converge
	About  string // "refs/heads/main by ada", "release 3 to production"
	Answer string // auto, manual, deny
	Policy string // digest of the modules that answered
	Digest string // of JSON
	JSON   []byte // query, input and answer in canonical form
}

// ID is how the decision is named to people.
func ID(commit repo.Hash) string { return "d-" + commit.String()[:7] }

// Save appends a record durably and returns its commit. Nothing that a policy
// allows may happen before Save has returned nil. A record equal to the newest
// one with the same query and subject is not written again: after a restart
// nothing is news that was known before.
func Save(ctx context.Context, r *repo.Repository, at time.Time, rec Record) (repo.Hash, error) {
	moved, undo, err := r.Witness()
	if err != nil {
		return repo.Zero, fmt.Errorf("save decision: %w", err)
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
			return repo.Zero, fmt.Errorf("save decision: %w", err)
		}
		if saved, err := savedBefore(r, tip, rec); err != nil || saved != repo.Zero {
			return saved, err
		}
		number, err := nextNumber(ctx, r, tip)
		if err != nil {
			return repo.Zero, fmt.Errorf("save decision: %w", err)
		}
		commit, err := write(r, at, rec, tip, number, moved)
		if err != nil {
			return repo.Zero, err
		}

		crash.Point("decision.written")
		switch err := r.Move(ctx, Ref, tip, commit); {
		case errors.Is(err, repo.ErrMoved):
			continue
		case err != nil:
			return repo.Zero, fmt.Errorf("save decision: %w", err)
		}
		wrote = true
		crash.Point("decision.saved")
		return commit, nil
	}
}

// nextNumber is the place in the chain of what follows tip. Records of earlier
// versions do not say theirs: they are counted, once.
func nextNumber(ctx context.Context, r *repo.Repository, tip repo.Hash) (int, error) {
	if tip == repo.Zero {
		return 1, nil
	}
	s, _, err := read(r, tip)
	if err != nil && !errors.Is(err, ErrNone) {
		return 0, err
	}
	if s.Number > 0 {
		return s.Number + 1, nil
	}
	out, err := r.Git(ctx, "rev-list", "--count", "--first-parent", "--end-of-options", tip.String())
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	return n + 1, err
}

// recent bounds how far back savedBefore looks.
const recent = 100

// savedBefore finds a record, from tip on, if it is the newest with the same
// query and subject.
func savedBefore(r *repo.Repository, tip repo.Hash, rec Record) (repo.Hash, error) {
	at := tip
	for range recent {
		if at == repo.Zero {
			break
		}
		s, parent, err := read(r, at)
		if err != nil && !errors.Is(err, ErrNone) {
			return repo.Zero, fmt.Errorf("save decision: %w", err)
		}
		if s.Query == rec.Query && s.About == rec.About {
			if s.Digest == rec.Digest {
				return at, nil
			}
			break
		}
		at = parent
	}
	return repo.Zero, nil
}
