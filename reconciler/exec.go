package reconciler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Exec runs a command of a person where a service runs, and returns its exit status.
// Policy is asked, and what it said is on record before anything runs. The caller ends
// ctx when MayExec says no later on. Errors for the person are *show.Error.
func (rc *Reconciler) Exec(ctx context.Context, repository, environment string, by access.Identity,
	x show.Exec) (status int, err error) {
	r, err := rc.repository(repository)
	if err != nil {
		return 0, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return 0, err
	}
	var execer target.Execer
	var key target.Key
	err = w.on(ctx, func(ctx context.Context) error {
		s, e, err := rc.evaluateExec(ctx, repository, environment, by, x)
		if err != nil {
			return err
		}
		var can bool
		if execer, can = rc.Targets[s.settings.Target].(target.Execer); !can {
			return &show.Error{Kind: show.Denied,
				What: fmt.Sprintf("no commands are run in %s, whose target is %s", environment, s.settings.Target)}
		}
		if _, err := w.save(ctx, e); err != nil {
			return err
		}
		if err := execDenied(s, e); err != nil {
			return err
		}
		key = s.key()
		w.log().Info("a person runs a command", "by", by.User, "service", x.Service, "instance", x.Instance)
		return nil
	})
	if err != nil {
		return 0, err
	}
	status, err = execer.Exec(ctx, key, target.Exec{
		Unit:     x.Service,
		Instance: x.Instance,
		Command:  x.Command,
		By:       by.User,
		Streams:  x.Streams,
	})
	var refused target.Refusal
	if errors.As(err, &refused) {
		return 0, &show.Error{Kind: show.Denied, What: refused.Error(),
			Command: "env show " + repository + " " + environment}
	}
	return status, err
}

// MayExec asks whether a person may run a command, or go on with it. Nothing is on record
// of that. The error for the person is a *show.Error.
func (rc *Reconciler) MayExec(ctx context.Context, repository, environment string, by access.Identity,
	x show.Exec) error {
	s, e, err := rc.evaluateExec(ctx, repository, environment, by, x)
	if err != nil {
		return err
	}
	return execDenied(s, e)
}

// evaluateExec asks the query exec, by the rules of what is declared and of what has
// landed.
func (rc *Reconciler) evaluateExec(ctx context.Context, repository, environment string, by access.Identity,
	x show.Exec) (*snapshot, *evaluation, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return nil, nil, err
	}
	s, err := rc.load(ctx, r, environment)
	if err != nil {
		return nil, nil, err
	}
	if s.Declared == nil || s.Declared.Removal {
		return nil, nil, &show.Error{Kind: show.Denied,
			What: fmt.Sprintf("nothing is declared in %s of %s", environment, repository)}
	}
	all, err := rc.rulesFor(s, s.Declared.Source)
	if err != nil {
		return nil, nil, err
	}
	what := "a shell"
	if len(x.Command) > 0 {
		what = strings.Join(x.Command, " ")
	}
	session := rand.Text()
	e := &evaluation{at: s.Now}
	var answers []policies.Answer
	for _, rules := range all {
		answer, rec := rules.engine.Exec(ctx, policies.ExecInput{
			Now:         s.Now.UTC(),
			Repository:  repository,
			Application: s.application,
			Environment: rules.forPolicy(),
			Release:     s.Declared.Release,
			Service:     x.Service,
			Instance:    x.Instance,
			Command:     x.Command,
			Terminal:    x.Terminal != nil,
			Session:     session,
			User:        policies.User(rc.Access().Standing(by, repository)),
		})
		if err := ctx.Err(); err != nil {
			return nil, nil, err // the question was withdrawn; that is not an answer to keep
		}
		about := fmt.Sprintf("%s in %s of %s by %s", shortened(what), x.Service, environment, by.User)
		if len(all) > 1 {
			about += " by the rules of what is " + string(rules.origin)
		}
		answers, e.records = append(answers, answer), append(e.records, recordOf(rec, about))
	}
	e.Answer = strictest(answers)
	e.checks = s.shown(e.Checks)
	return s, e, nil
}

// execDenied is why a person may not run a command, nil when they may.
func execDenied(s *snapshot, e *evaluation) error {
	if e.Decision == policies.Auto {
		return nil
	}
	return &show.Error{
		Kind:    show.Forbidden,
		What:    fmt.Sprintf("policy does not let you run that in %s of %s", s.environment, s.repo.Name()),
		Where:   e.open(),
		Command: "env show " + s.repo.Name() + " " + s.environment,
	}
}

// shortened is what a command is called where a line is for people.
func shortened(command string) string {
	const most = 100
	runes := []rune(strings.Join(strings.Fields(command), " "))
	if len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return string(runes)
}
