package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// Note reads the note on an object under a notes ref, such as
// "refs/notes/verdicts"; nil when there is none.
func (r *Repository) Note(ref string, on Hash) ([]byte, error) {
	tip, err := r.Ref(ref)
	if err != nil || tip == Zero {
		return nil, err
	}
	tree, err := r.TreeOf(tip)
	if err != nil {
		return nil, err
	}
	content, err := r.File(tree, notePath(on))
	if errors.Is(err, ErrNoFile) {
		return nil, nil
	}
	return content, err
}

// Noted lists the objects that have a note under a notes ref.
func (r *Repository) Noted(ref string) (all []Hash, err error) {
	tip, err := r.Ref(ref)
	if err != nil || tip == Zero {
		return nil, err
	}
	tree, err := r.TreeOf(tip)
	if err != nil {
		return nil, err
	}
	dirs, err := r.Tree(tree)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if dir.Mode != filemode.Dir {
			continue
		}
		entries, err := r.Tree(dir.Hash)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if h, ok := ParseHash(dir.Name + e.Name); ok {
				all = append(all, h)
			}
		}
	}
	return all, nil
}

// notePath is where this server keeps a note: always one level of directories,
// which git reads as it reads any fan-out.
func notePath(on Hash) string {
	h := on.String()
	return h[:2] + "/" + h[2:]
}

// EditNote replaces the note on an object by what edit makes of it (nil: there
// was none), as one signed commit and one Move of the notes ref. When another
// writer was faster it reads and edits again. If edit returns the old content,
// nothing is written.
func (r *Repository) EditNote(ctx context.Context, ref string, on Hash, at time.Time, subject string,
	edit func(old []byte) ([]byte, error)) error {
	for {
		tip, err := r.Ref(ref)
		if err != nil {
			return err
		}
		var parents []Hash
		tree := Zero
		if tip != Zero {
			parents = []Hash{tip}
			if tree, err = r.TreeOf(tip); err != nil {
				return err
			}
		}
		old, err := r.File(tree, notePath(on))
		if err != nil && !errors.Is(err, ErrNoFile) {
			return err
		}
		content, err := edit(old)
		if err != nil {
			return err
		}
		if string(content) == string(old) {
			return nil
		}
		blob := Blob(content)
		if err := r.Write(blob); err != nil {
			return err
		}
		tree, err = r.TreeWith(tree, map[string]Edit{notePath(on): {Mode: filemode.Regular, Hash: blob.Hash()}})
		if err != nil {
			return err
		}
		commit, err := r.WriteCommit(NewCommit{Tree: tree, Parents: parents, At: at, Message: Message(subject, "")})
		if err != nil {
			return err
		}
		switch err := r.Move(ctx, ref, tip, commit); {
		case errors.Is(err, ErrMoved):
			continue
		case err != nil:
			return fmt.Errorf("note on %s: %w", on, err)
		}
		return nil
	}
}
