package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Lock takes the data directory for this process alone, until the file is closed.
// Who holds it may sweep what an earlier process left behind. It is the directory
// that is locked: a file in it could be deleted, and a second server would lock
// another of that name.
func Lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	holder := filepath.Join(dir, "lock") // only read by people
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		who := "in use by another headgate"
		if pid, err := os.ReadFile(holder); err == nil {
			who += " (process " + strings.TrimSpace(string(pid)) + ")"
		}
		f.Close()
		return nil, fmt.Errorf("%s is %s\nhint: stop it, or give another --data", dir, who)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
	}
	_ = os.WriteFile(holder, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600) // a full disk must not keep a server from starting
	return f, nil
}
