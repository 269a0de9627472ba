package cache

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "cache"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// build uses the cache, writes a file into its layer and says what it read.
func (s *Store) build(t *testing.T, name, file, content string) (u *Use, reads string) {
	t.Helper()
	u, err := s.Use("hello", name)
	if err != nil {
		t.Fatal(err)
	}
	if u.Lower != "" {
		var names []string
		all, _ := filepath.Glob(filepath.Join(u.Lower, "*", "*"))
		for _, f := range all {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, filepath.Base(f)+"="+string(data))
		}
		reads = strings.Join(names, " ")
	}
	path := filepath.Join(u.Upper, "go-build", file)
	if err := os.MkdirAll(filepath.Dir(path), 0o555|0o200); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o444); err != nil {
		t.Fatal(err)
	}
	return u, reads
}

// Builds read what landed, and nothing else.
func TestOnlyWhatLandedIsRead(t *testing.T) {
	s := open(t)
	first, reads := s.build(t, "b1", "a", "1")
	if reads != "" {
		t.Errorf("the first read %q", reads)
	}
	first.Keep()
	if u, reads := s.build(t, "b2", "evil", "x"); reads != "" {
		t.Errorf("before anything landed: %q", reads)
	} else {
		u.Keep() // and its change never lands
	}
	s.Landed("hello", "b1")
	s.Close()

	red, reads := s.build(t, "b3", "evil", "y")
	if reads != "a=1" {
		t.Errorf("after the first: %q", reads)
	}
	red.Drop()
	s.Landed("hello", "b3")
	s.Landed("other", "b2")

	// A build that still runs keeps what it reads.
	slow, _ := s.build(t, "b4", "a", "4")
	next, _ := s.build(t, "b5", "b", "5")
	next.Keep()
	s.Landed("hello", "b5")
	s.Close()
	if data, err := os.ReadFile(filepath.Join(slow.Lower, "go-build", "a")); err != nil || string(data) != "1" {
		t.Errorf("%q, %v", data, err)
	}
	old := slow.Lower
	slow.Keep()
	if _, err := os.Stat(old); err == nil {
		t.Error("a generation that nobody uses is kept")
	}
	s.Landed("hello", "b4")
	s.Close()
	last, reads := s.build(t, "b6", "c", "6")
	last.Drop()
	if reads != "a=4 b=5" {
		t.Errorf("in the end: %q", reads)
	}

	// So does the next process, which takes nothing of what was under way.
	again, err := Open(s.dir, s.log)
	if err != nil {
		t.Fatal(err)
	}
	again.Landed("hello", "b2")
	again.Close()
	u, reads := again.build(t, "b7", "d", "7")
	u.Drop()
	if reads != "a=4 b=5" {
		t.Errorf("after a restart: %q", reads)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "hello", "*")); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := open(t)
	s.bytes = 10
	for i, file := range []string{"a", "b", "c"} {
		u, _ := s.build(t, file, file, strings.Repeat("x", 4+i))
		u.Keep()
		s.Landed("hello", file)
		s.Close()
	}
	u, reads := s.build(t, "d", "d", strings.Repeat("x", 11))
	if reads != "c=xxxxxx" {
		t.Errorf("%q", reads)
	}
	u.Keep()
	s.Landed("hello", "d")
	s.Close()
	if _, bytes := s.current("hello"); bytes != 6 {
		t.Errorf("%d bytes", bytes)
	}
	for i := range 2 * maxLayers {
		u, _ := s.build(t, "k"+strings.Repeat("k", i), "k", "k")
		u.Keep()
	}
	if layers, err := os.ReadDir(filepath.Join(s.dir, "hello", "layers")); err != nil || len(layers) != maxLayers {
		t.Errorf("%d layers, %v", len(layers), err)
	}
	for _, name := range []string{"", "..", "a/b"} {
		if _, err := s.Use(name, "b"); err == nil {
			t.Errorf("the cache of %q", name)
		}
	}
}
