package verdict

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
)

func testRepository(t *testing.T) *repo.Repository {
	t.Helper()
	dir := t.TempDir()
	signer, err := repo.OpenSigner(filepath.Join(dir, "key"), repo.Person{Name: "Headgate", Email: "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := repo.OpenStore(filepath.Join(dir, "repositories"), filepath.Join(dir, "hooks"), signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r, err := s.Create(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestKeyIsOfEverythingThatMatters(t *testing.T) {
	in := Inputs{Tree: repo.Blob([]byte("t")).Hash(), Buildspec: "buildspec.yml",
		Blob: repo.Blob([]byte("b")).Hash(), Image: "host"}
	seen := map[string]string{in.Key(): "itself"}
	for name, change := range map[string]func(in *Inputs){
		"tree":      func(in *Inputs) { in.Tree = in.Blob },
		"path":      func(in *Inputs) { in.Buildspec = "other.yml" },
		"blob":      func(in *Inputs) { in.Blob = in.Tree },
		"image":     func(in *Inputs) { in.Image = "debian" },
		"variables": func(in *Inputs) { in.Variables = map[string]string{"A": "1"} },
		"a value":   func(in *Inputs) { in.Variables = map[string]string{"A": "2"} },
		"two":       func(in *Inputs) { in.Variables = map[string]string{"A": "1", "B": "2"} },
		"network":   func(in *Inputs) { in.Network = true },
		"server":    func(in *Inputs) { in.Server = "sha256:1" },
		"services":  func(in *Inputs) { in.Services = []Service{{"db", "postgres:17", "sha256:1"}} },
		"an image":  func(in *Inputs) { in.Services = []Service{{"db", "postgres:18", "sha256:1"}} },
		"setting":   func(in *Inputs) { in.Services = []Service{{"db", "postgres:17", "sha256:2"}} },
	} {
		other := in
		change(&other)
		if same := seen[other.Key()]; same != "" {
			t.Errorf("%s: the same key as %s", name, same)
		}
		seen[other.Key()] = name
	}
	if again := in; again.Key() != in.Key() || !strings.HasPrefix(in.Key(), "sha256:") {
		t.Error(in.Key())
	}
}

func TestGreenIsFinal(t *testing.T) {
	r := testRepository(t)
	tree := repo.Blob([]byte("t")).Hash()
	note := func(result Result, key string, change int) {
		t.Helper()
		if err := Note(t.Context(), r, tree,
			Verdict{Result: result, Key: key, Change: change, Revision: 1, Finished: at}); err != nil {
			t.Fatal(err)
		}
	}
	note(Red, "k", 1)
	note(Red, "k", 1) // again: nothing new
	note(Red, "k", 2)
	note(Green, "other", 2)
	vs, err := On(r, tree)
	if err != nil || len(vs) != 3 || vs.Of("k").Change != 2 || vs.RedFor("k", 1, 1) == nil ||
		vs.RedFor("k", 3, 1) != nil || vs.Of("none") != nil {
		t.Fatalf("%+v, %v", vs, err)
	}
	note(Green, "k", 3)
	tip, _ := r.Ref(Ref)
	note(Red, "k", 4)
	note(Green, "k", 5)
	if now, _ := r.Ref(Ref); now != tip {
		t.Fatal("something was noted after green")
	}
	if vs, err = On(r, tree); err != nil || vs.Of("k").Result != Green || vs.Of("k").Change != 3 {
		t.Fatalf("%+v, %v", vs, err)
	}
	if err := Note(t.Context(), r, tree, Verdict{Result: "amber", Key: "k"}); err == nil {
		t.Fatal("amber was noted")
	}
}

func TestRedsAreBounded(t *testing.T) {
	r := testRepository(t)
	tree := repo.Blob([]byte("t")).Hash()
	for i := range maxRed + 5 {
		if err := Note(t.Context(), r, tree, Verdict{Result: Red, Key: "k", Change: i + 1, Finished: at}); err != nil {
			t.Fatal(err)
		}
	}
	vs, err := On(r, tree)
	if err != nil || len(vs) != maxRed || vs.Of("k").Change != maxRed+5 {
		t.Fatalf("%d verdicts, %v", len(vs), err)
	}
}

func TestConcurrentNotesAreAllKept(t *testing.T) {
	r := testRepository(t)
	tree := repo.Blob([]byte("t")).Hash()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := Note(t.Context(), r, tree, Verdict{Result: Red, Key: "k", Change: i + 1, Finished: at}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if vs, err := On(r, tree); err != nil || len(vs) != 8 {
		t.Fatalf("%d verdicts, %v", len(vs), err)
	}
}
