package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLimitsOfOneKind: each limit has its place by itself, in both versions of cgroups, of
// which plain files show what is written; and where there is no place for one, that is known.
func TestLimitsOfOneKind(t *testing.T) {
	for _, c := range []struct {
		mount  string // what there is; with a slash at its end a directory
		limits Limits
		file   string // what is written; "" there is no place for it
		value  string
	}{
		{"cpu/", Limits{CPU: 0.5}, "cpu/a/cpu.cfs_quota_us", "50000"},
		{"pids/", Limits{Processes: 7}, "pids/a/pids.max", "7"},
		{"memory/", Limits{Memory: 1 << 20}, "memory/a/memory.limit_in_bytes", "1048576"},
		{"cgroup.controllers", Limits{CPU: 0.5}, "a/cpu.max", "50000 100000"},
		{"cgroup.controllers", Limits{Processes: 7}, "a/pids.max", "7"},
		{"cgroup.controllers", Limits{Memory: 1 << 20}, "a/memory.max", "1048576"},
		{"pids/", Limits{CPU: 0.5}, "", ""},
		{"cpu/", Limits{Memory: 1 << 20}, "", ""},
		{"other", Limits{Processes: 7}, "", ""},
	} {
		root := t.TempDir()
		var err error
		if dir, ok := filepath.Split(c.mount); ok == "" {
			err = os.Mkdir(filepath.Join(root, dir), 0o755)
		} else {
			err = os.WriteFile(filepath.Join(root, c.mount), nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if keeps := c.limits.Keeps(root); keeps != (c.file != "") {
			t.Errorf("%+v: they are kept: %t", c, keeps)
		}
		dirs, err := NewCgroup(root, "a", c.limits)
		if c.file == "" {
			if err == nil {
				t.Errorf("%+v: %v", c, dirs)
			}
			continue
		}
		if got, readErr := os.ReadFile(filepath.Join(root, c.file)); err != nil || readErr != nil || string(got) != c.value {
			t.Errorf("%+v: %q, %v, %v", c, got, err, readErr)
		}
	}
}
