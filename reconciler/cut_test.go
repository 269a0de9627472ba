package reconciler

import (
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// TestCutRecordsShow: of each record of the server, rewound by one or taken away,
// something else says so. What nothing has named since, the newest of all, is no
// such record here: production's open proposal was decided about last.
func TestCutRecordsShow(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.target.obedient = true
	stop := h.start(t)
	h.release(t, "jun", "one")
	h.proposed(t, "production", 1)
	h.approve(t, "sam")
	h.healthy(t, "production", 1)
	h.release(t, "jun", "two")
	h.healthy(t, "staging", 2)
	h.proposed(t, "production", 2)
	if err := h.settled(t); err != nil {
		t.Fatal(err)
	}
	stop()

	releases, err := taggedReleases(h.hello)
	if err != nil {
		t.Fatal(err)
	}
	findings := func() (all []string) {
		t.Helper()
		signers := repo.Signers{h.store.Signer().PublicKey()}
		chain, err := decision.Verify(t.Context(), h.hello, signers)
		if err != nil {
			t.Fatal(err)
		}
		v, err := record.Verify(t.Context(), h.hello, signers, releases)
		if err != nil {
			t.Fatal(err)
		}
		all = chain.Findings
		for _, f := range v.Findings {
			all = append(all, f.String())
		}
		return all
	}
	if found := findings(); len(found) > 0 {
		t.Fatalf("before anything was cut: %q", found)
	}

	cut := func(name string, from, to repo.Hash, want string) {
		t.Helper()
		if err := h.hello.Move(t.Context(), name, from, to); err != nil {
			t.Fatal(err)
		}
		found := findings()
		if !strings.Contains(strings.Join(found, "\n"), want) {
			t.Errorf("%s from %s to %s: found %q, want %s", name, from, to, found, want)
		}
		if err := h.hello.Move(t.Context(), name, to, from); err != nil {
			t.Fatal(err)
		}
	}
	refs, err := h.hello.Refs("refs/")
	if err != nil {
		t.Fatal(err)
	}
	records := 0
	for _, ref := range refs {
		if ref.Name == mainRef || strings.HasPrefix(ref.Name, "refs/releases/") {
			continue // the gate's, which verifies them
		}
		records++
		c, err := h.hello.Commit(ref.Hash)
		if err != nil || len(c.ParentHashes) != 1 {
			t.Fatalf("%s: %d parents, %v", ref.Name, len(c.ParentHashes), err)
		}
		cut(ref.Name, ref.Hash, c.ParentHashes[0], ref.Name)
		if !strings.HasPrefix(ref.Name, record.ProposalRef("")) { // what is only proposed is no history
			cut(ref.Name, ref.Hash, repo.Zero, ref.Name)
		}
	}
	if records != 5 {
		t.Fatalf("%d records: %v", records, refs)
	}
}
