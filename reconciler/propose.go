package reconciler

import (
	"context"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// propose puts the promotion commit at promote/<environment>, as it would be on
// env/<environment>, without a decision.
func (w *worker) propose(ctx context.Context, s *snapshot, a Action) error {
	p := s.promotion(a.Release)
	p.Approvals = a.Approvals
	p.Former = s.former(a.Approvals)
	if _, err := w.writeProposal(ctx, s, p, s.Wanted.Tree); err != nil {
		return err
	}
	w.log().Info("proposed", "release", a.Release, "supersedes", s.proposedRelease())
	return nil
}

// maxFormer bounds the approvals that are remembered though they do not count.
const maxFormer = 10

// former are the approvals that a new proposal does not inherit.
func (s *snapshot) former(kept []record.Approval) []record.Approval {
	if s.Proposal == nil {
		return nil
	}
	all := slices.Clone(s.Proposal.Former)
	if len(kept) == 0 {
		all = append(all, s.Proposal.Approvals...)
	}
	return all[max(0, len(all)-maxFormer):]
}

// writeProposal makes the commit and moves promote/<environment> to it.
func (w *worker) writeProposal(ctx context.Context, s *snapshot, p record.Promotion,
	tree repo.Hash) (repo.Hash, error) {
	if s.tip() == repo.Zero {
		if err := w.makeInitial(ctx, s); err != nil {
			return repo.Zero, err
		}
	}
	parent := s.tip()
	p.ID = record.PromotionID(s.application, s.environment, parent, tree)
	c := repo.NewCommit{
		Tree:    tree,
		Parents: record.Parents(parent),
		At:      s.Now,
		Message: p.Message(s.application, s.environment),
	}
	old := repo.Zero
	if s.Proposal != nil {
		old = s.Proposal.Commit
		if s.Proposal.ID == p.ID { // the same content with one more approval
			c.AuthoredAt = s.Proposal.At
		}
	}
	commit, err := w.repo.WriteCommit(c)
	if err != nil {
		return repo.Zero, err
	}
	crash.Point("promote.before-proposed")
	if err := w.repo.Move(ctx, record.ProposalRef(s.environment), old, commit); err != nil {
		return repo.Zero, err
	}
	crash.Point("promote.proposed")
	return commit, nil
}

func (w *worker) drop(ctx context.Context, s *snapshot, a Action) error {
	crash.Point("promote.before-dropped")
	if err := w.repo.Move(ctx, record.ProposalRef(s.environment), s.Proposal.Commit, repo.Zero); err != nil {
		return err
	}
	crash.Point("promote.dropped")
	w.log().Info("closed proposal", "release", a.Release, "reason", a.Reason)
	return nil
}

// promote makes the proposal's content the declared state: one commit that
// says everything, one move. The proposal, if there was one, goes after that; if this
// process does not live to do it, the next one finds that the branch has it already.
func (w *worker) promote(ctx context.Context, s *snapshot) error {
	saved, err := w.save(ctx, s.evaluated)
	if err != nil {
		return err
	}
	place, err := decision.Place(w.repo, saved)
	if err != nil {
		return err
	}
	p := s.promotion(s.Proposal.Release)
	p.Approvals = s.Proposal.Approvals
	p.Policy, p.Decision = s.evaluated.Policy, record.Decision{Decision: s.evaluated.Decision, Commit: saved, Place: place}
	if s.tip() == repo.Zero {
		if err := w.makeInitial(ctx, s); err != nil {
			return err
		}
	}
	p.ID = record.PromotionID(s.application, s.environment, s.tip(), s.Proposal.Tree)
	if p.Sequence, err = w.rc.nextSequence(ctx, w.repo, s.tip()); err != nil {
		return err
	}
	commit, err := w.repo.WriteCommit(repo.NewCommit{Tree: s.Proposal.Tree, Parents: record.Parents(s.tip()), At: s.Now,
		Message: p.Message(s.application, s.environment)})
	if err != nil {
		return err
	}
	crash.Point("promote.before-environment-moved")
	if err := w.declare(ctx, s, s.Proposal.Tree, commit); err != nil {
		return err
	}
	crash.Point("promote.environment-moved")
	w.log().Info("promoted", "release", p.Release, "commit", commit.String(), "decision", p.Decision.String())
	return nil
}

// promotion is what the message about promoting a release says, as far as
// it is known before anybody decides.
func (s *snapshot) promotion(release int) record.Promotion {
	if s.Leaving {
		p := record.Promotion{Removal: true, Source: s.branchTip}
		if s.Proposal != nil && s.Proposal.Removal {
			p.Chosen = s.Proposal.Chosen
		}
		return p
	}
	rel, _ := s.release(release)
	p := record.Promotion{
		Release:   release,
		Source:    rel.Commit,
		Path:      s.settings.Path,
		Artifacts: slices.Clone(rel.Artifacts),
		Replaces:  s.sourceDeclared(),
		Subject:   rel.Subject,
	}
	slices.SortFunc(p.Artifacts, func(a, b record.Artifact) int { return strings.Compare(a.Name, b.Name) })
	if s.Declared != nil {
		p.Carries = record.Span{Releases: len(s.carried(release)), Since: s.covers()}
	}
	if u := s.Upstream; u != nil && u.Declared != nil {
		p.From = record.Origin{Environment: u.Name, Commit: u.Declared.Hash}
		if standing := u.Standing(release); standing.Healthy {
			p.From.Commit = standing.Commit
			if s.settings.Soak > 0 {
				p.Soak = record.Soak{Since: s.Now.Add(-standing.After(s.Now)), Required: s.settings.Soak}
			}
		}
	}
	if s.Proposal != nil && s.Proposal.Release == release {
		p.Chosen = s.Proposal.Chosen
	}
	return p
}
