package receive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// hookNames are all hooks that git finds in the hooks directory.
var hookNames = []string{wire.PreReceive, wire.ProcReceive, wire.ReferenceTransaction}

// InstallHooks makes dir hold exactly the hooks of a repository, as symbolic
// links to program, which must be an executable file. It is durable and may be
// repeated; nothing else may stay in dir, because git would run it.
func InstallHooks(dir, program string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return fmt.Errorf("install hooks: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("install hooks: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("install hooks: %w", err)
	}
	wanted := map[string]bool{}
	for _, name := range hookNames {
		wanted[name] = true
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("install hooks: %w", err)
			}
		}
	}
	for _, name := range hookNames {
		path := filepath.Join(dir, name)
		if target, err := os.Readlink(path); err == nil && target == program {
			continue
		}
		// Made aside and renamed: there is no moment without the hook.
		temp := filepath.Join(dir, ".new-"+name)
		_ = os.Remove(temp) // left by a kill; Symlink reports what Remove could not do
		if err := os.Symlink(program, temp); err != nil {
			return fmt.Errorf("install hooks: %w", err)
		}
		if err := os.Rename(temp, path); err != nil {
			return fmt.Errorf("install hooks: %w", err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("install hooks: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("install hooks: %w", err)
	}
	return CheckHooks(dir)
}

// CheckHooks reports a hook that git would not run. git passes over a missing
// pre-receive in silence, so this is checked at every start.
func CheckHooks(dir string) error {
	for _, name := range hookNames {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("hook %s: %w; install headgate-hook beside headgate", path, err)
		}
		if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			return fmt.Errorf("hook %s is not executable (mode %s); run: chmod +x %s", path, info.Mode(), path)
		}
	}
	return nil
}
