package repo

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// viewed are the files of a directory of objects, by their number on the disk.
func viewed(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = fmt.Sprint(info.Sys().(*syscall.Stat_t).Ino)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// grow moves main on by a commit, and returns it.
func grow(t *testing.T, r *Repository) Hash {
	t.Helper()
	tip, err := r.Ref("refs/heads/main")
	if err != nil {
		t.Fatal(err)
	}
	next := commit(t, r, "on "+tip.String(), map[string]string{"f": tip.String()}, parents(tip)...)
	if err := r.Move(t.Context(), "refs/heads/main", tip, next); err != nil {
		t.Fatal(err)
	}
	return next
}

// reads has git read all of a commit's history from a directory of objects alone.
func reads(dir, objects string, tip Hash) error {
	cmd := exec.Command("git", "--git-dir="+dir, "rev-list", "--objects", "--quiet", tip.String())
	cmd.Env = Env(noHooks, "GIT_OBJECT_DIRECTORY="+objects)
	_, err := run(cmd, nil)
	return err
}

func TestView(t *testing.T) {
	t.Parallel()
	s, r := testStore(t)
	half := filepath.Join(r.Dir(), "objects", "tmp_objdir-incoming-x", "aa")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, strings.Repeat("b", 38)), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	view := func() (string, func()) {
		t.Helper()
		dir, done, err := r.ViewObjects()
		if err != nil {
			t.Fatal(err)
		}
		return dir, done
	}
	// same: the view is what the repository has, and nothing else.
	same := func(dir string) {
		t.Helper()
		want := viewed(t, filepath.Join(r.Dir(), "objects"))
		for name := range want {
			if strings.HasPrefix(name, "tmp_") {
				delete(want, name)
			}
		}
		if got := viewed(t, dir); !maps.Equal(got, want) {
			t.Errorf("the view has\n%v\nand the repository\n%v", got, want)
		}
	}

	grow(t, r)
	first, done := view()
	same(first)
	for range 10 { // whatever the steps of the file system's time are
		grow(t, r)
		again, unused := view()
		if again != first {
			t.Fatal("another view, and nothing was taken away")
		}
		unused()
		unused() // which is once
		same(first)
	}

	// What a build uses stays; the others see what is there now, and the first goes with
	// its build.
	tip := grow(t, r)
	had := viewed(t, first)
	if _, err := r.Pack(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := viewed(t, first); !maps.Equal(got, had) {
		t.Error("packing took something from a build")
	}
	second, secondDone := view()
	if second == first {
		t.Fatal("the view that lacks nothing is the one of before packing")
	}
	same(second)
	if err := reads(r.Dir(), second, tip); err != nil {
		t.Error(err)
	}
	done()
	if _, err := os.Stat(first); err == nil {
		t.Error("the view of an ended build holds what was packed anew")
	}

	// Unused, it lets go of what is packed anew.
	grow(t, r)
	secondDone()
	if _, err := r.Pack(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	same(second)

	// Somebody makes room.
	if err := os.RemoveAll(filepath.Join(r.Dir(), recallDir)); err != nil {
		t.Fatal(err)
	}
	again, unused := view()
	same(again)
	unused()

	// A file that takes another one's place, as in a repair.
	grow(t, r)
	third, thirdDone := view()
	var path string
	for name := range viewed(t, third) {
		if isFanOut(filepath.Dir(name)) {
			path = name
		}
	}
	repaired := filepath.Join(r.Dir(), "objects", path)
	data, err := os.ReadFile(repaired)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(repaired, data, 0o444); err != nil {
		t.Fatal(err)
	}
	fourth, fourthDone := view()
	if fourth == third {
		t.Error("a build was given a file that is the repository's no more")
	}
	same(fourth)
	thirdDone()
	fourthDone()

	// Another process takes it up, and removes what one that was killed had left.
	left := filepath.Join(filepath.Dir(fourth), "1")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Close()
	swept := filepath.Join(fourth, "aa", "x.lock") // of nobody: views are not swept
	if err := os.MkdirAll(filepath.Dir(swept), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(swept, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	s, _, err = OpenStore(s.root, s.hooks, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(swept); err != nil {
		t.Error("a start walks through views: ", err)
	}
	if err := os.Remove(swept); err != nil {
		t.Fatal(err)
	}
	if r, err = s.Repository(r.Name()); err != nil {
		t.Fatal(err)
	}
	grow(t, r)
	if err := os.Remove(filepath.Join(fourth, path)); err != nil { // as a power cut might leave it
		t.Fatal(err)
	}
	fifth, fifthDone := view()
	defer fifthDone()
	if fifth != fourth {
		t.Error("the view of before a restart is not used")
	}
	same(fifth)
	if _, err := os.Stat(left); err == nil {
		t.Error("a view that nobody uses is left")
	}
}

// TestViewsBesidePacking: whenever a build begins, git in it finds everything, and
// until it ends.
func TestViewsBesidePacking(t *testing.T) {
	t.Parallel()
	_, r := testStore(t)
	grow(t, r)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	const builds = 3
	all.Go(func() {
		for ctx.Err() == nil {
			if _, err := r.Pack(ctx, time.Now()); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	var ended sync.WaitGroup
	for range builds {
		ended.Go(func() {
			for range 10 {
				tip, err := r.Ref("refs/heads/main")
				if err != nil {
					t.Error(err)
					return
				}
				dir, done, err := r.ViewObjects()
				if err != nil {
					t.Error(err)
					return
				}
				for range 2 {
					if err := reads(r.Dir(), dir, tip); err != nil {
						t.Error(err)
					}
				}
				done()
			}
		})
	}
	all.Go(func() {
		ended.Wait()
		stop()
	})
	for ctx.Err() == nil {
		grow(t, r)
	}
	all.Wait()
	if dirs, err := filepath.Glob(filepath.Join(r.Dir(), recallDir, viewsDir, "*")); err != nil || len(dirs) > 1 {
		t.Errorf("views that nobody uses are left: %v, %v", dirs, err)
	}
}

// BenchmarkView is what the objects of a build cost in a repository with as many loose
// ones as there are before it is packed, and what a landing adds.
func BenchmarkView(b *testing.B) {
	_, r := testStore(b)
	const loose, each = 900, 20
	n := 0
	write := func(count int) {
		for range count {
			n++
			if err := r.Write(Blob(fmt.Appendf(nil, "%d", n))); err != nil {
				b.Fatal(err)
			}
		}
	}
	write(loose)
	for range b.N {
		b.StopTimer()
		write(each)
		b.StartTimer()
		_, done, err := r.ViewObjects()
		if err != nil {
			b.Fatal(err)
		}
		done()
	}
}
