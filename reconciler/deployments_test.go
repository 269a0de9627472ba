package reconciler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// TestDeployments walks a long history to both ends, part by part: nothing is left out,
// nothing comes twice, and no part reads all.
func TestDeployments(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "ada", "one")
	h.healthy(t, "staging", 1)
	stop()

	const all = 723
	ref := record.EnvironmentRef("staging")
	first, err := h.hello.Ref(ref)
	if err != nil {
		t.Fatal(err)
	}
	one, err := h.hello.Commit(first)
	if err != nil {
		t.Fatal(err)
	}
	want, tip := []string{first.String()}, first
	for len(want) < all { // the same once more, a minute later
		if tip, err = h.hello.WriteCommit(repo.NewCommit{
			Tree:    one.TreeHash,
			Parents: record.Parents(tip),
			At:      one.Committer.When.Add(time.Duration(len(want)) * time.Minute),
			Message: one.Message,
		}); err != nil {
			t.Fatal(err)
		}
		want = append(want, tip.String())
	}
	if err := h.hello.Move(t.Context(), ref, first, tip); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(want)

	read := func(from, after string, wanted Wanted) show.DeploymentPage {
		t.Helper()
		p, err := h.rc.Deployments(t.Context(), "hello", "staging", from, after, wanted)
		if err != nil || p.Total != all || len(p.Deployments) > show.Deployments {
			t.Fatalf("from %q, after %q: %d of %d, %v", from, after, len(p.Deployments), p.Total, err)
		}
		return p
	}
	part := func(from string, wanted Wanted) show.DeploymentPage {
		t.Helper()
		return read(from, "", wanted)
	}
	commits := func(p show.DeploymentPage) (list []string) {
		for _, d := range p.Deployments {
			list = append(list, d.Commit)
		}
		return list
	}
	p := part("", nil)
	down := commits(p)
	for p.Older != "" {
		p = part(p.Older, nil)
		down = append(down, commits(p)...)
	}
	if !slices.Equal(down, want) {
		t.Errorf("downwards there are %d", len(down))
	}
	up := commits(p)
	for p.Newer != "" {
		p = read("", p.Newer, nil)
		up = append(commits(p), up...)
	}
	if up = slices.Compact(up); !slices.Equal(up, want) { // the newest part is a whole one
		t.Errorf("upwards there are %d", len(up))
	}

	looked := 0
	p = part("", func(d, before *show.Deployed) (bool, error) {
		looked++
		return d.Commit == want[600] || d.Commit == want[700], nil
	})
	if looked != show.MaxLooked || len(p.Deployments) > 0 || p.Older != want[show.MaxLooked] || p.Newer != "" {
		t.Errorf("%d looked at for %d; it goes on at %s", looked, len(p.Deployments), p.Older)
	}
	p = part(p.Older, func(d, before *show.Deployed) (bool, error) {
		return d.Commit == want[600] || before == nil, nil
	})
	if got := commits(p); !slices.Equal(got, []string{want[600], want[all-1]}) || p.Older != "" ||
		p.Newer != want[show.MaxLooked] {
		t.Errorf("of the older ones there are %v; it goes on at %q and %q", got, p.Older, p.Newer)
	}

	// Of a narrowed list the part behind one is the one that was looked at before it.
	third := func(d, before *show.Deployed) (bool, error) { return slices.Index(want, d.Commit)%3 == 0, nil }
	var parts [][]string
	p = part("", third)
	for ; p.Older != ""; p = part(p.Older, third) {
		parts = append(parts, commits(p))
	}
	if len(parts) != 2 || len(parts[1]) != show.Deployments {
		t.Errorf("a third of all are %d parts before the last", len(parts))
	}
	for ; p.Newer != ""; parts = parts[:len(parts)-1] {
		if p = read("", p.Newer, third); len(parts) == 0 || !slices.Equal(commits(p), parts[len(parts)-1]) {
			t.Fatalf("behind it are %d, and %d parts are left", len(p.Deployments), len(parts))
		}
	}
	if len(parts) > 0 {
		t.Errorf("%d parts are left", len(parts))
	}
	none := func(d, before *show.Deployed) (bool, error) { return false, nil }
	if p = read("", want[all-1], none); len(p.Deployments) > 0 || p.Older != want[all-1] ||
		p.Newer != want[all-1-show.MaxLooked] {
		t.Errorf("behind the first it goes on at %q and %q", p.Older, p.Newer)
	}
	if p = read("", p.Newer, none); p.Newer != "" || p.Older != want[show.MaxLooked] {
		t.Errorf("the newest go on at %q and %q", p.Older, p.Newer)
	}

	if _, err := h.rc.Deployments(t.Context(), "hello", "staging", one.TreeHash.String(), "", nil); err == nil ||
		!strings.Contains(err.Error(), "there is no deployment") {
		t.Error(err)
	}
}
