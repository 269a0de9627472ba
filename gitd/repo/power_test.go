package repo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/e2e/power"
)

// TestPowerCut cuts the power of a real file system at many moments while repositories
// are made, objects written, refs moved, and all is packed. The start that follows
// finishes or removes what was half made, and what was acknowledged is there.
func TestPowerCut(t *testing.T) {
	if !power.Apart(t, 0) {
		return
	}
	p, err := power.New(t, t.TempDir())
	if err == nil {
		err = p.On()
	}
	power.Needs(t, err)
	mounted := true
	defer func() {
		if mounted {
			if err := p.Off(); err != nil {
				t.Error(err)
			}
		}
	}()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	signer, err := OpenSigner(filepath.Join(t.TempDir(), "key"), Person{"Headgate", "headgate@test"})
	if err != nil {
		t.Fatal(err)
	}

	acknowledged := map[string]map[string]Hash{} // refs by repository
	for round := range 16 {
		store, _, err := OpenStore(filepath.Join(p.Dir, "repositories"), "/hooks", signer)
		if err != nil {
			t.Fatalf("round %d: the start after a power cut: %v", round, err)
		}
		names, err := store.Names()
		if err != nil {
			t.Fatal(err)
		}
		for name, refs := range acknowledged {
			r, err := store.Repository(name)
			if err != nil {
				t.Fatalf("round %d: %s was made, and there are %q: %v", round, name, names, err)
			}
			for ref, want := range refs {
				got, err := r.Ref(ref)
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				// It may have moved on: the cut came before the acknowledgement.
				if held, err := r.Contains(t.Context(), got, want); !held || err != nil {
					t.Fatalf("round %d: %s of %s is at %s, and %s was acknowledged: %v", round, ref, name, got, want, err)
				}
				refs[ref] = got
			}
		}
		for _, name := range names {
			r, err := store.Repository(name)
			if err != nil || r.Damage() != nil {
				t.Fatalf("round %d: %s is damaged: %v, %v", round, name, err, r.Damage())
			}
			fsck(t, r)
		}

		// Half of the cuts fall into the making of the repository, the others behind so
		// many moves of refs.
		after := 0
		if round%2 == 1 {
			after = 1 + random.IntN(60)
		}
		var work sync.WaitGroup
		stopped, reached := make(chan struct{}), make(chan struct{})
		name := fmt.Sprintf("made-%d", round)
		var mu sync.Mutex
		note := func(name, ref string, at Hash) {
			mu.Lock()
			defer mu.Unlock()
			if acknowledged[name] == nil {
				acknowledged[name] = map[string]Hash{}
			}
			if ref != "" {
				acknowledged[name][ref] = at
			}
		}
		work.Go(func() {
			if after == 0 {
				close(reached)
			}
			r, err := store.Create(t.Context(), name)
			if err != nil {
				t.Logf("round %d: %v", round, err) // the power is cut
				return
			}
			note(name, "", Zero)
			var tip Hash
			for n := 0; ; n++ {
				select {
				case <-stopped:
					return
				default:
				}
				blob := Blob(fmt.Append(nil, "content ", round, n))
				if r.Write(blob) != nil {
					return
				}
				tree, err := r.TreeWith(Zero, map[string]Edit{"f": {Mode: 0o100644, Hash: blob.Hash()}})
				if err != nil {
					return
				}
				next, err := r.WriteCommit(NewCommit{Tree: tree, Parents: parents(tip), At: noon,
					Message: fmt.Sprint("commit ", n)})
				if err != nil || r.Move(t.Context(), "refs/heads/main", tip, next) != nil {
					return
				}
				note(name, "refs/heads/main", next)
				tip = next
				ref := fmt.Sprintf("refs/changes/%d/log", n)
				if r.Move(t.Context(), ref, Zero, next) != nil {
					return
				}
				note(name, ref, next)
				if n+1 == after {
					close(reached)
				}
				if n%20 == 19 {
					if _, err := r.Pack(t.Context(), time.Now()); err != nil {
						return
					}
				}
			}
		})
		<-reached
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond)))) // anywhere in what follows
		if err := p.Cut(); err != nil {
			t.Error(err)
		}
		close(stopped)
		work.Wait()
		store.Close()
		mounted = false
		if err := errors.Join(p.Off(), p.On()); err != nil {
			t.Fatal(err)
		}
		mounted = true
	}
	made, refs := 0, 0
	for _, r := range acknowledged {
		made++
		refs += len(r)
	}
	if made == 0 || refs == 0 {
		t.Errorf("%d repositories and %d refs were acknowledged: too few to say anything", made, refs)
	}
	t.Logf("%d repositories and %d refs were acknowledged", made, refs)
}
