package source

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// clone is a work tree beside a repository of a store.
type clone struct {
	t   *testing.T
	dir string
	r   *repo.Repository
}

func newClone(t *testing.T) *clone {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(dir, dir, signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	c := &clone{t: t, dir: filepath.Join(dir, "work"), r: r}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.git("init", "-q", "-b", "main")
	return c
}

func (c *clone) git(args ...string) string {
	c.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=Ada",
		"GIT_AUTHOR_EMAIL=ada@tarn.example",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@tarn.example")
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (c *clone) write(name, content string) {
	c.t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// commit commits the work tree and brings the commit into the repository.
func (c *clone) commit(subject string) repo.Hash {
	c.t.Helper()
	c.git("add", "-A")
	c.git("commit", "-q", "--allow-empty", "-m", subject)
	id := c.git("rev-parse", "HEAD")
	branch := c.git("rev-parse", "--abbrev-ref", "HEAD")
	c.git("push", "-q", "--force", c.r.Dir(), branch+":refs/heads/"+branch)
	h, _ := repo.ParseHash(id)
	return h
}

func TestCompare(t *testing.T) {
	c := newClone(t)
	c.write("keep.txt", strings.Repeat("line\n", 50))
	c.write("old name.txt", strings.Repeat("same\n", 30))
	c.write("gone.txt", "x\n")
	c.write("headgate.yaml", "environments: {}\n")
	first := c.commit("Begin")

	c.git("mv", "old name.txt", "žluť\tname.txt")
	c.git("rm", "-q", "gone.txt")
	c.write("keep.txt", strings.Repeat("line\n", 49)+"diff --git a/forged b/forged\n")
	c.write("picture.png", "\x89PNG\x00\x01")
	c.write("headgate.yaml", "environments: {production: {}}\n")
	c.write("long.txt", strings.Repeat("wide", 1000)+"\n"+strings.Repeat("n\n", 1000))
	second := c.commit("Change much")

	d, err := Compare(t.Context(), c.r, first, second)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range d.Files {
		got = append(got, fmt.Sprintf("%s %s%s +%d -%d %d lines rule=%v binary=%v cut=%v", f.State, f.Path,
			strings.TrimSuffix(" from "+f.From, " from "), f.Added, f.Removed, len(f.Lines), f.Rule, f.Binary, f.Cut))
	}
	want := []string{
		"changed headgate.yaml +1 -1 3 lines rule=true binary=false cut=false",
		"removed gone.txt +0 -1 2 lines rule=false binary=false cut=false",
		"changed keep.txt +1 -1 6 lines rule=false binary=false cut=false",
		"added long.txt +1001 -0 400 lines rule=false binary=false cut=true",
		"added picture.png +0 -0 0 lines rule=false binary=true cut=false",
		"renamed žluť\tname.txt from old name.txt +0 -0 0 lines rule=false binary=false cut=false",
	}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("got:\n%s\nwant:\n%s", a, b)
	}
	if d.Changed != 6 || d.Cut || len(d.Commits) != 1 || d.Commits[0].Subject != "Change much" ||
		d.Commits[0].Author != "Ada" {
		t.Errorf("%d changed, cut %v, commits %v", d.Changed, d.Cut, d.Commits)
	}
	if width := len(d.Files[3].Lines[1].Text); width != maxWidth-1 {
		t.Errorf("a line of 4,000 bytes is shown with %d", width)
	}

	whole, err := Compare(t.Context(), c.r, repo.Zero, second)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Commits) != 2 || whole.Changed != 5 || whole.From != "" {
		t.Errorf("against nothing: %d commits, %d files, from %q", len(whole.Commits), whole.Changed, whole.From)
	}
}

// TestManyFiles: what is left out is counted and said.
func TestManyFiles(t *testing.T) {
	c := newClone(t)
	first := c.commit("Begin")
	for i := range maxFiles + 20 {
		c.write(fmt.Sprintf("f%04d", i), strings.Repeat("x\n", 100))
	}
	d, err := Compare(t.Context(), c.r, first, c.commit("Many"))
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, f := range d.Files {
		lines += len(f.Lines)
	}
	if len(d.Files) != maxFiles || d.Changed != maxFiles+20 || !d.Cut || lines > maxLines || !d.Files[maxFiles-1].Cut {
		t.Errorf("%d of %d files, cut %v, %d lines", len(d.Files), d.Changed, d.Cut, lines)
	}
}

// TestBetweenRevisions: a revision on a newer base differs by what its author
// changed, not by what landed meanwhile.
func TestBetweenRevisions(t *testing.T) {
	c := newClone(t)
	c.write("a.txt", "one\ntwo\nthree\n")
	c.write("b.txt", "b\n")
	base := c.commit("Begin")
	c.git("checkout", "-q", "-b", "topic")
	c.write("a.txt", "one\nTWO\nthree\n")
	old := c.commit("Shout")
	c.git("checkout", "-q", "main")
	c.write("b.txt", "landed meanwhile\n")
	landed := c.commit("Meanwhile")
	c.git("checkout", "-q", "topic")
	c.git("rebase", "-q", "main")
	c.write("c.txt", "new in revision 2\n")
	c.git("add", "-A")
	c.git("commit", "-q", "--amend", "-m", "Shout louder")
	head := c.commit("and again")

	d, err := Between(t.Context(), c.r, base, old, landed, head)
	if err != nil {
		t.Fatal(err)
	}
	if !d.Rebased || len(d.Files) != 1 || d.Files[0].Path != "c.txt" {
		t.Errorf("rebased %v: %+v", d.Rebased, d.Files)
	}
	loose, err := filepath.Glob(filepath.Join(os.TempDir(), "headgate-objects-*"))
	if err != nil || len(loose) > 0 {
		t.Errorf("left behind: %v %v", loose, err)
	}

	c.git("checkout", "-q", "-B", "clash", landed.String())
	c.write("b.txt", "landed meanwhile, and more\n")
	clash := c.commit("Clash")
	c.git("checkout", "-q", "-B", "other", base.String())
	c.write("b.txt", "something else\n")
	d, err = Between(t.Context(), c.r, base, c.commit("Other"), landed, clash)
	if err != nil || !d.Unrebased || len(d.Files) != 1 {
		t.Errorf("conflict: unrebased %v, %d files, %v", d.Unrebased, len(d.Files), err)
	}

	got, err := Base(t.Context(), c.r, landed, old)
	if err != nil || got != base {
		t.Errorf("base is %v, %v", got, err)
	}
}

func TestContent(t *testing.T) {
	c := newClone(t)
	c.write("dir/<script>.txt", "hello\n")
	c.write("dir/deeper/x", "\x00\x01")
	c.write("big", strings.Repeat("x", maxText+1))
	c.write("huge", strings.Repeat("x", repo.MaxFile+1))
	if err := os.Symlink("/etc/passwd", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	h := c.commit("Content")

	for _, k := range []struct {
		path, want string
	}{
		{"", "directory 4 entries"},
		{"dir", "directory 2 entries"},
		{"dir/<script>.txt", "file 6 bytes \"hello\\n\""},
		{"dir/deeper/x", "file 2 bytes binary"},
		{"link", "link 11 bytes \"/etc/passwd\""},
		{"big", "file 1048577 bytes cut"},
		{"huge", "file 8388609 bytes binary cut"},
		{"nothing", "not-found"},
		{"../../etc/passwd", "not-found"},
		{"dir/", "not-found"},
		{"big/x", "not-found"},
	} {
		p, err := Content(c.r, h, k.path)
		got := fmt.Sprintf("%s %d bytes", p.Kind, p.Size)
		var e *show.Error
		switch {
		case errors.As(err, &e):
			got = string(e.Kind)
		case err != nil:
			t.Fatal(err)
		case p.Kind == show.Directory:
			got = fmt.Sprintf("%s %d entries", p.Kind, len(p.Entries))
		case p.Binary:
			got += " binary"
		case !p.Cut:
			got += fmt.Sprintf(" %q", p.Text)
		}
		if p.Cut {
			got += " cut"
		}
		if got != k.want {
			t.Errorf("%q: %s, want %s", k.path, got, k.want)
		}
	}
}

func TestResolve(t *testing.T) {
	c := newClone(t)
	h := c.commit("One")
	c.git("push", "-q", c.r.Dir(), "HEAD:refs/tags/v1")
	for _, revision := range []string{h.String(), h.String()[:7], "main", "v1"} {
		if got, err := Resolve(t.Context(), c.r, revision); got != h || err != nil {
			t.Errorf("%s is %v, %v", revision, got, err)
		}
	}
	tree := c.git("rev-parse", "HEAD^{tree}")
	for _, revision := range []string{"", "nothing", "--help", "main^", "main:file", "HEAD@{1}", "../../x", "0000000",
		tree, strings.Repeat("a", 300)} {
		var e *show.Error
		if got, err := Resolve(t.Context(), c.r, revision); !errors.As(err, &e) || e.Kind != show.NotFound {
			t.Errorf("%q is %v, %v", revision, got, err)
		}
	}
}

func TestSearch(t *testing.T) {
	c := newClone(t)
	c.write("a/x", "1")
	one := c.commit("Add the basket")
	c.write("b/x", "1")
	two := c.commit("Add the .* receipt")
	c.write("a/x", "2")
	three := c.commit("Mend the Basket")

	ids := func(query string) string {
		found, err := Search(t.Context(), c.r, three, query)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range found {
			all = append(all, f.ID)
		}
		return strings.Join(all, " ")
	}
	for query, want := range map[string]string{
		"basket":         three.String() + " " + one.String(),
		".*":             two.String(),
		two.String()[:9]: two.String(),
		"nobody":         "",
		"--all":          "",
	} {
		if got := ids(query); got != want {
			t.Errorf("%q finds %s, want %s", query, got, want)
		}
	}
	if ids("ADA@tarn") == "" {
		t.Error("an author is not found")
	}
}

func TestCommitPage(t *testing.T) {
	c := newClone(t)
	c.write("x", "1\n")
	h := c.commit("Subject\n\nWhy it is so.\n\nSigned-off-by: Ada")
	p, err := Commit(t.Context(), c.r, h)
	if err != nil {
		t.Fatal(err)
	}
	if p.Subject != "Subject" || p.Message != "Why it is so.\n\nSigned-off-by: Ada" || p.Difference.Changed != 1 ||
		len(p.Parents) != 0 {
		t.Errorf("%+v", p)
	}
}
