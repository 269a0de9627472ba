package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// baseline is what an installed path was when its deployment had succeeded: scripts
// may have changed it until then, and what is different later is drift.
type baseline struct {
	was
	From   string `json:"from"`             // where its content can be had again: below the deployment's directory
	Link   string `json:"link,omitempty"`   // of a link
	Digest string `json:"digest,omitempty"` // SHA-256 of a file
	Size   int64  `json:"size,omitempty"`
}

// Deviation is a path that is not as its deployment had left it.
type Deviation struct {
	Path string `json:"path"`
	What string `json:"what"`
}

func (d Deviation) String() string { return d.Path + " " + d.What }

func (h *Host) baselineFile(group, id string) string {
	return filepath.Join(h.deploymentDir(group, id), "installed.json")
}

// saveBaseline writes down what the deployment has installed. The content of what its
// scripts have changed is kept beside the archive.
func (d *deployment) saveBaseline() error {
	p, err := d.stagedPlan()
	if err != nil {
		return err
	}
	kept := filepath.Join(d.dir(), "installed")
	if err := os.RemoveAll(kept); err != nil {
		return err
	}
	if err := d.mkdir(kept, 0o700); err != nil {
		return err
	}
	var all []baseline
	for _, dir := range append(slices.Clone(p.Dirs), p.Kept...) {
		b, err := baselineOf(dir)
		if err != nil {
			return err
		}
		all = append(all, b)
	}
	for i, put := range p.Puts {
		b, err := baselineOf(put.To)
		if err != nil {
			return err
		}
		if b.Kind == "file" {
			if b.From, err = d.keep(b, put.From, filepath.Join(kept, strconv.Itoa(i))); err != nil {
				return err
			}
		}
		all = append(all, b)
	}
	if err := d.writeJSON(d.baselineFile(d.journal.Group, d.journal.ID), all); err != nil {
		return err
	}
	crash.Point("deploy.baseline-saved")
	return nil
}

// keep makes sure that the content of a file can be had again.
func (d *deployment) keep(b baseline, source, to string) (string, error) {
	if digest, err := digestOf(source); err == nil && digest == b.Digest {
		return source, nil
	}
	return to, errors.Join(d.copy(b.Path, to), settle([]string{to}))
}

// baselineOf looks at a path; of one that a script has removed nothing is expected.
func baselineOf(path string) (b baseline, err error) {
	b.Path = path
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	st := info.Sys().(*syscall.Stat_t)
	b.Mode, b.UID, b.GID, b.Inode, b.Change = st.Mode&0o7777, int(st.Uid), int(st.Gid), st.Ino, st.Ctim
	switch {
	case info.IsDir():
		b.Kind = "dir"
	case info.Mode()&fs.ModeSymlink != 0:
		b.Kind = "link"
		b.Link, err = os.Readlink(path)
	case info.Mode().IsRegular():
		b.Kind, b.Size = "file", info.Size()
		b.Digest, err = digestOf(path)
	}
	return b, err
}

func digestOf(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// differs says how a path deviates, "" when it does not. A file that was not changed
// since is not read.
func (b baseline) differs() string {
	if b.Kind == "" || b.Kind != "dir" && b.untouched() {
		return ""
	}
	now, err := baselineOf(b.Path)
	switch {
	case err != nil:
		return fmt.Sprintf("cannot be looked at: %v", err)
	case now.Kind == "":
		return "is gone"
	case now.Kind != b.Kind:
		return "is not a " + b.Kind + " any more"
	case now.Digest != b.Digest || now.Link != b.Link:
		return "was changed"
	case now.Mode != b.Mode && b.Kind != "link":
		return fmt.Sprintf("has the mode %04o, not %04o", now.Mode, b.Mode)
	case now.UID != b.UID || now.GID != b.GID:
		return fmt.Sprintf("belongs to %d:%d, not %d:%d", now.UID, now.GID, b.UID, b.GID)
	}
	return ""
}

// Drift finds what is not as the deployment that is installed has left it. There is
// none while a deployment goes on.
func (h *Host) Drift(group string) ([]Deviation, error) {
	var all []Deviation
	err := h.eachBaseline(group, func(b baseline) error {
		if what := b.differs(); what != "" {
			all = append(all, Deviation{b.Path, what})
		}
		return nil
	})
	return all, err
}

// Directories are those that the installed files of a group lie in.
func (h *Host) Directories(group string) (dirs []string, err error) {
	err = h.eachBaseline(group, func(b baseline) error {
		dirs = append(dirs, filepath.Dir(b.Path))
		return nil
	})
	slices.Sort(dirs)
	return slices.Compact(dirs), err
}

// Heal puts what has drifted back: content, mode and owner, without a script. It
// returns what was put back.
func (h *Host) Heal(group string) ([]Deviation, error) {
	var all []Deviation
	err := h.eachBaseline(group, func(b baseline) error {
		what := b.differs()
		if what == "" {
			return nil
		}
		if err := h.heal(group, b); err != nil {
			return fmt.Errorf("heal %s, which %s: %w", b.Path, what, err)
		}
		all = append(all, Deviation{b.Path, what})
		return nil
	})
	return all, err
}

func (h *Host) eachBaseline(group string, do func(baseline) error) error {
	unlock, err := h.lock(group)
	if err != nil {
		return err
	}
	defer unlock()
	last, found, err := h.readJournal(group)
	if err != nil || !found || last.Result == nil {
		return err
	}
	id, err := h.pointed(group, lastVerified)
	if err != nil || id == "" {
		return err
	}
	var all []baseline
	if _, err := h.readJSON(h.baselineFile(group, id), &all); err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b baseline) int { // parents first
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	var errs []error
	for _, b := range all {
		errs = append(errs, do(b))
	}
	return errors.Join(errs...)
}

// heal makes one path what it was.
func (h *Host) heal(group string, b baseline) error {
	if b.Kind == "dir" {
		if info, err := os.Lstat(b.Path); err == nil && !info.IsDir() {
			if err := h.remove(b.Path); err != nil {
				return err
			}
		}
		return (&deployment{Host: h}).putBack(b.was)
	}
	if isDir(b.Path) {
		if gone, err := h.drop(b.Path); err != nil || !gone {
			return errors.Join(err, errors.New("a directory that is not empty has taken its place"))
		}
	}
	if err := os.MkdirAll(filepath.Dir(b.Path), 0o755); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(b.Path), ".headgate-"+group+"-healing")
	if err := h.remove(temp); err != nil {
		return err
	}
	if b.Kind == "link" {
		if err := os.Symlink(b.Link, temp); err != nil {
			return err
		}
	} else {
		if err := h.copy(b.From, temp); err != nil {
			return err
		}
		if digest, err := digestOf(temp); err != nil || digest != b.Digest {
			return errors.Join(err, os.Remove(temp), errors.New("what was kept of it is not what it was; deploy again"))
		}
	}
	if err := own(temp, b.UID, b.GID); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if b.Kind == "file" {
		if err := unix.Chmod(temp, b.Mode); err != nil {
			return errors.Join(err, os.Remove(temp))
		}
	}
	if err := settle([]string{temp}); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := h.rename(temp, b.Path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(b.Path))
}

// Forget removes all records of a group but the fence. What it has installed stays;
// an empty revision takes that away before.
func (h *Host) Forget(group string) error {
	unlock, err := h.lock(group)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, name := range []string{"-cleanup", lastSuccessful, mostRecent, lastVerified, "-deployment.json"} {
		errs = append(errs, h.remove(h.instruction(group+name)))
	}
	return errors.Join(append(errs, os.RemoveAll(filepath.Join(h.Root, group)))...)
}
