package repo

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a former key signed counts until it was replaced: by the time that objects
// say, and by the record of where all refs were.
func TestRotation(t *testing.T) {
	t.Parallel()
	s, r := testStore(t)
	ctx := t.Context()
	first := commit(t, r, "first", map[string]string{"a": "1"})
	if err := r.Move(ctx, "refs/heads/main", Zero, first); err != nil {
		t.Fatal(err)
	}
	next, err := OpenSigner(filepath.Join(t.TempDir(), "next"), s.signer.Person)
	if err != nil {
		t.Fatal(err)
	}
	at := noon.Add(time.Hour)
	old := s.signer
	if err := r.RecordRotation(ctx, old, old.PublicKey(), next.PublicKey(), at); err != nil {
		t.Fatal(err)
	}
	next.former = Signers{Until(old.PublicKey(), at.Add(time.Second))}
	allowed, err := ParseSigners([]byte(next.AllowedSigners()))
	if err != nil || len(allowed) != 2 {
		t.Fatalf("%v, %v", allowed, err)
	}
	verify := func(want string) {
		t.Helper()
		found, err := r.VerifyRotations(ctx, allowed)
		if err != nil || (want == "") != (len(found) == 0) || !strings.Contains(strings.Join(found, "\n"), want) {
			t.Errorf("%q, %v; want %q", found, err, want)
		}
	}
	verify("")

	s.signer = next
	second := commit(t, r, "second", map[string]string{"a": "2"}, first)
	if err := r.Move(ctx, "refs/heads/main", first, second); err != nil {
		t.Fatal(err)
	}
	for _, h := range []Hash{first, second} {
		kind, raw, err := r.Raw(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := allowed.VerifyObject(kind, raw); err != nil {
			t.Error(err)
		}
	}
	verify("")

	// Whoever has the old key says that it was before, or says when it is.
	s.signer = old
	before := commit(t, r, "as if it had been before", map[string]string{"a": "3"}, second)
	if err := r.Move(ctx, "refs/heads/main", second, before); err != nil {
		t.Fatal(err)
	}
	verify("commit " + before.String() + " is signed by")
	late, err := r.WriteCommit(NewCommit{Tree: Zero, At: at.Add(time.Hour), Message: "late"})
	if err != nil {
		t.Fatal(err)
	}
	kind, raw, err := r.Raw(late)
	if err != nil {
		t.Fatal(err)
	}
	if err := allowed.VerifyObject(kind, raw); err == nil || !strings.Contains(err.Error(), "does not count since") {
		t.Errorf("signed late: %v", err)
	}
}
