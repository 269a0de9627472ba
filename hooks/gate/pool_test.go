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

func TestExpect(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var d durations
	if at, by := d.expect(now, 1, time.Time{}); !at.IsZero() || !by.IsZero() {
		t.Fatal("it foresees without having seen")
	}
	for _, m := range []int{1, 2, 3, 4, 100, 2, 3, 2, 3, 2} {
		d.add(time.Duration(m) * time.Minute)
	}
	if d.median() != 3*time.Minute {
		t.Fatal(d.median())
	}
	for _, c := range []struct {
		place int
		head  time.Time
		at    time.Duration
	}{
		{1, time.Time{}, 3 * time.Minute},
		{1, now.Add(-time.Minute), 2 * time.Minute},
		{1, now.Add(-time.Hour), 0}, // late
		{3, now.Add(-time.Minute), 8 * time.Minute},
	} {
		at, by := d.expect(now, c.place, c.head)
		if at.Sub(now) != c.at || by.Before(at) {
			t.Errorf("place %d: %s, by %s; want %s", c.place, at.Sub(now), by.Sub(now), c.at)
		}
	}
	for range 30 {
		d.add(time.Second)
	}
	if len(d) != recent || d.median() != time.Second {
		t.Fatalf("%d kept, median %s", len(d), d.median())
	}
}
