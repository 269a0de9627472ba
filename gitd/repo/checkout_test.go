package repo

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// clone is what stock git checks out, and how to ask it.
func clone(t *testing.T, r *Repository, commit Hash) (dir string, git func(args ...string) string) {
	t.Helper()
	if err := r.Move(t.Context(), "refs/heads/clone-"+commit.String()[:8], Zero, commit); err != nil &&
		!errors.Is(err, ErrMoved) {
		t.Fatal(err)
	}
	dir = t.TempDir()
	git = func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_ATTR_NOSYSTEM=1", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
		return string(out)
	}
	git("clone", "-q", "--no-checkout", r.Dir(), ".")
	git("checkout", "-q", commit.String())
	return dir, git
}

// filesIn are the files below a directory, with their modes, but for .git.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if rel == ".git" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(name)
		case info.Mode().IsRegular():
			var data []byte
			data, err = os.ReadFile(name)
			content = string(data)
		}
		if rel != "." {
			files[rel] = info.Mode().String() + " " + content
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestCheckoutIsGits: what is built is what git itself checks out.
func TestCheckoutIsGits(t *testing.T) {
	utf16 := "h\x00i\x00\n\x00"
	for name, test := range map[string]struct {
		files map[string]string
		path  string
		want  string // of path, if not ""
	}{
		"no attributes": {map[string]string{"a": "x\r\ny\n"}, "a", "x\r\ny\n"},
		"eol=crlf": {map[string]string{".gitattributes": "*.bat eol=crlf\n", "a.bat": "x\ny\n"},
			"a.bat", "x\r\ny\r\n"},
		"eol=lf": {map[string]string{".gitattributes": "* eol=lf\n", "a": "x\ny\n"}, "a", "x\ny\n"},
		"text=auto crlf": {map[string]string{".gitattributes": "* text=auto eol=crlf\n", "a": "x\n", "b": "\x00x\n"}, "a",
			"x\r\n"},
		"-text":  {map[string]string{".gitattributes": "* eol=crlf\nb -text\n", "b": "x\n"}, "b", "x\n"},
		"binary": {map[string]string{".gitattributes": "* eol=crlf\nb binary\n", "b": "x\n"}, "b", "x\n"},
		"ident": {map[string]string{".gitattributes": "a ident\n", "a": "$Id$\n"}, "a",
			"$Id: 055c8729cdcc372500a08db659c045e16c4409fb $\n"},
		"encoding": {map[string]string{".gitattributes": "a working-tree-encoding=UTF-16LE\n", "a": "hi\n"}, "a",
			utf16},
		"unknown encoding": {map[string]string{".gitattributes": "a working-tree-encoding=NO-SUCH\n", "a": "hi\n"}, "a",
			"hi\n"},
		"export-ignore": {map[string]string{".gitattributes": "a export-ignore\n", "a": "hi\n"}, "a", "hi\n"},
		"export-subst": {map[string]string{".gitattributes": "a export-subst\n", "a": "$Format:%H$\n"}, "a",
			"$Format:%H$\n"},
		"a filter": {map[string]string{".gitattributes": "a filter=lfs diff=lfs merge=lfs -text\n",
			"a": "version x\n"}, "a", "version x\n"},
		"below": {map[string]string{".gitattributes": "* eol=crlf\n", "d/.gitattributes": "* eol=lf\n",
			"d/a": "x\n", "e/a": "x\n"}, "e/a", "x\r\n"},
		"before its file": {map[string]string{"d/!a": "x\n", "d/.gitattributes": "* eol=crlf\n"}, "d/!a", "x\r\n"},
		"a macro":         {map[string]string{".gitattributes": "[attr]dos eol=crlf\na dos\n", "a": "x\n"}, "a", "x\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := testStore(t)
			c := commit(t, r, "a", test.files)
			link, script := Blob([]byte("../../etc/hosts")), Blob([]byte("#!/bin/sh\n"))
			if err := r.Write(link, script); err != nil {
				t.Fatal(err)
			}
			tree, err := r.TreeOf(c)
			if err != nil {
				t.Fatal(err)
			}
			tree, err = r.TreeWith(tree, map[string]Edit{"zlink": {Mode: filemode.Symlink, Hash: link.Hash()},
				"zrun": {Mode: filemode.Executable, Hash: script.Hash()}})
			if err != nil {
				t.Fatal(err)
			}
			c, err = r.WriteCommit(NewCommit{Tree: tree, At: noon, Message: "b"})
			if err != nil {
				t.Fatal(err)
			}

			dir := t.TempDir()
			mask := syscall.Umask(0o077)
			_, err = r.Checkout(t.Context(), tree, dir)
			syscall.Umask(mask)
			if err != nil {
				t.Fatal(err)
			}
			git, _ := clone(t, r, c)
			if ours, gits := filesIn(t, dir), filesIn(t, git); !maps.Equal(ours, gits) {
				t.Errorf("checked out\n%q\nby git\n%q", ours, gits)
			}
			if got, err := os.ReadFile(filepath.Join(dir, test.path)); err != nil || string(got) != test.want {
				t.Errorf("%s is %q, %v, and not %q", test.path, got, err, test.want)
			}
		})
	}
}

// TestAttachedHistory: git in a checkout sees what a clone would, through links to
// the objects that there were.
func TestAttachedHistory(t *testing.T) {
	_, r := testStore(t)
	a := commit(t, r, "a", map[string]string{"f": "1"})
	b := commit(t, r, "b", map[string]string{"f": "2"}, a)
	c := commit(t, r, "c", map[string]string{"f": "3", ".gitattributes": "f eol=crlf\n"}, b)
	for ref, at := range map[string]Hash{"refs/heads/main": b, "refs/tags/light": a} {
		if err := r.Move(t.Context(), ref, Zero, at); err != nil {
			t.Fatal(err)
		}
	}
	runGit(t, r, "-c", "user.name=x", "-c", "user.email=x@x", "tag", "-a", "-m", "x", "v1.0", b.String())
	runGit(t, r, "repack", "-dq")
	half := filepath.Join(r.Dir(), "objects", "tmp_objdir-incoming-x")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	objects, done, err := r.ViewObjects()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if _, err := os.Stat(filepath.Join(objects, filepath.Base(half))); err == nil {
		t.Error("what nobody has accepted is seen")
	}
	if err := r.Attach(t.Context(), dir, c, "main", objects); err != nil {
		t.Fatal(err)
	}
	tree, err := r.TreeOf(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Checkout(t.Context(), tree, dir); err != nil {
		t.Fatal(err)
	}
	runGit(t, r, "repack", "-adq")

	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for args, want := range map[string]string{
		"rev-parse HEAD":                c.String(),
		"describe --tags":               "v1.0-1-g" + c.String()[:7],
		"describe --tags --dirty":       "v1.0-1-g" + c.String()[:7],
		"log --format=%s":               "c\nb\na",
		"status --porcelain":            "",
		"diff-index HEAD":               "",
		"rev-parse origin/main":         b.String(),
		"tag --list":                    "light\nv1.0",
		"log --format=%s origin/main..": "c",
		"fsck --no-dangling --strict":   "",
	} {
		if got := git(strings.Fields(args)...); got != want {
			t.Errorf("git %s: %q, and not %q", args, got, want)
		}
	}
	had := viewed(t, objects)
	git("gc", "--quiet", "--prune=now")
	git("fsck", "--strict")
	if got := viewed(t, objects); !maps.Equal(got, had) {
		t.Errorf("git gc left of the objects %v, and not %v", got, had)
	}
}

// TestMergeByAttributes: what is merged is what git merges with ours checked out.
func TestMergeByAttributes(t *testing.T) {
	_, r := testStore(t)
	for name, test := range map[string]struct {
		attributes string
		merges     bool
		driver     string
	}{
		"none":             {"", false, ""},
		"union":            {"log merge=union\n", true, ""},
		"union, by macro":  {"[attr]both merge=union\nlog both\n", true, ""},
		"binary":           {"log merge=binary\n", false, ""},
		"unset":            {"log -merge\n", false, ""},
		"a driver":         {"log merge=ours\n", false, "ours"},
		"a driver, others": {"other merge=ours\n", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			at := "d/.gitattributes"
			if strings.HasPrefix(test.attributes, "[attr]") {
				at = ".gitattributes" // the one in which git takes macros
			}
			base := commit(t, r, name, map[string]string{"d/log": "1\n", at: test.attributes, "other": "x\n"})
			ours := commit(t, r, "ours", map[string]string{"d/log": "1\n2\n", "other": "y\n"}, base)
			theirs := commit(t, r, "theirs", map[string]string{"d/log": "1\n3\n"}, base)
			tree, conflicts, err := r.Merge(t.Context(), ours, theirs)
			var driver *DriverError
			if errors.As(err, &driver); test.driver != "" {
				if driver == nil || driver.Path != "d/log" || driver.Driver != test.driver {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.merges != (len(conflicts) == 0) {
				t.Fatalf("conflicts in %v", conflicts)
			}
			if !test.merges {
				if !slices.Equal(conflicts, []string{"d/log"}) {
					t.Errorf("conflicts in %v", conflicts)
				}
				return
			}
			_, git := clone(t, r, ours)
			if err := r.Move(t.Context(), "refs/heads/theirs-"+theirs.String()[:8], Zero, theirs); err != nil {
				t.Fatal(err)
			}
			git("fetch", "-q")
			git("-c", "user.name=x", "-c", "user.email=x@x", "merge", "-q", "-m", "m", theirs.String())
			if want := strings.TrimSpace(git("rev-parse", "HEAD^{tree}")); want != tree.String() {
				t.Errorf("merged to %s, and git merges to %s", tree, want)
			}
		})
	}
}
