package reconciler

import (
	"context"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// promoteInput is what the open proposal is judged by under some rules. All
// joining is done here: policy gets facts with their evidence.
func (rc *Reconciler) promoteInput(ctx context.Context, s *snapshot, r rules) (policies.PromoteInput, error) {
	in := policies.PromoteInput{
		Now:         s.Now.UTC(),
		Repository:  s.repo.Name(),
		Application: s.application,
		Environment: r.forPolicy(),
		Release:     policies.ReleaseFact{Number: s.Proposal.Release, Commit: s.Proposal.Source.String()},
		Current:     s.covers(),
		Tree:        s.Proposal.Tree.String(),
		Approvals:   []policies.Approval{},
		Candidates:  rc.candidates(s.repo.Name()),
	}
	if in.Removal = s.Proposal.Removal; in.Removal {
		in.Verifies = true // nothing comes that could be unproven
	} else {
		in.Verifies, in.VerifyError = s.verifies(s.Proposal.Release)
	}
	if s.held() {
		h := s.Declared.Held
		in.Hold = &policies.HoldFact{By: h.By, Reason: h.Reason, At: h.At.UTC()}
	}
	if u := r.upstream; u != nil {
		standing := u.Standing(s.Proposal.Release)
		in.Upstream = &policies.Upstream{
			Release:      u.Release(),
			Healthy:      standing.Healthy,
			HealthySince: standing.Since,
			Soaked:       int64(standing.For / time.Second),
		}
	}
	for _, a := range s.Proposal.Approvals {
		in.Approvals = append(in.Approvals, rc.approval(s, a, false))
	}
	for _, a := range s.Proposal.Former {
		in.Approvals = append(in.Approvals, rc.approval(s, a, true))
	}
	carries, err := rc.carries(ctx, s)
	for _, c := range carries {
		in.Carries = append(in.Carries, c)
		in.Authors = append(in.Authors, c.Authors...)
	}
	slices.Sort(in.Authors)
	in.Authors = slices.Compact(in.Authors)
	return in, err
}

// rollbackInput is what going back to a commit is judged by.
func (rc *Reconciler) rollbackInput(s *snapshot, to record.Commit, by policies.User,
	reason string) policies.RollbackInput {
	in := policies.RollbackInput{
		Now:         s.Now.UTC(),
		Repository:  s.repo.Name(),
		Application: s.application,
		Environment: s.environment,
		User:        by,
		Reason:      reason,
		Release:     policies.ReleaseFact{Number: to.Release, Commit: to.Source.String()},
		Current:     s.covers(),
		WasHealthy:  to.Outcome.Good(),
	}
	in.Verifies, in.VerifyError = s.verifies(to.Release)
	return in
}

// verifies says whether a release may go anywhere, and else why not.
func (s *snapshot) verifies(release int) (bool, string) {
	rel, ok := s.release(release)
	if !ok {
		return false, "there is no such release"
	}
	if err := rel.Verifies(); err != nil {
		return false, err.Error()
	}
	return true, ""
}

func (rc *Reconciler) approval(s *snapshot, a record.Approval, stale bool) policies.Approval {
	u := rc.Access().Standing(access.Recorded(a.User), s.repo.Name())
	return policies.Approval{User: a.User, Groups: u.Groups, MayWrite: u.MayWrite, Tree: a.Tree.String(),
		Commit: s.Proposal.Commit.String(), At: a.At.UTC(), Via: a.Via, Stale: stale}
}

// candidates are the users who may read a repository.
func (rc *Reconciler) candidates(repository string) []policies.User {
	users := []policies.User{}
	config := rc.Access()
	for _, u := range config.Users() {
		if one := config.Standing(access.Recorded(u.Name), repository); one.MayRead {
			users = append(users, policies.User(one))
		}
	}
	return users
}
