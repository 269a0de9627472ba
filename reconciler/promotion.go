package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Promotion is the open proposal of an environment, with its gate, its diff and
// what it carries, as actor sees it. The error is a *show.Error when there is none.
func (rc *Reconciler) Promotion(ctx context.Context, actor access.Identity,
	repository, name string) (show.Promotion, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return show.Promotion{}, err
	}
	s, err := rc.load(ctx, r, name)
	if err != nil {
		return show.Promotion{}, err
	}
	if !s.openProposal() {
		return show.Promotion{}, rc.nothingOpen(s)
	}
	p, err := rc.promotion(ctx, s, actor)
	if err != nil {
		return p, err
	}
	base := repo.Zero
	if s.Declared != nil {
		base = s.Declared.Hash
	}
	if p.Files, err = diff(ctx, r, base, s.Proposal.Commit, s.application); err != nil {
		return p, err
	}
	for _, rel := range s.carried(s.Proposal.Release) {
		one := show.Release{Repository: repository, Number: rel.Number, Commit: rel.Commit.String(), Subject: rel.Subject,
			Change: rel.Change, By: rel.By, At: rel.At.UTC()}
		for _, a := range rel.Artifacts {
			one.Artifacts = append(one.Artifacts, show.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size, Type: a.Type()})
		}
		p.Carries = append(p.Carries, one)
	}
	return p, nil
}

// promotion asks policy anew, so that what is shown is true now. Nothing is
// saved: only what is acted upon, or news to the loop, becomes a record.
func (rc *Reconciler) promotion(ctx context.Context, s *snapshot, actor access.Identity) (show.Promotion, error) {
	if err := rc.evaluate(ctx, s); err != nil {
		return show.Promotion{}, err
	}
	may, err := rc.approvers(ctx, s)
	if err != nil {
		return show.Promotion{}, err
	}
	p := show.Promotion{
		Repository:  s.repo.Name(),
		Environment: s.environment,
		From:        s.covers(),
		To:          s.Proposal.Release,
		Removal:     s.Proposal.Removal,
		Proposal:    s.Proposal.Commit.String(),
		Tree:        s.Proposal.Tree.String(),
		Source:      s.Proposal.Source.String(),
		ProposedAt:  s.Proposal.At,
		Decision:    string(s.evaluated.Decision),
		Policy:      s.evaluated.Policy,
		Checks:      openFirst(s.evaluated.checks),
		Cover:       may.cover(),
		Rules:       s.evaluated.changes,
		Approvals: slices.Concat([]show.Approval{},
			approvals(s.Proposal.Approvals, false), approvals(s.Proposal.Former, true)),
	}
	p.Summary = s.waits().String()
	if s.evaluated.stuck() {
		p.Stuck, p.WayOut = true, s.wayOut()
	}
	if p.FailedAt, p.Failure, err = rc.failedHere(s); err != nil {
		return p, err
	}
	if c := s.Proposal.Chosen; c != nil {
		p.Chosen = &show.Choice{By: c.User, At: c.At.UTC()}
	}
	p.MayReject = actor.User != "" && rc.mayReject(ctx, s, actor) == nil
	if p.Removal {
		for _, u := range s.actual.Units {
			p.Stops = append(p.Stops, u.Name)
		}
	}
	if !s.evaluated.NotBefore.IsZero() {
		p.NotBefore = s.evaluated.NotBefore.UTC()
	}
	p.Approved = record.ApprovedBy(s.Proposal.Approvals, actor.User)
	switch {
	case actor.User == "":
		p.WhyNot = "sign in to approve"
	case p.Approved:
		p.WhyNot = "you have approved this content"
	default:
		p.WhyNot = may.whyNot(actor)
	}
	p.MayApprove = p.WhyNot == "" && s.wantsPeople()
	if p.WhyNot == "" && !p.MayApprove {
		p.WhyNot = "nobody's approval is missing"
	}
	p.Commands = []string{
		rc.ssh() + " approve " + s.repo.Name() + " " + s.environment,
		fmt.Sprintf("git fetch origin && git push origin origin/promote/%s:env/%s", s.environment, s.environment),
	}
	return p, nil
}

// failedHere says when the proposed release failed in this environment last, and
// how: an earlier try, of which whoever says yes should know. Zero if it did not.
func (rc *Reconciler) failedHere(s *snapshot) (time.Time, string, error) {
	if s.Declared == nil || s.Proposal.Removal {
		return time.Time{}, "", nil
	}
	all, err := record.History(s.repo, s.application, s.environment, maxShown)
	if err != nil {
		return time.Time{}, "", err
	}
	for _, d := range all {
		if d.Release == s.Proposal.Release && !d.Removal && !d.Outcome.FailedAt.IsZero() {
			return d.Outcome.FailedAt.UTC(), d.Outcome.Message, nil
		}
	}
	return time.Time{}, "", nil
}

// wantsPeople reports whether an approval would help: one is missing, or only a
// person can lift the hold.
func (s *snapshot) wantsPeople() bool {
	if s.held() && len(s.Proposal.Approvals) == 0 {
		return true
	}
	return slices.ContainsFunc(s.evaluated.checks, func(c show.Check) bool { return !c.Met && c.UntilPerson })
}

func openFirst(checks []show.Check) []show.Check {
	sorted := slices.Clone(checks)
	slices.SortStableFunc(sorted, func(a, b show.Check) int {
		return cmp.Compare(btoi(a.Met), btoi(b.Met))
	})
	return sorted
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ssh is how people reach the server in a command to paste.
func (rc *Reconciler) ssh() string {
	return "ssh " + cmp.Or(rc.Login, "<server>")
}
