package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/build/buildlog"
	"github.com/headgate-cd/headgate/hooks/schedule"
)

// Schedules implements show.Backend.
func (s *Server) Schedules(_ context.Context, a access.Identity, repository string) ([]show.Schedule, error) {
	if _, err := s.readable(a, repository); err != nil {
		return nil, err
	}
	list := []show.Schedule{}
	if repository == access.Own {
		return list, nil
	}
	all, err := s.schedules.List(repository)
	if err != nil {
		return nil, err
	}
	for _, st := range all {
		v := s.schedule(a, repository, st)
		v.Runs = nil
		list = append(list, v)
	}
	return list, nil
}

// Schedule implements show.Backend.
func (s *Server) Schedule(_ context.Context, a access.Identity, repository, name string) (show.Schedule, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Schedule{}, err
	}
	st, err := s.schedules.Status(repository, name)
	if err != nil {
		return show.Schedule{}, err
	}
	return s.schedule(a, repository, st), nil
}

func (s *Server) schedule(a access.Identity, repository string, st schedule.Status) show.Schedule {
	c := s.access.Load()
	v := show.Schedule{
		Repository: repository,
		Name:       st.Name,
		Cron:       st.Cron,
		Zone:       st.Zone,
		Branch:     st.On,
		Buildspec:  st.Buildspec,
		Notify:     st.Notify,
		State:      show.Empty,
		Next:       st.Next.UTC(),
		NotifyYou:  st.Notify != "" && (st.Notify == a.User || slices.Contains(c.Groups(a.User), st.Notify)),
		MayRun:     c.May(a, access.Write, repository),
	}
	if st.Next.IsZero() {
		v.Next = st.Next
	}
	for _, b := range st.Builds {
		r := runOf(b)
		v.Runs = append(v.Runs, r)
		switch {
		case b.State == schedule.Open:
			v.Running, v.State = &r, r.State
		case v.Last == nil:
			v.Last = &r
		}
	}
	if v.Running == nil && v.Last != nil {
		v.State = v.Last.State
	}
	return v
}

// runOf is a scheduled build as it is shown.
func runOf(b schedule.Build) show.Run {
	r := show.Run{
		Number: b.Number,
		At:     b.At.UTC(),
		Late:   b.Late,
		By:     b.By,
		Build: show.Build{
			ID:      b.Log,
			Reason:  b.Reason,
			Log:     b.Log,
			Phase:   b.Phase,
			Command: b.Command,
			Exit:    b.Exit,
			LogLine: b.LogLine,
		},
	}
	if b.Commit != repo.Zero {
		r.Commit, r.Tree = b.Commit.String(), b.Tree.String()
	}
	if !b.Started.IsZero() {
		r.Started = b.Started.UTC()
	}
	if !b.Ended.IsZero() {
		r.Finished = b.Ended.UTC()
	}
	switch {
	case b.State == schedule.Green:
		r.State = show.Green
	case b.State == schedule.Failed:
		r.State = show.Failed
	case b.State == schedule.Stopped:
		r.State = show.Withdrawn
	case b.Started.IsZero():
		r.State = show.Queued
	default:
		r.State = show.Running
	}
	return r
}

// RunSchedule implements show.Backend.
func (s *Server) RunSchedule(ctx context.Context, a access.Identity, repository, name string) (show.Done, error) {
	if _, err := s.readable(a, repository); err != nil {
		return show.Done{}, err
	}
	if !s.access.Load().May(a, access.Write, repository) {
		return show.Done{}, &show.Error{
			Kind: show.Forbidden,
			What: fmt.Sprintf("you may not write to %s, and so start no build there", repository),
			Hint: "ask an administrator of this server",
		}
	}
	b, err := s.schedules.Start(ctx, repository, name, a.User)
	if err != nil {
		return show.Done{}, err
	}
	return show.Done{
		What:  fmt.Sprintf("run %d of %s is on its way: %s at %s", b.Number, name, b.Branch, show.Short(b.Commit.String())),
		Next:  "follow it: " + s.about.Command(fmt.Sprintf("schedule log -f %s %s", repository, name)),
		State: show.Queued,
	}, nil
}

// ScheduleLog implements show.Backend.
func (s *Server) ScheduleLog(
	ctx context.Context, a access.Identity, repository, name string, number int, follow bool,
) iter.Seq2[show.LogEvent, error] {
	return s.followed(ctx, a, repository, func(ctx context.Context) iter.Seq2[show.LogEvent, error] {
		return s.scheduleLog(ctx, a, repository, name, number, follow)
	})
}

func (s *Server) scheduleLog(
	ctx context.Context, a access.Identity, repository, name string, number int, follow bool,
) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		r, err := s.run(ctx, a, repository, name, number)
		for follow && err == nil && r.State == show.Queued {
			if r, err = s.untilRunChanges(ctx, a, repository, name, r); err == nil {
				continue
			}
		}
		if err == nil && r.Log == "" {
			err = &show.Error{
				Kind:  show.NotFound,
				What:  fmt.Sprintf("run %d of %s has no log: %s", r.Number, name, r.State),
				Where: nonEmpty(r.Reason),
			}
		}
		if err != nil {
			yield(show.LogEvent{}, err)
			return
		}
		for e, err := range s.logs.Events(ctx, r.Log, follow) {
			if errors.Is(err, buildlog.ErrNoLog) {
				err = &show.Error{Kind: show.NotFound, What: fmt.Sprintf("the log of run %d of %s is gone", r.Number, name)}
			}
			if !yield(e, err) {
				return
			}
		}
		for follow && err == nil && r.State == show.Running { // what became of it follows its last line
			r, err = s.untilRunChanges(ctx, a, repository, name, r)
		}
	}
}

// run is one run of a schedule, the newest for 0.
func (s *Server) run(ctx context.Context, a access.Identity, repository, name string, number int) (show.Run, error) {
	v, err := s.Schedule(ctx, a, repository, name)
	if err != nil {
		return show.Run{}, err
	}
	for _, r := range v.Runs {
		if number == 0 || r.Number == number {
			return r, nil
		}
	}
	what := fmt.Sprintf("schedule %s has no run %d", name, number)
	if number == 0 {
		what = fmt.Sprintf("schedule %s has not run yet", name)
	}
	return show.Run{}, &show.Error{Kind: show.NotFound, What: what, Hint: "start one",
		Command: "schedule run " + repository + " " + name}
}

// untilRunChanges waits until a run is in another state.
func (s *Server) untilRunChanges(ctx context.Context, a access.Identity, repository, name string,
	was show.Run) (show.Run, error) {
	changed, stop := s.schedules.Watch(repository)
	defer stop()
	for {
		r, err := s.run(ctx, a, repository, name, was.Number)
		if err != nil || r.State != was.State {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-changed:
		}
	}
}
