package repo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// ReadableRefs lists the refs whose name begins with prefix, and says which cannot be
// read. It reads the files itself: go-git takes the lock files of moves under way
// for refs, and a torn file for none.
func (r *Repository) ReadableRefs(prefix string) (refs []Ref, problems []string, err error) {
	list, err := r.refsBelow([]string{prefix})
	return list.refs, list.problems, err
}

// RefParts lists the refs whose names begin with prefix in two parts, each by name:
// loose ones, which are few, for they are packed, and packed ones, which may be many
// and are the same slice for as long as they are the same. What is loose counts where
// both have a name. Errors are those of Refs.
func (r *Repository) RefParts(prefix string) (loose, packed []Ref, err error) {
	list, err := r.refParts([]string{prefix})
	if err := r.unlistable(list, err); err != nil {
		return nil, nil, err
	}
	return list.loose, list.packed, nil
}

// unlistable is why refs were not all read.
func (r *Repository) unlistable(list refList, err error) error {
	if err != nil {
		return fmt.Errorf("list refs of %s: %w", r.name, err)
	}
	if len(list.problems) > 0 {
		return r.damaged(list.problems...)
	}
	return nil
}

// refList is what was read of refs.
type refList struct {
	refs     []Ref // of refsBelow
	loose    []Ref // Zero: what cannot be read
	packed   []Ref
	problems []string // what of them cannot be read
	symbolic bool     // there are some that stand for others, which are left out
}

// refsBelow lists the refs whose names begin with one of the prefixes.
func (r *Repository) refsBelow(prefixes []string) (list refList, err error) {
	if list, err = r.refParts(prefixes); err == nil {
		list.refs = merge(list.loose, list.packed)
	}
	return list, err
}

// refParts is refsBelow with what is loose and what is packed apart.
func (r *Repository) refParts(prefixes []string) (list refList, err error) {
	// Loose refs first: one that is packed meanwhile is found in the second place.
	wanted := func(name string) bool { return hasAnyPrefix(name, prefixes) }
	root := filepath.Join(r.dir, "refs")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // moved or deleted while we looked
		}
		if err != nil {
			return err
		}
		name := "refs" + filepath.ToSlash(strings.TrimPrefix(path, root))
		if d.IsDir() {
			dir := name + "/"
			if !wanted(dir) && !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(p, dir) }) {
				return fs.SkipDir
			}
			return nil
		}
		if !wanted(name) || strings.HasSuffix(name, ".lock") {
			return nil
		}
		h, symbolic, err := readRef(path)
		var why unreadable
		switch {
		case absent(err):
		case symbolic != "":
			list.symbolic = true
		case errors.As(err, &why):
			list.problems = append(list.problems, name+" "+why.Error())
			list.loose = append(list.loose, Ref{name, Zero}) // what is packed under that name is older
		case err != nil:
			return err
		default:
			list.loose = append(list.loose, Ref{name, h})
		}
		return nil
	})
	if err != nil {
		return list, err
	}
	packed, err := r.packedRefs()
	var why unreadable
	if errors.As(err, &why) {
		list.problems = append(list.problems, why.Error())
	} else if err != nil {
		return list, err
	}
	// Directories were walked by their names, which is not the order of whole names.
	slices.SortFunc(list.loose, func(a, b Ref) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(list.problems)
	list.packed = packed.below(prefixes)
	return list, nil
}

func hasAnyPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// merge is loose and packed refs, both by name. What is loose is newer.
func merge(loose, packed []Ref) []Ref {
	all := make([]Ref, 0, len(loose)+len(packed))
	for _, ref := range loose {
		i := 0
		for i < len(packed) && packed[i].Name < ref.Name {
			i++
		}
		all, packed = append(all, packed[:i]...), packed[i:]
		if len(packed) > 0 && packed[0].Name == ref.Name {
			packed = packed[1:]
		}
		if ref.Hash != Zero {
			all = append(all, ref)
		}
	}
	return append(all, packed...)
}

// packedRefs is the file packed-refs, in memory for as long as it is the same file.
type packedRefs struct {
	was  os.FileInfo
	refs []Ref // by name
}

// ref is what a ref is packed with, Zero if it is not.
func (p *packedRefs) ref(name string) Hash { return find(p.refs, name) }

// find is where a ref among those that are sorted by name is, Zero if it is none of them.
func find(refs []Ref, name string) Hash {
	i, ok := slices.BinarySearchFunc(refs, name,
		func(ref Ref, name string) int { return strings.Compare(ref.Name, name) })
	if !ok {
		return Zero
	}
	return refs[i].Hash
}

// below are the refs whose names begin with one of the prefixes.
func (p *packedRefs) below(prefixes []string) (refs []Ref) {
	if len(prefixes) == 1 {
		return p.under(prefixes[0])
	}
	sorted := slices.Sorted(slices.Values(prefixes))
	last := ""
	for i, prefix := range sorted {
		if i > 0 && strings.HasPrefix(prefix, last) {
			continue // what it has is there
		}
		last = prefix
		refs = append(refs, p.under(prefix)...)
	}
	return refs
}

// under are the refs whose names begin with a prefix.
func (p *packedRefs) under(prefix string) []Ref {
	i, _ := slices.BinarySearchFunc(p.refs, prefix,
		func(ref Ref, name string) int { return strings.Compare(ref.Name, name) })
	n := sort.Search(len(p.refs)-i, func(n int) bool { return !strings.HasPrefix(p.refs[i+n].Name, prefix) })
	return p.refs[i : i+n : i+n]
}

// packedRefs reads the file packed-refs. It is replaced and never changed.
func (r *Repository) packedRefs() (*packedRefs, error) {
	r.packing.Lock() // whoever comes while it is read for the first time waits for that
	defer r.packing.Unlock()
	path := filepath.Join(r.dir, "packed-refs")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &packedRefs{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if p := r.packed; p != nil && os.SameFile(p.was, info) && p.was.Size() == info.Size() &&
		p.was.ModTime().Equal(info.ModTime()) {
		return p, nil
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	p, err := parsePackedRefs(data)
	if err == nil {
		p.was = info
		r.packed = p
	}
	return p, err
}

func parsePackedRefs(data []byte) (*packedRefs, error) {
	p := &packedRefs{}
	if len(data) == 0 {
		return p, unreadable("packed-refs is empty")
	}
	p.refs = make([]Ref, 0, bytes.Count(data, []byte{'\n'}))
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		text, whole := strings.CutSuffix(line, "\n")
		ok := false
		switch {
		case strings.HasPrefix(text, "#"):
			ok = true
		case strings.HasPrefix(text, "^"): // what the tag above it is on
			_, ok = ParseHash(text[1:])
		default:
			hash, name, _ := strings.Cut(text, " ")
			var h Hash
			if h, ok = ParseHash(hash); ok {
				ok = h != Zero && isRefName(name)
			}
			if ok && whole {
				p.refs = append(p.refs, Ref{name, h})
			}
		}
		if !ok || !whole {
			p.sort()
			return p, unreadable(fmt.Sprintf("packed-refs:%d holds %.80q", number, text))
		}
	}
	p.sort()
	return p, nil
}

// isRefName reports whether git takes a name for a ref's. Of most names, and there may
// be tens of thousands in one file, it is plain at once.
func isRefName(name string) bool {
	plain, begins := strings.Contains(name, "/"), true
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (begins || c != '/' && c != '-' && c != '_') {
			plain = false
			break
		}
		begins = c == '/'
	}
	return plain && !begins || plumbing.ReferenceName(name).Validate() == nil
}

// sort is for files of other writers than git.
func (p *packedRefs) sort() {
	byName := func(a, b Ref) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(p.refs, byName) {
		slices.SortStableFunc(p.refs, byName)
	}
}
