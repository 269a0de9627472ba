package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPruneCaches: caches go of directories that are gone for a day, and that nobody used for
// months; never one that is in use, or anything that is no cache.
func TestPruneCaches(t *testing.T) {
	all, here := t.TempDir(), t.TempDir()
	now := time.Now()
	cached := func(name, of string, unused time.Duration) string {
		t.Helper()
		at := filepath.Join(all, name)
		if err := os.MkdirAll(filepath.Join(at, "cache", "of"), 0o700); err != nil {
			t.Fatal(err)
		}
		used := at
		if of != "" {
			used = filepath.Join(at, cacheOf)
			if err := os.WriteFile(used, []byte(of+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(used, now, now.Add(-unused)); err != nil {
			t.Fatal(err)
		}
		return at
	}
	const day = 24 * time.Hour
	gone := filepath.Join(here, "gone")
	want := map[string]bool{
		cached("0000000000000001", here, 30*day):    true,
		cached("0000000000000002", here, 100*day):   false,
		cached("0000000000000003", gone, time.Hour): true,
		cached("0000000000000004", gone, 2*day):     false,
		cached("0000000000000005", "", 2*day):       true,
		cached("0000000000000006", "", 100*day):     false,
		cached("system", "", 100*day):               true,
		cached("etcd-v3.7.3", gone, 100*day):        true,
	}
	busy := cached("0000000000000007", gone, 2*day)
	want[busy] = true
	lock := lockDirectory(busy)
	if lock == nil {
		t.Fatal("nobody has it, and it cannot be had")
	}
	defer lock.Close()
	pruneCaches(all, now)
	for at, kept := range want {
		if _, err := os.Stat(at); (err == nil) != kept {
			t.Errorf("%s: %v", filepath.Base(at), err)
		}
	}
}
