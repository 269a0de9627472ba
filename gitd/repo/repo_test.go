package repo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

func testStore(t testing.TB) (*Store, *Repository) {
	t.Helper()
	dir := t.TempDir()
	signer, err := OpenSigner(filepath.Join(dir, "key"), Person{"Headgate", "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func commit(t *testing.T, r *Repository, message string, files map[string]string, parents ...Hash) Hash {
	t.Helper()
	edits := map[string]Edit{}
	for path, content := range files {
		b := Blob([]byte(content))
		if err := r.Write(b); err != nil {
			t.Fatal(err)
		}
		edits[path] = Edit{Mode: filemode.Regular, Hash: b.Hash()}
	}
	base := Zero
	if len(parents) > 0 {
		var err error
		if base, err = r.TreeOf(parents[0]); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := r.TreeWith(base, edits)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.WriteCommit(NewCommit{Tree: tree, Parents: parents, At: noon, Message: message})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func runGit(t *testing.T, r *Repository, args ...string) string {
	t.Helper()
	out, err := r.Git(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestMoveIsCompareAndSwap(t *testing.T) {
	s, r := testStore(t)
	moved, stop := s.Watch("hello")
	defer stop()
	a := commit(t, r, "a", map[string]string{"f": "1"})
	b := commit(t, r, "b", map[string]string{"f": "2"}, a)
	const main = "refs/heads/main"
	for _, step := range []struct {
		name     string
		old, new Hash
		want     error
	}{
		{"create", Zero, a, nil},
		{"create what exists", Zero, b, ErrMoved},
		{"from the wrong place", b, a, ErrMoved},
		{"forward", a, b, nil},
		{"stale", a, b, ErrMoved},
		{"delete from the wrong place", a, Zero, ErrMoved},
		{"delete", b, Zero, nil},
		{"move what is gone", b, a, ErrMoved},
	} {
		if err := r.Move(t.Context(), main, step.old, step.new); !errors.Is(err, step.want) {
			t.Fatalf("%s: got %v, want %v", step.name, err, step.want)
		}
		now, err := r.Ref(main)
		if err != nil {
			t.Fatal(err)
		}
		if step.want == nil && now != step.new {
			t.Fatalf("%s: main is at %s", step.name, now)
		}
	}
	select {
	case <-moved:
	default:
		t.Fatal("the watcher was not told")
	}
	if err := r.Move(t.Context(), "refs/heads/x\ndelete refs/heads/y", Zero, a); err == nil {
		t.Fatal("a ref name with a newline was accepted")
	}
}

func TestMoveRaceHasOneWinner(t *testing.T) {
	_, r := testStore(t)
	base := commit(t, r, "base", nil)
	if err := r.Move(t.Context(), "refs/heads/main", Zero, base); err != nil {
		t.Fatal(err)
	}
	var wins, losses int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		next := commit(t, r, "next", map[string]string{"f": string(rune('a' + i))}, base)
		wg.Go(func() {
			err := r.Move(t.Context(), "refs/heads/main", base, next)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case errors.Is(err, ErrMoved):
				losses++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wins != 1 || losses != 7 {
		t.Fatalf("%d won and %d lost", wins, losses)
	}
}

func TestGitVerifiesWhatTheServerSigned(t *testing.T) {
	s, r := testStore(t)
	c := commit(t, r, Message("land 7", "body", Trailer{"Change", "7"}), map[string]string{"f": "x"})
	tag, err := r.WriteTag("releases/1", c, noon, "release 1\n\n{}")
	if err != nil {
		t.Fatal(err)
	}
	for ref, h := range map[string]Hash{"refs/heads/main": c, "refs/releases/1": tag} {
		if err := r.Move(t.Context(), ref, Zero, h); err != nil {
			t.Fatal(err)
		}
	}
	signers := filepath.Join(t.TempDir(), "signers")
	if err := os.WriteFile(signers, []byte(s.Signer().AllowedSigners()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify-commit", "-v", c.String()}, {"verify-tag", "-v", tag.String()}} {
		cmd := r.Command(t.Context(),
			append([]string{"-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile=" + signers}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil ||
			!strings.Contains(string(out), "Good \"git\" signature for headgate@test") {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	runGit(t, r, "fsck", "--strict")

	keys, err := ParseSigners([]byte(s.Signer().AllowedSigners()))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []Hash{c, tag} {
		kind, raw, err := r.Raw(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.VerifyObject(kind, raw); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for i := range raw { // no byte may be changed unnoticed
			bad := slices.Clone(raw)
			bad[i] ^= 1
			if keys.VerifyObject(kind, bad) == nil {
				t.Fatalf("%s: byte %d (%q) can be changed", kind, i, raw[max(0, i-10):i+1])
			}
		}
		if err := (Signers{}).VerifyObject(kind, raw); err == nil {
			t.Fatal("verified without any allowed signer")
		}
	}
}

func TestNotesAreReadByGit(t *testing.T) {
	_, r := testStore(t)
	c := commit(t, r, "a", map[string]string{"f": "x"})
	tree, _ := r.TreeOf(c)
	const ref = "refs/notes/verdicts"
	for _, line := range []string{"one\n", "two\n"} {
		err := r.EditNote(t.Context(), ref, tree, noon, "note",
			func(old []byte) ([]byte, error) { return append(old, line...), nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := runGit(t, r, "notes", "--ref=verdicts", "show", tree.String()); got != "one\ntwo\n" {
		t.Fatalf("git reads %q", got)
	}
	if got, err := r.Note(ref, tree); err != nil || string(got) != "one\ntwo\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	if got, err := r.Note(ref, c); err != nil || got != nil {
		t.Fatalf("a note where none is: %q, %v", got, err)
	}
}

func TestMergeNamesConflicts(t *testing.T) {
	_, r := testStore(t)
	base := commit(t, r, "base", map[string]string{"a": "1\n", "b": "1\n"})
	ours := commit(t, r, "ours", map[string]string{"a": "2\n"}, base)
	theirs := commit(t, r, "theirs", map[string]string{"b": "2\n"}, base)
	clash := commit(t, r, "clash", map[string]string{"a": "3\n"}, base)
	tree, conflicts, err := r.Merge(t.Context(), ours, theirs)
	if err != nil || len(conflicts) > 0 {
		t.Fatal(conflicts, err)
	}
	for path, want := range map[string]string{"a": "2\n", "b": "2\n"} {
		if got, err := r.File(tree, path); err != nil || string(got) != want {
			t.Fatalf("%s: %q, %v", path, got, err)
		}
	}
	if _, conflicts, err = r.Merge(t.Context(), ours, clash); err != nil || !slices.Equal(conflicts, []string{"a"}) {
		t.Fatal(conflicts, err)
	}
	file := commit(t, r, "file", map[string]string{"x": "1\n"}, base)
	directory := commit(t, r, "directory", map[string]string{"x/y": "1\n", "x/z": "1\n"}, base)
	for _, sides := range [][2]Hash{{file, directory}, {directory, file}} {
		if _, conflicts, err = r.Merge(t.Context(), sides[0], sides[1]); err != nil ||
			!slices.Equal(conflicts, []string{"x"}) {
			t.Errorf("a file here, a directory there: conflicts in %q, %v", conflicts, err)
		}
	}
	if paths, err := r.ChangedPaths(t.Context(), base, ours); err != nil || !slices.Equal(paths, []string{"a"}) {
		t.Fatal(paths, err)
	}
	if ok, err := r.Contains(t.Context(), ours, base); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := r.Contains(t.Context(), ours, theirs); ok || err != nil {
		t.Fatal(ok, err)
	}
}

func TestCheckoutStaysInside(t *testing.T) {
	_, r := testStore(t)
	outside := t.TempDir()
	link, evil := Blob([]byte(outside)), Blob([]byte("evil"))
	inner := TreeObject([]Entry{{"file", filemode.Regular, evil.Hash()}})
	if err := r.Write(link, evil, inner); err != nil {
		t.Fatal(err)
	}
	for name, entries := range map[string][]Entry{
		"a link, then a file through it": {{"d", filemode.Symlink, link.Hash()}, {"d", filemode.Dir, inner.Hash()}},
		"parent directory":               {{"..", filemode.Dir, inner.Hash()}},
		"git directory":                  {{".GIT", filemode.Dir, inner.Hash()}},
		"git directory with return":      {{".git\r", filemode.Dir, inner.Hash()}},
	} {
		t.Run(name, func(t *testing.T) {
			o := TreeObject(entries)
			if err := r.Write(o); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Checkout(t.Context(), o.Hash(), t.TempDir()); err == nil {
				t.Error("checked out")
			}
			if left, _ := os.ReadDir(outside); len(left) > 0 {
				t.Errorf("wrote outside: %v", left)
			}
		})
	}
}

func TestObjectsFromAnotherProcessAreSeen(t *testing.T) {
	_, r := testStore(t)
	commit(t, r, "a", map[string]string{"f": "x"}) // go-git has looked at the directory
	var last Hash
	for i := range 3 {
		last = commit(t, r, "n", map[string]string{"f": string(rune('0' + i))})
	}
	if err := r.Move(t.Context(), "refs/heads/main", Zero, last); err != nil {
		t.Fatal(err)
	}
	runGit(t, r, "repack", "-adq") // what was loose is now in a pack go-git has not seen
	r.objects.Clear()
	if _, err := r.Commit(last); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSweeps(t *testing.T) {
	s, r := testStore(t)
	c := commit(t, r, "a", nil)
	if err := r.Move(t.Context(), "refs/heads/tmp_kept.keep", Zero, c); err != nil {
		t.Fatal(err)
	}
	for _, stale := range []string{"refs/heads/main.lock", "packed-refs.lock", "objects/tmp_objdir-incoming-x/y",
		"objects/pack/pack-1.keep", "objects/aa/tmp_obj_1"} {
		path := filepath.Join(r.Dir(), stale)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	again, swept, err := OpenStore(s.root, s.hooks, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if len(swept) != 5 {
		t.Errorf("swept %v", swept)
	}
	r, err = again.Repository("hello")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Ref("refs/heads/tmp_kept.keep"); err != nil || got != c {
		t.Errorf("swept a branch: %v, %v", got, err)
	}
	if err := r.Move(t.Context(), "refs/heads/main", Zero, c); err != nil {
		t.Error(err)
	}
}

func TestForeignWriterMeetsTheHook(t *testing.T) {
	s, r := testStore(t)
	c := commit(t, r, "a", nil)
	if err := os.MkdirAll(s.hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.hooks, "reference-transaction"), []byte("#!/bin/sh\nexit 1\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), "git", "-C", r.Dir(), "update-ref", "refs/heads/main", c.String())
	cmd.Env = []string{"PATH=" + Path, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Fatalf("a foreign git wrote main: %s", out)
	}
	if err := r.Move(t.Context(), "refs/heads/main", Zero, c); err != nil {
		t.Fatal(err)
	}
}

func TestTrailers(t *testing.T) {
	m := Message("land 7", "Body: not a trailer\n\nmore", Trailer{"Change", "7"}, Trailer{"Reason", "two\nlines"})
	got := Trailers(m)
	if !slices.Equal(got, []Trailer{{"Change", "7"}, {"Reason", "two lines"}}) {
		t.Fatalf("%q gives %v", m, got)
	}
	if Trailers("Subject: alone") != nil {
		t.Fatal("a subject is not a trailer")
	}
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", "-x", ".x", "a/b", "a b", "x.git", "x.GIT", "a..b", "$(id)",
		strings.Repeat("a", 101), "é", "x\n"} {
		if CheckName(bad) == nil {
			t.Errorf("%q passed", bad)
		}
	}
	if err := CheckName("Hello-1.x_y"); err != nil {
		t.Error(err)
	}
}

func TestFsckAfterEverything(t *testing.T) {
	_, r := testStore(t)
	tree, err := r.TreeWith(Zero, map[string]Edit{"a/b/c": {Mode: filemode.Regular, Hash: Blob(nil).Hash()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(Blob(nil), Object{plumbing.BlobObject, []byte("x")}); err != nil {
		t.Fatal(err)
	}
	tree, err = r.TreeWith(tree, map[string]Edit{"a/b/c": {Remove: true},
		"d": {Mode: filemode.Regular, Hash: Blob(nil).Hash()}})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := r.Tree(tree)
	if err != nil || len(entries) != 1 || entries[0].Name != "d" {
		t.Fatalf("%v, %v", entries, err)
	}
	if _, err := r.TreeWith(tree, map[string]Edit{"../x": {Mode: filemode.Regular}}); err == nil {
		t.Fatal("a path out of the tree was accepted")
	}
	runGit(t, r, "fsck", "--strict")
}
