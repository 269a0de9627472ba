package reconciler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Pause has the deployment of what is declared in an environment go no further, until
// somebody says Continue. What serves goes on serving. To stop a deployment is to roll
// back. over reports that there was nothing left to pause: it is healthy there. Errors
// for the person are *show.Error.
func (rc *Reconciler) Pause(ctx context.Context, repository, environment string, by access.Identity,
	reason string) (release int, over bool, err error) {
	reason = terminal.Message(strings.Join(strings.Fields(reason), " "), maxReason)
	pause := func(s *snapshot, o *record.Outcome) error {
		over = s.actual.Commit == s.Declared.Hash.String() && s.actual.State == target.Healthy
		if o.Paused == nil {
			o.Paused = &record.Pause{By: by.User, At: s.Now.UTC(), Reason: reason}
		}
		return nil
	}
	release, err = rc.steer(ctx, repository, environment, by, "pause the deployment", pause)
	return release, over, err
}

// Continue lets a deployment go on that was paused, or that waits for a person.
func (rc *Reconciler) Continue(ctx context.Context, repository, environment string,
	by access.Identity) (release int, err error) {
	return rc.steer(ctx, repository, environment, by, "continue the deployment",
		func(s *snapshot, o *record.Outcome) error {
			waits := s.actual.Waits
			if s.actual.Commit != s.Declared.Hash.String() {
				waits = ""
			}
			if o.Paused == nil && o.Stopped != nil {
				return &show.Error{
					Kind:    show.Denied,
					What:    fmt.Sprintf("the deployment to %s of %s was stopped", s.environment, s.repo.Name()),
					Command: "retry " + s.repo.Name() + " " + s.environment,
				}
			}
			if o.Paused == nil && waits == "" {
				return &show.Error{
					Kind:    show.Denied,
					What:    fmt.Sprintf("nothing waits for you in %s of %s", s.environment, s.repo.Name()),
					Command: "env show " + s.repo.Name() + " " + s.environment,
				}
			}
			o.Paused = nil
			if waits != "" && !slices.Contains(o.Continued, waits) {
				o.Continued = append(slices.Clone(o.Continued), waits)
			}
			return nil
		})
}

// Stop ends the deployment of what is declared in an environment: no host is begun with
// any more, and it is rolled back by itself if it is declared so.
func (rc *Reconciler) Stop(ctx context.Context, repository, environment string, by access.Identity,
	reason string) (release int, err error) {
	reason = terminal.Message(strings.Join(strings.Fields(reason), " "), maxReason)
	return rc.steer(ctx, repository, environment, by, "stop the deployment", func(s *snapshot, o *record.Outcome) error {
		if err := rc.steps(s); err != nil {
			return err
		}
		if s.actual.Commit == s.Declared.Hash.String() && s.actual.State != target.Converging {
			return &show.Error{
				Kind:    show.Denied,
				What:    fmt.Sprintf("nothing is being deployed to %s of %s: it is %s", s.environment, s.repo.Name(), s.actual.State),
				Command: "env show " + s.repo.Name() + " " + s.environment,
			}
		}
		if o.Stopped == nil {
			o.Stopped = &record.Pause{By: by.User, At: s.Now.UTC(), Reason: reason}
		}
		return nil
	})
}

// Retry has hosts be deployed to again that failed, or that were skipped: one, or with ""
// all that failed. What was stopped goes on.
func (rc *Reconciler) Retry(ctx context.Context, repository, environment, host string,
	by access.Identity) (release int, err error) {
	return rc.steer(ctx, repository, environment, by, "retry the deployment", func(s *snapshot, o *record.Outcome) error {
		if err := rc.steps(s); err != nil {
			return err
		}
		var again []string
		for _, u := range s.actual.Units {
			if u.State == target.Failed && (host == "" || host == u.Name) {
				again = append(again, u.Name)
			}
		}
		skipped := slices.Index(o.Skipped, host)
		about := s.actual.Commit == s.Declared.Hash.String()
		stopped := o.Stopped != nil || about && s.actual.State == target.Failed
		switch {
		case host != "" && len(again) == 0 && skipped < 0:
			return rc.noHost(s, host, "has not failed, and is not skipped")
		case host == "" && len(again) == 0 && !stopped:
			return &show.Error{
				Kind:    show.Denied,
				What:    fmt.Sprintf("nothing has failed in %s of %s", s.environment, s.repo.Name()),
				Command: "env show " + s.repo.Name() + " " + s.environment,
			}
		}
		if skipped >= 0 {
			o.Skipped = slices.Delete(slices.Clone(o.Skipped), skipped, skipped+1)
		}
		o.Stopped, o.Retried = nil, withRetry(o.Retried, again...)
		return nil
	})
}

// Skip leaves a host out of the deployment of what is declared: it keeps what it has, and
// is not counted.
func (rc *Reconciler) Skip(ctx context.Context, repository, environment, host string,
	by access.Identity) (release int, err error) {
	return rc.steer(ctx, repository, environment, by, "skip "+host+" in the deployment",
		func(s *snapshot, o *record.Outcome) error {
			if err := rc.steps(s); err != nil {
				return err
			}
			i := slices.IndexFunc(s.actual.Units, func(u target.Unit) bool { return u.Name == host })
			if i < 0 {
				return rc.noHost(s, host, "is not one of its hosts")
			}
			u := s.actual.Units[i]
			if s.actual.Commit == s.Declared.Hash.String() && u.State == target.Healthy && u.Release == s.Declared.Release {
				return rc.noHost(s, host, fmt.Sprintf("has release %d already", u.Release))
			}
			if !slices.Contains(o.Skipped, host) {
				o.Skipped = append(slices.Clone(o.Skipped), host)
				slices.Sort(o.Skipped)
			}
			if u.State == target.Failed { // for which the deployment may have been given up
				o.Retried = withRetry(o.Retried)
			}
			return nil
		})
}

// withRetry counts one more try of the deployment, and of hosts.
func withRetry(tries map[string]int, hosts ...string) map[string]int {
	next := map[string]int{}
	maps.Copy(next, tries)
	for _, name := range append(hosts, "") {
		next[name]++
	}
	return next
}

func (rc *Reconciler) noHost(s *snapshot, host, why string) error {
	return &show.Error{
		Kind:    show.Denied,
		What:    fmt.Sprintf("%s %s in %s of %s", host, why, s.environment, s.repo.Name()),
		Command: "env show " + s.repo.Name() + " " + s.environment,
	}
}

// steps refuses what only deployments to one host after the other know.
func (rc *Reconciler) steps(s *snapshot) error {
	stepper, ok := rc.Targets[s.settings.Target].(target.Stepper)
	why := "its target does not deploy to one host after the other"
	if ok {
		err := stepper.Steps(s.key())
		if err == nil {
			return nil
		}
		why = err.Error()
	}
	return &show.Error{
		Kind:    show.Denied,
		What:    fmt.Sprintf("%s of %s cannot be steered so: %s", s.environment, s.repo.Name(), why),
		Hint:    "pause has a deployment go no further, and rollback ends it",
		Command: "rollback " + s.repo.Name() + " " + s.environment,
	}
}

// steer changes what people say to the deployment of what is declared, in its note.
func (rc *Reconciler) steer(ctx context.Context, repository, environment string, by access.Identity, what string,
	change func(*snapshot, *record.Outcome) error,
) (release int, err error) {
	r, err := rc.repository(repository)
	if err != nil {
		return 0, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return 0, err
	}
	err = w.on(ctx, func(ctx context.Context) error {
		s, err := rc.load(ctx, r, environment)
		if err != nil {
			return err
		}
		if err := rc.mayWrite(s, by, what); err != nil {
			return err
		}
		if s.Declared == nil || s.Declared.Removal {
			return &show.Error{Kind: show.Denied, What: fmt.Sprintf("nothing is declared in %s of %s", environment, repository)}
		}
		next := s.Declared.Outcome
		if err := change(s, &next); err != nil {
			return err
		}
		release = s.Declared.Release
		crash.Point("steer.before-noted")
		subject := fmt.Sprintf("%s in %s: %s asks to %s of release %d", s.application, environment, by.User, what, release)
		err = r.EditNote(ctx, record.Outcomes, s.Declared.Hash, s.Now, subject, func(old []byte) ([]byte, error) {
			return record.ParseOutcome(old).Steered(next).Encode()
		})
		if err != nil {
			return err
		}
		crash.Point("steer.noted")
		w.log().Info("deployment steered", "what", what, "release", release, "by", by.User)
		if _, err := w.settle(ctx); err != nil {
			w.log().Error("could not act on it at once", "err", err) // the loop goes on
		}
		return nil
	})
	return release, err
}
