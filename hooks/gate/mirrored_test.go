package gate

import (
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// TestVerifyKnowsMirrors: tips that came from a forge, on record as such, are part
// of a branch's line: pushed over, gone back to, and landed upon. Without a record,
// or with one that another key signed, they are findings.
func TestVerifyKnowsMirrors(t *testing.T) {
	t.Parallel()
	w := newHarness(t)
	begin := w.commit("begin", files("a", "1\n"))
	over := w.commit("over", files("b", "1\n"), begin)
	came := func(old, new repo.Hash) {
		t.Helper()
		if err := w.gate.RecordMirrored(t.Context(), w.r, "main", old, new, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := w.r.Move(t.Context(), "refs/heads/main", old, new); err != nil {
			t.Fatal(err)
		}
	}
	came(repo.Zero, begin)
	came(begin, over)
	came(over, begin)
	landed := w.commit("landed", files("a", "1\n", "c", "1\n"), begin)
	w.land(ada, landed)
	next := w.commit("next", files("d", "1\n"), landed)
	came(landed, next)
	came(next, landed) // which landed before: it is on record as that

	signers, err := repo.ParseSigners([]byte(w.r.Signer().AllowedSigners()))
	if err != nil {
		t.Fatal(err)
	}
	check := func(signers repo.Signers, findings bool) *Report {
		t.Helper()
		rep, err := Verify(t.Context(), w.r, signers)
		if err != nil {
			t.Fatal(err)
		}
		if (len(rep.Findings) > 0) != findings {
			t.Errorf("findings: %v", rep.Findings)
		}
		return rep
	}
	if rep := check(signers, false); rep.Verdicts != 1 || rep.Mirrored < 1 {
		t.Errorf("%+v", rep)
	}
	check(repo.Signers{}, true)

	tip, err := w.r.Ref(MirrorRef)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.r.Move(t.Context(), MirrorRef, tip, repo.Zero); err != nil {
		t.Fatal(err)
	}
	check(signers, true)
}
