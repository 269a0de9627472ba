package services

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// endStrays ends what prints into a file of an instance that is not on record: a
// record that was damaged, or removed by hand, and what outlived its first process
// without a sandbox. Nobody could stop it otherwise, and another would be started
// beside it.
func (t *Target) endStrays(all []kept) {
	known := map[string]bool{}
	for _, k := range all {
		dir, _ := t.appDir(k.key)
		for _, in := range k.instances {
			if h, err := in.First.Hold(); err == nil && in.Boot == t.boot {
				known[filepath.Join(dir, "instances", in.ID+".out")] = true
				h.Close()
			}
		}
	}
	apps, err := filepath.EvalSymlinks(filepath.Join(t.Dir, "apps"))
	if err != nil {
		return // there are none
	}
	given := filepath.Join(t.Dir, "apps")
	dirs, _ := filepath.Glob("/proc/[0-9]*") // a pattern without fault
	for _, dir := range dirs {
		to, err := os.Readlink(filepath.Join(dir, "fd", "1"))
		if err != nil {
			continue // it has ended, or is another user's
		}
		to = strings.TrimSuffix(to, " (deleted)")
		rest, ours := strings.CutPrefix(to, apps+"/")
		if !ours || !strings.HasSuffix(to, ".out") || known[filepath.Join(given, rest)] {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir)) // the pattern leaves nothing but digits
		p, err := sandbox.Find(pid)
		if err != nil {
			continue
		}
		h, err := p.Hold()
		if err != nil {
			continue
		}
		if again, err := os.Readlink(filepath.Join(dir, "fd", "1")); err == nil &&
			strings.TrimSuffix(again, " (deleted)") == to && !h.Ended() {
			t.Log.Warn("end what runs without a record", "pid", pid, "output", to)
			h.Signal(unix.SIGKILL)
		}
		h.Close()
	}
}
