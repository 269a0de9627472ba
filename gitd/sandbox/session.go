package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// EndSession ends what runs in a session, for one who knows that the number of its leader
// is nobody else's. What has made a session of its own goes on.
func EndSession(leader int) {
	for range 10 { // what is starting something meanwhile is found the next time
		found := false
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, stat := range stats {
			data, err := os.ReadFile(stat)
			if err != nil {
				continue // it has ended
			}
			// "pid (name) state parent group session …", where the name may hold anything.
			fields := strings.Fields(string(data)[strings.LastIndexByte(string(data), ')')+1:])
			if len(fields) < 4 || fields[0] == "Z" || fields[3] != strconv.Itoa(leader) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat))); err == nil {
				found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
			}
		}
		if !found {
			return
		}
	}
}
