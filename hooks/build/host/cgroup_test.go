package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The machines that tests run on have version 1; version 2 is tested against a
// tree of plain files, which shows what is written and nothing about the kernel.
func TestGroupOnBothVersions(t *testing.T) {
	for version, mount := range map[string][]string{"v1": {"pids/", "memory/"}, "v2": {"cgroup.controllers"}} {
		t.Run(version, func(t *testing.T) {
			root := t.TempDir()
			for _, m := range mount {
				var err error
				if strings.HasSuffix(m, "/") {
					err = os.Mkdir(filepath.Join(root, m), 0o755)
				} else {
					err = os.WriteFile(filepath.Join(root, m), nil, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			swap := map[string]string{"v1": "memory/b/memory.memsw.limit_in_bytes", "v2": "b/memory.swap.max"}[version]
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(swap)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, swap), []byte("max"), 0o644); err != nil {
				t.Fatal(err)
			}
			g, err := newGroup(root, "b", Limits{Processes: 7, Memory: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"pids/b/pids.max": "7", "memory/b/memory.limit_in_bytes": "1048576", swap: "1048576"}
			if version == "v2" {
				want = map[string]string{"b/pids.max": "7", "b/memory.max": "1048576", "b/memory.oom.group": "1", swap: "0"}
			}
			for file, value := range want {
				if got, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(got) != value {
					t.Errorf("%s holds %q, %v", file, got, err)
				}
			}
			if got := strings.Count(g.enter(), "cgroup.procs"); got != len(g.dirs) {
				t.Errorf("enters %d of %d groups", got, len(g.dirs))
			}
		})
	}
	if _, err := newGroup(t.TempDir(), "b", Limits{Processes: 7}); err == nil {
		t.Error("a group where there are none")
	}
}

// TestGroupsOfOneNumber: processes of one number, in two containers, and builds of one
// process do not share a cgroup.
func TestGroupsOfOneNumber(t *testing.T) {
	if a, b := groupName("local-1"), groupName("local-1"); a == b || !strings.HasPrefix(a, "headgate-local-1-") {
		t.Errorf("%s and %s", a, b)
	}
}
