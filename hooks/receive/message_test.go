package receive

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A commit message over the bound is refused as such, with what to do.
func TestLongMessages(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	message := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(message, []byte(strings.Repeat("long\n", 1<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	c.git("commit", "--quiet", "--allow-empty", "-F", message)
	h.push(c, "ada", "origin", "main").refused(t,
		"error: this push holds what is too big to be checked", "over the limit of 4194304", "hint: shorten the commit's message (git commit --amend)")
	if c.r != h.r || h.has(h.r, c.head()) {
		t.Error("its objects are kept")
	}
}
