package reconciler

import (
	"context"
	"errors"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
)

var errNoRelease = errors.New("there is no such release")

// promoteInput is what the open proposal is judged by under some rules. All
// joining is done here: policy gets facts with their evidence.
func (rc *Reconciler) promoteInput(ctx context.Context, s *snapshot, r rules) (policies.PromoteInput, error) {
	in := rc.commonInput(s, s.Proposal.Release)
	in.Environment = r.forPolicy()
	in.Release.Commit = s.Proposal.Source.String()
	in.Tree = s.Proposal.Tree.String()
	if u := r.upstream; u != nil {
		in.Upstream = &policies.Upstream{Release: u.Release(), Healthy: u.Healthy()}
		if u.Healthy() {
			in.Upstream.HealthySince = u.HealthySince()
		}
	}
	for _, a := range s.Proposal.Approvals {
		in.Approvals = append(in.Approvals, rc.approval(s, a, false))
	}
	for _, a := range s.Proposal.Former {
		in.Approvals = append(in.Approvals, rc.approval(s, a, true))
	}
	var err error
	in.Authors, err = rc.authors(ctx, s)
	return in, err
}

// rollbackInput is what going back to a commit is judged by.
func (rc *Reconciler) rollbackInput(s *snapshot, to record.Commit, by show.Actor) policies.PromoteInput {
	in := rc.commonInput(s, to.Release)
	in.Environment = rules{settings: s.settings}.forPolicy()
	in.Release.Commit = to.Source.String()
	in.Tree = to.Tree.String()
	user := policies.User(rc.Access().Standing(by, s.repo.Name()))
	in.Rollback, in.WasHealthy, in.RequestedBy = true, true, &user
	return in
}

// commonInput is what both have in common.
func (rc *Reconciler) commonInput(s *snapshot, release int) policies.PromoteInput {
	in := policies.PromoteInput{
		Now:         s.Now.UTC(),
		Repository:  s.repo.Name(),
		Application: s.application,
		Release:     policies.ReleaseFact{Number: release},
		Current:     s.covers(),
		Approvals:   []policies.Approval{},
		Authors:     []string{},
		Candidates:  rc.candidates(s.repo.Name()),
	}
	if s.held() {
		h := s.Declared.Held
		in.Hold = &policies.HoldFact{By: h.By, Reason: h.Reason, At: h.At.UTC()}
	}

	unverified := errNoRelease
	if rel, ok := s.release(release); ok {
		unverified = rel.Verifies
	}
	if in.Verifies = unverified == nil; !in.Verifies {
		in.VerifyError = unverified.Error()
	}
	return in
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
