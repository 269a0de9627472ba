package repo

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// witness remembers which of the server's own records have moved since another
// record named where they are, so that cutting one of them off shows elsewhere.
type witness struct {
	mu     sync.Mutex
	seeded bool
	moved  map[string]Hash // ref → where it is; nil: nothing
}

// MovedTrailer is the key under which a decision names a record and where it was.
const MovedTrailer = "Moved"

// maxWitnessed bounds how many refs one record names; the rest are named by the
// next.
const maxWitnessed = 50

// seedNumbered is how many of the newest changes and releases the first record of a
// process names: what moved last before the server stopped is among them.
const seedNumbered = 20

// witnessed reports whether a ref is one of the server's records, which only grow.
// The record that names the others is none of them.
func witnessed(ref string) bool {
	switch {
	case strings.HasPrefix(ref, "refs/changes/"):
		return strings.HasSuffix(ref, "/log")
	case strings.HasPrefix(ref, "refs/notes/"), strings.HasPrefix(ref, "refs/schedules/"),
		strings.HasPrefix(ref, "refs/releases/"), strings.HasPrefix(ref, "refs/heads/env/"),
		strings.HasPrefix(ref, "refs/decisions/landing/"), strings.HasPrefix(ref, "refs/decisions/rejected/"):
		return true
	}
	return ref == "refs/mirror/log" || ref == "refs/keys/log"
}

func (w *witness) note(ref string, to Hash) {
	if !witnessed(ref) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved == nil {
		w.moved = map[string]Hash{}
	}
	if w.moved[ref] = to; to == Zero {
		delete(w.moved, ref)
	}
}

// Witness takes the records of the server that have moved since it was last
// called, with where they are now. What is not written down is given back by undo.
func (r *Repository) Witness() (refs []Ref, undo func(), err error) {
	w := &r.witness
	if err := r.seed(); err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(w.moved)) {
		if len(refs) == maxWitnessed {
			break
		}
		refs = append(refs, Ref{name, w.moved[name]})
		delete(w.moved, name)
	}
	return refs, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, ref := range refs {
			w.keep(ref)
		}
	}, nil
}

// seed takes, once, what may have moved last before this process began.
func (r *Repository) seed() error {
	w := &r.witness
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seeded {
		return nil
	}
	refs, err := r.Refs("refs/")
	if err != nil {
		return err
	}
	type numbered struct {
		number int
		ref    Ref
	}
	newest := map[string][]numbered{} // by the prefix
	for _, ref := range refs {
		switch prefix, ok := numberedPrefix(ref.Name); {
		case !witnessed(ref.Name):
		case ok:
			newest[prefix] = append(newest[prefix], numbered{numberAt(ref.Name, prefix), ref})
		default:
			w.keep(ref)
		}
	}
	for _, list := range newest {
		slices.SortFunc(list, func(a, b numbered) int { return b.number - a.number })
		for _, of := range list[:min(len(list), seedNumbered)] {
			w.keep(of.ref)
		}
	}
	w.seeded = true
	return nil
}

// keep notes a ref unless it has moved meanwhile.
func (w *witness) keep(ref Ref) {
	if _, newer := w.moved[ref.Name]; newer {
		return
	}
	if w.moved == nil {
		w.moved = map[string]Hash{}
	}
	w.moved[ref.Name] = ref.Hash
}

func numberedPrefix(ref string) (prefix string, ok bool) {
	for _, prefix := range []string{"refs/changes/", "refs/releases/"} {
		if strings.HasPrefix(ref, prefix) {
			return prefix, true
		}
	}
	return "", false
}

func numberAt(ref, prefix string) int {
	number, _, _ := strings.Cut(strings.TrimPrefix(ref, prefix), "/")
	n, _ := strconv.Atoi(number) // what is no number is the oldest
	return n
}
