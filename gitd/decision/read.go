package decision

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// ErrNone is that there is no such decision.
var ErrNone = errors.New("no such decision")

// Saved is a record as the chain holds it.
type Saved struct {
	Record
	Commit repo.Hash
	At     time.Time
	Number int        // its place in the chain, from 1; 0: an earlier version wrote it
	Moved  []repo.Ref // the server's records that had moved since the one before, and where they were
}

// Keys of what a record says of the chain and of other records.
const (
	keyNumber = "Number"
	keyMoved  = repo.MovedTrailer
)

// Read is the decision that a commit of the chain holds, or ErrNone if the
// commit is none of the chain.
func Read(ctx context.Context, r *repo.Repository, commit repo.Hash) (Saved, error) {
	tip, err := r.Ref(Ref)
	if err != nil {
		return Saved{}, fmt.Errorf("read decision: %w", err)
	}
	if tip == repo.Zero {
		return Saved{}, ErrNone
	}
	if in, err := r.Contains(ctx, tip, commit); err != nil || !in {
		return Saved{}, errors.Join(ErrNone, err)
	}
	s, _, err := read(r, commit)
	return s, err
}

// Place is where a decision that was just saved stands in the chain, from 1; 0 when
// an earlier version wrote it, which did not say.
func Place(r *repo.Repository, commit repo.Hash) (int, error) {
	s, _, err := read(r, commit)
	return s.Number, err
}

// Find is the decision of an ID.
func Find(ctx context.Context, r *repo.Repository, id string) (Saved, error) {
	digits, ok := strings.CutPrefix(id, "d-")
	if !ok || len(digits) < 7 || len(digits) > 64 || strings.Trim(digits, "0123456789abcdef") != "" {
		return Saved{}, ErrNone
	}
	out, err := r.Git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", digits+"^{commit}")
	if err != nil {
		return Saved{}, errors.Join(ErrNone, ctx.Err()) // there is none, or several
	}
	commit, ok := repo.ParseHash(strings.TrimSpace(string(out)))
	if !ok {
		return Saved{}, ErrNone
	}
	return Read(ctx, r, commit)
}

// List is at most limit decisions, the newest first: of the whole chain, or of
// what is older than the commit before. more says that there are older ones.
func List(ctx context.Context, r *repo.Repository, before repo.Hash, limit int) (list []Saved, more bool, err error) {
	at, err := r.Ref(Ref)
	if err != nil {
		return nil, false, fmt.Errorf("list decisions: %w", err)
	}
	if before != repo.Zero {
		if _, err := Read(ctx, r, before); err != nil {
			return nil, false, err
		}
		if _, at, err = read(r, before); err != nil {
			return nil, false, err
		}
	}
	for at != repo.Zero {
		if len(list) == limit {
			return list, true, nil
		}
		s, parent, err := read(r, at)
		if err != nil {
			return nil, false, err
		}
		list = append(list, s)
		at = parent
	}
	return list, false, nil
}

// read takes one commit of the chain apart.
func read(r *repo.Repository, commit repo.Hash) (s Saved, parent repo.Hash, err error) {
	c, err := r.Commit(commit)
	if err != nil {
		return s, repo.Zero, fmt.Errorf("read decision: %w", err)
	}
	if len(c.ParentHashes) > 0 {
		parent = c.ParentHashes[0]
	}
	s = Saved{Commit: commit, At: c.Committer.When.UTC()}
	s.Query = repo.TrailerValue(c.Message, "Question")
	s.About = repo.TrailerValue(c.Message, "About")
	s.Answer = repo.TrailerValue(c.Message, "Decision")
	s.Policy = repo.TrailerValue(c.Message, "Policy")
	s.Digest = repo.TrailerValue(c.Message, "Digest")
	s.Number, _ = strconv.Atoi(repo.TrailerValue(c.Message, keyNumber)) // older ones say none
	for _, t := range repo.Trailers(c.Message) {
		name, hash, _ := strings.Cut(t.Value, " ")
		if h, ok := repo.ParseHash(hash); ok && t.Key == keyMoved {
			s.Moved = append(s.Moved, repo.Ref{Name: name, Hash: h})
		}
	}
	if s.Query == "" {
		return s, parent, ErrNone
	}

	if parts := strings.Split(strings.TrimSpace(c.Message), "\n\n"); len(parts) > 2 {
		s.JSON = []byte(strings.Join(parts[1:len(parts)-1], "\n\n"))
	}
	return s, parent, nil
}
