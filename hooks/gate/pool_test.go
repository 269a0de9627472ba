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
		for deadline := time.Now().Add(lastResort); ; time.Sleep(time.Millisecond) {
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

// TestPoolSpares: what is no change's waits behind every change, and leaves one of
// several workers for those that come.
func TestPoolSpares(t *testing.T) {
	p := newPool(2)
	if err := p.takeSpare(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 2)
	waits := func(n func() int) {
		t.Helper()
		for deadline := time.Now().Add(lastResort); ; time.Sleep(time.Millisecond) {
			p.mu.Lock()
			waiting := n()
			p.mu.Unlock()
			if waiting == 1 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("nobody waits")
			}
		}
	}
	go func() {
		if err := p.takeSpare(t.Context()); err != nil {
			t.Error(err)
		}
		got <- "spare"
	}()
	waits(func() int { return len(p.sparing) })
	if err := p.take(t.Context(), "a"); err != nil { // the other worker is free all the same
		t.Fatal(err)
	}
	go func() {
		if err := p.take(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		got <- "change"
	}()
	waits(func() int { return len(p.turns) })

	p.giveSpare()
	if first := <-got; first != "change" {
		t.Fatalf("%s went first", first)
	}
	p.give()
	if second := <-got; second != "spare" {
		t.Fatal(second)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.takeSpare(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	p.giveSpare()
	p.give()
	if p.busy() != 0 || p.spare != 0 || len(p.sparing) > 0 {
		t.Fatalf("%d workers are lost, %d spare, %d wait", p.busy(), p.spare, len(p.sparing))
	}
}
