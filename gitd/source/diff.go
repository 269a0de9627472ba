package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Bounds of a difference.
const (
	maxEntries   = 20_000 // files that are counted
	maxFiles     = 200    // files that are listed
	maxFileLines = 400    // lines of one file
	maxLines     = 6_000  // lines of all files together
	maxWidth     = 1_000  // bytes of a line
	maxCommits   = 100
)

// emptyTree is what a first commit is compared with. git knows it without an
// object.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// Compare is the difference between two commits and what lies between them.
// from may be Zero: nothing.
func Compare(ctx context.Context, r *repo.Repository, from, to repo.Hash) (show.Comparison, error) {
	c := show.Comparison{Repository: r.Name(), To: to.String()}
	if from != repo.Zero {
		c.From = from.String()
	}

	if err := files(ctx, r, nil, &c, treeish(from), to.String()); err != nil {
		return c, err
	}
	var err error
	if c.Commits, c.MoreCommits, err = Commits(ctx, r, from, to); err != nil {
		return c, err
	}

	if from == repo.Zero {
		c.Git = []string{"git diff " + emptyTree[:12] + " " + short(to)}
	} else {
		c.Git = []string{"git diff " + short(from) + " " + short(to), "git log " + short(from) + ".." + short(to)}
	}
	return c, nil
}

// Between is the difference between two revisions of a change, each with the
// commit it stands on. When they stand on different commits, the older one is
// brought onto the newer's base first, so that only what the author changed is
// left.
func Between(ctx context.Context, r *repo.Repository, oldBase, old, newBase, head repo.Hash) (show.Comparison, error) {
	c := show.Comparison{Repository: r.Name(), From: old.String(), To: head.String()}
	c.Git = []string{"git diff " + short(old) + " " + short(head)}
	if oldBase == newBase {
		return c, files(ctx, r, nil, &c, old.String(), head.String())
	}

	c.Git = []string{fmt.Sprintf("git range-diff %s..%s %s..%s", short(oldBase), short(old), short(newBase), short(head))}
	env, remove, err := scratch(r)
	if err != nil {
		return c, err
	}
	defer remove()

	tree, err := rebase(ctx, r, env, oldBase, old, newBase)
	switch {
	case err == nil:
		c.Rebased = true
		return c, files(ctx, r, env, &c, tree, head.String())
	case exit(err) > 0: // it does not merge
		c.Unrebased = true
		return c, files(ctx, r, nil, &c, old.String(), head.String())
	}
	return c, err
}

// rebase is the tree of commit as it would be on onto instead of on base. The
// commits that say to git's merge where both come from are in the scratch
// directory only.
func rebase(ctx context.Context, r *repo.Repository, env []string, base, commit, onto repo.Hash) (string, error) {
	who := []string{
		"GIT_AUTHOR_NAME=headgate", "GIT_AUTHOR_EMAIL=headgate@localhost",
		"GIT_COMMITTER_NAME=headgate", "GIT_COMMITTER_EMAIL=headgate@localhost",
	}
	env = append(who, env...)
	var sides [2]string
	for i, h := range []repo.Hash{onto, commit} {
		args := []string{"commit-tree", "-m", "compare"}
		if base != repo.Zero {
			args = append(args, "-p", base.String())
		}
		side, err := output(ctx, r, env, append(args, treeish(h)+"^{tree}")...)
		if err != nil {
			return "", err
		}
		sides[i] = strings.TrimSpace(side)
	}
	tree, err := output(ctx, r, env, "merge-tree", "--write-tree", "--allow-unrelated-histories", "--no-messages",
		sides[0], sides[1])
	return strings.TrimSpace(tree), err
}

// Base is the commit that head and branch have in common, Zero if they have none.
func Base(ctx context.Context, r *repo.Repository, branch, head repo.Hash) (repo.Hash, error) {
	if branch == repo.Zero {
		return repo.Zero, nil
	}
	out, err := output(ctx, r, nil, "merge-base", branch.String(), head.String())
	if exit(err) == 1 {
		return repo.Zero, nil
	}
	if err != nil {
		return repo.Zero, err
	}
	h, _ := repo.ParseHash(strings.TrimSpace(out))
	return h, nil
}

func treeish(h repo.Hash) string {
	if h == repo.Zero {
		return emptyTree
	}
	return h.String()
}

func short(h repo.Hash) string { return h.String()[:12] }

// diffArgs are what all differences have in common: one look of a difference on
// every server, and nothing that runs a program.
func diffArgs(format ...string) []string {
	args := []string{"-c", "core.quotePath=false", "-c", "diff.renameLimit=400", "diff-tree", "-r", "--no-ext-diff",
		"--no-textconv", "--no-color", "-M"}
	return append(args, format...)
}

// files fills in which files differ, how much, and their lines.
func files(ctx context.Context, r *repo.Repository, env []string, c *show.Comparison, from, to string) error {
	c.Files = []show.FileDiff{}
	listed := func(out io.Reader) error { return readList(out, c) }
	err := git(ctx, r, env, listed, diffArgs("--raw", "--numstat", "-z", "--end-of-options", from, to)...)
	if err != nil && !errors.Is(err, errCut) {
		return err
	}
	c.Cut = err != nil || c.Changed > len(c.Files)
	if len(c.Files) == 0 {
		return nil
	}

	read := func(out io.Reader) error { return readPatch(out, c.Files) }
	err = git(ctx, r, env, read, diffArgs("-p", "--unified=3", "--end-of-options", from, to)...)
	if err != nil && !errors.Is(err, errCut) {
		return err
	}
	rulesFirst(c.Files)
	return nil
}

// readList reads the output of --raw --numstat -z: first each file's state,
// then each file's count of lines, in the same order.
func readList(out io.Reader, c *show.Comparison) error {
	in := bufio.NewReaderSize(out, 64<<10)
	field := func() (string, error) {
		s, err := in.ReadString(0)
		if len(s) > 64<<10 {
			return "", errCut
		}
		return strings.TrimSuffix(s, "\x00"), err
	}

	counted := 0
	for {
		head, err := field()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}

		if strings.HasPrefix(head, ":") {
			f, err := readState(head, field)
			if err != nil {
				return err
			}
			if c.Changed++; c.Changed <= maxFiles {
				c.Files = append(c.Files, f)
			}
			if c.Changed > maxEntries {
				return errCut
			}
			continue
		}

		added, rest, _ := strings.Cut(head, "\t")
		removed, name, _ := strings.Cut(rest, "\t")
		if name == "" { // a rename: both names follow
			for range 2 {
				if _, err := field(); err != nil {
					return err
				}
			}
		}
		plus, aerr := strconv.Atoi(added)
		minus, rerr := strconv.Atoi(removed)
		c.Added += plus
		c.Removed += minus
		if counted < len(c.Files) {
			f := &c.Files[counted]
			f.Added, f.Removed, f.Binary = plus, minus, aerr != nil && rerr != nil
		}
		counted++
	}
}

// readState reads one entry of --raw: ":100644 100755 <old> <new> M", a path,
// and of a rename another.
func readState(head string, field func() (string, error)) (show.FileDiff, error) {
	f := show.FileDiff{State: show.FileChanged}
	parts := strings.Fields(strings.TrimPrefix(head, ":"))
	if len(parts) != 5 {
		return f, fmt.Errorf("git wrote a file's state as %q", head)
	}

	name, err := field()
	if err != nil {
		return f, err
	}
	f.Path = name
	switch parts[4][0] {
	case 'A':
		f.State = show.FileAdded
	case 'D':
		f.State = show.FileRemoved
	case 'R':
		f.State, f.From = show.FileRenamed, name
		if f.Path, err = field(); err != nil {
			return f, err
		}
	}
	if parts[0] != parts[1] && f.State != show.FileAdded && f.State != show.FileRemoved {
		f.OldMode, f.Mode = parts[0], parts[1]
	} else if parts[1] == "160000" || parts[1] == "120000" || parts[1] == "100755" {
		f.Mode = parts[1]
	}
	f.Rule = IsRule(f.Path) || f.From != "" && IsRule(f.From)
	return f, nil
}

// readPatch reads the lines of files, which come in the order of the list. No
// line of a hunk begins with the word that begins a file: each has its sign.
func readPatch(out io.Reader, files []show.FileDiff) error {
	in := bufio.NewReaderSize(out, 64<<10)
	var f *show.FileDiff
	next, total, body := 0, 0, false
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}

		switch {
		case strings.HasPrefix(line, "diff --git "):
			if next == len(files) {
				return errCut
			}
			f, body = &files[next], false
			next++
		case f == nil:
		case strings.HasPrefix(line, "@@"):
			body = true
			add(f, &total, "@", line)
		case body && line != "" && strings.ContainsRune("+- ", rune(line[0])):
			add(f, &total, line[:1], line[1:])
		}
	}
}

func add(f *show.FileDiff, total *int, kind, text string) {
	if len(f.Lines) >= maxFileLines || *total >= maxLines {
		f.Cut = true
		return
	}
	*total++
	f.Lines = append(f.Lines, show.DiffLine{Kind: kind, Text: strings.ToValidUTF8(text, "\uFFFD")})
}

// readLine reads a line of any length and keeps its beginning.
func readLine(in *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, more, err := in.ReadLine()
		if err != nil {
			return "", err
		}
		if len(line) < maxWidth {
			line = append(line, part...)
		}
		if !more {
			return string(line[:min(len(line), maxWidth)]), nil
		}
	}
}

// IsRule reports whether a file says how changes are judged or run: what a
// reader should see before anything else.
func IsRule(name string) bool {
	return name == "headgate.yaml" || name == "server.yaml" || strings.HasPrefix(name, "policies/") ||
		name == ".gitattributes" || strings.HasPrefix(path.Base(name), "buildspec")
}

// rulesFirst moves the files that are rules to the top.
func rulesFirst(files []show.FileDiff) {
	slices.SortStableFunc(files, func(a, b show.FileDiff) int {
		switch {
		case a.Rule == b.Rule:
			return 0
		case a.Rule:
			return -1
		}
		return 1
	})
}

// Commits are those that to has and from has not, newest first. more says that
// older ones are left out.
func Commits(ctx context.Context, r *repo.Repository, from, to repo.Hash) (list []show.Commit, more bool, err error) {
	args := []string{"--end-of-options", to.String()}
	if from != repo.Zero {
		args = append(args, "^"+from.String())
	}
	list, err = log(ctx, r, maxCommits+1, args...)
	if len(list) > maxCommits {
		return list[:maxCommits], true, err
	}
	return list, false, err
}

// log lists commits. Every field but the last is on a line of its own, and none
// of git's fields holds a newline.
func log(ctx context.Context, r *repo.Repository, limit int, args ...string) ([]show.Commit, error) {
	list := []show.Commit{}
	read := func(out io.Reader) error {
		in := bufio.NewScanner(out)
		in.Buffer(nil, 1<<20)
		in.Split(onNUL)
		for in.Scan() {
			f := strings.SplitN(in.Text(), "\n", 6)
			if len(f) != 6 {
				return fmt.Errorf("git wrote a commit as %q", in.Text())
			}
			seconds, err := strconv.ParseInt(f[2], 10, 64)
			if err != nil {
				return fmt.Errorf("git wrote a commit's time as %q", f[2])
			}
			c := show.Commit{
				ID:      f[0],
				Parents: strings.Fields(f[1]),
				At:      time.Unix(seconds, 0).UTC(),
				Author:  valid(f[3]),
				Email:   valid(f[4]),
				Subject: valid(f[5]),
			}
			list = append(list, c)
		}
		return in.Err()
	}
	all := append([]string{"log", "-z", "--no-color", "--no-show-signature", "--format=%H%n%P%n%at%n%an%n%ae%n%s",
		"--max-count=" + strconv.Itoa(limit)}, args...)
	return list, git(ctx, r, nil, read, all...)
}

func onNUL(data []byte, end bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if end && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func valid(s string) string {
	if len(s) > maxWidth {
		s = s[:maxWidth]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
