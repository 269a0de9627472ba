package host

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOnePathSaysNothingOfOthers: that nothing can be mounted over a path with a comma is no
// reason for the builds after it to do without a system that they can write to.
func TestOnePathSaysNothingOfOthers(t *testing.T) {
	dir := t.TempDir()
	fresh := &Host{}
	want := fresh.writable(t.Context(), dir)
	h := &Host{}
	comma := filepath.Join(dir, "a,b")
	if err := os.Mkdir(comma, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.writable(t.Context(), comma); err == nil {
		t.Error("a path with a comma")
	}
	if err := h.writable(t.Context(), dir); (err == nil) != (want == nil) {
		t.Errorf("%v, and asked at first %v", err, want)
	}
}
