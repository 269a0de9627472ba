package web

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// figures are what a repository's changes say about its pace.
type figures struct {
	Days   []int // landings on each of the last 14 days, today last
	Today  int
	Landed int // in 30 days
	Ended  int // landed or refused in 30 days
	Failed int // refused in 30 days
	Saved  int // landings in 30 days that needed no build
	Median time.Duration
	P95    time.Duration
}

// figuresOf counts changes up to now, by the days of now's zone.
func figuresOf(changes []show.Change, now time.Time) figures {
	f := figures{Days: make([]int, 14)}
	y, m, d := now.Date()
	month := now.AddDate(0, 0, -30)
	var lead []time.Duration
	for _, c := range changes {
		if c.EndedAt.IsZero() || c.EndedAt.Before(month) || c.EndedAt.After(now) {
			continue
		}
		switch c.State {
		case show.Refused, show.Conflict:
			f.Ended, f.Failed = f.Ended+1, f.Failed+1
		case show.Landed:
			f.Ended, f.Landed = f.Ended+1, f.Landed+1
			if c.Build != nil && c.Build.Reused {
				f.Saved++
			}
			lead = append(lead, c.EndedAt.Sub(c.PushedAt))
			for back := range 14 {
				if !c.EndedAt.Before(time.Date(y, m, d-back, 0, 0, 0, 0, now.Location())) {
					f.Days[13-back]++
					break
				}
			}
		}
	}
	f.Today = f.Days[13]
	if len(lead) > 0 {
		slices.Sort(lead)
		f.Median, f.P95 = lead[len(lead)/2], lead[min(len(lead)*95/100, len(lead)-1)]
	}
	return f
}

// figureStore keeps the figures of each repository while its branch and the
// day stay the same: a page that redraws four times a second must not read
// every change each time. Safe for concurrent use.
type figureStore struct {
	mu      sync.Mutex // guards the rest
	all     map[string]storedFigures
	deploys map[string]storedDeploys // by repository
}

func newFigureStore() *figureStore {
	return &figureStore{all: map[string]storedFigures{}, deploys: map[string]storedDeploys{}}
}

// storedDeploys counts the deployments of an environment, as long as its
// declared commit, its state and the day stay the same.
type storedDeploys struct {
	environment, declared, day string
	state                      show.State
	all, failed                int
}

// deploys counts the last 30 days of the environment e.
func (q *request) deploys(r *show.Repository, e show.Environment) (storedDeploys, error) {
	want := storedDeploys{environment: e.Name, declared: e.Declared, day: q.now.Format(time.DateOnly), state: e.State}
	q.kept.mu.Lock()
	got := q.kept.deploys[r.Name]
	q.kept.mu.Unlock()
	if got.environment == want.environment && got.declared == want.declared && got.day == want.day &&
		got.state == want.state {
		return got, nil
	}
	month := q.now.AddDate(0, 0, -30)
	for f, old := (show.DeploymentFilter{}), false; !old; {
		part, err := q.Backend.Deployments(q.r.Context(), q.actor, r.Name, e.Name, f)
		if err != nil {
			return want, err
		}
		for _, d := range part.Deployments {
			if old = !d.At.After(month); old {
				break
			}
			want.all++
			if d.Outcome == show.Failed {
				want.failed++
			}
		}
		f.From = part.Older
		old = old || f.From == ""
	}
	q.kept.mu.Lock()
	if len(q.kept.deploys) >= maxFigures {
		clear(q.kept.deploys)
	}
	q.kept.deploys[r.Name] = want
	q.kept.mu.Unlock()
	return want, nil
}

type storedFigures struct {
	tip   string
	total int
	ended time.Time // the newest end among the recent changes
	day   string
	figures
}

// maxFigures bounds figureStore.all.
const maxFigures = 1000

// figures of a repository, as the actor sees its changes. Rights do not
// matter inside: who may read a repository may read all its changes.
func (q *request) figures(ctx context.Context, r *show.Repository, recent []show.Change, total int) (figures, error) {
	day := q.now.Format(time.DateOnly)
	if len(recent) == 0 {
		return figuresOf(nil, q.now), nil
	}
	var ended time.Time
	for _, c := range recent {
		if c.EndedAt.After(ended) {
			ended = c.EndedAt
		}
	}
	q.kept.mu.Lock()
	k, ok := q.kept.all[r.Name]
	q.kept.mu.Unlock()
	if ok && k.tip == r.Tip && k.total == total && k.ended.Equal(ended) && k.day == day {
		return k.figures, nil
	}
	all := recent
	if len(recent) < total {
		last := recent[len(recent)-1]
		if last.PushedAt.After(q.now.AddDate(0, 0, -31)) {
			found, err := q.Backend.Changes(ctx, q.actor, r.Name, show.ChangeFilter{All: true})
			if err != nil {
				return figures{}, fmt.Errorf("count the changes of %s: %w", r.Name, err)
			}
			all = found.Changes
		}
	}
	f := figuresOf(all, q.now)
	q.kept.mu.Lock()
	if len(q.kept.all) >= maxFigures {
		clear(q.kept.all)
	}
	q.kept.all[r.Name] = storedFigures{tip: r.Tip, total: total, ended: ended, day: day, figures: f}
	q.kept.mu.Unlock()
	return f, nil
}

// spark is a bar a day, in a drawing 96 wide and 22 high.
type spark struct {
	Bars []sparkBar
	Said string
}

type sparkBar struct{ X, Y, H float64 }

func sparkOf(days []int) spark {
	top := 1
	for _, n := range days {
		top = max(top, n)
	}
	s := spark{Said: "landings a day, last 14 days: "}
	for i, n := range days {
		h := 1.0
		if n > 0 {
			h = 2 + 18*float64(n)/float64(top)
		}
		s.Bars = append(s.Bars, sparkBar{X: float64(i) * 6.85, Y: 22 - h, H: h})
		if i > 0 {
			s.Said += ", "
		}
		s.Said += fmt.Sprint(n)
	}
	return s
}
