package reconciler

import (
	"context"
	"time"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// facts is what a promotion is judged by. All joining is done here, in Go; the
// policy is told facts with their evidence.
type facts struct {
	now         time.Time
	repository  string
	settings    headgateyaml.Environment
	from, to    int // releases; from 0: nothing was promoted yet
	commit      repo.Hash
	tree        repo.Hash
	authors     []string // users
	approvals   []Approval
	former      []Approval
	mayApprove  []string // users whose approval would count and is missing
	upstream    *upstreamFacts
	hold        *Hold
	unverified  error // of the release
	artifacts   []Artifact
	rollback    bool
	rollbackBy  show.Actor
	why         string
	wasHealthy  bool // rollback: the release was healthy to the end here
	tip         repo.Hash
	description string // "release 3 to production"
}

type upstreamFacts struct {
	name         string
	release      int
	healthy      bool
	healthySince time.Time
}

func (rc *Reconciler) facts(ctx context.Context, s *sight, back *rollbackTarget) (facts, error) {
	f := facts{now: s.Now, repository: s.app, settings: s.settings, tip: s.tip}
	if s.declared != nil {
		f.from, f.hold = s.Declared.Covers, s.declared.Held
	}
	if u := s.upstream; u != nil {
		f.upstream = &upstreamFacts{name: s.settings.After, release: s.Upstream.Release, healthy: u.healthy}
		if u.healthy {
			f.upstream.healthySince = u.healthySince()
		}
	}
	if back != nil {
		f.rollback, f.rollbackBy, f.why, f.wasHealthy = true, back.by, back.reason, true
		f.to, f.commit, f.tree = back.to.Release, back.to.Source, back.to.Tree
		f.description = "release " + itoa(f.to) + " to " + s.environment + ", a rollback by " + back.by.Name
		if rel, ok := s.release(f.to); ok {
			f.artifacts, f.unverified = rel.Artifacts, rel.Verifies
		} else {
			f.unverified = errNoRelease
		}
		return f, nil
	}
	f.to, f.commit, f.tree = s.Proposal.Release, s.proposal.Source, s.Proposal.Tree
	f.description = "release " + itoa(f.to) + " to " + s.environment
	f.approvals, f.former = s.proposal.Approvals, s.proposal.Former
	var err error
	if f.authors, err = rc.authors(ctx, s); err != nil {
		return f, err
	}
	f.mayApprove = rc.approvers(s, f.authors)
	if rel, ok := s.release(f.to); ok {
		f.artifacts, f.unverified = rel.Artifacts, rel.Verifies
	} else {
		f.unverified = errNoRelease
	}
	return f, nil
}
