package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
)

// What is loose (objects, one file each, and refs) is packed by the server itself,
// and not by git's own maintenance: what replaces something is synced, and so is
// the directory that names it, before anything is removed. A server that is killed
// in between has everything twice.
//
// There is one pack with everything that was reachable when it was made, with a
// bitmap. Newer packs stand beside it, each at least as large as those after it
// together, so that there are few of them; once they hold a quarter of what it
// holds, all becomes one again. Packing n objects so costs a multiple of n in all,
// however many landings brought them.

// expiry is how old an object that nothing refers to must be to be removed, as
// with git: whoever is about to refer to one has written it a moment ago.
const expiry = 14 * 24 * time.Hour

// quarter: packs beside the one with a bitmap hold at most one over this of it.
const quarter = 4

// loose counts the objects that stand in a file of their own, and those of them
// that are older than a time.
func (r *Repository) loose(before time.Time) (all, old int, err error) {
	dirs, err := os.ReadDir(filepath.Join(r.dir, "objects"))
	if err != nil {
		return 0, 0, err
	}
	for _, d := range dirs {
		if len(d.Name()) != 2 || !d.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(r.dir, "objects", d.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, err
		}
		for _, f := range files {
			if len(f.Name()) != 38 {
				continue
			}
			all++
			if info, err := f.Info(); err == nil && info.ModTime().Before(before) {
				old++
			}
		}
	}
	return all, old, nil
}

// Bytes is how much the objects of the repository take of the disk, those of pushes
// under way among them.
func (r *Repository) Bytes() (int64, error) { return BytesIn(filepath.Join(r.dir, "objects")) }

// BytesIn is how many bytes the files in a directory have.
func BytesIn(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was moved or removed
			}
			return err
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n, err
}

// Packed is what Pack did.
type Packed struct {
	Loose  int // objects that stood alone
	Packs  int // that were replaced
	Pruned int // objects that nothing referred to for a long time
	Whole  bool
}

// Pack packs what is loose. Reading and pushing go on meanwhile. The caller sees
// that there is one at a time, and that the repository is not damaged.
func (r *Repository) Pack(ctx context.Context, now time.Time) (did Packed, err error) {
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("pack %s: %w", r.name, err)
		}
	}()
	if err := r.packRefs(ctx); err != nil {
		return did, err
	}
	if did.Loose, _, err = r.loose(time.Time{}); err != nil {
		return did, err
	}
	packs, err := r.packs()
	if err != nil {
		return did, err
	}
	if did.Whole = wantsWhole(packs, did.Loose); did.Whole {
		err = r.packWhole(ctx, packs)
		did.Packs = len(packs)
	} else {
		did.Packs, err = r.packMore(ctx)
	}
	if err != nil {
		return did, err
	}
	if err := r.writeGraph(ctx, "--split"); err != nil {
		return did, err
	}
	// Last, for it is by what is loose that packing begins. Only what is in a pack now
	// is removed: git looks at each.
	if err := r.work(ctx, nil, "prune-packed", "--quiet"); err != nil {
		return did, err
	}
	crash.Point("pack.pruned")
	if did.Pruned, err = r.prune(ctx, now); err != nil {
		return did, err
	}
	return did, r.trimView() // which would keep the disk full
}

// pack is one pack in a repository.
type pack struct {
	name    string // "pack-<hash>"
	objects int
	bitmap  bool
	kept    bool // a push that brought it is not over
}

// packs lists the packs, largest first.
func (r *Repository) packs() (all []pack, err error) {
	dir := filepath.Join(r.dir, "objects", "pack")
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, n := range names {
		there[n.Name()] = true
	}
	for _, n := range names {
		name, ok := strings.CutSuffix(n.Name(), ".idx")
		if !ok || !there[name+".pack"] {
			continue
		}
		count, err := countIndex(filepath.Join(dir, n.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, pack{name, count, there[name+".bitmap"], there[name+".keep"]})
	}
	slices.SortFunc(all, func(a, b pack) int { return b.objects - a.objects })
	return all, nil
}

// countIndex reads from a pack's index how many objects the pack holds: the last
// entry of its first table.
func countIndex(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [8 + 256*4]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if !bytes.Equal(head[:8], []byte("\xfftOc\x00\x00\x00\x02")) {
		return 0, fmt.Errorf("%s is no index of version 2", path)
	}
	last := head[len(head)-4:]
	return int(last[0])<<24 | int(last[1])<<16 | int(last[2])<<8 | int(last[3]), nil
}

// wantsWhole reports whether all is to become one pack.
func wantsWhole(packs []pack, loose int) bool {
	base, beside := 0, loose
	for _, p := range packs {
		switch {
		case p.kept: // what is in it is not ours yet
			return false
		case p.bitmap && base == 0:
			base = p.objects
		default:
			beside += p.objects
		}
	}
	return beside*quarter >= base
}

// outgrown are those of the packs, largest first, that become one: from the first
// on that is smaller than what follows it together, so that few remain.
func outgrown(packs []pack) []pack {
	sum := 0
	var beside []pack
	for _, p := range packs {
		if !p.bitmap && !p.kept {
			beside = append(beside, p)
			sum += p.objects
		}
	}
	for i, p := range beside {
		if sum -= p.objects; p.objects < sum {
			return beside[i:]
		}
	}
	return nil
}

// packWhole makes one pack of everything that is reachable. What is not, and was
// in a pack, stands alone from then on, as old as its pack.
func (r *Repository) packWhole(ctx context.Context, old []pack) error {
	made, err := r.packObjects(ctx, nil, "--all", "--keep-true-parents", "--unpack-unreachable", "--write-bitmap-index")
	if err != nil {
		return err
	}
	return r.replace(old, made)
}

// packMore makes a pack of what is reachable and loose, and one of those that are
// outgrown then.
func (r *Repository) packMore(ctx context.Context) (replaced int, err error) {
	if _, err := r.packObjects(ctx, nil, "--all", "--keep-true-parents", "--unpacked", "--incremental"); err != nil {
		return 0, err
	}
	packs, err := r.packs()
	if err != nil {
		return 0, err
	}
	old := outgrown(packs)
	if len(old) < 2 {
		return 0, nil
	}
	var names bytes.Buffer
	for _, p := range old {
		names.WriteString(p.name + ".pack\n")
	}
	made, err := r.packObjects(ctx, names.Bytes(), "--stdin-packs")
	if err != nil {
		return 0, err
	}
	return len(old), r.replace(old, made)
}

// packObjects makes a pack and returns its name; "" when there was nothing to
// pack. It is there durably.
func (r *Repository) packObjects(ctx context.Context, input []byte, args ...string) (name string, err error) {
	dir := filepath.Join(r.dir, "objects", "pack")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := r.Command(ctx, slices.Concat([]string{"pack-objects", "-q", "--threads=1", "--local", "--non-empty",
		"--honor-pack-keep", "--delta-base-offset"},
		args, []string{filepath.Join(dir, "pack")})...)
	out, err := runNice(cmd, input)
	if err != nil {
		return "", err
	}
	// Objects that were turned out of a pack are in directories of their own.
	if slices.Contains(args, "--unpack-unreachable") {
		dirs, err := filepath.Glob(filepath.Join(r.dir, "objects", "[0-9a-f][0-9a-f]"))
		if err != nil {
			return "", err
		}
		for _, d := range dirs {
			if err := syncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := syncDir(d); err != nil {
			return "", err
		}
	}
	crash.Point("pack.written")
	hash := strings.TrimSpace(string(out))
	if hash == "" {
		return "", nil
	}
	return "pack-" + hash, nil
}

// replace removes packs whose objects are all in another one, or alone.
func (r *Repository) replace(old []pack, made string) error {
	// Whoever reads through go-git has a list of the packs.
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range old {
		if p.name == made { // nothing was new
			continue
		}
		// The index goes first: without one, a pack is not there for git.
		for _, ext := range []string{".idx", ".bitmap", ".rev", ".pack"} {
			err := os.Remove(filepath.Join(r.dir, "objects", "pack", p.name+ext))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return errors.Join(err, r.reopen())
			}
		}
		crash.Point("pack.replaced")
	}
	return r.reopen()
}

// prune removes loose objects that nothing has referred to for a long time, such
// as those of a push of which no ref could be taken. While a push runs it does
// not, nor when one has begun since it looked: that may refer to them again.
func (r *Repository) prune(ctx context.Context, now time.Time) (pruned int, err error) {
	before := now.Add(-expiry)
	if _, old, err := r.loose(before); err != nil || old == 0 {
		return 0, err
	}
	began, running := r.pushes.look()
	if running {
		return 0, nil
	}
	cmd := r.Command(ctx, "prune", "--dry-run", "--expire="+strconv.FormatInt(before.Unix(), 10))
	out, err := runNice(cmd, nil)
	if err != nil || len(out) == 0 {
		return 0, err
	}
	// git believes the graph of commits, which may have some of these.
	if err := r.writeGraph(ctx, "--split=replace"); err != nil {
		return 0, err
	}

	r.pushes.mu.Lock() // a push that comes now waits for a few unlinks
	defer r.pushes.mu.Unlock()
	if r.pushes.running > 0 || r.pushes.began != began {
		return 0, nil
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, ok := ParseHash(name); !ok {
			continue
		}
		path := filepath.Join(r.dir, "objects", name[:2], name[2:])
		// Who writes one that is there already makes it young.
		if info, err := os.Lstat(path); err != nil || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return pruned, err
		}
		pruned++
	}
	return pruned, nil
}

// packRefs writes refs into one file, and removes the files that they had. Refs
// whose files are left are right too: they are read first.
func (r *Repository) packRefs(ctx context.Context) error {
	if err := r.work(ctx, nil, "pack-refs", "--all", "--no-prune"); err != nil {
		return err
	}
	if err := syncDir(r.dir); err != nil {
		return err
	}
	crash.Point("pack.refs-written")
	packed, err := r.packedRefs()
	if err != nil {
		return err
	}
	for _, ref := range packed.refs {
		if err := r.dropLoose(ref); err != nil {
			return err
		}
	}
	crash.Point("pack.refs-dropped")
	return r.dropEmpty()
}

// dropEmpty removes the directories of refs that hold none any more: whoever lists
// refs reads each of them, and every change has one. Git makes them again, also
// while somebody removes them.
func (r *Repository) dropEmpty() error {
	refs := filepath.Join(r.dir, "refs")
	var dirs []string
	err := filepath.WalkDir(refs, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // a ref was removed
			return nil
		case err != nil:
			return err
		case d.IsDir() && filepath.Dir(path) != refs && path != refs:
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir) // unless something is in it
	}
	return err
}

// dropLoose removes the file of a ref that is packed with the same value, under
// git's own lock of that ref; whoever moves it now is faster.
func (r *Repository) dropLoose(ref Ref) error {
	path := filepath.Join(r.dir, ref.Name)
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil // it is being moved
	}
	defer os.Remove(path + ".lock")
	if err := lock.Close(); err != nil {
		return err
	}
	if h, symbolic, err := readRef(path); err != nil || symbolic != "" || h != ref.Hash {
		return nil
	}
	return os.Remove(path)
}

// writeGraph writes the graph of the commits that refs reach, by which git finds
// ancestors without reading them.
func (r *Repository) writeGraph(ctx context.Context, split string) error {
	return r.work(ctx, nil, "commit-graph", "write", "--reachable", split, "--no-progress")
}

// work runs a git child that people do not wait for.
func (r *Repository) work(ctx context.Context, input []byte, args ...string) error {
	_, err := runNice(r.Command(ctx, args...), input)
	return err
}

// runNice is run for what gives way to everything else that wants the processor or
// the disk.
func runNice(cmd *exec.Cmd, input []byte) ([]byte, error) {
	return runStarted(cmd, input, func(pid int) {
		const (
			whoGroup = 2       // IOPRIO_WHO_PGRP
			idle     = 3 << 13 // IOPRIO_CLASS_IDLE
		)
		// Where it may not be, it is as urgent as the rest.
		_ = syscall.Setpriority(syscall.PRIO_PGRP, pid, 19)
		_, _, _ = syscall.Syscall(syscall.SYS_IOPRIO_SET, whoGroup, uintptr(pid), idle)
	})
}

// completePacks gives an index to each pack that has none: a server that was killed
// while a pack was moved in, or out, left it. git would not see what is in it, and
// go-git no pack at all. One that cannot have an index is set aside.
func (s *Store) completePacks(dir string) (completed []string, err error) {
	packs, err := filepath.Glob(filepath.Join(dir, "objects", "pack", "pack-*.pack"))
	if err != nil {
		return nil, err
	}
	for _, path := range packs {
		name := strings.TrimSuffix(path, ".pack")
		if _, err := os.Stat(name + ".idx"); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		cmd := exec.Command("git", "index-pack", path)
		cmd.Env, cmd.Dir = Env(noHooks), dir
		if _, err := run(cmd, nil); err != nil {
			if err := Rename(path, path+".unreadable"); err != nil {
				return completed, err
			}
		}
		completed = append(completed, strings.TrimPrefix(path, dir+string(filepath.Separator)))
	}
	return completed, nil
}
