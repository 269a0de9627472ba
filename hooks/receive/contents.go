package receive

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Bounds of what is looked at in one push: submodules, and files that it changes.
const (
	maxSubmodules = 1000
	maxChanged    = 20_000
)

// checkSubmodules refuses a tree with a new submodule of this server at a commit
// that no clone of that repository gets: every clone with submodules would fail.
func (v *validation) checkSubmodules(ctx context.Context, base, tree repo.Hash) (*rejection, error) {
	if v.l.Submodule == nil {
		return nil, nil
	}
	urls, err := v.r.SubmodulesIn(ctx, v.quarantine, tree)
	if err != nil || len(urls) == 0 {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(urls))
	paths = paths[:min(maxSubmodules, len(paths))]
	links, err := v.gitlinks(ctx, tree, paths)
	if err != nil {
		return nil, err
	}
	before, err := v.gitlinks(ctx, base, paths)
	if err != nil {
		return nil, err
	}

	var r *rejection
	for _, at := range paths {
		link, ok := links[at]
		if !ok || before[at] == link {
			continue
		}
		of, _ := v.l.Submodule(v.r.Name(), urls[at])
		if of == nil {
			continue // others look after it; the build's log says that it is left out
		}
		holds, err := of.Holds(ctx, link)
		if err != nil {
			return nil, err
		}
		if holds {
			continue
		}
		if r == nil {
			r = &rejection{
				What: "a submodule is at a commit that its repository does not hold",
				Hint: "push that one first, to a branch or a tag: git -C " + at + " push origin HEAD:<branch>",
			}
		}
		r.Where = append(r.Where, fmt.Sprintf("%s: no branch and no tag of %s holds %s", at, of.Name(),
			show.Short(link.String())))
	}
	return r, nil
}

// gitlinks are the commits at those of some paths that are submodules.
func (v *validation) gitlinks(ctx context.Context, tree repo.Hash, paths []string) (map[string]repo.Hash, error) {
	links := map[string]repo.Hash{}
	if tree == repo.Zero {
		return links, nil
	}
	out, err := v.r.GitIn(ctx, v.quarantine, nil,
		append([]string{"ls-tree", "-z", "--full-tree", tree.String(), "--"}, paths...)...)
	if err != nil {
		return nil, err
	}
	for _, line := range bytes.Split(out, []byte{0}) {
		meta, name, _ := strings.Cut(string(line), "\t")
		if f := strings.Fields(meta); len(f) == 3 && f[1] == "commit" {
			links[name], _ = repo.ParseHash(f[2]) // it is one
		}
	}
	return links, nil
}

// lfsPointer is how a pointer of Git LFS begins.
const lfsPointer = "version https://git-lfs.github.com/spec/v1\n"

// warnOfPointers tells the pusher of files that are pointers of Git LFS now, which
// is not kept here: whoever clones or builds gets the pointer.
func (v *validation) warnOfPointers(ctx context.Context, base, tree repo.Hash) error {
	objects, err := v.reader(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := []string{"ls-tree", "-r", "-z", "--full-tree", tree.String()}
	if base != repo.Zero {
		args = []string{"diff-tree", "-r", "-z", "--raw", "--no-renames", "--diff-filter=AM", base.String(), tree.String()}
	}
	cmd := v.r.CommandIn(ctx, v.quarantine, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var found []string
	records := bufio.NewReader(out)
	for range maxChanged {
		record, err := records.ReadString(0)
		if err != nil {
			break // the end, or what the answer of another command will say better
		}
		meta, name, listed := strings.Cut(strings.TrimSuffix(record, "\x00"), "\t")
		f := strings.Fields(meta) // ls-tree: mode kind hash; diff-tree: :mode mode hash hash status, and the name apart
		mode, hash := "", ""
		switch {
		case listed && len(f) == 3:
			mode, hash = f[0], f[2]
		case len(f) == 5:
			if name, err = records.ReadString(0); err != nil {
				break
			}
			mode, hash, name = f[1], f[3], strings.TrimSuffix(name, "\x00")
		}
		h, ok := repo.ParseHash(hash)
		if !ok || !strings.HasPrefix(mode, "100") {
			continue
		}
		size, err := objects.size(h)
		if err != nil {
			return err
		}
		if size <= int64(len(lfsPointer)) || size > 1024 {
			continue
		}
		content, err := objects.Blob(h)
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(content), lfsPointer) {
			found = append(found, name)
		}
	}
	cancel()
	_ = cmd.Wait() // ended by us, or by itself

	const shown = 3
	if len(found) > 0 {
		which := strings.Join(found[:min(shown, len(found))], ", ")
		if len(found) > shown {
			which += fmt.Sprintf(" and %d more", len(found)-shown)
		}
		v.notices = append(v.notices, "warning: Git LFS is not kept here: clones and builds get the pointers in "+which)
	}
	return nil
}
