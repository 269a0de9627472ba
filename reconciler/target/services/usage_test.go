package services

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(after, cpu time.Duration, memory int64) usedUntil {
		return usedUntil{start.Add(after), cpu, memory}
	}
	for _, c := range []struct {
		name        string
		before, now usedUntil
		limit       int64
		want        string
	}{
		{"the first look", usedUntil{}, at(0, time.Hour, 5), 0, "unknown"},
		{"idle", at(0, time.Hour, 5), at(10*time.Second, time.Hour, 7), 0, "{0 7 0}"},
		{"a quarter of a core", at(0, time.Hour, 5), at(10*time.Second, time.Hour+2500*time.Millisecond, 7), 9,
			"{0.25 7 9}"},
		{"two cores", at(0, 0, 5), at(time.Second, 2*time.Second, 7), 0, "{2 7 0}"},
		// A child has ended whose parent did not wait for it.
		{"less than before", at(0, time.Hour, 5), at(10*time.Second, time.Minute, 7), 0, "unknown"},
		{"no time between", at(0, 0, 5), at(0, time.Second, 7), 0, "unknown"},
		{"time goes back", at(time.Second, 0, 5), at(0, time.Second, 7), 0, "unknown"},
	} {
		got := "unknown"
		if u := usage(c.before, c.now, c.limit); u != nil {
			got = fmt.Sprint(*u)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestUsageTold: what hardly changes is not reported again, and what is not known any more
// is no longer shown.
func TestUsageTold(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	idle, busy := &target.Usage{Memory: 10 * mib}, &target.Usage{CPU: 0.5, Memory: 100 * mib}
	for _, c := range []struct {
		name    string
		was, is *target.Usage
		want    bool
	}{
		{"still unknown", nil, nil, false},
		{"known", nil, idle, true},
		{"unknown again", idle, nil, true},
		{"the same", idle, &target.Usage{Memory: 10 * mib}, false},
		{"hardly any CPU", idle, &target.Usage{CPU: 0.009, Memory: 10 * mib}, false},
		{"a percent", idle, &target.Usage{CPU: 0.01, Memory: 10 * mib}, true},
		{"back to nothing", &target.Usage{CPU: 0.01, Memory: 10 * mib}, idle, true},
		{"a little busier", busy, &target.Usage{CPU: 0.54, Memory: 100 * mib}, false},
		{"busier", busy, &target.Usage{CPU: 0.56, Memory: 100 * mib}, true},
		{"less than a MiB", &target.Usage{Memory: mib}, &target.Usage{Memory: mib * 3 / 2}, false},
		{"a tenth", busy, &target.Usage{CPU: 0.5, Memory: 112 * mib}, true},
		{"less than a tenth", busy, &target.Usage{CPU: 0.5, Memory: 108 * mib}, false},
		{"another limit", busy, &target.Usage{CPU: 0.5, Memory: 100 * mib, MemoryLimit: 200 * mib}, true},
	} {
		if got := tells(c.was, c.is); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	page := int64(os.Getpagesize())
	line := func(name string) string {
		return "4100 (" + name + ") S 17 4100 4100 0 -1 4194304 1 2 3 4 100 20 3000 400 20 0 5 0 99 123456 7 " +
			"18446744073709551615\n"
	}
	want := processStat{parent: 17, cpu: 35200 * time.Millisecond, memory: 7 * page}
	for _, name := range []string{"web", "a b", "evil) R 1 2 3", "", "line\nbreak"} {
		if got, ok := parseStat([]byte(line(name))); !ok || got != want {
			t.Errorf("%q: %+v %v, want %+v", name, got, ok, want)
		}
	}
	for _, bad := range []string{"", ")", "1 (x)", "1 (x) S 1 2", strings.Replace(line("x"), " 17 ", " x ", 1),
		strings.Replace(line("x"), "3000", "3e3", 1)} {
		if got, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

// TestTree: an instance is its first process with all that descends from it, and ends
// also where the table goes round in a circle.
func TestTree(t *testing.T) {
	t.Parallel()
	table := processTable{map[int]processStat{}, map[int][]int{}}
	for pid, parent := range map[int]int{10: 1, 11: 10, 12: 11, 13: 10, 20: 1, 21: 20, 30: 31, 31: 30} {
		table.of[pid] = processStat{parent, time.Second, 100}
		table.children[parent] = append(table.children[parent], pid)
	}
	for first, want := range map[int]string{10: "4s 400 true", 12: "1s 100 true", 30: "2s 200 true", 99: "0s 0 false"} {
		cpu, memory, ok := table.tree(first)
		if got := fmt.Sprint(cpu, memory, ok); got != want {
			t.Errorf("of %d: %s, want %s", first, got, want)
		}
	}
	cpu, memory, ok := allProcesses().tree(os.Getpid())
	if !ok || memory < 1<<20 || cpu < 0 {
		t.Errorf("this process: %v %d %v", cpu, memory, ok)
	}
}
