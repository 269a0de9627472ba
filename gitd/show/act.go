package show

import (
	"context"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Acts are what people do besides pushing. Each is checked against the rights of
// the actor and recorded in Git.
type Acts interface {
	CreateRepository(ctx context.Context, who access.Identity, name, description string) (Done, error)
	// Set sets whether a repository's branches are gated, or its own policies judge.
	Set(ctx context.Context, who access.Identity, repository string, what access.Switch, on bool) (Done, error)
	// PauseLanding lets nothing land on a branch, "" for the one shown, until
	// ResumeLanding.
	PauseLanding(ctx context.Context, who access.Identity, repository, branch, reason string) (Done, error)
	ResumeLanding(ctx context.Context, who access.Identity, repository, branch, reason string) (Done, error)
	// Withdraw takes an open change out of the queue.
	Withdraw(ctx context.Context, who access.Identity, repository string, change int) (Done, error)
	// Retry proposes the newest revision of a change that ended without landing
	// once more; Done says under which number.
	Retry(ctx context.Context, who access.Identity, repository string, change int) (Done, error)
	// Replace makes the newest revision of one open change of the actor's that of
	// another one, which the first then no longer is.
	Replace(ctx context.Context, who access.Identity, repository string, change, by int) (Done, error)
	// RunSchedule starts a run of a schedule now.
	RunSchedule(ctx context.Context, who access.Identity, repository, schedule string) (Done, error)
	// Approve approves the open promotion; tree, when not empty, must be its tree.
	Approve(ctx context.Context, who access.Identity, repository, environment, tree, reason string) (Done, error)
	// Reject says no to the open promotion: its release is not proposed again until
	// somebody chooses it. tree is as for Approve.
	Reject(ctx context.Context, who access.Identity, repository, environment, tree, reason string) (Done, error)
	// Choose proposes a release that is newer than what an environment declares; 0 is
	// the removal of one that is not declared any more.
	Choose(ctx context.Context, who access.Identity, repository, environment string, release int) (Done, error)
	// RenameEnvironment proposes a change of headgate.yaml that gives an environment
	// another name; what runs there and its history go on.
	RenameEnvironment(ctx context.Context, who access.Identity, repository, environment, to string) (Done, error)
	// Scale proposes a change of the files that declare an environment, by which a service
	// has another count of instances.
	Scale(ctx context.Context, who access.Identity, repository, environment, service string, count int) (Done, error)
	// Rollback promotes the tree of an earlier release and sets a hold.
	Rollback(ctx context.Context, who access.Identity, repository, environment string, release int,
		reason string) (Done, error)
	// Pause has the deployment of what is declared go no further, Continue lets it go on.
	Pause(ctx context.Context, who access.Identity, repository, environment, reason string) (Done, error)
	Continue(ctx context.Context, who access.Identity, repository, environment string) (Done, error)
	// StopDeployment ends the deployment of what is declared. RetryDeployment has hosts be deployed to again that
	// failed or were skipped, host or with "" all; SkipHost leaves one out. They are for
	// deployments to one host after the other.
	StopDeployment(ctx context.Context, who access.Identity, repository, environment, reason string) (Done, error)
	RetryDeployment(ctx context.Context, who access.Identity, repository, environment, host string) (Done, error)
	SkipHost(ctx context.Context, who access.Identity, repository, environment, host string) (Done, error)
}

// Done says what an act did.
type Done struct {
	What  string   `json:"done"`            // "approved 183 -> 186 for production, tree 6f0a1e2, as ada"
	Next  string   `json:"next,omitempty"`  // "now waits for soak until 15:00 UTC"
	More  []string `json:"more,omitempty"`  // further lines
	State State    `json:"state,omitempty"` // waits when something is still missing
}
