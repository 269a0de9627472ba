package unpacked

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestReleasesComeAndGo: more releases than are kept idle are used and left by
// many at once. What is in use stays; nothing is counted twice or forgotten.
func TestReleasesComeAndGo(t *testing.T) {
	u := &Store{Dir: t.TempDir(), Unpack: func(_ context.Context, digest, dir string) error {
		return os.WriteFile(filepath.Join(dir, "name"), []byte(digest), 0o600)
	}}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 1000 {
				digest := fmt.Sprintf("sha256:%064x", (worker*7+i)%(2*maxIdleReleases))
				dir, err := u.Use(t.Context(), digest)
				if err != nil {
					t.Error(err)
					return
				}
				if data, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(data) != digest {
					t.Errorf("%s holds %q, %v", digest, data, err)
				}
				u.Release(digest)
			}
		})
	}
	all.Wait()
	if left, err := filepath.Glob(filepath.Join(u.Dir, "*[0-9]")); err != nil || len(left) != maxIdleReleases {
		t.Errorf("%d directories are kept, not %d: %v", len(left), maxIdleReleases, err)
	}
	for digest, e := range u.all {
		if e.users != 0 {
			t.Errorf("%s has %d users", digest, e.users)
		}
	}
}
