package repo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTornRefIsDamageAndNotAbsence(t *testing.T) {
	for name, content := range map[string]string{
		"empty":     "",
		"zeros":     strings.Repeat("\x00", 41),
		"cut short": "0123456789abcdef",
		"noise":     "not an id\n",
		"zero id":   Zero.String() + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			s, r := testStore(t)
			first := commit(t, r, "first", map[string]string{"a": "1"})
			other := commit(t, r, "other", map[string]string{"a": "2"})
			for _, ref := range []string{"refs/heads/main", "refs/heads/other"} {
				if err := r.Move(t.Context(), ref, Zero, first); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(r.Dir(), "refs/heads/main")
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}

			var damaged *Damaged
			if h, err := r.Ref("refs/heads/main"); h != Zero || !errors.As(err, &damaged) || damaged.Repository != "hello" ||
				!strings.Contains(err.Error(), "refs/heads/main") {
				t.Errorf("the torn ref reads as %v, %v", h, err)
			}
			if _, err := r.Refs("refs/"); !errors.As(err, &damaged) {
				t.Errorf("the list with the torn ref: %v", err)
			}
			if refs, err := r.Refs("refs/heads/o"); err != nil || len(refs) != 1 {
				t.Errorf("the list without the torn ref: %v, %v", refs, err)
			}
			if h, err := r.Ref("refs/heads/other"); h != first || err != nil {
				t.Errorf("another ref reads as %v, %v", h, err)
			}
			// Nothing in it moves, the ref that is well neither.
			if err := r.Move(t.Context(), "refs/heads/other", first, other); !errors.As(err, &damaged) {
				t.Errorf("a ref of a damaged repository moved: %v", err)
			}

			// Another start finds it, too.
			again, _, err := OpenStore(s.root, s.hooks, s.signer)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(again.Close)
			found, err := again.Repository("hello")
			if err != nil {
				t.Fatal(err)
			}
			// It looks aside, and nothing moves before it has.
			if err := found.Move(t.Context(), "refs/heads/other", first, other); !errors.As(err, &damaged) {
				t.Errorf("a ref moved right after the start: %v", err)
			}
			if d := found.Damage(); d == nil || !strings.HasPrefix(d.What[0], "refs/heads/main ") {
				t.Errorf("the next start finds %v", d)
			}

			// What is restored is whole again, without a restart.
			if err := os.WriteFile(path, []byte(first.String()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := r.Move(t.Context(), "refs/heads/main", first, other); err != nil {
				t.Errorf("after it was restored: %v", err)
			}
		})
	}
}

// TestStartDoesNotWaitForInspection: a repository is open before it was looked at, and
// who asks what is damaged waits for that. A ref that nobody writes holds the look up.
func TestStartDoesNotWaitForInspection(t *testing.T) {
	t.Parallel()
	s, r := testStore(t)
	if d := r.Damage(); d != nil { // it was looked at, and is not again
		t.Fatal(d)
	}
	path := filepath.Join(r.Dir(), "refs/heads/main")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	next, _, err := OpenStore(s.root, s.hooks, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Close)

	opened := make(chan *Repository, 1)
	go func() {
		found, err := next.Repository("hello")
		if err != nil {
			t.Error(err)
		}
		opened <- found
	}()
	written, err := os.OpenFile(path, os.O_WRONLY, 0) // it is being looked at
	if err != nil {
		t.Fatal(err)
	}
	defer written.Close()
	var found *Repository
	select {
	case found = <-opened:
	case <-time.After(time.Minute):
		t.Fatal("it is not open while it is looked at")
	}
	said := make(chan *Damaged, 1)
	go func() { said <- found.Damage() }()
	if err := WriteFile(path, []byte("not an id\n"), 0o644); err != nil { // which who looks again reads
		t.Fatal(err)
	}
	if _, err := written.WriteString("not an id\n"); err != nil {
		t.Fatal(err)
	}
	if err := written.Close(); err != nil {
		t.Fatal(err)
	}
	if d := <-said; d == nil || !strings.HasPrefix(d.What[0], "refs/heads/main ") {
		t.Errorf("it said %v", d)
	}
}

func TestTornPackedRefs(t *testing.T) {
	_, r := testStore(t)
	first := commit(t, r, "first", map[string]string{"a": "1"})
	for _, ref := range []string{"refs/heads/main", "refs/heads/other", "refs/tags/v1"} {
		if err := r.Move(t.Context(), ref, Zero, first); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Git(t.Context(), "pack-refs", "--all"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.Dir(), "packed-refs")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if refs, err := r.Refs("refs/"); err != nil || len(refs) != 3 {
		t.Fatalf("packed: %v, %v", refs, err)
	}

	for cut := range len(whole) {
		if cut > 0 && whole[cut-1] == '\n' {
			continue // a shorter file of whole lines is as good as any
		}
		if err := os.WriteFile(path, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		var damaged *Damaged
		if _, err := r.Refs("refs/"); !errors.As(err, &damaged) {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
		if h, err := r.Ref("refs/heads/absent"); !errors.As(err, &damaged) {
			t.Errorf("cut after %d bytes a ref that may have been in it reads as %v, %v", cut, h, err)
		}
	}
}

func TestTipThatCannotBeRead(t *testing.T) {
	_, r := testStore(t)
	first := commit(t, r, "first", map[string]string{"a": "1"})
	if err := r.Move(t.Context(), "refs/heads/main", Zero, first); err != nil {
		t.Fatal(err)
	}
	h := first.String()
	if err := os.Remove(filepath.Join(r.Dir(), "objects", h[:2], h[2:])); err != nil {
		t.Fatal(err)
	}
	r.objects.Clear()
	if d := r.Inspect(); d == nil || !strings.Contains(d.What[0], "refs/heads/main points to") {
		t.Errorf("found %v", d)
	}
}

// TestDamagedObjectsAreNamed: whichever object is damaged, loose or packed, it is
// named; what is whole is not.
func TestDamagedObjectsAreNamed(t *testing.T) {
	_, r := testStore(t)
	first := commit(t, r, "first", map[string]string{"a": "1", "d/b": "2"})
	second := commit(t, r, "second", map[string]string{"a": "3"}, first)
	if err := r.Move(t.Context(), "refs/heads/main", Zero, second); err != nil {
		t.Fatal(err)
	}
	objects, err := filepath.Glob(filepath.Join(r.Dir(), "objects/??/*"))
	if err != nil || len(objects) < 7 {
		t.Fatalf("%q, %v", objects, err)
	}
	for _, file := range objects {
		id := filepath.Base(filepath.Dir(file)) + filepath.Base(file)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(whole)
		flipped[len(flipped)/2] ^= 0x55
		for kind, content := range map[string][]byte{"emptied": nil, "cut short": whole[:len(whole)/2], "flipped": flipped} {
			if err := os.WriteFile(file, content, 0o644); err != nil {
				t.Fatal(err)
			}
			what, err := r.DamagedObjects(t.Context())
			if err != nil || len(what) == 0 || !strings.Contains(strings.Join(what, "\n"), id) {
				t.Errorf("%s, %s: %q, %v", id, kind, what, err)
			}
		}
		if err := os.WriteFile(file, whole, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if what, err := r.DamagedObjects(t.Context()); len(what) > 0 || err != nil {
		t.Fatalf("of a repository that is whole: %q, %v", what, err)
	}

	if _, err := r.Git(t.Context(), "repack", "-adq"); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(r.Dir(), "objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("%q, %v", packs, err)
	}
	pack, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(packs[0], 0o644); err != nil {
		t.Fatal(err)
	}
	for at := 20; at < len(pack); at += 40 {
		flipped := slices.Clone(pack)
		flipped[at] ^= 0x55
		if err := os.WriteFile(packs[0], flipped, 0o644); err != nil {
			t.Fatal(err)
		}
		if what, err := r.DamagedObjects(t.Context()); err != nil || len(what) == 0 {
			t.Errorf("a pack with byte %d flipped: %q, %v", at, what, err)
		}
	}
}

// A power cut may leave empty what was not synced; HEAD and config are derived.
func TestStartCompletesWhatIsHalfMade(t *testing.T) {
	for _, torn := range [][]string{{"HEAD"}, {"config"}, {"HEAD", "config"}, {"HEAD", "config", "objects", "refs"}} {
		t.Run(strings.Join(torn, " "), func(t *testing.T) {
			s, r := testStore(t)
			for _, name := range torn {
				path := filepath.Join(r.Dir(), name)
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				if name == "HEAD" || name == "config" {
					if err := os.WriteFile(path, nil, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			again, swept, err := OpenStore(s.root, s.hooks, s.signer)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(again.Close)
			if !slices.Contains(swept, "hello.git/"+torn[0]) {
				t.Errorf("the start reports %q", swept)
			}
			made, err := again.Create(t.Context(), "hello")
			if err != nil {
				t.Fatal(err)
			}
			if d := made.Damage(); d != nil {
				t.Fatal(d)
			}
			c := commit(t, made, "first", map[string]string{"a": "1"})
			if err := made.Move(t.Context(), "refs/heads/main", Zero, c); err != nil {
				t.Fatal(err)
			}
			if h, err := made.Ref("HEAD"); h != c || err != nil {
				t.Errorf("HEAD reads as %v, %v", h, err)
			}
		})
	}
}

// Refs that are gone from beside objects were there before.
func TestLostRefsAreNotMadeAgain(t *testing.T) {
	s, r := testStore(t)
	commit(t, r, "first", map[string]string{"a": "1"})
	if err := os.RemoveAll(filepath.Join(r.Dir(), "refs")); err != nil {
		t.Fatal(err)
	}
	again, _, err := OpenStore(s.root, s.hooks, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	found, err := again.Create(t.Context(), "hello")
	var damaged *Damaged
	if err == nil && found.Damage() == nil || err != nil && !errors.As(err, &damaged) {
		t.Errorf("got %v, %v", found, err)
	}

	if err := again.Made([]string{"gone", "hello"}); err != nil {
		t.Fatal(err)
	}
	if again, _, err = OpenStore(s.root, s.hooks, s.signer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	if _, err := again.Create(t.Context(), "gone"); !errors.As(err, &damaged) {
		t.Errorf("a lost repository was made again: %v", err)
	}
}

// TestMissingRefIsDamage: what the server's own records say was there is not taken
// for something that never was.
func TestMissingRefIsDamage(t *testing.T) {
	s, r := testStore(t)
	write := func(message string, parents ...Hash) Hash {
		t.Helper()
		h, err := r.WriteCommit(NewCommit{Parents: parents, Message: message})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	move := func(ref string, old, to Hash) {
		t.Helper()
		if err := r.Move(t.Context(), ref, old, to); err != nil {
			t.Fatal(err)
		}
	}
	head, err := r.Head()
	if err != nil {
		t.Fatal(err)
	}
	branch := strings.TrimPrefix(head, "refs/heads/")
	first := commit(t, r, "first", map[string]string{"a": "1"})
	pushed := write("pushed\n\nEvent: pushed\nBranch: " + branch + "\n")
	move("refs/changes/1/log", Zero, pushed)
	if d := r.Inspect(); d != nil {
		t.Fatalf("a repository in which nothing has landed: %v", d)
	}
	landed := write("landed\n\nEvent: landed\n", pushed)
	move("refs/changes/1/log", pushed, landed)
	move(head, Zero, first)
	move("refs/heads/env/live", Zero, first)
	move("refs/decisions/log", Zero,
		write("promote\n\nQuestion: promote\nMoved: refs/heads/env/live "+first.String()+"\n"))
	if d := r.Inspect(); d != nil {
		t.Fatalf("a repository in which all is there: %v", d)
	}

	for ref, want := range map[string]string{
		head:                  head + " is missing, and change 1 has landed on it",
		"refs/heads/env/live": "refs/heads/env/live is missing, and a decision has seen it",
	} {
		file := filepath.Join(r.Dir(), ref)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		again, _, err := OpenStore(s.root, s.hooks, s.signer)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(again.Close)
		found, err := again.Repository("hello")
		if err != nil {
			t.Fatal(err)
		}
		if d := found.Damage(); d == nil || !slices.Equal(d.What, []string{want}) {
			t.Errorf("without %s: %v, want %q", ref, d, want)
		}
		var damaged *Damaged
		if err := found.Move(t.Context(), ref, Zero, landed); !errors.As(err, &damaged) {
			t.Errorf("an unrelated history came to %s: %v", ref, err)
		}
		if err := os.WriteFile(file, []byte(first.String()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if d := found.Damage(); d != nil {
			t.Errorf("restored, it is still damaged: %v", d)
		}
	}

	// People may go on with another branch and delete that one.
	two := write("pushed\n\nEvent: pushed\nBranch: trunk\n")
	move("refs/changes/2/log", Zero, write("landed\n\nEvent: landed\n", two))
	move(head, first, Zero)
	if d := r.Inspect(); d != nil {
		t.Errorf("a branch that was left behind: %v", d)
	}
}
