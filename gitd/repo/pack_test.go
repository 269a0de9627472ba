package repo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ages makes every loose object that nothing has touched since as old as at.
func ages(t *testing.T, r *Repository, h Hash, at time.Time) {
	t.Helper()
	path := filepath.Join(r.dir, "objects", h.String()[:2], h.String()[2:])
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func fsck(t *testing.T, r *Repository) {
	t.Helper()
	if _, err := r.Git(t.Context(), "fsck", "--strict", "--no-dangling", "--connectivity-only"); err != nil {
		t.Error(err)
	}
}

// While a repository is packed again and again, by one pack and by several, all
// that was written is read, and refs are moved.
func TestPackBesideReadersAndWriters(t *testing.T) {
	t.Parallel()
	_, r := testStore(t)
	ctx := t.Context()

	const branches, rounds = 4, 8
	var tips [branches]Hash
	for b := range branches {
		for n := range 30 {
			c := commit(t, r, fmt.Sprintf("%d of %d", n, b), map[string]string{"f": fmt.Sprint(b, n)}, parents(tips[b])...)
			if err := r.Move(ctx, fmt.Sprintf("refs/heads/b%d", b), tips[b], c); err != nil {
				t.Fatal(err)
			}
			tips[b] = c
		}
	}

	var others sync.WaitGroup
	stop, ended := context.WithCancel(ctx)
	for b := range branches {
		ref := fmt.Sprintf("refs/heads/b%d", b)
		others.Go(func() { // writes
			at := tips[b]
			for n := 0; stop.Err() == nil; n++ {
				blob := Blob(fmt.Append(nil, "more ", b, n))
				if err := r.Write(blob); err != nil {
					t.Error(err)
					return
				}
				tree, err := r.TreeWith(Zero, map[string]Edit{"f": {Mode: 0o100644, Hash: blob.Hash()}})
				if err != nil {
					t.Error(err)
					return
				}
				next, err := r.WriteCommit(NewCommit{Tree: tree, Parents: []Hash{at}, At: noon, Message: fmt.Sprint("more ", n)})
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.Move(ctx, ref, at, next); err != nil {
					t.Error(err)
					return
				}
				at = next
			}
		})
		others.Go(func() { // reads
			for stop.Err() == nil {
				refs, err := r.Refs("refs/heads/")
				if err != nil || len(refs) != branches {
					t.Errorf("%d branches, %v", len(refs), err)
					return
				}
				h, err := r.Ref(ref)
				if err != nil || h == Zero {
					t.Errorf("%s is %s, %v", ref, h, err)
					return
				}
				for range 40 {
					c, err := r.Commit(h)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := r.File(c.TreeHash, "f"); err != nil {
						t.Error(err)
						return
					}
					if len(c.ParentHashes) == 0 {
						break
					}
					h = c.ParentHashes[0]
				}
			}
		})
	}
	whole, merged := 0, 0
	for range rounds {
		did, err := r.Pack(ctx, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if did.Whole {
			whole++
		} else if did.Packs > 0 {
			merged++
		}
	}
	ended()
	others.Wait()
	if whole == 0 {
		t.Error("it was never packed as a whole")
	}
	t.Logf("%d times whole, %d times several became one", whole, merged)
	fsck(t, r)

	if _, err := r.Pack(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, _, err := r.loose(time.Time{}); err != nil || n != 0 {
		t.Errorf("%d objects are loose, %v", n, err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "refs", "heads", "b*")); len(left) > 0 {
		t.Errorf("files of refs are left: %v", left)
	}
}

func parents(h Hash) []Hash {
	if h == Zero {
		return nil
	}
	return []Hash{h}
}

// What nothing refers to is kept while it is young, or a push runs that may refer
// to it, and also when it was in a pack.
func TestPackKeepsWhatIsYoung(t *testing.T) {
	t.Parallel()
	_, r := testStore(t)
	ctx, now := t.Context(), time.Now()
	main := commit(t, r, "first", map[string]string{"a": "1"})
	if err := r.Move(ctx, "refs/heads/main", Zero, main); err != nil {
		t.Fatal(err)
	}
	once := commit(t, r, "on a branch", map[string]string{"b": "1"}, main)
	if err := r.Move(ctx, "refs/heads/once", Zero, once); err != nil {
		t.Fatal(err)
	}
	young, old, again := Blob([]byte("young")), Blob([]byte("old")), Blob([]byte("old, and written again"))
	if err := r.Write(young, old, again); err != nil {
		t.Fatal(err)
	}
	long := now.Add(-expiry - time.Hour)
	ages(t, r, old.Hash(), long)
	ages(t, r, again.Hash(), long)
	if err := r.Write(again); err != nil {
		t.Fatal(err)
	}

	end := r.BeginPush()
	if did, err := r.Pack(ctx, now); err != nil || did.Pruned != 0 || !r.Has(old.Hash()) {
		t.Fatalf("beside a push: %+v, %v", did, err)
	}
	end()
	if did, err := r.Pack(ctx, now); err != nil || did.Pruned != 1 {
		t.Fatalf("%+v, %v", did, err)
	}
	if r.Has(old.Hash()) || !r.Has(young.Hash()) || !r.Has(again.Hash()) {
		t.Errorf("old %t, young %t, written again %t", r.Has(old.Hash()), r.Has(young.Hash()), r.Has(again.Hash()))
	}

	// A branch that was packed, and is deleted.
	if err := r.Move(ctx, "refs/heads/once", once, Zero); err != nil {
		t.Fatal(err)
	}
	at := main
	for n := range 9 {
		next := commit(t, r, fmt.Sprint(n), map[string]string{"a": fmt.Sprint(n)}, at)
		if err := r.Move(ctx, "refs/heads/main", at, next); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	if did, err := r.Pack(ctx, now); err != nil || !did.Whole {
		t.Fatalf("%+v, %v", did, err)
	}
	if _, err := r.Commit(once); err != nil {
		t.Errorf("what was on a branch a moment ago is gone: %v", err)
	}
	if did, err := r.Pack(ctx, time.Now().Add(expiry+time.Hour)); err != nil || did.Pruned != 4 {
		t.Errorf("%+v, %v: want 2 objects of the branch, and 2 blobs, to go", did, err)
	}
	if r.Has(once) {
		t.Error("what nothing refers to is never removed")
	}
	fsck(t, r)
}

// A server that was killed while packs were moved leaves some without an index.
func TestStartCompletesPacks(t *testing.T) {
	t.Parallel()
	s, r := testStore(t)
	c := commit(t, r, "first", map[string]string{"a": "1"})
	if err := r.Move(t.Context(), "refs/heads/main", Zero, c); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Pack(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	packs, err := r.packs()
	if err != nil || len(packs) != 1 || !packs[0].bitmap || packs[0].objects != 3 {
		t.Fatalf("%+v, %v", packs, err)
	}
	dir := filepath.Join(r.dir, "objects", "pack")
	if err := os.Remove(filepath.Join(dir, packs[0].name+".idx")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pack-"+strings.Repeat("ab", 20)+".pack"), []byte("PACK"),
		0o444); err != nil {
		t.Fatal(err)
	}
	s.Close()

	again, swept, err := OpenStore(s.root, s.hooks, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if len(swept) != 2 {
		t.Errorf("it tells of %v", swept)
	}
	r, err = again.Repository("hello")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(c); err != nil || r.Damage() != nil {
		t.Errorf("%v, damage %v", err, r.Damage())
	}
	fsck(t, r)
}

func TestPacksStayFew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		packs   []pack
		loose   int
		whole   bool
		become1 int // how many of them
	}{
		{name: "nothing", whole: true},
		{name: "the first", loose: 9, whole: true},
		{name: "little was added", packs: []pack{{objects: 100, bitmap: true}, {objects: 8}}, loose: 10},
		{name: "a quarter was added", packs: []pack{{objects: 100, bitmap: true}, {objects: 8}}, loose: 17,
			whole: true, become1: 0},
		{name: "a push is under way", packs: []pack{{objects: 100, bitmap: true}, {objects: 80, kept: true}}, loose: 17},
		{name: "in order", packs: []pack{{objects: 100, bitmap: true}, {objects: 8}, {objects: 4}, {objects: 2}}},
		{name: "two alike", packs: []pack{{objects: 100, bitmap: true}, {objects: 8}, {objects: 2}, {objects: 2}}},
		{name: "three alike", packs: []pack{{objects: 100, bitmap: true}, {objects: 8}, {objects: 2}, {objects: 2},
			{objects: 2}}, become1: 3},
		{name: "all of them", packs: []pack{{objects: 100, bitmap: true}, {objects: 8}, {objects: 5}, {objects: 5}},
			become1: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := wantsWhole(c.packs, c.loose); got != c.whole {
				t.Errorf("whole: %t", got)
			}
			if got := outgrown(c.packs); len(got) != c.become1 {
				t.Errorf("%+v become one", got)
			}
		})
	}
}

// The packer packs what has grown, as soon as no push is under way.
func TestPackerWaitsForPushes(t *testing.T) {
	t.Parallel()
	s, r := testStore(t)
	c := commit(t, r, "first", map[string]string{"a": "1"})
	if err := r.Move(t.Context(), "refs/heads/main", Zero, c); err != nil {
		t.Fatal(err)
	}
	p := &Packer{Store: s, After: 3, Log: slog.New(slog.DiscardHandler), seen: map[string]int64{}}
	end := r.BeginPush()
	if p.packAll(t.Context()) {
		t.Error("it was not put off for the push")
	}
	end()
	if !p.packAll(t.Context()) {
		t.Error("it was put off")
	}
	packs, err := r.packs()
	if err != nil || len(packs) != 1 {
		t.Errorf("%+v, %v", packs, err)
	}
	before := slices.Clone(packs)
	if !p.packAll(t.Context()) {
		t.Error("it was put off")
	}
	if packs, err = r.packs(); err != nil || !slices.Equal(packs, before) {
		t.Errorf("it packed again: %+v, %v", packs, err)
	}
	if _, err := r.Commit(c); err != nil || errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestPackedRefsLeaveNoDirectories: every change has a directory of its own, and who
// lists refs reads each of them.
func TestPackedRefsLeaveNoDirectories(t *testing.T) {
	t.Parallel()
	_, r := testStore(t)
	at := commit(t, r, "one", nil)
	move := func(n int) {
		t.Helper()
		for _, ref := range []string{"log", "head"} {
			if err := r.Move(t.Context(), fmt.Sprintf("refs/changes/%d/%s", n, ref), Zero, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range 5 {
		move(n)
	}
	if _, err := r.Pack(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(r.dir, "refs", "changes")); err != nil || len(left) > 0 {
		t.Errorf("refs/changes holds %v, %v", left, err)
	}
	move(5)
	if refs, err := r.Refs("refs/changes/"); err != nil || len(refs) != 12 {
		t.Errorf("%d refs, %v", len(refs), err)
	}
}

// TestOpenPacksAreFew: packs are kept open, some of them, and none that was replaced.
func TestOpenPacksAreFew(t *testing.T) {
	store, r := testStore(t)
	var tip Hash
	open := func() (packs []string) {
		files, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, r.dir) {
				packs = append(packs, to)
			}
		}
		return packs
	}
	for n := range 6 {
		next := commit(t, r, fmt.Sprint(n), map[string]string{"f": strings.Repeat("x", n)}, parents(tip)...)
		if err := r.Move(t.Context(), "refs/heads/main", tip, next); err != nil {
			t.Fatal(err)
		}
		tip = next
		if _, err := r.Pack(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		r.store.objects = newObjectCache(maxCachedObjects)
		r.objects = cachedObjects{r.store.objects, r}
		if err := r.read(r.reopen); err != nil {
			t.Fatal(err)
		}
		for at := tip; at != Zero; {
			c, err := r.Commit(at)
			if err != nil {
				t.Fatal(err)
			}
			if at = Zero; len(c.ParentHashes) > 0 {
				at = c.ParentHashes[0]
			}
		}
		if packs := open(); len(packs) == 0 || len(packs) > maxOpenPacks ||
			strings.Contains(strings.Join(packs, " "), "deleted") {
			t.Errorf("open are %q", packs)
		}
	}
	store.Close()
	if packs := open(); len(packs) > 0 {
		t.Errorf("after Close %q are open", packs)
	}
}
