package repo

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// maxList bounds what git may list: the paths of two trees that are as large as they
// may be, with what ls-tree says of each. A tree that nobody has measured can list
// without end.
var maxList = 2*MaxTree.Paths + 64*MaxTree.Files

// listed is one entry of a tree, with its whole path, that is no directory.
type listed struct {
	mode, kind string
	hash       Hash
	path       string
}

// listTree gives all of a tree (or of a commit's) to each, directories but for their
// own entries. It ends at the first error of each, and with that.
func (r *Repository) listTree(ctx context.Context, tree Hash, each func(listed) error) error {
	return r.records(ctx, func(line string) error {
		meta, name, _ := strings.Cut(line, "\t")
		f := strings.Fields(meta)
		if len(f) != 3 {
			return fmt.Errorf("git ls-tree answered %q", line)
		}
		hash, _ := ParseHash(f[2]) // it is one
		return each(listed{f[0], f[1], hash, name})
	}, "ls-tree", "-r", "-z", "--full-tree", tree.String())
}

// records runs a git child that answers in records, each with a NUL for its end, and
// gives them to each as they come: the whole answer is in nobody's memory. It ends at
// the first error of each, and with that.
func (r *Repository) records(ctx context.Context, each func(string) error, args ...string) error {
	return recordsOf(r.Command(ctx, args...), each)
}

// recordsOf is records of a child that Command has prepared.
func recordsOf(cmd *exec.Cmd, each func(string) error) error {
	w := recordWriter{each: each, left: maxList}
	if err := runInto(cmd, nil, &w, nil); w.failed == nil {
		return err
	}
	return w.failed
}

// recordWriter gives what is written to it to each, record by record. A record without
// its end is none: whoever wrote it has failed, and says so.
type recordWriter struct {
	each    func(string) error
	partial []byte
	left    int64
	failed  error
}

func (w *recordWriter) Write(p []byte) (int, error) {
	n := len(p)
	if w.left -= int64(n); w.left < 0 {
		w.failed = &TreeFault{fmt.Sprintf("the list of its paths is longer than %d bytes", maxList)}
	}
	for w.failed == nil {
		end := bytes.IndexByte(p, 0)
		if end < 0 {
			w.partial = append(w.partial, p...)
			break
		}
		w.failed = w.each(string(append(w.partial, p[:end]...)))
		w.partial, p = w.partial[:0], p[end+1:]
	}
	return n, w.failed
}
