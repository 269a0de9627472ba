package event

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
)

// Prefixes of the refs whose events are read here.
const (
	changePrefix  = "refs/changes/"
	releasePrefix = "refs/releases/"
)

// feed knows how far the refs of every repository have been read. It keeps that
// in a directory, one file a repository: a line of hash and name for each ref.
// It is used by one goroutine.
type feed struct {
	dir     string
	readers map[string]Reader // by the prefix of the refs they read
}

func (f *feed) path(repository string) string { return filepath.Join(f.dir, repository+".refs") }

// begin has the feed tell of nothing that has happened so far, if it has no
// place yet: whoever is told of the future need not be told of the past.
func (f *feed) begin(store *repo.Store) error {
	if _, err := os.Stat(f.dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	names, err := store.Names()
	if err != nil {
		return err
	}
	fresh := &feed{dir: f.dir + ".new", readers: f.readers}
	if err := errors.Join(os.RemoveAll(fresh.dir), os.MkdirAll(fresh.dir, 0o700)); err != nil {
		return err
	}
	var unread []error // one that is damaged holds up nobody else; repaired, it is told of as if it were new
	for _, name := range names {
		r, err := store.Repository(name)
		var refs map[string]repo.Hash
		if err == nil {
			refs, err = f.refs(r)
		}
		if err != nil {
			unread = append(unread, err)
			continue
		}
		if err := fresh.save(name, refs); err != nil {
			return err
		}
	}
	return errors.Join(append(unread, repo.Rename(fresh.dir, f.dir))...)
}

// end forgets the place, when nobody is told any more.
func (f *feed) end() error { return os.RemoveAll(f.dir) }

// refs are the refs of r that have readers, by name.
func (f *feed) refs(r *repo.Repository) (map[string]repo.Hash, error) {
	refs := map[string]repo.Hash{}
	for prefix := range f.readers {
		list, err := r.Refs(prefix)
		if err != nil {
			return nil, err
		}
		for _, ref := range list {
			refs[ref.Name] = ref.Hash
		}
	}
	return refs, nil
}

// read calls put with what has happened in a repository since it was last read,
// oldest first, and moves the place once put has returned without an error.
// A ref that cannot be read keeps its place, and is in the error.
func (f *feed) read(ctx context.Context, r *repo.Repository, put func([]Event) error) error {
	refs, err := f.refs(r)
	if err != nil {
		return err
	}
	known, err := f.load(r.Name())
	if err != nil {
		return err
	}

	var events []Event
	var unread []error
	moved := false
	for name, to := range refs {
		from := known[name]
		if from == to {
			continue
		}
		list, err := f.reader(name)(ctx, r, name, from, to)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			unread = append(unread, fmt.Errorf("read events of %s in %s: %w", name, r.Name(), err))
			if refs[name] = from; from == repo.Zero {
				delete(refs, name)
			}
			continue
		}
		moved = true
		events = append(events, list...)
	}
	if !moved {
		return errors.Join(unread...)
	}
	slices.SortStableFunc(events, func(a, b Event) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Type.step(), b.Type.step()), cmp.Compare(a.Subject, b.Subject))
	})

	crash.Point("event.read")
	if err := put(events); err != nil {
		return err
	}
	crash.Point("event.queued")
	err = f.save(r.Name(), refs)
	crash.Point("event.passed")
	return errors.Join(append(unread, err)...)
}

func (f *feed) reader(ref string) Reader {
	for prefix, read := range f.readers {
		if strings.HasPrefix(ref, prefix) {
			return read
		}
	}
	panic("a ref without a reader: " + ref) // refs lists those of readers only
}

func (f *feed) load(repository string) (map[string]repo.Hash, error) {
	data, err := os.ReadFile(f.path(repository))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a new repository: all that is in it is news
	}
	if err != nil {
		return nil, err
	}
	refs := map[string]repo.Hash{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		hash, name, _ := strings.Cut(lines.Text(), " ")
		h, ok := repo.ParseHash(hash)
		if !ok || name == "" {
			return nil, fmt.Errorf("%s does not read as a list of refs; remove it to begin again with what happens next",
				f.path(repository))
		}
		refs[name] = h
	}
	return refs, nil
}

func (f *feed) save(repository string, refs map[string]repo.Hash) error {
	names := make([]string, 0, len(refs))
	for name := range refs {
		names = append(names, name)
	}
	slices.Sort(names)

	var out bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&out, "%s %s\n", refs[name], name)
	}
	return repo.WriteFile(f.path(repository), out.Bytes(), 0o600)
}
