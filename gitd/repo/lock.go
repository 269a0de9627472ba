package repo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Locked is the error of a directory that another process has locked.
type Locked struct {
	Dir     string
	Process int // that has, as far as is known; 0: it is not
}

func (e *Locked) Error() string {
	if e.Process == 0 {
		return e.Dir + " is locked by another process"
	}
	return fmt.Sprintf("%s is locked by process %d", e.Dir, e.Process)
}

// lockName is a file in a locked directory with the number of the process.
const lockName = "lock"

// letGo is how long after a process was killed what it had just forked may have its
// locks: until that begins another program, or ends.
const letGo = 10 * time.Second

// lookTime is more than IsLocked takes.
const lookTime = 200 * time.Millisecond

// IsLocked reports whether a process has locked a directory.
func IsLocked(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// Lock takes a directory for this process alone, until the file is closed. It is the
// directory that is locked: a file in it could be deleted, and a second process would
// lock another of that name. The error may be *Locked.
func Lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// For people, and those who wait here: a full disk must not keep anybody from starting.
			_ = os.WriteFile(filepath.Join(dir, lockName), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		who, lives := lockedBy(dir)
		if took := time.Since(began); lives && took > lookTime || took > letGo {
			f.Close()
			return nil, &Locked{Dir: dir, Process: who}
		}
	}
}

// lockedBy is who has locked a directory last, and whether that lives, as which
// counts one of which nothing is known.
func lockedBy(dir string) (process int, lives bool) {
	data, err := os.ReadFile(filepath.Join(dir, lockName))
	if err != nil {
		return 0, true
	}
	process, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || process <= 0 {
		return 0, true
	}
	return process, !errors.Is(syscall.Kill(process, 0), syscall.ESRCH)
}
