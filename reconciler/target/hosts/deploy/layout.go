package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// The layout is CodeDeploy's:
//
//	<root>/<group>/<deployment>/deployment-archive   the revision
//	<root>/<group>/<deployment>/logs/scripts.log     what its scripts printed
//	<root>/<group>/<deployment>/before/              what it replaces, while it goes on
//	<root>/deployment-instructions/<group>-cleanup   what the next install removes
//	                              /<group>_last_successful_install, _most_recent_install
//
// and of our own there:
//
//	<group>_last_verified_install   the newest deployment that succeeded
//	<group>-deployment.json         the journal of the newest deployment
//	<group>-fence                   the highest sequence
//	<group>.lock
const instructions = "deployment-instructions"

func (h *Host) instruction(name string) string { return filepath.Join(h.Root, instructions, name) }

func (h *Host) deploymentDir(group, id string) string { return filepath.Join(h.Root, group, id) }

// Archives are the directories below the root of a host that hold revisions, each in that of
// its deployment, the newest first.
func Archives(root string) []string {
	all, _ := filepath.Glob(archiveIn(filepath.Join(root, "*", "*"))) // the pattern is a good one
	when := map[string]time.Time{}
	for _, dir := range all {
		if info, err := os.Stat(dir); err == nil {
			when[dir] = info.ModTime()
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return when[b].Compare(when[a]) })
	return all
}

func archiveIn(deployment string) string { return filepath.Join(deployment, "deployment-archive") }

func logIn(deployment string) string { return filepath.Join(deployment, "logs", "scripts.log") }

// LogFile is the log of a deployment's scripts.
func (h *Host) LogFile(group, id string) string { return logIn(h.deploymentDir(group, id)) }

// The pointers to deployments of a group.
const (
	lastSuccessful = "_last_successful_install" // whose Install was completed
	mostRecent     = "_most_recent_install"     // whose revision was unpacked
	lastVerified   = "_last_verified_install"   // that succeeded
)

// pointed is the deployment that a pointer of a group names, "" for none.
func (h *Host) pointed(group, pointer string) (id string, err error) {
	data, err := os.ReadFile(h.instruction(group + pointer))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	id = filepath.Base(strings.TrimSpace(string(data)))
	if !plainName().MatchString(id) {
		return "", fmt.Errorf("%s names no deployment", h.instruction(group+pointer))
	}
	return id, nil
}

// point makes a pointer name a deployment; "" removes it.
func (h *Host) point(group, pointer, id string) error {
	name := h.instruction(group + pointer)
	if id == "" {
		return h.remove(name)
	}
	return h.write(name, []byte(h.deploymentDir(group, id)+"\n"))
}

// Installed are the deployments whose files are on the host, and that succeeded last;
// "" for none. They differ after a failed deployment that was left as it is.
func (h *Host) Installed(group string) (installed, verified string, err error) {
	installed, err = h.pointed(group, lastSuccessful)
	verified, verr := h.pointed(group, lastVerified)
	return installed, verified, errors.Join(err, verr)
}

// lock keeps other processes from deploying to a group.
func (h *Host) lock(group string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(h.Root, instructions), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(h.instruction(group+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, ErrBusy
	}
	return func() {
		// A child that was forked and has not begun yet has a copy, which closing leaves locked.
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}

// cleanup is what the last install of a group put on the host, in the order in which
// it came there. A record that another user could have written is not believed, and
// of a torn one the last line is dropped.
func (h *Host) cleanup(group string) ([]string, error) {
	name := h.instruction(group + "-cleanup")
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, &Failure{
			What: name + " belongs to another user, or others may write it, so it is not followed",
			Fix:  "look at what it lists, then chown and chmod it, or remove it",
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var all []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSuffix(line, "\n"); filepath.IsAbs(line) {
			all = append(all, filepath.Clean(line))
		}
	}
	return all, nil
}

func (h *Host) writeCleanup(group string, paths []string) error {
	if len(paths) == 0 {
		return h.remove(h.instruction(group + "-cleanup"))
	}
	return h.write(h.instruction(group+"-cleanup"), []byte(strings.Join(paths, "\n")+"\n"))
}

// owners are the paths that other groups of this host have installed.
func (h *Host) owners(except string) (map[string]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.Root, instructions))
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range entries {
		group, ok := strings.CutSuffix(e.Name(), "-cleanup")
		if !ok || group == except {
			continue
		}
		paths, err := h.cleanup(group)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			all[p] = group
		}
	}
	return all, nil
}

// fence is the highest sequence of a group that was begun.
func (h *Host) fence(group string) (int, error) {
	var highest struct {
		Sequence int `json:"sequence"`
	}
	_, err := h.readJSON(h.instruction(group+"-fence"), &highest)
	return highest.Sequence, err
}

func (h *Host) raiseFence(group string, sequence int) error {
	return h.writeJSON(h.instruction(group+"-fence"), map[string]int{"sequence": sequence})
}

// readJSON reads a record; there is none when it returns false.
func (h *Host) readJSON(name string, into any) (bool, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return false, &Failure{
			What: fmt.Sprintf("the record %s cannot be read: %v", name, err),
			Fix:  "look at what is installed, then remove the record and deploy again",
		}
	}
	return true, nil
}

func (h *Host) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return h.write(name, append(data, '\n'))
}

// write replaces a file durably, whole or not at all.
func (h *Host) write(name string, data []byte) error {
	if err := h.allow("write", name); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(name), ".writing-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone after the rename
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// allow is asked before each change of the disk.
func (h *Host) allow(op, path string) error {
	if h.fault == nil {
		return nil
	}
	return h.fault(op, path)
}

func (h *Host) remove(name string) error {
	if err := h.allow("remove", name); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (h *Host) mkdir(name string, mode fs.FileMode) error {
	if err := h.allow("mkdir", name); err != nil {
		return err
	}
	return os.Mkdir(name, mode)
}

func (h *Host) rename(from, to string) error {
	if err := h.allow("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// copy copies a file or a link with its mode, owner, times and attributes. What it
// makes is new, or an error; settle makes it durable.
func (h *Host) copy(from, to string) error {
	if err := h.allow("copy", to); err != nil {
		return err
	}
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		text, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(text, to); err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		return own(to, int(st.Uid), int(st.Gid))
	}
	in, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// A file system that shares blocks copies at once.
	if err = unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = likeness(info, from, to)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// syncEach is up to how many files are synced one by one; for more, syncing their file
// system is faster.
const syncEach = 100

// settle makes what was copied durable, and what of it is a program one that can be run.
func settle(paths []string) error {
	var last uint64
	for i, path := range paths {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if errors.Is(err, syscall.ELOOP) || errors.Is(err, fs.ErrNotExist) {
			continue // a link is in its directory; of a path where nothing was there is no copy
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		switch err = unix.Fstat(int(f.Fd()), &st); {
		case err != nil:
		case len(paths) <= syncEach:
			err = f.Sync()
		case i == 0 || st.Dev != last:
			err = unix.Syncfs(int(f.Fd()))
		}
		last = st.Dev
		if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			sandbox.Runnable(f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return &fs.PathError{Op: "sync", Path: path, Err: err}
		}
	}
	return nil
}

// likeness gives a copy the owner, mode, attributes and times of its original; owner
// first, for a change of owner takes setuid away.
func likeness(info fs.FileInfo, from, to string) error {
	st := info.Sys().(*syscall.Stat_t)
	if err := own(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	copyAttributes(from, to)
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// own changes the owner unless it is that already. Who may not give files away keeps
// them, as cp -p does.
func own(name string, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return err
	}
	if int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	if err := os.Lchown(name, uid, gid); err != nil && os.Getuid() == 0 {
		return err
	}
	return nil
}

// copyAttributes copies extended attributes, access control lists and security
// contexts among them, as far as the file system takes them.
func copyAttributes(from, to string) {
	size, err := unix.Llistxattr(from, nil)
	if err != nil || size == 0 {
		return
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(from, names); err != nil {
		return
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		size, err := unix.Lgetxattr(from, name, nil)
		if err != nil {
			continue
		}
		value := make([]byte, size)
		if size, err = unix.Lgetxattr(from, name, value); err == nil {
			_ = unix.Lsetxattr(to, name, value[:size], 0)
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncDirs makes what was renamed in directories durable, each once.
func syncDirs(paths []string) error {
	var dirs []string
	for _, p := range paths {
		dirs = append(dirs, filepath.Dir(p))
	}
	slices.Sort(dirs)
	for _, d := range slices.Compact(dirs) {
		if err := syncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
