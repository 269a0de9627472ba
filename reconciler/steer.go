package reconciler

import (
	"context"
	"fmt"
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
			o := record.ParseOutcome(old)
			o.Paused, o.Continued = next.Paused, next.Continued
			return o.Encode()
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
