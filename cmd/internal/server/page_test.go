package server

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// TestPage walks lists to both ends by the cursors that each part names: nothing is left
// out, nothing comes twice, and no part costs more than it may.
func TestPage(t *testing.T) {
	var numbers []int
	for n := 1; n <= 1234; n++ {
		if n%10 != 7 { // as if some could not be read
			numbers = append(numbers, n)
		}
	}
	for name, c := range map[string]struct {
		b    bounds
		fits func(int) bool
	}{
		"all":          {bounds{50, len(numbers)}, func(int) bool { return true }},
		"every fourth": {bounds{50, len(numbers)}, func(n int) bool { return n%4 == 0 }},
		"few":          {bounds{50, 100}, func(n int) bool { return n%100 == 0 }},
		"none":         {bounds{50, 500}, func(int) bool { return false }},
	} {
		var want []int // newest first
		for _, n := range slices.Backward(numbers) {
			if c.fits(n) {
				want = append(want, n)
			}
		}
		part := func(p show.Part) ([]int, show.Beside) {
			t.Helper()
			looked := 0
			list, beside, err := page(numbers, p, c.b, func(at int) (int, bool, error) {
				looked++
				return numbers[at], c.fits(numbers[at]), nil
			})
			if err != nil || len(list) > c.b.most || looked > c.b.looked {
				t.Fatalf("%s, %+v: %d of %d looked at, %v", name, p, len(list), looked, err)
			}
			return list, beside
		}
		var down, up []int
		list, beside := part(show.Part{})
		if down = list; beside.Newer != 0 {
			t.Errorf("%s: there is something newer than the newest, %d", name, beside.Newer)
		}
		for beside.Older > 0 {
			list, beside = part(show.Part{Before: beside.Older})
			down = append(down, list...)
		}
		up = list
		for beside.Newer > 0 {
			list, beside = part(show.Part{After: beside.Newer})
			up = append(list, up...)
		}
		if !slices.Equal(down, want) {
			t.Errorf("%s: downwards %v\nwant %v", name, down, want)
		}
		if !slices.Equal(up, want) {
			t.Errorf("%s: upwards %v\nwant %v", name, up, want)
		}
	}

	for p, want := range map[show.Part]show.Beside{
		{Before: 1}:               {},
		{Before: 2}:               {Newer: 1},
		{After: 5000}:             {Older: 1235},
		{Before: 5000}:            {Older: 1224},
		{After: 9, Before: 5}:     {Older: 10, Newer: 9},
		{After: 100, Before: 102}: {Older: 101, Newer: 101},
	} {
		_, beside, err := page(numbers, p, bounds{10, 10}, func(at int) (int, bool, error) { return at, true, nil })
		if err != nil || beside != want {
			t.Errorf("%+v: %+v, %v; want %+v", p, beside, err, want)
		}
	}

	failing := fmt.Errorf("it cannot be read")
	if _, _, err := page(numbers, show.Part{}, bounds{1, 1}, func(int) (int, bool, error) {
		return 0, false, failing
	}); err != failing {
		t.Error(err)
	}
}

// TestReleasePage: a part of the releases reads those that it shows, or looks at, and no
// other: the oldest cannot be read, and is not missed before it is asked for.
func TestReleasePage(t *testing.T) {
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	store, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r, err := store.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}

	at, before := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), repo.Zero
	releases := release.Of(r)
	for n := 1; n <= 56; n++ {
		author, user := repo.Person{Name: "Jun Ito", Email: "jun@test"}, "jun"
		if n%20 == 0 {
			author.Name, user = "Ada Lovelace", "ada"
		}
		blob := repo.Blob(fmt.Append(nil, n))
		if err := r.Write(blob); err != nil {
			t.Fatal(err)
		}
		base := repo.Zero
		var parents []repo.Hash
		if before != repo.Zero {
			parents = append(parents, before)
			if base, err = r.TreeOf(before); err != nil {
				t.Fatal(err)
			}
		}
		path := fmt.Sprintf("d%d/f", n%10)
		tree, err := r.TreeWith(base, map[string]repo.Edit{path: {Mode: filemode.Regular, Hash: blob.Hash()}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.WriteCommit(repo.NewCommit{Tree: tree, Parents: parents, Author: author, At: at, Message: "Change"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := releases.Make(t.Context(), release.Landing{
			Branch:   "main",
			Commit:   c,
			Previous: before,
			By:       user,
			AlsoBy:   []string{"sam"},
			At:       at,
			Verdict:  verdict.Verdict{Result: verdict.Green, Key: "k"},
		}); err != nil {
			t.Fatal(err)
		}
		before = c
	}
	first, err := r.Ref(release.Ref(1))
	if err != nil {
		t.Fatal(err)
	}
	other, err := r.WriteTag("releases/1", before, at, "no manifest")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Move(t.Context(), release.Ref(1), first, other); err != nil {
		t.Fatal(err)
	}

	read := func(f show.ReleaseFilter) ([]int, show.Beside, error) {
		var numbers []int
		list, total, beside, err := releasePage(t.Context(), r, release.Of(r), f)
		for _, rel := range list {
			numbers = append(numbers, rel.Number)
		}
		if total != 56 {
			t.Errorf("%+v: %d in all", f, total)
		}
		return numbers, beside, err
	}
	after := show.Part{After: 1}
	for _, c := range []struct {
		f      show.ReleaseFilter
		want   []int // the first and the last
		n      int
		beside show.Beside
	}{
		{show.ReleaseFilter{}, []int{56, 7}, 50, show.Beside{Older: 7}},
		{show.ReleaseFilter{Part: after}, []int{51, 2}, 50, show.Beside{Older: 2, Newer: 51}},
		{show.ReleaseFilter{Part: after, Author: "ADA"}, []int{40, 20}, 2, show.Beside{Older: 2}},
		{show.ReleaseFilter{Part: after, Author: "lovelace"}, []int{40, 20}, 2, show.Beside{Older: 2}},
		{show.ReleaseFilter{Part: after, Author: "sam"}, []int{51, 2}, 50, show.Beside{Older: 2, Newer: 51}},
		{show.ReleaseFilter{Part: after, Path: "d3"}, []int{53, 3}, 6, show.Beside{Older: 2}},
		{show.ReleaseFilter{Part: after, Path: "d*/f"}, nil, 0, show.Beside{Older: 2}},
	} {
		got, beside, err := read(c.f)
		if err != nil || len(got) != c.n || beside != c.beside ||
			c.n > 0 && (got[0] != c.want[0] || got[c.n-1] != c.want[1]) {
			t.Errorf("%+v: %v, %+v, %v", c.f, got, beside, err)
		}
	}
	if _, _, err := read(show.ReleaseFilter{Part: show.Part{Before: 7}}); err == nil {
		t.Error("a release that cannot be read is passed over")
	}
}
