package engine

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/moby/moby/api/types/container"
)

func TestStatsOf(t *testing.T) {
	t.Parallel()
	told := func(cpu, memory uint64, of map[string]uint64) (s container.StatsResponse) {
		s.CPUStats.CPUUsage.TotalUsage = cpu
		s.MemoryStats.Usage, s.MemoryStats.Stats = memory, of
		return s
	}
	for _, c := range []struct {
		name string
		told container.StatsResponse
		want string // "" is that it is not known
	}{
		{"cgroup v2", told(1500, 1000, map[string]uint64{"inactive_file": 300}), "{1.5µs 700}"},
		{"cgroup v1", told(1500, 1000, map[string]uint64{"total_inactive_file": 200, "inactive_file": 1}), "{1.5µs 800}"},
		{"nothing about files", told(1500, 1000, nil), "{1.5µs 1000}"},
		{"more files than memory", told(1500, 1000, map[string]uint64{"inactive_file": 3000}), "{1.5µs 0}"},
		{"it does not run", told(0, 0, nil), ""},
		{"memory is not counted", told(1500, 0, nil), ""},
		{"more than there can be", told(math.MaxUint64, 1000, nil), ""},
	} {
		s, err := statsOf(c.told)
		got := fmt.Sprint(s)
		if errors.Is(err, errNotMeasured) {
			got, err = "", nil
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %q", c.name, got, err, c.want)
		}
	}
}
