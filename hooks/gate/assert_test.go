package gate

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
)

// planted returns a loop that nobody runs, with main at base and one open
// change, and the honest candidate for it, which is green.
func planted(t *testing.T) (w *harness, l *loop, c *candidate, base repo.Hash) {
	t.Helper()
	w = newHarness(t)
	base = w.commit("begin", files("a", "1"))
	w.land(ada, base)
	release := w.build.holdBuilds()
	t.Cleanup(release)
	a := w.propose(ada, w.commit("mine", files("b", "1"), base))
	w.until("it builds", func() bool { return w.build.runs() == 2 })
	w.stop() // the change is left open
	w.start()
	w.until("it builds again", func() bool { return w.build.runs() == 3 })
	l, err := w.gate.loop("hello")
	if err != nil {
		t.Fatal(err)
	}
	// The loop hands over what it has, and stays out of the way.
	got := make(chan *candidate)
	paused := make(chan struct{})
	l.mailbox.Post(func() {
		for _, c := range l.made {
			got <- c
		}
		<-paused
	})
	t.Cleanup(func() { close(paused) })
	c = <-got
	if c.Changes[0].Change != a.Change {
		t.Fatalf("%+v", c)
	}
	return w, l, c, base
}

// green gives a commit's tree the verdict that it would need.
func (w *harness) green(c *candidate, commit repo.Hash) {
	w.t.Helper()
	in, err := inputs(w.r, mustTree(w.t, w.r, commit), c.Settings)
	if err != nil {
		w.t.Fatal(err)
	}
	w.verdict(in, "green")
}

// TestFailedAssertionsMoveNothing plants one bug for each assertion: a candidate
// that a faulty gate might have made.
func TestFailedAssertionsMoveNothing(t *testing.T) {
	for name, plant := range map[string]func(w *harness, c *candidate, base repo.Hash){
		"ancestor": func(w *harness, c *candidate, base repo.Hash) {
			c.commit = w.commit("rootless", files("a", "1", "b", "1")) // green tree, other history
			w.green(c, c.commit)
		},
		"verdict": func(*harness, *candidate, repo.Hash) {}, // nobody has said that it is green
		"contained": func(w *harness, c *candidate, base repo.Hash) {
			c.commit = w.commit("somebody else's", files("b", "1"), base)
			w.green(c, c.commit)
		},
		"paths": func(w *harness, c *candidate, base repo.Hash) {
			c.commit = w.commit("and more", files("a", "2"), c.commit) // holds the change, and then some
			w.green(c, c.commit)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, l, c, base := planted(t)
			plant(w, c, base)
			l.land(context.Background(), c)
			if w.main() != base {
				t.Fatalf("main moved to %s", w.main())
			}
			s := w.story(c.Changes[0].Change)
			e, ended := s.End()
			if !ended || e.Kind != change.Refused || e.Assertion != name {
				t.Fatalf("%+v", e)
			}
			id := strings.TrimPrefix(e.Short, "stopped by the gate, ")
			if id == "" || !strings.Contains(w.logged.String(), "id="+id) {
				t.Fatalf("%q is not in the server's log", id)
			}
		})
	}
}

// TestAssertHolds: the same candidate without a planted bug passes.
func TestAssertHolds(t *testing.T) {
	w, l, c, base := planted(t)
	head := w.story(c.Changes[0].Change).Head().Commit
	x := landing{branch: "main", tip: base, commit: c.commit, heads: []repo.Hash{head}}
	var a *assertion
	if _, _, err := l.assert(t.Context(), x); !errors.As(err, &a) || a.name != "verdict" {
		t.Fatalf("without a verdict: %v", err)
	}
	w.green(c, c.commit)
	_, paths, err := l.assert(t.Context(), x)
	if err != nil || len(paths) != 1 || paths[0] != "b" {
		t.Fatalf("%v, %v", paths, err)
	}
	// A verdict for another image is none.
	c.Settings.Image = "other"
	if in, err := inputs(w.r, c.tree, c.Settings); err != nil || in.Key() == c.key {
		t.Fatalf("the image does not count: %v", err)
	}
}
