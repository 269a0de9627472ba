package gate

import (
	"errors"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
)

// TestReplace: one open change takes the place of another, whose number lands.
func TestReplace(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	letGo := w.build.holdBuilds()
	old := w.propose(ada, w.commit("one", files("a", "1"), base))
	better := w.commit("two", files("a", "2"), base)
	next := w.propose(ada, better)
	theirs := w.propose(jun, w.commit("theirs", files("b", "1"), base))

	for _, c := range []struct {
		number, with int
		kind         show.Kind
	}{
		{old.Change, old.Change, show.Denied},
		{old.Change, theirs.Change, show.Forbidden},
		{theirs.Change, old.Change, show.Forbidden},
		{old.Change, 99, show.NotFound},
		{1, old.Change, show.Denied}, // it has landed
	} {
		var e *show.Error
		if _, err := w.gate.Replace(t.Context(), "hello", c.number, c.with, ada, repo.Zero); !errors.As(err, &e) ||
			e.Kind != c.kind || e.Hint == "" {
			t.Errorf("%d by %d: %v", c.number, c.with, err)
		}
	}

	a, err := w.gate.Replace(t.Context(), "hello", old.Change, next.Change, ada, repo.Zero)
	if err != nil || a.Change != old.Change || a.Revision != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	if s := w.story(next.Change); s.State() != show.Withdrawn ||
		!strings.Contains(s.Last().Reason, "revision 2 of change 2") {
		t.Fatalf("%+v", s.Last())
	}
	letGo()
	// The other user's change was built meanwhile, and may land first: then it is a merge.
	p := w.end(old.Change)
	if held, err := w.r.Contains(t.Context(), p.Landed, better); p.Kind != Landed || !held || err != nil {
		t.Fatalf("%+v, %v", p, err)
	}
}

// TestReplaceCutShort: a kill between the two steps of it leaves two open changes of
// one commit. Both land, and main moves once.
func TestReplaceCutShort(t *testing.T) {
	w := newHarness(t)
	base := w.commit("begin", files())
	w.land(ada, base)
	letGo := w.build.holdBuilds()
	old := w.propose(ada, w.commit("one", files("a", "1"), base))
	better := w.commit("two", files("a", "2"), base)
	next := w.propose(ada, better)
	w.stop()
	s, err := change.Of(w.r).Read(old.Change)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := change.Of(w.r).Revise(t.Context(), s,
		change.Push{Branch: "main", Commit: better, By: "ada", At: noon}); err != nil {
		t.Fatal(err)
	}
	w.store.Close() // it has started git again
	letGo()
	w.start()
	for _, number := range []int{old.Change, next.Change} {
		if p := w.end(number); p.Kind != Landed {
			t.Fatalf("%+v", p)
		}
	}
	if w.main() != better {
		t.Fatalf("main is at %s", w.main())
	}
}
