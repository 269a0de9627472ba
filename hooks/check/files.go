package check

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// list lists a directory, once; nil when there is none.
func (r *reader) list(dir string) []fs.DirEntry {
	if entries, ok := r.dirs[dir]; ok || r.err != nil {
		return entries
	}
	if err := r.ctx.Err(); err != nil {
		r.err = err
		return nil
	}
	if r.kind(dir) != Directory {
		r.dirs[dir] = nil
		return nil
	}
	entries, err := r.files.ReadDir(dir)
	if err != nil {
		r.err = err
		return nil
	}
	if r.entries += len(entries); r.entries > maxEntries {
		r.bound(dir, fmt.Sprintf("more than %d files stand beside those that are checked", maxEntries),
			"move them to another directory")
		return nil
	}
	r.dirs[dir] = entries
	return entries
}

// kind is what stands at a path. Links are not followed, in its directories
// neither.
func (r *reader) kind(name string) Kind {
	if name == "." {
		return Directory
	}
	for _, e := range r.list(path.Dir(name)) {
		if e.Name() == path.Base(name) {
			return kindOf(e.Type())
		}
	}
	return Absent
}

func kindOf(t fs.FileMode) Kind {
	switch {
	case t.IsRegular():
		return Regular
	case t.IsDir():
		return Directory
	case t&fs.ModeSymlink != 0:
		return Symlink
	}
	return Submodule
}

// read reads a regular file; nil when there is none, or it cannot be used.
func (r *reader) read(name string) []byte {
	if r.err != nil || r.kind(name) != Regular {
		return nil
	}
	if len(r.result.Read) == maxFiles {
		r.bound(name, fmt.Sprintf("more than %d files are to be checked", maxFiles),
			"keep fewer in the directories that are checked")
		return nil
	}
	data, err := r.files.ReadFile(name)
	switch {
	case err != nil:
		r.problem(name, 0, "cannot be read: "+reason(err), "")
		return nil
	case len(data) > maxFile:
		r.problem(name, 0, fmt.Sprintf("is %d bytes, over the limit of %d", len(data), maxFile), "keep it small")
		return nil
	}
	if r.total += len(data); r.total > maxTotal {
		r.bound(name, fmt.Sprintf("the files that are checked are more than %d MiB", maxTotal>>20),
			"keep other files elsewhere")
		return nil
	}
	r.result.Read = append(r.result.Read, name)
	if data == nil {
		data = []byte{}
	}
	return data
}

// reason is what an error says without the path, which stands before it.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}

// required reads a file that must be there. Nil when it is not, which is a
// problem.
func (r *reader) required(name, fix string) []byte {
	kind := r.kind(name)
	if kind != Regular && r.err == nil {
		m := Missing{File: name, Is: kind}
		r.result.Missing = &m
		r.problem(name, 0, m.What(), fix)
	}
	return r.read(name)
}

// walk calls f for all regular files below dir.
func (r *reader) walk(dir string, f func(name string)) { r.walkLevel(dir, 0, f) }

func (r *reader) walkLevel(dir string, level int, f func(name string)) {
	if level == maxLevels || len(dir) > maxPathBytes {
		r.bound(dir, fmt.Sprintf("nests deeper than %d directories", maxLevels), "")
	}
	for _, e := range r.list(dir) {
		if r.err != nil {
			return
		}
		name := path.Join(dir, e.Name())
		switch kindOf(e.Type()) {
		case Directory:
			r.walkLevel(name, level+1, f)
		case Regular:
			f(name)
		}
	}
}
