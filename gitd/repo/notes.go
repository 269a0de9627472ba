package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	return r.noteIn(tree, on)
}

// noteIn reads the note on an object in a tree of notes.
func (r *Repository) noteIn(tree, on Hash) ([]byte, error) {
	for _, path := range []string{fannedOut(on), on.String()} {
		if content, err := r.File(tree, path); !errors.Is(err, ErrNoFile) {
			return content, err
		}
	}
	return nil, nil
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
			if h, ok := ParseHash(dir.Name); ok {
				all = append(all, h)
			}
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

// maxFlat is how many notes are kept without directories, which saves an object a note:
// with more of them the one tree, which each note writes anew, is the larger cost.
const maxFlat = 128

// fannedOut is where a note is kept among many: one level of directories. Git reads
// notes wherever they are.
func fannedOut(on Hash) string {
	h := on.String()
	return h[:2] + "/" + h[2:]
}

// notePlace is where a note goes in a tree of notes, and what has to move for that: all
// that were kept flat, once there are many.
func (r *Repository) notePlace(tree, on Hash) (path string, moves map[string]Edit, err error) {
	entries, err := r.Tree(tree)
	if err != nil {
		return "", nil, err
	}
	isDir := func(e Entry) bool { return e.Mode == filemode.Dir }
	if len(entries) < maxFlat && !slices.ContainsFunc(entries, isDir) {
		return on.String(), map[string]Edit{}, nil
	}
	moves = map[string]Edit{}
	for _, e := range entries {
		if h, ok := ParseHash(e.Name); ok && !isDir(e) {
			moves[e.Name] = Edit{Remove: true}
			moves[fannedOut(h)] = Edit{Mode: e.Mode, Hash: e.Hash}
		}
	}
	return fannedOut(on), moves, nil
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
		old, err := r.noteIn(tree, on)
		if err != nil {
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
		path, edits, err := r.notePlace(tree, on)
		if err != nil {
			return err
		}
		edits[path] = Edit{Mode: filemode.Regular, Hash: blob.Hash()}
		if tree, err = r.TreeWith(tree, edits); err != nil {
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
