package repo

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// One bound holds for all repositories; what is used stays, and nobody is answered
// with what another repository has.
func TestObjectCacheIsSharedAndBounded(t *testing.T) {
	c := newObjectCache(100 << 10)
	a, b := cachedObjects{c, &Repository{}}, cachedObjects{c, &Repository{}}
	object := func(i, size int) plumbing.EncodedObject {
		o := &plumbing.MemoryObject{}
		o.SetType(plumbing.BlobObject)
		fmt.Fprintf(o, "%d %s", i, bytes.Repeat([]byte("x"), size))
		return o
	}
	used := object(0, 1000)
	a.Put(used)
	if _, ok := b.Get(used.Hash()); ok {
		t.Error("another repository's object is found")
	}
	for i := range 1000 {
		[]cachedObjects{a, b}[i%2].Put(object(i+1, i%2000))
		if _, ok := a.Get(used.Hash()); !ok {
			t.Fatalf("what is used was dropped after %d others", i+1)
		}
		if c.size > c.most || len(c.at) != c.order.Len() {
			t.Fatalf("%d bytes, %d and %d objects", c.size, len(c.at), c.order.Len())
		}
	}
	large := object(-1, 60<<10)
	a.Put(large)
	if _, ok := a.Get(large.Hash()); ok {
		t.Error("one object takes most of the place")
	}
	a.Put(used) // again: it counts once
	b.Clear()
	a.Clear()
	if c.size != 0 || len(c.at) != 0 || c.order.Len() != 0 {
		t.Errorf("cleared, and %d bytes, %d objects are left", c.size, len(c.at))
	}
}

// A repository does not read an object from the memory of another one.
func TestObjectsStayInTheirRepository(t *testing.T) {
	s, one := testStore(t)
	other, err := s.Create(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	private := commit(t, one, "private", nil)
	if _, err := one.Commit(private); err != nil { // and now it is in memory
		t.Fatal(err)
	}
	if c, err := other.Commit(private); err == nil {
		t.Errorf("it reads %v", c)
	}
}

// Objects that are cached take about what they are counted for, whatever their size, and
// however they were made: one that is read in pieces has room for more.
func TestCacheCountsWhatItHolds(t *testing.T) {
	live := func() int64 {
		runtime.GC()
		runtime.GC() // what finalizers let go of
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const all = 4 << 20
	for _, size := range []int{100, 1500, 5000, 17000, 70000} {
		c := newObjectCache(2 * all)
		of := cachedObjects{c, &Repository{}}
		before := live()
		for i := range all / (size + perObject) {
			o := &plumbing.MemoryObject{}
			o.SetType(plumbing.BlobObject)
			content := append(fmt.Appendf(nil, "%d\n", i), bytes.Repeat([]byte("x"), size)...)
			for piece := range slices.Chunk(content, 1000) {
				if _, err := o.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			of.Put(o)
			got, ok := of.Get(o.Hash())
			if !ok || got.Hash() != o.Hash() || got.Type() != o.Type() || got.Size() != int64(len(content)) {
				t.Fatalf("put %v, got %v, %t", o, got, ok)
			}
			if r, err := got.Reader(); err != nil {
				t.Fatal(err)
			} else if data, err := io.ReadAll(r); err != nil || !bytes.Equal(data, content) {
				t.Fatalf("put %q, got %q, %v", content, data, err)
			}
		}
		took := live() - before
		if took > c.size*5/4 || took < c.size*3/4 {
			t.Errorf("%d objects of %d bytes take %d bytes, and are counted as %d", c.order.Len(), size, took, c.size)
		}
		runtime.KeepAlive(c)
	}
}
