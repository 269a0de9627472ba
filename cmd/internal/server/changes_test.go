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
		"running": {show.Change{Branch: "main", State: show.Running, Tree: "abcdef0123", Expected: show.Duration(4 * time.Minute), Build: &show.Build{State: show.Running, Started: now.Add(-time.Minute)}}, []show.Check{
			first, {Rule: "verdict", Title: "Green verdict for its tree", Detail: "tree abcdef0, building since 14:02 UTC", Until: now.Add(3 * time.Minute), Progress: 0.25},
		}},
		"running late": {show.Change{Branch: "main", State: show.Running, Tree: "abcdef0123", Expected: show.Duration(time.Second), Build: &show.Build{State: show.Running, Started: now.Add(-time.Minute)}}, []show.Check{
			first, {Rule: "verdict", Title: "Green verdict for its tree", Detail: "tree abcdef0, building since 14:02 UTC"},
		}},
		"waits": {show.Change{Branch: "main", State: show.Waits, Reason: "1 approval of ada", WaitsUntil: now.Add(time.Hour), Tree: "abcdef0123", Build: &show.Build{State: show.Green}}, []show.Check{
			first, {Rule: "verdict", Title: "Green verdict for its tree", Met: true, Detail: "tree abcdef0"},
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
