package decision

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

func TestSaveChainsAndDoesNotRepeat(t *testing.T) {
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(dir, dir, signer)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, 0)
	rec := Record{Query: "promote", About: "release 3 to production", Answer: "manual", Policy: "sha256:p",
		Digest: "sha256:1", JSON: []byte(`{"a":1}`)}
	first, err := Save(t.Context(), r, at, rec)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Save(t.Context(), r, at, rec); err != nil || again != first {
		t.Fatalf("saved twice: %v, %v", again, err)
	}
	rec.Answer, rec.Digest = "auto", "sha256:2"
	second, err := Save(t.Context(), r, at, rec)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Commit(second)
	if err != nil || len(c.ParentHashes) != 1 || c.ParentHashes[0] != first {
		t.Fatalf("%v, %v", c, err)
	}
	if got := repo.TrailerValue(c.Message, "Decision"); got != "auto" {
		t.Fatalf("%q in %q", got, c.Message)
	}
}

func TestSaveAllIsOneMoveInOrder(t *testing.T) {
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(dir, dir, signer)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, 0)
	rec := func(n string) Record {
		return Record{Query: "push", About: "refs/heads/" + n, Answer: "auto", Digest: "sha256:" + n, JSON: []byte("{}")}
	}
	saved, err := SaveAll(t.Context(), r, at, []Record{rec("a"), rec("b"), rec("c")})
	if err != nil || len(saved) != 3 {
		t.Fatalf("%v, %v", saved, err)
	}
	if tip, err := r.Ref(Ref); err != nil || tip != saved[2] {
		t.Fatalf("the chain ends at %s, %v", tip, err)
	}
	for i := 2; i > 0; i-- {
		c, err := r.Commit(saved[i])
		if err != nil || len(c.ParentHashes) != 1 || c.ParentHashes[0] != saved[i-1] {
			t.Fatalf("%d: %v, %v", i, c, err)
		}
	}
	if again, err := SaveAll(t.Context(), r, at, []Record{rec("c")}); err != nil || again[0] != saved[2] {
		t.Fatalf("%v, %v", again, err)
	}
	if none, err := SaveAll(t.Context(), r, at, nil); err != nil || len(none) != 0 {
		t.Fatalf("%v, %v", none, err)
	}

	list, more, err := List(t.Context(), r, repo.Zero, 2)
	if err != nil || !more || len(list) != 2 || list[0].Commit != saved[2] || list[0].About != "refs/heads/c" ||
		string(list[0].JSON) != "{}" {
		t.Errorf("the newest are %+v, more %v, %v", list, more, err)
	}
	list, more, err = List(t.Context(), r, saved[1], 2)
	if err != nil || more || len(list) != 1 || list[0].Commit != saved[0] {
		t.Errorf("older ones are %+v, more %v, %v", list, more, err)
	}
	if one, err := Find(t.Context(), r, ID(saved[1])); err != nil || one.Commit != saved[1] || one.Digest != "sha256:b" ||
		one.Answer != "auto" {
		t.Errorf("found %+v, %v", one, err)
	}
	other, err := r.WriteCommit(repo.NewCommit{Tree: repo.Zero, At: at, Message: "other\n\nQuestion: push\n"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "d-", "d-0000000", "d-zzzzzzz", ID(other), "--all"} {
		if one, err := Find(t.Context(), r, id); !errors.Is(err, ErrNone) {
			t.Errorf("%q is %+v, %v", id, one, err)
		}
	}
}
