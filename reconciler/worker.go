package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// worker is the one writer of one environment of one repository: of env/<name>,
// promote/<name>, and the notes on its commits. Its goroutine owns the fields
// below; what people ask for is done on it too, in turn.
type worker struct {
	rc          *Reconciler
	repo        *repo.Repository
	environment string
	mail        signal.Mailbox[request]
	ended       chan struct{} // closed when the goroutine is

	given given  // what this process gave to a target
	saved string // digest of the decision last saved

	savedDrift string // the answer about drift that was saved last

	stays repo.Hash // commit that policy does not let be rolled back by itself

	reports  watch // of the environment's target
	upstream watch // of the target of the environment named by `after`
}

// given is what a target was given last.
type given struct {
	Given
	key      target.Key
	target   string
	sequence int
}

type request struct {
	ctx  context.Context
	do   func(context.Context) error
	done chan error
}

func newWorker(rc *Reconciler, r *repo.Repository, environment string) *worker {
	return &worker{rc: rc, repo: r, environment: environment, ended: make(chan struct{})}
}

func (w *worker) log() *slog.Logger {
	return w.rc.log().With("repo", w.repo.Name(), "env", w.environment)
}

// on runs do on the worker's goroutine and returns its error. It is waited for also
// by one who hangs up: its end is what the person is told.
func (w *worker) on(ctx context.Context, do func(context.Context) error) error {
	req := request{ctx, do, make(chan error, 1)}
	w.mail.Post(req)
	select {
	case err := <-req.done:
		return err
	case <-w.ended:
	}

	select {
	case err := <-req.done: // the last that was done
		return err
	default:
		return &show.Error{Kind: show.Again, What: "the server is stopping", Hint: "try again in a moment"}
	}
}

// answer does what a person asked for, unless they hung up before it began. What is
// begun is not abandoned half way; only the end of the server ends it.
func (w *worker) answer(ctx context.Context, req request) {
	if err := req.ctx.Err(); err != nil {
		req.done <- err
		return
	}
	req.done <- req.do(ctx)
}

func (w *worker) run(ctx context.Context) {
	defer close(w.ended)
	moved, stop := w.rc.Store.Watch(w.repo.Name())
	defer stop()
	defer w.reports.end()
	defer w.upstream.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var failures int
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.mail.C():
			for _, req := range w.mail.Drain() {
				w.answer(ctx, req)
			}
		case <-moved:
		case <-w.reports.changed:
		case <-w.upstream.changed:
		case <-timer.C:
		}
		next, err := w.settle(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			next = min(time.Second<<min(failures, 6), safety)
			w.log().Error("could not reconcile", "err", err, "again_in", next)
		default:
			failures = 0
		}
		timer.Reset(next)
	}
}

// maxRounds bounds settle: a plan comes to rest after a few rounds, and one
// that does not must not keep the processor busy.
const maxRounds = 20

// settle looks, plans and acts until nothing is left to do, and says when to
// look again although nothing happens.
func (w *worker) settle(ctx context.Context) (time.Duration, error) {
	for range maxRounds {
		s, err := w.rc.load(ctx, w.repo, w.environment)
		if gone(err) {
			now, err := w.rc.successor(w.repo, w.environment)
			if err != nil {
				return 0, err
			}
			if now != "" {
				return safety, w.leave(ctx)
			}
			w.stop()
			return safety, nil
		}
		if err != nil {
			return 0, err
		}
		if s.renaming != "" {
			return safety, nil // under its new name it does what there is to do
		}
		s.Given = w.given.Given
		if s.Declared != nil && s.Declared.Hash == w.stays {
			s.Good = repo.Zero
		}
		w.reports.follow(w.rc.Targets[s.settings.Target], s.key())
		if u := s.Upstream; u != nil {
			w.upstream.follow(w.rc.Targets[s.before.Target], s.keyIn(u.Name))
		} else {
			w.upstream.end()
		}
		if err := w.decide(ctx, s); err != nil {
			return 0, err
		}
		next, acted := safety, false
		for _, a := range Plan(s.View) {
			if a.Kind == Wake {
				next = min(next, max(a.At.Sub(s.Now), time.Millisecond))
				continue
			}
			acted = true
			var taken *addressTaken
			if err := w.act(ctx, s, a); errors.Is(err, repo.ErrMoved) || errors.As(err, &taken) {
				break // somebody was faster; look again
			} else if err != nil {
				return 0, fmt.Errorf("%s release %d: %w", a.Kind, a.Release, err)
			}
		}
		if !acted {
			return next, nil
		}
	}
	return 0, fmt.Errorf("environment %s of %s did not come to rest in %d rounds", w.environment, w.repo.Name(), maxRounds)
}

// stop stops what runs in an environment that has left headgate.yaml. Its
// branch stays: declared again, it goes on from there.
func (w *worker) stop() {
	if w.given.Commit != repo.Zero {
		w.rc.Targets[w.given.target].Remove(w.given.key, w.given.sequence)
		w.given = given{}
		w.log().Info("environment is removed, stopping what runs there")
	}
}

// takeBack takes from the target what this process, or an earlier one, gave to it.
func (w *worker) takeBack(s *snapshot) {
	w.stop()
	if t := w.rc.Targets[s.settings.Target]; t != nil {
		t.Remove(s.key(), s.Declared.Sequence)
	}
	w.given = given{Given: Given{Removed: s.Declared.Hash}}
}

// watch is a subscription to what a target reports of one environment, so that
// a report wakes only those who decide by it.
type watch struct {
	target  target.Target
	key     target.Key
	changed <-chan struct{} // nil: nothing is watched
	stop    func()
}

func (f *watch) follow(t target.Target, k target.Key) {
	if f.target == t && f.key == k {
		return
	}
	f.end()
	if f.target, f.key = t, k; t != nil {
		f.changed, f.stop = t.Watch(k)
	}
}

func (f *watch) end() {
	if f.stop != nil {
		f.stop()
	}
	*f = watch{}
}

func (w *worker) act(ctx context.Context, s *snapshot, a Action) error {
	switch a.Kind {
	case Converge:
		return w.converge(ctx, s, a.Drift)
	case Remove:
		w.takeBack(s)
		return nil
	case Rename:
		return w.rename(ctx, s)
	case Note:
		return w.note(ctx, s, a.Outcome)
	case Cover:
		return w.cover(ctx, s, a.Release)
	case Propose, Supersede:
		return w.propose(ctx, s, a)
	case Drop:
		return w.drop(ctx, s, a)
	case Promote:
		return w.promote(ctx, s)
	case RollBack:
		return w.rollbackByItself(ctx, s)
	}
	return fmt.Errorf("no such action: %s", a.Kind)
}

// withheld is what is declared and cannot be given to a target, and why; tried again.
type withheld struct {
	commit repo.Hash
	why    string
}

// converge gives the declared state to the target. It is not durable, and need
// not be: a new process begins by doing it.
func (w *worker) converge(ctx context.Context, s *snapshot, drift target.Drift) error {
	t := w.rc.Targets[s.settings.Target]
	if t == nil {
		return fmt.Errorf("there is no target %q on this server", s.settings.Target)
	}
	declared, err := w.rc.declaredState(ctx, s, s.Declared.Commit)
	key := workerKey(w.repo.Name(), w.environment)
	if err != nil {
		if ctx.Err() == nil {
			w.rc.withheld.put(key, withheld{s.Declared.Hash, err.Error()})
		}
		return err
	}
	w.rc.withheld.put(key, withheld{})
	declared.Sequence, declared.Drift, declared.Steer = s.Declared.Sequence, drift, s.Declared.Outcome.Steer()
	declared.Was, declared.GaveUp = s.was, s.Declared.Outcome.GaveUp()
	if !s.Declared.Outcome.Good() {
		if declared.Fallback, err = w.rc.fallback(ctx, s); err != nil {
			return err
		}
	}
	if w.given.Commit != repo.Zero && (w.given.target != s.settings.Target || w.given.key != s.key()) {
		w.rc.Targets[w.given.target].Remove(w.given.key, w.given.sequence)
	}
	crash.Point("converge.before-target-given")
	t.Converge(declared)
	crash.Point("converge.target-given")
	w.given = given{
		Given:    Given{Commit: s.Declared.Hash, Drift: drift, Steer: steered(declared.Steer)},
		key:      s.key(),
		target:   s.settings.Target,
		sequence: declared.Sequence,
	}
	w.log().Info("converging", "commit", s.Declared.Hash.String(), "release", s.Declared.Release, "drift", string(drift))
	return nil
}

func (w *worker) note(ctx context.Context, s *snapshot, o record.Outcome) error {
	crash.Point("converge.before-outcome-noted")
	err := w.repo.EditNote(ctx, record.Outcomes, s.Declared.Hash, s.Now, noteSubject(s, string(o.State)),
		func(old []byte) ([]byte, error) {
			next := o
			was := record.ParseOutcome(old)
			next.Covers = was.Covers
			return next.Steered(was).Encode()
		})
	if err != nil {
		return err
	}
	crash.Point("converge.outcome-noted")
	w.log().Info("outcome", "commit", s.Declared.Hash.String(), "release", s.Declared.Release, "state", o.State,
		"message", o.Message)
	return nil
}

func noteSubject(s *snapshot, what string) string {
	return fmt.Sprintf("%s in %s: release %d %s", s.application, s.environment, s.Declared.Release, what)
}

func (w *worker) cover(ctx context.Context, s *snapshot, release int) error {
	rel, ok := s.release(release)
	if !ok {
		return fmt.Errorf("there is no release %d", release)
	}
	crash.Point("promote.before-cover-noted")
	err := w.repo.EditNote(ctx, record.Outcomes, s.Declared.Hash, s.Now,
		noteSubject(s, fmt.Sprintf("is also release %d", release)), func(old []byte) ([]byte, error) {
			return record.ParseOutcome(old).WithCover(record.Covered{Release: release, Commit: rel.Commit.String()}).Encode()
		})
	if err != nil {
		return err
	}
	crash.Point("promote.cover-noted")
	w.log().Info("release needs no promotion: same content", "release", release, "commit", s.Declared.Hash.String())
	return nil
}

// decide asks policy about drift, and about the open proposal when it is the one
// wanted. A decision that is news is saved.
func (w *worker) decide(ctx context.Context, s *snapshot) error {
	if err := w.decideDrift(ctx, s); err != nil {
		return err
	}
	if s.unproposed() {
		return w.decideUnproposed(ctx, s)
	}
	if s.Proposal == nil || s.Wanted == nil || s.Proposal.Release != s.Wanted.Release ||
		s.Proposal.Tree != s.Wanted.Tree || s.Proposal.Parent != s.tip() {
		return nil // not the final word; Plan will replace it first
	}
	if err := w.rc.evaluate(ctx, s); err != nil {
		return err
	}
	if s.evaluated.digest() == w.saved {
		return nil
	}
	if s.Decision.Result != policies.Auto { // promote saves that one, when it is acted upon
		if _, err := w.save(ctx, s.evaluated); err != nil {
			return err
		}
	}
	w.saved = s.evaluated.digest()
	return nil
}

// decideUnproposed asks policy about what would be proposed, and leaves it in s if it may
// be promoted at once. Otherwise it is proposed, and decided about as that.
func (w *worker) decideUnproposed(ctx context.Context, s *snapshot) error {
	s.Proposal = &record.Proposal{
		Promotion: s.promotion(s.Wanted.Release),
		Parent:    s.tip(),
		Tree:      s.Wanted.Tree,
		At:        s.Now,
	}
	if err := w.rc.evaluate(ctx, s); err != nil {
		return err
	}
	if !s.promotable() {
		s.Proposal, s.Decision, s.evaluated = nil, nil, nil
	}
	return nil
}

// decideDrift asks policy what is to be done about drift. A policy that cannot
// answer changes nothing: what runs goes on running, and being healed.
func (w *worker) decideDrift(ctx context.Context, s *snapshot) error {
	if s.Declared == nil || s.Declared.Removal {
		return nil
	}
	e, err := w.rc.evaluateDrift(ctx, s)
	if err != nil {
		return err
	}
	if e.Unanswered() {
		w.log().Warn("policy does not say whether drift is healed", "reason", e.Why())
		s.Drift = w.given.Drift
		return nil
	}
	if e.Decision != policies.Auto {
		s.Drift = target.Report
	}
	// Each release is asked about; what is recorded is that the answer has changed.
	answer := strings.Join([]string{string(e.Decision), e.Policy, e.Why()}, "\n")
	if answer == w.savedDrift {
		return nil
	}
	if _, err := w.save(ctx, e); err != nil {
		return err
	}
	w.savedDrift = answer
	return nil
}

// save makes each answer a record, unless it is the newest about its subject, and
// returns the first: the decision by what is declared now.
func (w *worker) save(ctx context.Context, e *evaluation) (first repo.Hash, err error) {
	for i, rec := range e.records {
		crash.Point("promote.before-decision-saved")
		saved, err := decision.Save(ctx, w.repo, e.at, rec)
		if err != nil {
			return repo.Zero, err
		}
		crash.Point("promote.decision-saved")
		if i == 0 {
			first = saved
		}
	}
	return first, nil
}

// declaredState is what the target is given for a commit of the environment.
func (rc *Reconciler) declaredState(ctx context.Context, s *snapshot, d record.Commit) (target.Declared, error) {
	m, err := record.ManifestOf(s.repo, d.Tree, s.application)
	if err != nil {
		return target.Declared{}, err
	}
	files, err := record.Files(s.repo, d.Tree, s.application)
	if err != nil {
		return target.Declared{}, err
	}
	release := target.Release{Number: m.Release, Commit: m.Commit, Artifacts: m.Artifacts, Images: m.Images}
	if rc.Definitions != nil {
		if release.Definitions, err = rc.Definitions(ctx, s.settings.Target, files, release); err != nil {
			return target.Declared{}, err
		}
	}
	return target.Declared{Key: s.key(), Commit: d.Hash.String(), Files: files, Release: release}, nil
}

// maxHistory bounds how far back a fallback or a rollback is looked for.
const maxHistory = 500

// fallback is the last declared state that was healthy to the end, nil for none.
func (rc *Reconciler) fallback(ctx context.Context, s *snapshot) (*target.Declared, error) {
	all, err := record.History(s.repo, s.application, s.environment, maxHistory)
	if err != nil {
		return nil, err
	}
	for i, d := range all {
		if i == 0 || !d.Outcome.Good() {
			continue
		}
		f, err := rc.declaredState(ctx, s, d)
		if errors.Is(err, fs.ErrNotExist) {
			continue // what it ran from is gone
		}
		f.Sequence = s.Declared.Sequence - i
		return &f, err
	}
	return nil, nil
}
