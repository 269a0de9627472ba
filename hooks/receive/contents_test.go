package receive

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// A submodule of this server at a commit that no clone gets is refused with its
// path, unless it was so before; others are nobody's business here.
func TestSubmodulesThatCannotBeCloned(t *testing.T) {
	h := newHarness(t)
	h.listener.Submodule = func(of, url string) (*repo.Repository, string) {
		if of == "hello" && url == "../loose" {
			return h.loose, ""
		}
		return nil, "not here"
	}
	c := h.landed()
	base := c.head()
	modules := map[string]string{".gitmodules": "[submodule \"a\"]\n\tpath = libs/a\n\turl = ../loose\n[submodule \"b\"]\n\tpath = libs/b\n\turl = https://example.com/b\n"}
	absent := strings.Repeat("1", 40)
	propose := func(subject, a string) pushed {
		t.Helper()
		c.git("checkout", "--quiet", "--detach", base.String())
		c.commit(subject, modules)
		c.git("update-index", "--add", "--cacheinfo", "160000,"+a+",libs/a", "--cacheinfo", "160000,"+absent+",libs/b")
		c.git("commit", "--quiet", "--amend", "--no-edit")
		return h.push(c, "ada", "origin", "HEAD:refs/for/main")
	}
	propose("absent", absent).refused(t, "error: a submodule is at a commit that its repository does not hold",
		"remote:   libs/a: no branch and no tag of loose holds 1111111", "hint: push that one first, to a branch or a tag: git -C libs/a push origin HEAD:<branch>")
	propose("in another repository", base.String()).refused(t, "libs/a: no branch and no tag of loose holds")

	if err := h.r.Move(t.Context(), "refs/heads/elsewhere", repo.Zero, base); err != nil {
		t.Fatal(err)
	}
	loose := h.clone(h.loose)
	held := loose.commit("held", map[string]string{"f": "1"})
	h.push(loose, "ada", "origin", "HEAD:refs/heads/x").ok(t)
	propose("held", held.String()).ok(t)
}

// What Git LFS has left in place of a file is told, with its path.
func TestPointersAreTold(t *testing.T) {
	h := newHarness(t)
	c := h.landed()
	pointer := lfsPointer + "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
	c.commit("logo", map[string]string{"img/logo.png": pointer, "img/text": "version 1\n"})
	h.push(c, "ada", "origin", "HEAD:main").ok(t,
		"warning: Git LFS is not kept here: clones and builds get the pointers in img/logo.png ")
	c.commit("other", map[string]string{"other": "1"})
	if p := h.push(c, "ada", "origin", "HEAD:main"); strings.Contains(p.out, "LFS") {
		t.Errorf("told again:\n%s", p.out)
	}
}
