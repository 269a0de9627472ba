package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Approved is what became of an approval.
type Approved struct {
	Release, From int
	Tree          repo.Hash
	Repeated      bool      // the same user had approved the same content already
	Promoted      repo.Hash // commit of env/<environment>; Zero while something is missing
	Waits         string    // for what, in one line, while Promoted is Zero
	Sentence      string    // "approved 3 -> 4 for production, tree 6f0a1e2, as ada"
	Given         int       // approvals of this content, this one included
}

// Approve records that a user wants the open proposal of an environment, and
// promotes it if nothing else is missing. tree, when not empty, is the content
// that the user saw, whole or as its first digits; another one is refused. The
// error is a *show.Error that says who may when the user may not.
func (rc *Reconciler) Approve(ctx context.Context, repository, environment string, by access.Identity,
	tree, reason string) (Approved, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return Approved{}, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return Approved{}, err
	}
	var done Approved
	err = w.on(ctx, func(ctx context.Context) (err error) {
		done, err = w.approve(ctx, by, reason, func(s *snapshot) error { return sameTree(s, tree) })
		var none *show.Error
		if errors.As(err, &none) && none.Kind == show.NotFound {
			if already, ok := w.approvedAlready(ctx, by, tree); ok {
				done, err = already, nil
			}
		}
		return err
	})
	return done, err
}

// sameTree refuses another content than the one that a user saw, if they say which.
func sameTree(s *snapshot, tree string) error {
	switch {
	case strings.Trim(tree, "0123456789abcdef") != "":
		return &show.Error{
			Kind: show.Usage,
			What: fmt.Sprintf("%q is not a tree", terminal.Message(tree, 40)),
			Hint: "give its id, or at least 7 digits of it: " + show.Short(s.Proposal.Tree.String()),
		}
	case tree != "" && len(tree) < 7:
		return &show.Error{
			Kind: show.Usage,
			What: fmt.Sprintf("tree %q is too short to tell contents apart", tree),
			Hint: "give at least 7 digits of it",
		}
	case !strings.HasPrefix(s.Proposal.Tree.String(), tree):
		return &show.Error{
			Kind:    show.Denied,
			What:    fmt.Sprintf("the proposal for %s is not tree %s", s.environment, tree),
			Where:   []string{current(s)},
			Hint:    "look at it first",
			Command: "promotion diff " + s.repo.Name() + " " + s.environment,
		}
	}
	return nil
}

// approvedAlready answers an approval of what was promoted with it: somebody
// repeats a command whose answer was lost, or who did not see that it sufficed.
func (w *worker) approvedAlready(ctx context.Context, by access.Identity, tree string) (Approved, bool) {
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil || s.Proposal != nil || s.Declared == nil {
		return Approved{}, false // the first answer stands
	}
	d := s.Declared
	if tree == "" && s.lastRejection() != nil {
		return Approved{}, false // what they say yes to is what was rejected
	}
	if !record.ApprovedBy(d.Approvals, by.User) || !strings.HasPrefix(d.Tree.String(), tree) {
		return Approved{}, false
	}
	return Approved{
		Release:  d.Release,
		Tree:     d.Tree,
		Repeated: true,
		Promoted: d.Hash,
		Sentence: fmt.Sprintf("already approved %sfor %s, tree %s, as %s", step(0, d.Release), w.environment,
			show.Short(d.Tree.String()), by.User),
		Given: len(d.Approvals),
	}, true
}

// ApprovePush is Approve by a merge at a forge of what is proposed there, and by `git push origin origin/promote/<env>:env/<env>`:
// commit must be the open proposal, or one that an approval has since replaced
// by the same content. It returns the commit that env/<environment> is at then,
// and lines to tell the pusher.
//
// While something else is still missing the branch has not moved: landed is Zero
// then, and whoever answers the client must not report env/<environment> as
// moved, or it would believe it had.
func (rc *Reconciler) ApprovePush(ctx context.Context, repository, environment string, by access.Identity,
	commit repo.Hash, reason string) (landed repo.Hash, lines []string, err error) {
	r, err := rc.repository(repository)
	if err != nil {
		return repo.Zero, nil, err
	}
	w, err := rc.worker(r, environment)
	if err != nil {
		return repo.Zero, nil, err
	}
	if by.Via != access.ViaForge {
		by.Via = access.ViaPush
	}
	var done Approved
	err = w.on(ctx, func(ctx context.Context) (err error) {
		if landed, lines, err = w.promotedAlready(ctx, commit); err != nil || landed != repo.Zero {
			return err
		}
		done, err = w.approve(ctx, by, reason, func(s *snapshot) error { return rc.isProposal(s, commit) })
		return err
	})
	if landed != repo.Zero {
		return landed, lines, nil
	}
	if err != nil {
		return repo.Zero, nil, err
	}
	lines = []string{done.Sentence}
	if done.Promoted == repo.Zero {
		return repo.Zero, append(lines, "now waits for "+done.Waits,
			"env/"+environment+" has not moved; it moves by itself when nothing is missing"), nil
	}
	lines = append(lines, fmt.Sprintf("env/%s is %s, and is converging", environment, show.Short(done.Promoted.String())))
	return done.Promoted, lines, nil
}

// Proposed reports whether pushing commit to env/<environment> approves: it is the
// open proposal, or one that an approval or the promotion itself has since
// replaced by the same content.
func (rc *Reconciler) Proposed(ctx context.Context, repository, environment string, commit repo.Hash) (bool, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return false, err
	}
	s, err := rc.load(ctx, r, environment)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.Proposal != nil && rc.isProposal(s, commit) == nil {
		return true, nil
	}
	if d := s.Declared; d != nil {
		same, err := record.Made(r, commit, d.ID, d.Tree, d.Parent)
		return same && err == nil, nil // a signature that is not ours is no error of this server
	}
	return false, nil
}

// isProposal says whether a pushed commit is the open proposal: itself, or an
// earlier commit by this server of the same promotion and content.
func (rc *Reconciler) isProposal(s *snapshot, commit repo.Hash) error {
	if commit == s.Proposal.Commit {
		return nil
	}
	refused := &show.Error{Kind: show.Denied,
		What: fmt.Sprintf("%s is not the proposal for %s", show.Short(commit.String()), s.environment),
		Where: []string{current(s), "only the server writes env/" + s.environment +
			"; pushing its proposal there approves it"},
		Hint: fmt.Sprintf("git fetch origin && git push origin origin/promote/%s:env/%s", s.environment, s.environment)}
	same, err := record.Made(s.repo, commit, s.Proposal.ID, s.Proposal.Tree, s.Proposal.Parent)
	if err != nil {
		refused.Where = append([]string{show.Short(commit.String()) + " " + err.Error()}, refused.Where...)
		return refused
	}
	if !same {
		return refused
	}
	return nil
}

// promotedAlready answers a push of a proposal that is what the environment
// declares now: somebody repeats a push whose answer was lost, or was second.
func (w *worker) promotedAlready(ctx context.Context, commit repo.Hash) (landed repo.Hash, lines []string, err error) {
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil || s.Declared == nil {
		return repo.Zero, nil, err
	}
	d := s.Declared
	if same, err := record.Made(w.repo, commit, d.ID, d.Tree, d.Parent); !same || err != nil {
		return repo.Zero, nil, nil // approve says what is wrong with it
	}
	return d.Hash, []string{fmt.Sprintf("release %d is in %s already, as %s", d.Release, w.environment,
		show.Short(d.Hash.String()))}, nil
}

// current names the open proposal.
func current(s *snapshot) string {
	return fmt.Sprintf("the proposal is %s, tree %s, commit %s", s.proposed(), show.Short(s.Proposal.Tree.String()),
		show.Short(s.Proposal.Commit.String()))
}

// approve runs on the worker's goroutine.
func (w *worker) approve(ctx context.Context, by access.Identity, reason string,
	check func(*snapshot) error) (Approved, error) {
	// The proposal to judge is the one that belongs to the present state, not one
	// that a move a moment ago has made stale.
	if _, err := w.settle(ctx); err != nil {
		return Approved{}, err
	}
	s, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return Approved{}, err
	}
	if s.Proposal == nil {
		return Approved{}, w.rc.nothingOpen(s)
	}
	if err := check(s); err != nil {
		return Approved{}, err
	}
	if err := w.rc.mayApprove(ctx, s, by); err != nil {
		return Approved{}, err
	}
	done := Approved{Release: s.Proposal.Release, Tree: s.Proposal.Tree}
	done.From = s.covers()
	p := s.Proposal.Promotion
	if done.Repeated = record.ApprovedBy(p.Approvals, by.User); !done.Repeated {
		a := record.Approval{User: by.User, Email: w.rc.email(by.User), Tree: s.Proposal.Tree, At: s.Now,
			Via: via(by), Why: reason}
		if !a.Written() {
			return Approved{}, fmt.Errorf("the approval of %q cannot be written down", by.User)
		}
		p = s.promotion(s.Proposal.Release)
		p.Approvals = append(slices.Clone(s.Proposal.Approvals), a)
		p.Former = s.Proposal.Former
		crash.Point("promote.before-approved")
		switch _, err := w.writeProposal(ctx, s, p, s.Proposal.Tree); {
		case errors.Is(err, repo.ErrMoved):
			return Approved{}, &show.Error{Kind: show.Again, What: "the proposal has just changed",
				Hint: "look at it and approve again"}
		case err != nil:
			return Approved{}, err
		}
		crash.Point("promote.approved")
		w.log().Info("approved", "release", done.Release, "by", by.User, "via", via(by), "tree", done.Tree.String())
	}
	done.Given = len(p.Approvals)
	before := s.tip()
	if _, err := w.settle(ctx); err != nil {
		// The approval stands; what follows from it is tried again by the loop.
		w.log().Error("could not act on the approval at once", "err", err)
	}
	done.Sentence = fmt.Sprintf("approved %sfor %s, tree %s, as %s", step(done.From, done.Release), w.environment,
		show.Short(done.Tree.String()), by.User)
	if done.Repeated {
		done.Sentence = "already " + done.Sentence
	}
	after, err := w.rc.load(ctx, w.repo, w.environment)
	if err != nil {
		return done, err
	}
	if d := after.Declared; d != nil && d.Hash != before && d.Tree == done.Tree {
		done.Promoted = d.Hash
		return done, nil
	}
	done.Waits = w.rc.waitsFor(ctx, after)
	return done, nil
}

func step(from, to int) string {
	if to == 0 {
		return "the removal "
	}
	if from == 0 {
		return fmt.Sprintf("release %d ", to)
	}
	return fmt.Sprintf("%d -> %d ", from, to)
}

func via(by access.Identity) string {
	switch by.Via {
	case access.ViaPush, access.ViaConsole, access.ViaForge:
		return string(by.Via)
	}
	return string(access.ViaSSH)
}

// rejectedBy says who rejected what, when and why.
func rejectedBy(r *record.Rejection) string {
	what := fmt.Sprintf("release %d", r.Release)
	if r.Removal {
		what = "the removal"
	}
	text := fmt.Sprintf("%s was rejected by %s at %s", what, r.By, show.Clock(r.At))
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

// proposable is how a person names what was rejected to propose it again.
func proposable(r *record.Rejection) string {
	if r.Removal {
		return "removal"
	}
	return fmt.Sprint(r.Release)
}

// nothingOpen says why there is nothing to approve.
func (rc *Reconciler) nothingOpen(s *snapshot) error {
	e := &show.Error{Kind: show.NotFound,
		What: fmt.Sprintf("there is no open proposal for %s of %s", s.environment, s.repo.Name())}
	switch {
	case s.problem() != "":
		e.Where = []string{s.problem()}
	case s.lastRejection() != nil:
		e.Where = []string{rejectedBy(s.lastRejection())}
		e.Hint, e.Command = "to propose it all the same", fmt.Sprintf("promote %s %s %s", s.repo.Name(), s.environment,
			proposable(s.lastRejection()))
	case s.Declared != nil:
		e.Where = []string{fmt.Sprintf("it is release %d, and nothing newer is ready for it", s.covers())}
	case s.Upstream != nil:
		e.Where = []string{"nothing was promoted yet; it takes what is healthy in " + s.Upstream.Name}
	default:
		e.Where = []string{"nothing has been released yet"}
	}
	return e
}
