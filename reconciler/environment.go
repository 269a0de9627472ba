package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// maxShown bounds the history on an environment's page.
const maxShown = show.Deployments

// Environments tells what every environment of a repository is, in the order of
// headgate.yaml, without history, as actor sees it.
func (rc *Reconciler) Environments(ctx context.Context, actor access.Identity,
	repository string) ([]show.Environment, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, err
	}
	all, err := rc.environments(r)
	if err != nil {
		return nil, err
	}
	var shown []show.Environment
	for _, e := range all {
		s, err := rc.load(ctx, r, e.Name)
		if err != nil {
			return nil, err
		}
		one, err := rc.environment(ctx, s, actor)
		if err != nil {
			return nil, err
		}
		shown = append(shown, one)
	}
	return shown, nil
}

// Environment tells what one environment is, with its history, as actor sees it.
// The error is a *show.Error when there is no such environment.
func (rc *Reconciler) Environment(ctx context.Context, actor access.Identity,
	repository, name string) (show.Environment, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return show.Environment{}, err
	}
	s, err := rc.load(ctx, r, name)
	if err != nil {
		return show.Environment{}, err
	}
	e, err := rc.environment(ctx, s, actor)
	if err != nil {
		return show.Environment{}, err
	}
	all, err := record.History(r, s.application, name, maxShown)
	if err != nil {
		return show.Environment{}, err
	}
	e.History = history(e, all, all)
	for _, d := range e.History {
		e.MayRollback = e.MayRollback || d.MayRollback
	}
	if good, ok := lastGood(all); ok {
		e.RollbackTo = good.Release
	}
	return e, nil
}

// history is a part of an environment's commits as people see it: all is the
// newest ones, of which the first is what e declares.
func history(e show.Environment, all, part []record.Commit) []show.Deployed {
	var shown []show.Deployed
	for i, d := range part {
		h := deployed(d)
		bar := mayRollback(all[0], d)
		h.MayRollback, h.WhyNot = bar == "", bar.explain(d)
		if i+1 < len(part) {
			h.From = part[i+1].Release
		}
		if d.Hash == all[0].Hash {
			h.Outcome, h.Message = e.State, e.Reason
		} else if d.Outcome.State == "" || h.Outcome == show.Converging {
			h.Outcome, h.Message = show.Unknown, "something newer came before it was healthy"
		}
		shown = append(shown, h)
	}
	return shown
}

// resolve finds a commit by its id or the first digits of it, Zero if there is
// none.
func resolve(ctx context.Context, r *repo.Repository, id string) (repo.Hash, error) {
	if len(id) < 4 || strings.Trim(id, "0123456789abcdef") != "" {
		return repo.Zero, nil
	}
	out, err := r.Git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", id+"^{commit}")
	if err != nil {
		return repo.Zero, ctx.Err() // there is none, or several
	}
	h, _ := repo.ParseHash(strings.TrimSpace(string(out)))
	return h, nil
}

// environment is everything but the history.
func (rc *Reconciler) environment(ctx context.Context, s *snapshot, actor access.Identity) (show.Environment, error) {
	e := show.Environment{
		Repository:  s.repo.Name(),
		Application: s.settings.Application,
		Name:        s.environment,
		After:       s.settings.After,
		Target:      s.settings.Target,
		State:       show.Empty,
		Formerly:    s.formerly,
	}
	if d := s.Declared; d != nil && !d.Removal {
		e.Release, e.Commit = d.Covers(), d.CoveredSource().String()
		e.Declared, e.DeclaredAt = d.Hash.String(), d.At
		e.State, e.Reason, e.Since = rc.actual(s.repo.Name(), s.environment, s.actual, d.Commit)
		e.Unhealed = s.actual.Unhealed && e.State == show.Drift
		for _, stray := range s.actual.Strays {
			e.Strays = append(e.Strays, show.Stray{Service: stray.Unit, Container: stray.Container, PID: stray.PID})
		}
		stepper, ok := rc.Targets[s.settings.Target].(target.Stepper)
		e.Stepwise = ok && stepper.Steps(s.key()) == nil
		e.Paused, e.Stopped, e.Skipped = note(d.Outcome.Paused), note(d.Outcome.Stopped), d.Outcome.Skipped
		e.LastApproved = approvals(d.Approvals, false)
		if d.Held != nil {
			e.Held = &show.HoldNote{By: d.Held.By, At: d.Held.At.UTC(), Reason: d.Held.Reason}
		}
	}
	if d := s.Declared; d != nil && d.Removal {
		e.Removed = d.At
	}
	if s.Leaving && e.Removed.IsZero() {
		e.Reason = cmp.Or(e.Reason, "headgate.yaml does not name it any more; it goes on until its removal is promoted")
	}
	e.Reason = cmp.Or(e.Reason, s.problem())
	for _, r := range s.Rejected {
		if (r.Release > s.covers() || r.Removal && s.Leaving) && s.rejected(r.Release) {
			e.Rejected = append(e.Rejected, show.Rejection{
				Release: r.Release,
				By:      r.By,
				At:      r.At,
				Via:     r.Via,
				Reason:  r.Reason,
				Commit:  r.Hash.String(),
			})
		}
	}
	e.Services = rc.reached(serving(s.actual, s.Declared))
	for _, sv := range e.Services {
		if sv.URL != "" {
			e.URLs = append(e.URLs, sv.URL)
		}
	}
	before := 0
	switch {
	case s.Upstream != nil:
		before = s.Upstream.Release()
	case len(s.Releases) > 0:
		before = s.Releases[len(s.Releases)-1]
	}
	e.Behind = len(s.carried(before))
	if s.openProposal() {
		p, err := rc.promotion(ctx, s, actor)
		if err != nil {
			return e, err
		}
		e.Promotion = &p
	}
	return e, nil
}

func note(p *record.Pause) *show.HoldNote {
	if p == nil {
		return nil
	}
	return &show.HoldNote{By: p.By, At: p.At.UTC(), Reason: p.Reason}
}

// actual is the state of what is declared, as far as the target has told.
func (rc *Reconciler) actual(repository, environment string, o target.Observed, declared record.Commit) (
	state show.State, reason string, since time.Time,
) {
	if o.Commit != declared.Hash.String() {
		if w, _ := rc.withheld.get(workerKey(repository, environment)); w.commit == declared.Hash {
			return show.Failed, fmt.Sprintf("what release %d runs from cannot be read, and what ran before goes on: %s; restore it "+
				"from a backup, or promote another release", declared.Release, w.why), since
		}
		return show.Unknown, "the target has not reported on " + show.Short(declared.Hash.String()) + " yet", since
	}
	return stateSince(o.State, declared), o.Message, o.Since.UTC()
}

// stateSince is a state of what is declared: drift is from what has run once.
func stateSince(s target.State, declared record.Commit) show.State {
	if s == target.Degraded && !declared.Outcome.Ran() {
		return show.Converging
	}
	return stateOf(s)
}

func stateOf(s target.State) show.State {
	switch s {
	case target.Healthy:
		return show.Healthy
	case target.Converging:
		return show.Converging
	case target.Degraded:
		return show.Drift
	case target.Failed:
		return show.Failed
	}
	return show.Unknown
}

// serving are the services as the target sees them, whatever commit it is at. What
// runs the declared release runs the newest one of the same content: it needed no
// instance of its own.
func serving(o target.Observed, declared *Declared) []show.Service {
	var all []show.Service
	for _, u := range o.Units {
		one := show.Service{
			Name:    u.Name,
			URL:     u.URL,
			State:   show.Healthy,
			Release: coveredBy(u.Release, declared),
			Canary:  coveredBy(u.Canary, declared),
			Weight:  u.Weight,
			Message: u.Message,
			Reason:  string(u.Reason),
			Times:   timesOf(u.Schedule, declared),
		}
		for _, e := range u.Events {
			event := show.ServiceEvent{At: e.At.UTC(), What: e.What}
			if e.Times > 1 {
				event.Times = e.Times
			}
			one.Events = append(one.Events, event)
		}
		staying := 0
		for _, in := range u.Instances {
			i := show.Instance{
				ID:       in.ID,
				Release:  coveredBy(in.Release, declared),
				Message:  in.Message,
				Reason:   string(in.Reason),
				Since:    in.Since.UTC(),
				Restarts: in.Restarts,
				LastExit: in.LastExit,
				Serving:  in.Serving,
				PID:      in.PID,
				Usage:    (*show.Used)(in.Usage),
				Drained:  in.Drained,
			}
			switch in.Phase {
			case target.PhaseHealthy:
				i.State = show.Healthy
				staying++
			case target.PhaseDone:
				i.State, i.Message = show.Healthy, cmp.Or(in.Message, string(in.Phase))
				staying++
			case target.PhaseAway:
				i.State, i.Message = show.Unknown, cmp.Or(in.Message, string(in.Phase))
			case target.PhaseUnhealthy, target.PhaseFailed:
				i.State = show.Failed
				staying++
			default: // waiting, starting, draining, stopping: on its way
				i.State = show.Converging
				switch {
				case in.Phase == target.PhaseWaiting:
					// How it ended is news only where nothing was wrong with it before.
					i.Message = strings.TrimPrefix(cmp.Or(in.Message, in.LastExit)+", waiting for its next start", ", ")
				case i.Message == "":
					i.Message = string(in.Phase)
				}
			}
			if i.State != show.Healthy && !in.Phase.Leaving() {
				if one.State = stateOf(u.State); declared != nil {
					one.State = stateSince(u.State, declared.Commit)
				}
				if one.State == show.Healthy {
					one.State = show.Converging
				}
			}
			one.Instances = append(one.Instances, i)
		}
		switch {
		case staying == 0 && one.Times != nil: // between two runs
			one.State = stateOf(u.State)
		case staying == 0 && one.State == show.Healthy:
			one.State = show.Unknown
		}
		all = append(all, one)
	}
	return all
}

// timesOf are those at which a unit runs, nil when it does not run at times.
func timesOf(s *target.Schedule, declared *Declared) *show.Times {
	if s == nil {
		return nil
	}
	t := &show.Times{Cron: s.Cron, Zone: s.Zone, Next: s.Next.UTC()}
	for _, r := range s.Runs {
		one := show.TimesRun{
			At:      r.At.UTC(),
			Late:    r.Late,
			Skipped: r.Skipped,
			State:   show.Green,
			Release: coveredBy(r.Release, declared),
			Began:   r.Began.UTC(),
			Ended:   r.Ended.UTC(),
			Exit:    r.Exit,
			Message: r.Message,
		}
		switch {
		case r.Skipped > 0:
			one.State = show.Skipped
		case r.Ended.IsZero():
			one.State = show.Running
		case r.Failed:
			one.State = show.Failed
		}
		if !r.Ended.IsZero() && r.Skipped == 0 {
			one.Took = show.Duration(r.Ended.Sub(r.Began))
		}
		t.Runs = append(t.Runs, one)
	}
	return t
}

// coveredBy is the newest release of the same content, where one is declared.
func coveredBy(release int, declared *Declared) int {
	if declared != nil && release > 0 && release == declared.Release {
		return declared.Covers()
	}
	return release
}

// deployed is one line of the history.
func deployed(d record.Commit) show.Deployed {
	h := show.Deployed{
		Commit:    d.Hash.String(),
		Tree:      d.Tree.String(),
		Release:   d.Release,
		Source:    d.Source.String(),
		Subject:   d.Subject,
		At:        d.At,
		By:        "policy",
		Approvals: approvals(d.Approvals, false),
		Outcome:   stateOf(d.Outcome.State),
		Message:   d.Outcome.Message,
	}
	if d.Decision.Commit != repo.Zero {
		h.Decision = decision.ID(d.Decision.Commit)
	}
	if d.Chosen != nil {
		h.Chosen = d.Chosen.User
	}
	if d.Removal {
		h.Subject = "removed"
	}
	if d.Renamed != "" {
		h.Subject, h.By, h.Renamed = "renamed from "+d.Renamed, headgateyaml.Name, d.Renamed
	}
	if b := d.Rollback; b != nil {
		h.Rollback, h.By, h.Subject = true, b.By, "rolled back"
		if b.Reason != "" {
			h.Subject += ": " + b.Reason
		}
	}
	return h
}

func approvals(as []record.Approval, stale bool) []show.Approval {
	var shown []show.Approval
	for _, a := range as {
		shown = append(shown, show.Approval{By: a.User, At: a.At.UTC(), Via: a.Via, Tree: a.Tree.String(),
			Why: a.Why, Stale: stale})
	}
	return shown
}

// Live is an environment that declares a commit, or something newer.
type Live struct {
	Environment string
	Release     int
	State       show.State
	Reason      string
	Since       time.Time // of State
	Serves      bool      // an instance that is well runs it, or something newer
}

// LiveIn tells which environments declare a commit of the gated branch or one
// that contains it, and whether it really runs there.
func (rc *Reconciler) LiveIn(ctx context.Context, repository string, commit repo.Hash) ([]Live, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, err
	}
	file, _, err := rc.declaration(r)
	if err != nil {
		return nil, err
	}
	var live []Live
	for _, e := range file.Environments {
		application := applicationOf(r, e)
		d, err := record.Tip(r, application, e.Name)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		contains := func(source repo.Hash) (bool, error) {
			in, err := r.Contains(ctx, source, commit)
			if err != nil {
				err = fmt.Errorf("is %s in %s of %s: %w", show.Short(commit.String()), e.Name, repository, err)
			}
			return in, err
		}
		declared, err := contains(d.CoveredSource())
		if err != nil {
			return nil, err
		}
		if !declared {
			continue
		}

		o := rc.observed(e, target.Key{Repository: r.Name(), Application: application, Environment: e.Name})
		l := Live{Environment: e.Name, Release: d.Covers()}
		l.State, l.Reason, l.Since = rc.actual(r.Name(), e.Name, o, *d)
		now := show.Environment{Release: l.Release, State: l.State, Services: serving(o, &Declared{Commit: *d})}
		for _, number := range now.Runs() {
			source, ok := d.CoveredSource(), number == l.Release
			if !ok { // what still runs, or runs again
				if source, ok, err = rc.sourceOf(r, number); err != nil {
					return nil, err
				}
			}
			in := false
			if ok {
				if in, err = contains(source); err != nil {
					return nil, err
				}
			}
			l.Serves = l.Serves || in
		}
		live = append(live, l)
	}
	return slices.Clip(live), nil
}

// sourceOf is the landed commit of a release.
func (rc *Reconciler) sourceOf(r *repo.Repository, number int) (repo.Hash, bool, error) {
	all, err := rc.releases(r)
	if err != nil {
		return repo.Zero, false, err
	}
	i := slices.IndexFunc(all, func(rel record.Release) bool { return rel.Number == number })
	if i < 0 {
		return repo.Zero, false, nil
	}
	return all[i].Commit, true, nil
}
