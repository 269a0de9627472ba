package server

import (
	"fmt"
	"slices"
	"testing"

	"github.com/headgate-cd/headgate/gitd/show"
)

// TestPage walks lists to both ends by the cursors that each part names: nothing is left
// out, nothing comes twice, and no part costs more than it may.
func TestPage(t *testing.T) {
	var numbers []int
	for n := 1; n <= 1234; n++ {
		if n%10 != 7 { // as if some could not be read
			numbers = append(numbers, n)
		}
	}
	for name, c := range map[string]struct {
		b    bounds
		fits func(int) bool
	}{
		"all":          {bounds{50, len(numbers)}, func(int) bool { return true }},
		"every fourth": {bounds{50, len(numbers)}, func(n int) bool { return n%4 == 0 }},
		"few":          {bounds{50, 100}, func(n int) bool { return n%100 == 0 }},
		"none":         {bounds{50, 500}, func(int) bool { return false }},
	} {
		var want []int // newest first
		for _, n := range slices.Backward(numbers) {
			if c.fits(n) {
				want = append(want, n)
			}
		}
		part := func(p show.Part) ([]int, show.Beside) {
			t.Helper()
			looked := 0
			list, beside, err := page(numbers, p, c.b, func(at int) (int, bool, error) {
				looked++
				return numbers[at], c.fits(numbers[at]), nil
			})
			if err != nil || len(list) > c.b.most || looked > c.b.looked {
				t.Fatalf("%s, %+v: %d of %d looked at, %v", name, p, len(list), looked, err)
			}
			return list, beside
		}
		var down, up []int
		list, beside := part(show.Part{})
		if down = list; beside.Newer != 0 {
			t.Errorf("%s: there is something newer than the newest, %d", name, beside.Newer)
		}
		for beside.Older > 0 {
			list, beside = part(show.Part{Before: beside.Older})
			down = append(down, list...)
		}
		up = list
		for beside.Newer > 0 {
			list, beside = part(show.Part{After: beside.Newer})
			up = append(list, up...)
		}
		if !slices.Equal(down, want) {
			t.Errorf("%s: downwards %v\nwant %v", name, down, want)
		}
		if !slices.Equal(up, want) {
			t.Errorf("%s: upwards %v\nwant %v", name, up, want)
		}
	}

	for p, want := range map[show.Part]show.Beside{
		{Before: 1}:               {},
		{Before: 2}:               {Newer: 1},
		{After: 5000}:             {Older: 1235},
		{Before: 5000}:            {Older: 1224},
		{After: 9, Before: 5}:     {Older: 10, Newer: 9},
		{After: 100, Before: 102}: {Older: 101, Newer: 101},
	} {
		_, beside, err := page(numbers, p, bounds{10, 10}, func(at int) (int, bool, error) { return at, true, nil })
		if err != nil || beside != want {
			t.Errorf("%+v: %+v, %v; want %+v", p, beside, err, want)
		}
	}

	failing := fmt.Errorf("it cannot be read")
	if _, _, err := page(numbers, show.Part{}, bounds{1, 1}, func(int) (int, bool, error) {
		return 0, false, failing
	}); err != failing {
		t.Error(err)
	}
}
