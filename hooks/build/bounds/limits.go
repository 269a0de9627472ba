// Package bounds is what one build may take of a machine, and what it has run into,
// whatever its sandbox is made of.
package bounds

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
)

// DefaultLimits are generous: they keep a runaway build from taking the machine
// with it. Memory is three quarters of the machine's.
func DefaultLimits() buildsettings.Limits {
	return buildsettings.Limits{Processes: 4096, Memory: totalMemory() / 4 * 3}
}

func totalMemory() int64 {
	data, _ := os.ReadFile("/proc/meminfo") // without it there is no limit
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// Met names the limits that were met in any of these cgroups, "" if none was.
func Met(cgroups []string, l buildsettings.Limits) string {
	memory := fmt.Sprintf("%d MiB of memory", l.Memory>>20)
	counters := []struct{ file, key, limit string }{ // those that are not there count nothing
		{"memory.events", "oom_kill", memory},
		{"memory.oom_control", "oom_kill", memory},
		{"pids.events", "max", fmt.Sprintf("%d processes", l.Processes)},
	}
	var met []string
	for _, dir := range cgroups {
		for _, c := range counters {
			data, _ := os.ReadFile(filepath.Join(dir, c.file)) // a file of another version of cgroups
			for line := range strings.Lines(string(data)) {
				if f := strings.Fields(line); len(f) == 2 && f[0] == c.key && f[1] != "0" {
					met = append(met, c.limit)
				}
			}
		}
	}
	return strings.Join(met, ", ")
}
