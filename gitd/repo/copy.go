package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Snapshot lists all refs as they were together at one moment, without keeping
// anybody from moving them: what is read twice in a row was so in between.
func (r *Repository) Snapshot(ctx context.Context) ([]Ref, error) {
	before, err := r.Refs("refs/")
	for deadline := time.Now().Add(snapshotTimeout); err == nil; {
		var after []Ref
		if after, err = r.Refs("refs/"); err != nil || slices.Equal(before, after) {
			return after, err
		}
		if before = after; time.Now().After(deadline) {
			return nil, fmt.Errorf("the refs of %s never stood still for %s", r.name, snapshotTimeout)
		}
		err = ctx.Err()
	}
	return nil, err
}

const snapshotTimeout = time.Minute

// maxCopyPacks is how many packs a copy may have: each time that something is
// copied makes one.
const maxCopyPacks = 20

// CopyTo brings a copy, a bare repository that is made if it is not there, to where
// refs, of a Snapshot, point. Objects come first, and refs after them, all at once:
// a copy that is cut off is the former one. Only what is new is copied.
func (r *Repository) CopyTo(ctx context.Context, dir string, refs []Ref) error {
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := MakeDir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	head, err := os.ReadFile(filepath.Join(r.dir, "HEAD"))
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"HEAD": head,
		"config": []byte("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n")} {
		if have, err := os.ReadFile(filepath.Join(dir, name)); err == nil && bytes.Equal(have, text) {
			continue
		}
		if err := WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	to := &Repository{store: &Store{}, name: r.name, dir: dir}
	had, err := to.Refs("refs/")
	if err != nil {
		return err
	}
	if slices.Equal(had, refs) {
		return nil
	}

	input, err := r.between(ctx, had, refs)
	if err != nil {
		return err
	}
	cmd := r.Command(ctx, "pack-objects", "-q", "--threads=1", "--revs", "--non-empty", "--delta-base-offset",
		filepath.Join(dir, "objects", "pack", "pack"))
	if _, err := runNice(cmd, input); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(dir, "objects", "pack")); err != nil {
		return err
	}
	var packed bytes.Buffer
	packed.WriteString("# pack-refs with: sorted \n")
	for _, ref := range refs {
		fmt.Fprintf(&packed, "%s %s\n", ref.Hash, ref.Name)
	}
	path := filepath.Join(dir, "packed-refs")
	if len(refs) == 0 {
		if err := RemoveFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := WriteFile(path, packed.Bytes(), 0o644); err != nil {
		return err
	}

	packs, err := to.packs()
	if err != nil || len(packs) <= maxCopyPacks {
		return err
	}
	return to.packWhole(ctx, packs)
}

// between is what pack-objects is told to pack what refs reach and had do not.
func (r *Repository) between(ctx context.Context, had, refs []Ref) ([]byte, error) {
	var input, ask bytes.Buffer
	at := map[Hash]bool{}
	for _, ref := range refs {
		if !at[ref.Hash] {
			fmt.Fprintln(&input, ref.Hash)
		}
		at[ref.Hash] = true
	}
	// What the copy has may be gone here: a branch that was deleted long ago.
	for _, ref := range had {
		fmt.Fprintln(&ask, ref.Hash)
	}
	if len(had) > 0 {
		out, err := r.GitIn(ctx, Quarantine{}, ask.Bytes(), "cat-file", "--batch-check=%(objectname)")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(out)) {
			if h, ok := ParseHash(strings.TrimSpace(line)); ok { // else "… missing"
				fmt.Fprintf(&input, "^%s\n", h)
			}
		}
	}
	return input.Bytes(), nil
}

// Connected says whether everything that the refs of a clone reach is there.
func (r *Repository) Connected(ctx context.Context) error {
	_, err := r.Git(ctx, "rev-list", "--objects", "--all", "--quiet")
	return err
}

// RecordMade writes, in the root of a store that nobody has open, which
// repositories there are.
func RecordMade(root string, names []string) error {
	s := &Store{root: root}
	return s.Made(names)
}

// SyncTree makes all that is in a directory durable, and the directory.
func SyncTree(dir string) error { return syncTree(dir) }
