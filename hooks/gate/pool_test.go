package gate

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// TestPoolGivesTurns: with one worker, a repository with many builds and one
// with a single build take turns.
func TestPoolGivesTurns(t *testing.T) {
	p := newPool(1)
	if err := p.take(t.Context(), "many"); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 4)
	ask := func(repository string, n int) {
		go func() {
			if err := p.take(t.Context(), repository); err != nil {
				t.Error(err)
			}
			got <- repository
		}()
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			p.mu.Lock()
			waits := len(p.waiting[repository])
			p.mu.Unlock()
			if waits == n {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("nobody waits")
			}
		}
	}
	ask("many", 1)
	ask("many", 2)
	ask("many", 3)
	ask("one", 1)
	var order []string
	for range 4 {
		p.give()
		order = append(order, <-got)
	}
	if want := []string{"many", "one", "many", "many"}; !slices.Equal(order, want) {
		t.Fatalf("%v, want %v", order, want)
	}
	p.give()
	if p.busy() != 0 {
		t.Fatalf("%d workers are lost", p.busy())
	}
}

func TestPoolForgetsWhoLeaves(t *testing.T) {
	p := newPool(1)
	if err := p.take(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.take(ctx, "b"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	p.give()
	if len(p.turns) != 0 || len(p.waiting) != 0 || p.busy() != 0 {
		t.Fatalf("%+v", p)
	}
}
