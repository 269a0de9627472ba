package server

import (
	"reflect"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// TestLandingNeeds: an open change says each thing it waits for, and until when
// if anybody knows.
func TestLandingNeeds(t *testing.T) {
	now := time.Date(2026, 11, 24, 14, 3, 0, 0, time.UTC)
	first := show.Check{Rule: "queue", Title: "First in the queue for main", Met: true}
	for name, c := range map[string]struct {
		change show.Change
		want   []show.Check
	}{
		"queued": {show.Change{Branch: "main", State: show.Queued, Behind: 6}, []show.Check{
			{Rule: "queue", Title: "First in the queue for main", Detail: "behind 6, which lands or fails first"},
			{Rule: "verdict", Title: "Green verdict for its tree", Detail: "nothing is built for it yet"},
		}},
		"running": {show.Change{Branch: "main", State: show.Running, Tree: "abcdef0123",
			Estimate: show.Estimate{LandsAt: now.Add(3 * time.Minute)}, Build: &show.Build{State: show.Running,
				Started: now.Add(-time.Minute)}}, []show.Check{
			first, {Rule: "verdict", Title: "Green verdict for its tree", Detail: "tree abcdef0, building since 14:02 UTC",
				Until: now.Add(3 * time.Minute), Progress: 0.25},
		}},
		"running late": {show.Change{Branch: "main", State: show.Running, Tree: "abcdef0123",
			Estimate: show.Estimate{LandsSoon: true}, Build: &show.Build{State: show.Running,
				Started: now.Add(-time.Minute)}}, []show.Check{
			first, {Rule: "verdict", Title: "Green verdict for its tree", Detail: "tree abcdef0, building since 14:02 UTC"},
		}},
		"waits": {show.Change{Branch: "main", State: show.Waits, Reason: "1 approval of ada", WaitsUntil: now.Add(time.Hour),
			Tree: "abcdef0123", Build: &show.Build{State: show.Green}}, []show.Check{
			{Rule: "verdict", Title: "Green verdict for its tree", Met: true, Detail: "tree abcdef0"},
			{Rule: "policy", Title: "Policy lets it land", Detail: "1 approval of ada", Until: now.Add(time.Hour)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := landingNeeds(c.change, now); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// TestOpenState: how an open change is answered for, with one time for its landing
// and none that is past.
func TestOpenState(t *testing.T) {
	later := show.Estimate{LandsAt: time.Date(2026, 11, 24, 14, 8, 0, 0, time.UTC)}
	for want, c := range map[string]show.Change{
		"it is queued": {State: show.Queued},
		"it is queued, at place 2, and lands ~14:08 UTC": {State: show.Queued, Place: 2, Estimate: later},
		"it is being built, at place 1, and lands any moment": {
			State: show.Running, Place: 1, Estimate: show.Estimate{LandsSoon: true},
		},
		"it waits: 1 approval of ada": {State: show.Waits, Reason: "1 approval of ada"},
	} {
		if got := openState(c); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
