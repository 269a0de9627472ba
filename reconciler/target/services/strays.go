package services

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// strays are what runs for applications and is on no record: what a kill has left
// between two steps, what somebody made, and what outlived its first process without a
// sandbox. Nobody could stop it otherwise. Where drift is only to be reported, they are.
type strays struct {
	processes []strayProcess // that were not ended when they were found
}

type strayProcess struct {
	of  target.Key // by its first name
	is  target.Stray
	own *sandbox.Handle
}

// strayEvery is how often it is looked for what nobody knows.
const strayEvery = 4 * time.Second

// reportsDrift reports whether the application whose files are under a name has its drift
// reported, and not healed.
func (t *Target) reportsDrift(home target.Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.apps {
		if a.home == home {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.drift == target.Report && !a.remove
		}
	}
	return false
}

// lookForStrays ends what runs without a record, until ctx ends, or tells of it.
func (t *Target) lookForStrays(ctx context.Context) {
	defer func() {
		for _, p := range t.strays.processes {
			p.own.Close()
		}
	}()
	tick := time.NewTicker(strayEvery)
	defer tick.Stop()
	for {
		found := map[target.Key][]target.Stray{}
		t.strays.processes = slices.DeleteFunc(t.strays.processes, func(p strayProcess) bool {
			switch {
			case p.own.Ended():
			case t.reportsDrift(p.of):
				found[p.of] = append(found[p.of], p.is)
				return false
			default:
				t.Log.Warn("end what runs without a record", "pid", p.is.PID, "env", p.of.Environment, "app", p.of.Application)
				p.own.Signal(unix.SIGKILL)
			}
			p.own.Close()
			return true
		})
		t.containers.strays(ctx, found)
		t.tellStrays(found)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellStrays tells applications of what runs besides.
func (t *Target) tellStrays(found map[target.Key][]target.Stray) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.apps {
		all := found[a.home]
		slices.SortFunc(all, func(a, b target.Stray) int { return strings.Compare(a.String(), b.String()) })
		a.mu.Lock()
		news := !slices.Equal(all, a.toldStrays)
		a.toldStrays = all
		a.mu.Unlock()
		if news {
			a.post(func() { a.strays = all })
		}
	}
}

// endStrays ends what prints into a file of an instance that is not on record, before
// another is started beside it. What of it is reported only is kept in mind.
func (t *Target) endStrays(all []kept) {
	known, reported := map[string]bool{}, map[string]bool{}
	for _, k := range all {
		dir, _ := t.appDir(k.key)
		if d := k.declared; d != nil && d.Declared != nil && d.Declared.Drift == target.Report {
			reported[dir] = true
		}
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
			if dir, instance := filepath.Split(rest); reported[filepath.Join(given, dir, "..")] {
				t.strays.processes = append(t.strays.processes, strayOf(dir, instance, pid, h))
				continue
			}
			t.Log.Warn("end what runs without a record", "pid", pid, "output", to)
			h.Signal(unix.SIGKILL)
		}
		h.Close()
	}
}

// strayOf is a process that prints into the file of an instance, in the directory of the
// instances of an application.
func strayOf(dir, instance string, pid int, own *sandbox.Handle) strayProcess {
	p := strayProcess{is: target.Stray{PID: pid}, own: own}
	if names := strings.Split(dir, "/"); len(names) > 3 {
		p.of = target.Key{Repository: names[0], Environment: names[1], Application: names[2]}
	}
	if i := strings.LastIndexByte(instance, '-'); i > 0 {
		p.is.Unit = instance[:i]
	}
	return p
}
