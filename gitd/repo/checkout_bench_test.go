package repo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkCheckout is a checkout of 20,000 files, and how many times as long it takes as
// git worktree add.
func BenchmarkCheckout(b *testing.B) {
	const files = 20_000
	dir := b.TempDir()
	git := func(args ...string) {
		b.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+dir, "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b",
			"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q")
	for i := range files {
		path := filepath.Join(dir, fmt.Sprint("d", i%200), fmt.Sprintf("file%d.go", i))
		if i < 200 {
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		text := fmt.Appendf(nil, "package d\n\n// File %d of many.\nvar v%[1]d = %[1]d\n", i)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	git("add", "-A")
	git("commit", "-q", "-m", "many")
	git("repack", "-q", "-a", "-d")
	r, err := OpenClone(filepath.Join(dir, ".git"))
	if err != nil {
		b.Fatal(err)
	}
	head, err := r.Ref("HEAD")
	if err != nil {
		b.Fatal(err)
	}
	tree, err := r.TreeOf(head)
	if err != nil {
		b.Fatal(err)
	}

	git("worktree", "add", "-q", "--detach", filepath.Join(b.TempDir(), "first")) // what reads the objects first takes longer

	var ours, theirs time.Duration
	for b.Loop() {
		to := b.TempDir()
		began := time.Now()
		if _, err := r.Checkout(b.Context(), tree, to); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(began)

		other := filepath.Join(b.TempDir(), "tree")
		began = time.Now()
		git("worktree", "add", "-q", "--detach", other)
		theirs += time.Since(began)
	}
	b.ReportMetric(float64(ours.Milliseconds())/float64(b.N), "ms/checkout")
	b.ReportMetric(float64(ours)/float64(theirs), "x-worktree-add")
}
