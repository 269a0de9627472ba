package repo

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// TestNotesMoveWhenThereAreMany: a few notes are kept without directories, many with;
// all are found on either side of that, by git too.
func TestNotesMoveWhenThereAreMany(t *testing.T) {
	t.Parallel()
	_, r := testStore(t)
	const ref = "refs/notes/test"
	text := func(on Hash) string { return "about " + on.String() + "\n" }
	var all []Hash
	edits := map[string]Edit{}
	for i := range maxFlat - 1 {
		on := Blob(fmt.Append(nil, i)).Hash()
		note := Blob([]byte(text(on)))
		if err := r.Write(note); err != nil {
			t.Fatal(err)
		}
		all = append(all, on)
		edits[on.String()] = Edit{Mode: filemode.Regular, Hash: note.Hash()}
	}
	tree, err := r.TreeWith(Zero, edits)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := r.WriteCommit(NewCommit{Tree: tree, At: noon, Message: "notes"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Move(t.Context(), ref, Zero, commit); err != nil {
		t.Fatal(err)
	}

	for i, inDirs := range []int{0, maxFlat + 1, maxFlat + 2} {
		on := Blob(fmt.Append(nil, "further ", i)).Hash()
		all = append(all, on)
		if err := r.EditNote(t.Context(), ref, on, noon, "note", func(old []byte) ([]byte, error) {
			if old != nil {
				t.Errorf("there is %q already", old)
			}
			return []byte(text(on)), nil
		}); err != nil {
			t.Fatal(err)
		}
		tip, err := r.Ref(ref)
		if err != nil {
			t.Fatal(err)
		}
		names, err := r.Git(t.Context(), "ls-tree", "-r", "--name-only", tip.String())
		if n := strings.Count(string(names), "/"); err != nil || n != inDirs || strings.Count(string(names), "\n") != len(all) {
			t.Errorf("of %d notes %d are in directories, %v", len(all), n, err)
		}
		noted, err := r.Noted(ref)
		if err != nil || len(noted) != len(all) {
			t.Errorf("%d of %d notes are listed, %v", len(noted), len(all), err)
		}
		for _, on := range all {
			if note, err := r.Note(ref, on); string(note) != text(on) || err != nil || !slices.Contains(noted, on) {
				t.Errorf("the note on %s reads %q, %v", on, note, err)
			}
		}
	}
	listed, err := r.Git(t.Context(), "notes", "--ref", ref, "list")
	if err != nil || strings.Count(string(listed), "\n") != len(all) {
		t.Errorf("git lists, %v\n%s", err, listed)
	}
}
