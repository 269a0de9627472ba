package gate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func minutesOf(minutes ...int) (d durations) {
	for _, m := range minutes {
		d.add(time.Duration(m) * time.Minute)
	}
	return d
}

func TestEstimate(t *testing.T) {
	queued := Entry{Branch: "main", State: show.Queued}
	waits := Entry{Branch: "main", State: show.Waits}
	running := func(since time.Duration) Entry {
		return Entry{Branch: "main", State: show.Running, Started: noon.Add(-since)}
	}
	usual := minutesOf(1, 2, 3, 4, 100, 2, 3, 2, 3, 2) // median 3

	for _, c := range []struct {
		name   string
		recent durations
		queue  []Entry
		want   string
	}{
		{"nothing has been seen", nil, []Entry{queued, running(time.Hour)}, "- -"},
		{"one queued", usual, []Entry{queued}, "12:03"},
		{"one after the other", usual, []Entry{running(time.Minute), queued, queued}, "12:02 12:05 12:08"},
		{"nearly done", usual, []Entry{running(150 * time.Second), queued}, "soon 12:03"},
		{"late", usual, []Entry{running(time.Hour), queued}, "soon 12:03"},
		{"the second is further", usual, []Entry{running(time.Minute), running(2 * time.Minute)}, "12:02 12:02"},
		{"those that wait are not ahead", usual, []Entry{waits, queued, waits, queued}, "- 12:03 - 12:06"},
		{"branches", usual, []Entry{queued, {Branch: "next", State: show.Queued}}, "12:03 12:03"},
	} {
		c.recent.estimate(c.queue, noon)
		var got string
		for _, e := range c.queue {
			text := e.Estimate.Text(func(at time.Time) string { return at.Format("15:04") })
			switch text {
			case "":
				text = "~-"
			case "any moment":
				text = "~soon"
			}
			got += " " + text[1:]
		}
		if got != " "+c.want {
			t.Errorf("%s:%s, want %s", c.name, got, c.want)
		}
	}

	if usual.median() != 3*time.Minute {
		t.Error(usual.median())
	}
	for range 30 {
		usual.add(time.Second)
	}
	if len(usual) != recent || usual.median() != time.Second {
		t.Errorf("%d kept, median %s", len(usual), usual.median())
	}
}

// TestEstimateProperties: of any queue, at any later time at which nothing new is
// known: no time is past, or past when it is read in minutes; who comes first lands
// first; and those that wait change nothing for the others.
func TestEstimateProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	span := func(most time.Duration) time.Duration { return time.Duration(random.Int64N(int64(most))) }

	for range 5000 {
		var recent durations
		for range 1 + random.IntN(25) {
			recent.add(1 + span(20*time.Minute))
		}
		var queue, moving []Entry
		for range random.IntN(8) {
			e := Entry{Branch: "main", State: show.Queued}
			switch random.IntN(3) {
			case 0:
				e.State = show.Waits
			case 1:
				e.State, e.Started = show.Running, noon.Add(-span(30*time.Minute))
			}
			if queue = append(queue, e); e.State != show.Waits {
				moving = append(moving, e)
			}
		}

		now := noon.Add(span(3 * time.Hour))
		recent.estimate(queue, now)
		recent.estimate(moving, now)
		before := now
		for _, e := range queue {
			if e.State == show.Waits {
				if e.Estimate != (show.Estimate{}) {
					t.Fatalf("it foresees the end of a wait: %+v", e.Estimate)
				}
				continue
			}
			switch minute := e.LandsAt.Truncate(time.Minute); {
			case e.Estimate != moving[0].Estimate:
				t.Fatalf("%+v beside those that wait, %+v without them", e.Estimate, moving[0].Estimate)
			case e.LandsAt.IsZero() && !e.LandsSoon:
				t.Fatal("nothing is foreseen though builds were seen")
			case !e.LandsSoon && !minute.After(now.Add(-time.Nanosecond)):
				t.Fatalf("lands at %s, at %s", e.LandsAt, now)
			case !e.LandsAt.IsZero() && (!e.LandsAt.After(now) || e.LandsAt.Before(before) || e.LandsBy.Before(e.LandsAt)):
				t.Fatalf("lands at %s, by %s, at %s behind one at %s", e.LandsAt, e.LandsBy, now, before)
			}
			if !e.LandsAt.IsZero() {
				before = e.LandsAt
			}
			moving = slices.Delete(moving, 0, 1)
		}
	}
}
