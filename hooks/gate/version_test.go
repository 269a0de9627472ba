package gate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// TestNewVersions: what plainly is a new version of an open change is its next
// revision; anything else is a change of its own, and its pusher is told.
func TestNewVersions(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	defer w.build.holdBuilds()()

	// made is a commit on base with one file, written and committed when it says.
	made := func(content, message, author string, written, committed int) repo.Hash {
		t.Helper()
		tree := mustTree(t, w.r, w.commit(message, files("file", content), base))
		o := repo.Object{Kind: plumbing.CommitObject, Content: fmt.Appendf(nil,
			"tree %s\nparent %s\nauthor %s %d +0000\ncommitter Ada <ada@example.com> %d +0000\n\n%s\n",
			tree, base, author, written, committed, message)}
		if err := w.r.Write(o); err != nil {
			t.Fatal(err)
		}
		return o.Hash()
	}
	const one, other = "Ada <ada@example.com>", "Bot <bot@example.com>"
	first := made("1", "say", one, 100, 100)
	opened := w.propose(ada, first)
	check := func(name string, commit repo.Hash, change, revision int, others ...int) {
		t.Helper()
		a := w.propose(ada, commit)
		if a.Change != change || a.Revision != revision || !slices.Equal(a.Others, others) {
			t.Fatalf("%s: %+v", name, a)
		}
	}
	n := opened.Change
	amended := made("2", "say it", one, 100, 200)
	check("amended", amended, n, 2)
	check("with one more on top", w.commit("more", files("more", "1"), amended), n, 3)
	check("without that again", amended, n, 4)
	check("another author", made("3", "say", other, 100, 200), n+1, 1, n)
	check("another time", made("4", "say", one, 101, 200), n+2, 1, n, n+1)
	check("written at the same time, not amended", made("5", "say", one, 100, 100), n+3, 1, n, n+1, n+2)

	id := "\n\nChange-Id: I" + strings.Repeat("a", 40)
	check("with an id", made("6", "name"+id, other, 300, 300), n+4, 1, n, n+1, n+2, n+3)
	check("the same id", made("7", "rename"+id, one, 400, 400), n+4, 2, n, n+1, n+2, n+3)
	check("another id, amended or not", made("8", "name\n\nChange-Id: I"+strings.Repeat("b", 40), one, 400, 500), n+5, 1,
		n, n+1, n+2, n+3, n+4)

	if a := w.propose(jun, made("9", "say it", one, 100, 300)); a.Change != n+6 || a.Others != nil {
		t.Fatalf("somebody else's: %+v", a)
	}
}
