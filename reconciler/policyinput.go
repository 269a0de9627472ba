package reconciler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
	"github.com/headgate-cd/headgate/reconciler/record"
)

var errNoRelease = errors.New("there is no such release")

// rollbackTarget is what evaluate is about when it is not about the open proposal.
type rollbackTarget struct {
	to record.Commit
	by show.Actor
}

// promoteInput is what a promotion or rollback is judged by, and what it is about in
// words. All joining is done here: policy is told facts with their evidence.
func (rc *Reconciler) promoteInput(ctx context.Context, s *snapshot, back *rollbackTarget) (in policies.PromoteInput, about string, err error) {
	e := s.settings
	in = policies.PromoteInput{
		Now: s.Now.UTC(), Repository: s.repo.Name(), Application: s.application,
		Environment: policies.Environment{Name: e.Name, After: e.After,
			Soak:      int64((e.Soak + time.Second - 1) / time.Second), // a policy counts whole seconds
			Approvals: policies.Approvals{Count: e.Approvals.Count, From: e.Approvals.From, Own: e.Approvals.Own}},
		Approvals: []policies.Approval{}, Authors: []string{}, Candidates: rc.candidates(s.application),
	}
	if d := s.Declared; d != nil {
		in.Current = d.Covers()
		if h := d.Held; h != nil {
			in.Hold = &policies.HoldFact{By: h.By, Reason: h.Reason, At: h.At.UTC()}
		}
	}
	if u := s.Upstream; u != nil {
		in.Upstream = &policies.Upstream{Release: u.Release(), Healthy: u.Healthy()}
		if u.Healthy() {
			in.Upstream.HealthySince = u.HealthySince()
		}
	}
	if back != nil {
		by := policies.User(rc.Access().Standing(back.by, s.application))
		in.Rollback, in.WasHealthy, in.RequestedBy = true, true, &by
		in.Release = policies.ReleaseFact{Number: back.to.Release, Commit: back.to.Source.String()}
		in.Tree = back.to.Tree.String()
		about = fmt.Sprintf("rollback of %s to release %d by %s", s.environment, back.to.Release, back.by.User)
	} else {
		in.Release = policies.ReleaseFact{Number: s.Proposal.Release, Commit: s.Proposal.Source.String()}
		in.Tree = s.Proposal.Tree.String()
		for _, a := range s.Proposal.Approvals {
			in.Approvals = append(in.Approvals, rc.approval(s, a, false))
		}
		for _, a := range s.Proposal.Former {
			in.Approvals = append(in.Approvals, rc.approval(s, a, true))
		}
		if in.Authors, err = rc.authors(ctx, s); err != nil {
			return in, "", err
		}
		about = fmt.Sprintf("release %d to %s", s.Proposal.Release, s.environment)
	}
	unverified := errNoRelease
	if rel, ok := s.release(in.Release.Number); ok {
		unverified = rel.Verifies
	}
	if in.Verifies = unverified == nil; !in.Verifies {
		in.VerifyError = unverified.Error()
	}
	return in, about, nil
}

func (rc *Reconciler) approval(s *snapshot, a record.Approval, stale bool) policies.Approval {
	u := rc.Access().Standing(access.Recorded(a.User), s.application)
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
