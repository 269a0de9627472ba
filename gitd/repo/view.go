package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Builds see a repository's objects in a directory of links to them, a view: what a
// push has brought and nobody has accepted is not in it, and what is packed anew is
// not taken from under a build. One view is there for all builds of a repository, and
// is kept from one to the next and over a restart: hundreds of directories and links,
// made for each build and removed after it, cost more than all else that a landing
// does. So a view is only brought to what the repository has now.
//
// Nothing is ever removed from a view that a build uses. Once the repository has
// something no more, as after packing, builds that begin are given another view, and
// the old one goes with the last build that has it.

// viewsDir is where the views are, below recallDir, each named by a number.
const viewsDir = "objects"

// views are those of one repository.
type views struct {
	mu      sync.Mutex // guards the rest
	current *view      // nil: there is none yet
	number  int        // of the newest one, or those that were found
	found   bool       // those that an earlier process left were looked at
}

// view is one view.
type view struct {
	dir    string
	builds int // that use it
	old    bool

	// looked is what the view holds: directories of loose objects, by the time at which
	// they had changed last when they were looked at; zero is to be looked at again.
	looked map[string]time.Time
}

// ViewObjects returns a directory that has all objects of the repository. It stays
// good, whatever is packed, until release is called; objects that come later may
// appear in it. Whoever is shown it must not be able to write there: the files are
// the repository's own.
func (r *Repository) ViewObjects() (dir string, release func(), err error) {
	r.views.mu.Lock()
	defer r.views.mu.Unlock()
	if err := r.freshView(); err != nil {
		return "", nil, fmt.Errorf("link the objects of %s: %w", r.name, err)
	}
	w := r.views.current
	w.builds++
	return w.dir, sync.OnceFunc(func() {
		r.views.mu.Lock()
		defer r.views.mu.Unlock()
		if w.builds--; w.old && w.builds == 0 {
			_ = os.RemoveAll(w.dir) // or the next start does
		}
	}), nil
}

// trimView lets go of what the repository has no more. A view is not made for that.
func (r *Repository) trimView() error {
	r.views.mu.Lock()
	defer r.views.mu.Unlock()
	if err := r.findViews(); err != nil || r.views.current == nil {
		return err
	}
	if r.views.current.builds > 0 {
		r.views.retire()
		return nil
	}
	return r.freshView()
}

// freshView has the current view be one of what the repository has. The caller holds
// views.mu, as below.
func (r *Repository) freshView() error {
	if err := r.findViews(); err != nil {
		return err
	}
	if w := r.views.current; w != nil {
		stale, err := w.bring(r.objectsDir())
		if err == nil && !stale {
			return nil
		}
		r.views.retire() // what keeps it from being brought, a new one has not
	}
	r.views.number++
	w := &view{dir: filepath.Join(r.dir, recallDir, viewsDir, strconv.Itoa(r.views.number))}
	if _, err := w.bring(r.objectsDir()); err != nil {
		return errors.Join(err, os.RemoveAll(w.dir))
	}
	r.views.current = w
	return nil
}

func (r *Repository) objectsDir() string { return filepath.Join(r.dir, "objects") }

// retire has the current view go with the last build that uses it.
func (v *views) retire() {
	w := v.current
	v.current, w.old = nil, true
	if w.builds == 0 {
		_ = os.RemoveAll(w.dir) // or the next start does
	}
}

// findViews takes the newest view that an earlier process has left, and removes others.
func (r *Repository) findViews() error {
	if r.views.found {
		return nil
	}
	dir := filepath.Join(r.dir, recallDir, viewsDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	newest := 0
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && e.IsDir() {
			newest = max(newest, n)
		}
	}
	for _, e := range entries {
		if e.Name() == strconv.Itoa(newest) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if r.views.found, r.views.number = true, newest; newest == 0 {
		return nil
	}
	w := &view{dir: filepath.Join(dir, strconv.Itoa(newest)), looked: map[string]time.Time{}}
	have, err := os.ReadDir(w.dir)
	for _, e := range have {
		if isFanOut(e.Name()) {
			w.looked[e.Name()] = time.Time{}
		}
	}
	r.views.current = w
	return err
}

// LinkObjects makes dir a directory of all the repository's objects at this moment:
// a view, and nobody's but the caller's.
func (r *Repository) LinkObjects(dir string) error {
	if _, err := (&view{dir: dir}).bring(r.objectsDir()); err != nil {
		return fmt.Errorf("link the objects of %s: %w", r.name, err)
	}
	return nil
}

// isFanOut reports whether a directory is one of loose objects.
func isFanOut(name string) bool {
	return len(name) == 2 && strings.Trim(name, "0123456789abcdef") == ""
}

// settled is for how long a directory must not have changed for its time to tell of
// changes: file systems count time in steps, the coarsest in seconds.
const settled = 3 * time.Second

// bring gives the view all that a repository has in its directory of objects. What
// the repository has no more, or has another file of, is replaced when no build uses
// the view; otherwise it is left, and stale.
func (w *view) bring(objects string) (stale bool, err error) {
	if _, err := os.Lstat(w.dir); w.looked == nil || err != nil { // new, or somebody has removed it
		w.looked = map[string]time.Time{}
	}
	mirror := func(name string) (left bool, err error) {
		left, err = mirrorFiles(filepath.Join(objects, name), filepath.Join(w.dir, name), w.builds == 0)
		stale = stale || left
		return left, err
	}
	now := time.Now()
	top, err := os.ReadDir(objects)
	if err != nil {
		return false, err
	}
	there := map[string]bool{}
	for _, e := range top {
		name := e.Name()
		if !isFanOut(name) || !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // all that was in it is packed
			continue
		} else if err != nil {
			return false, err
		}
		there[name] = true
		changed := info.ModTime()
		if at := w.looked[name]; !at.IsZero() && at.Equal(changed) {
			continue
		}
		left, err := mirror(name)
		if err != nil {
			return false, err
		}
		if left || now.Sub(changed) < settled {
			changed = time.Time{}
		}
		w.looked[name] = changed
	}
	for name := range w.looked {
		if there[name] {
			continue
		}
		left, err := mirror(name)
		if err != nil {
			return false, err
		}
		if !left {
			delete(w.looked, name)
		}
	}
	// What is packed meanwhile leaves its loose file when its pack is there: packs
	// come last.
	for _, name := range []string{"info/commit-graphs", "info", "pack"} {
		if _, err := mirror(name); err != nil {
			return false, err
		}
	}
	return stale, nil
}

// mirrorFiles has one directory hold the files of another, as links, and tries again
// until none was taken away meanwhile. Only if it may replace does it remove; left
// reports that it would have.
func mirrorFiles(from, to string, replace bool) (left bool, err error) {
	const tries = 10
	for range tries {
		left, whole, err := mirrorOnce(from, to, replace)
		if err != nil || whole {
			return left, err
		}
	}
	return false, fmt.Errorf("%s does not stay the same", filepath.Base(from))
}

func mirrorOnce(from, to string, replace bool) (left, whole bool, err error) {
	entries, err := filesOf(from)
	if err != nil {
		return false, false, err
	}
	had, err := filesOf(to)
	if err != nil {
		return false, false, err
	}
	if len(entries) > 0 && len(had) == 0 {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return false, false, err
		}
	}
	gone := map[string]bool{}
	for _, name := range had {
		gone[name] = true
	}
	for _, name := range entries {
		source, link := filepath.Join(from, name), filepath.Join(to, name)
		if gone[name] {
			same, err := sameFile(source, link)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return false, false, nil
			case err != nil:
				return false, false, err
			case same:
				delete(gone, name)
				continue
			case !replace:
				left = true
				delete(gone, name)
				continue
			}
			if err := os.Remove(link); err != nil {
				return false, false, err
			}
			delete(gone, name)
		}
		err := os.Link(source, link)
		if errors.Is(err, fs.ErrNotExist) {
			return false, false, nil
		} else if err != nil {
			return false, false, err
		}
	}
	for name := range gone {
		if !replace {
			return true, true, nil
		}
		if err := os.Remove(filepath.Join(to, name)); err != nil {
			return false, false, err
		}
	}
	return left, true, nil
}

// filesOf lists what of a directory of objects can be linked, none if it is not there,
// in an order in which what refers to another file comes after it.
func filesOf(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.Type().IsRegular() || strings.HasPrefix(name, "tmp_") || name == "alternates" ||
			strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".keep") {
			continue
		}
		names = append(names, name)
	}
	refers := func(name string) int {
		switch {
		case name == "multi-pack-index":
			return 2
		case strings.HasSuffix(name, ".idx"), name == "commit-graph-chain":
			return 1
		}
		return 0
	}
	slices.SortStableFunc(names, func(a, b string) int { return refers(a) - refers(b) })
	return names, nil
}

// sameFile reports whether two names are links to one file.
func sameFile(a, b string) (bool, error) {
	x, err := os.Lstat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Lstat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}
