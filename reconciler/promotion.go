package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// openProposal reports whether there is a proposal that a person could be asked
// about: one by this server on the present state.
func (s *sight) openProposal() bool {
	return s.Proposal != nil && s.Proposal.ID != "" && s.Proposal.Parent == s.tipDeclared()
}

// Promotion is the open proposal of an environment, with its gate, its diff and
// what it carries, as actor sees it. The error is a *show.Error when there is none.
func (rc *Reconciler) Promotion(ctx context.Context, actor show.Actor, repository, name string) (show.Promotion, error) {
	r, err := rc.repository(repository)
	if err != nil {
		return show.Promotion{}, err
	}
	s, err := rc.look(ctx, r, name)
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
	if s.declared != nil {
		base = s.declared.Commit
	}
	if p.Files, err = diff(ctx, r, base, s.Proposal.Commit, s.app); err != nil {
		return p, err
	}
	for _, rel := range s.carried(s.Proposal.Release) {
		one := show.Release{Repository: repository, Number: rel.Number, Commit: rel.Commit.String(), Subject: rel.Subject,
			Change: rel.Change, By: rel.By, At: rel.At.UTC()}
		for _, a := range rel.Artifacts {
			one.Artifacts = append(one.Artifacts, show.Artifact{Name: a.Name, Digest: a.Digest, Size: a.Size})
		}
		p.Carries = append(p.Carries, one)
	}
	return p, nil
}

// promotion asks policy anew, so that what is shown is true now. Nothing is
// saved: only what is acted upon, or news to the loop, becomes a record.
func (rc *Reconciler) promotion(ctx context.Context, s *sight, actor show.Actor) (show.Promotion, error) {
	if err := rc.ask(ctx, s, nil); err != nil {
		return show.Promotion{}, err
	}
	p := show.Promotion{Repository: s.app, Environment: s.environment, To: s.Proposal.Release,
		Proposal: s.Proposal.Commit.String(), Tree: s.Proposal.Tree.String(), Source: s.proposal.Source.String(),
		ProposedAt: s.proposedAt, Decision: string(s.asked.Decision), Policy: s.asked.Policy,
		Checks:    openFirst(s.asked.checks),
		Approvals: append(approvals(s.proposal.Approvals, false), approvals(s.proposal.Former, true)...)}
	if s.Declared != nil {
		p.From = s.Declared.Covers
	}
	p.Summary = s.summary()
	if !s.asked.NotBefore.IsZero() {
		p.NotBefore = s.asked.NotBefore.UTC()
	}
	authors, err := rc.authors(ctx, s)
	if err != nil {
		return p, err
	}
	switch {
	case actor.Name == "":
		p.WhyNot = "sign in to approve"
	case approved(s.proposal.Approvals, actor.Name):
		p.WhyNot = "you have approved this content"
	default:
		p.WhyNot = rc.whyNotApprove(s, actor.Name, authors)
	}
	p.MayApprove = p.WhyNot == "" && s.wantsPeople()
	if p.WhyNot == "" && !p.MayApprove {
		p.WhyNot = "nobody's approval is missing"
	}
	p.Commands = []string{
		rc.ssh() + " approve " + s.app + " " + s.environment,
		fmt.Sprintf("git fetch origin && git push origin origin/promote/%s:env/%s", s.environment, s.environment),
	}
	return p, nil
}

// wantsPeople reports whether an approval would help: one is missing, or only a
// person can lift the hold.
func (s *sight) wantsPeople() bool {
	if s.declared != nil && s.declared.Held != nil && len(s.proposal.Approvals) == 0 {
		return true
	}
	return slices.ContainsFunc(s.asked.checks, func(c show.Check) bool { return !c.Met && c.UntilPerson })
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
	host, port, err := net.SplitHostPort(rc.SSH)
	switch {
	case rc.SSH == "":
		return "ssh <server>"
	case err != nil:
		return "ssh " + rc.SSH
	case port == "22":
		return "ssh " + host
	}
	return "ssh -p " + port + " " + host
}
