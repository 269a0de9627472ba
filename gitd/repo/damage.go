package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Damaged is a repository in which something that was there before cannot be
// read. It is not an empty one: nothing in it moves until it can be read again.
type Damaged struct {
	Repository string
	What       []string // one line each: what cannot be read, and why
}

func (d *Damaged) Error() string {
	s := fmt.Sprintf("%s is damaged: %s", d.Repository, d.What[0])
	if n := len(d.What) - 1; n > 0 {
		s += fmt.Sprintf(", and %d more", n)
	}
	return s
}

// Damage says what of the repository cannot be read, nil when all can. What was
// damaged is looked at again: it may have been repaired or restored meanwhile.
func (r *Repository) Damage() *Damaged {
	r.damageMu.Lock()
	defer r.damageMu.Unlock()
	if r.damage != nil {
		r.damage = r.inspect()
	}
	return r.damage
}

// damaged notes that something cannot be read, and returns it as an error.
func (r *Repository) damaged(what ...string) error {
	d := &Damaged{Repository: r.name, What: what}
	r.damageMu.Lock()
	defer r.damageMu.Unlock()
	if r.damage == nil {
		r.damage = d
	}
	return d
}

// Inspect reads every ref, and of every branch, note and record the newest
// commit and its tree. It returns nil when all can be read.
func (r *Repository) Inspect() *Damaged {
	r.damageMu.Lock()
	defer r.damageMu.Unlock()
	r.damage = r.inspect()
	return r.damage
}

// inspectAside is Inspect for whoever need not know yet: a start does not wait for it,
// but who asks for damage does, and nothing moves before.
func (r *Repository) inspectAside() {
	r.damageMu.Lock()
	r.store.inspections.Go(func() {
		defer r.damageMu.Unlock()
		r.damage = r.inspect()
	})
}

func (r *Repository) inspect() *Damaged {
	var what []string
	for _, dir := range []string{"refs", "objects"} {
		if info, err := os.Stat(filepath.Join(r.dir, dir)); err != nil || !info.IsDir() {
			what = append(what, dir+"/ is missing")
		}
	}
	if _, _, err := readRef(filepath.Join(r.dir, "HEAD")); err != nil {
		what = append(what, "HEAD "+err.Error())
	}
	refs, problems, err := r.ReadableRefs("refs/")
	if err != nil {
		problems = append(problems, err.Error())
	}
	what = append(what, problems...)
	for _, ref := range refs {
		switch {
		case strings.HasPrefix(ref.Name, "refs/heads/"), strings.HasPrefix(ref.Name, "refs/notes/"),
			strings.HasPrefix(ref.Name, "refs/decisions/"):
			tree, err := r.TreeOf(ref.Hash)
			if err == nil {
				_, err = r.Tree(tree)
			}
			if err != nil {
				what = append(what, fmt.Sprintf("%s points to what cannot be read: %v", ref.Name, err))
			}
		}
	}
	if what == nil { // else what is missing is among it, or cannot be told
		missing, err := r.missing(refs)
		if what = missing; err != nil {
			what = append(what, err.Error())
		}
	}
	if what == nil {
		return nil
	}
	return &Damaged{Repository: r.name, What: what}
}

// Bounds of what is read to know which refs there were.
const (
	newestChanges   = 20
	newestDecisions = 200
)

// missing finds refs that were there, by what the server's records say, and are
// not: the branch on which the newest landing was, when HEAD names it, and what
// decisions have seen. A repository without them is not an empty one. Refs are all there
// are, by name.
func (r *Repository) missing(refs []Ref) (what []string, err error) {
	if _, head, err := readRef(filepath.Join(r.dir, "HEAD")); err == nil && head != "" && find(refs, head) == Zero {
		var logs []Ref
		for _, ref := range refs {
			if strings.HasPrefix(ref.Name, changesPrefix) && strings.HasSuffix(ref.Name, "/log") {
				logs = append(logs, ref)
			}
		}
		slices.SortFunc(logs, func(a, b Ref) int {
			return numberAt(b.Name, changesPrefix) - numberAt(a.Name, changesPrefix)
		})
		for _, log := range logs[:min(len(logs), newestChanges)] {
			branch, landed, err := r.landedOn(log.Hash)
			if err != nil {
				return what, fmt.Errorf("%s cannot be read: %w", log.Name, err)
			}
			if !landed {
				continue
			}
			if headsPrefix+branch == head { // else people have gone on elsewhere
				what = append(what, fmt.Sprintf("%s is missing, and change %d has landed on it", head,
					numberAt(log.Name, changesPrefix)))
			}
			break
		}
	}

	commit := find(refs, "refs/decisions/log")
	for range newestDecisions {
		if commit == Zero {
			break
		}
		c, err := r.Commit(commit)
		if err != nil {
			return what, fmt.Errorf("refs/decisions/log cannot be read: %w", err)
		}
		for _, t := range Trailers(c.Message) {
			name, _, ok := strings.Cut(t.Value, " ")
			if t.Key != MovedTrailer || !ok || !witnessed(name) || find(refs, name) != Zero {
				continue
			}
			if line := name + " is missing, and a decision has seen it"; !slices.Contains(what, line) {
				what = append(what, line)
			}
		}
		if commit = Zero; len(c.ParentHashes) > 0 {
			commit = c.ParentHashes[0]
		}
	}
	return what, nil
}

const (
	headsPrefix   = "refs/heads/"
	changesPrefix = "refs/changes/"
)

// landedOn reads, from the tip of a change's log, whether it has landed, and on
// which branch.
func (r *Repository) landedOn(tip Hash) (branch string, landed bool, err error) {
	for at := tip; at != Zero; {
		c, err := r.Commit(at)
		if err != nil {
			return "", false, err
		}
		if at == tip && TrailerValue(c.Message, "Event") != "landed" {
			return "", false, nil
		}
		if branch = TrailerValue(c.Message, "Branch"); branch != "" {
			return branch, true, nil
		}
		if at = Zero; len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	return "", false, nil
}

// readRef reads a ref's file: the id that it holds, or the ref that it stands for.
// An error other than a syscall's says
// that the file is damaged.
func readRef(path string) (h Hash, symbolic string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Zero, "", err
	}
	text := strings.TrimRight(string(data), " \t\r\n")
	if target, ok := strings.CutPrefix(text, "ref: "); ok && strings.HasPrefix(target, "refs/") {
		return Zero, strings.TrimSpace(target), nil
	}
	if h, ok := ParseHash(text); ok && h != Zero {
		return h, "", nil
	}
	if strings.Trim(text, "\x00") == "" {
		return Zero, "", unreadable("is empty")
	}
	return Zero, "", unreadable(fmt.Sprintf("holds %.50q, which is not an object id", data))
}

// unreadable is why a file that is there cannot be what it was.
type unreadable string

func (u unreadable) Error() string { return string(u) }

// absent reports whether err says that there is no file of that name: a directory
// of that name, or a file where the name has a directory, is none either.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR)
}
