package show

import (
	"context"
	"iter"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Changes answers for changes, their builds and what came of them.
type Changes interface {
	Changes(ctx context.Context, who access.Identity, repository string, f ChangeFilter) (ChangePage, error)
	Change(ctx context.Context, who access.Identity, repository string, number int) (Change, error)
	// Paused are the branches of a repository on which nothing lands for now.
	Paused(ctx context.Context, who access.Identity, repository string) ([]Pause, error)
	// Log yields a change's newest build log; with follow it ends when the build
	// has ended and what followed from it is known: the change has ended, or waits.
	Log(ctx context.Context, who access.Identity, repository string, number int, follow bool) iter.Seq2[LogEvent, error]
	// BuildLog yields what there is of the log of another build of a change, or of a task of
	// a batch, by the name that FoundLine and LogEvent have of it.
	BuildLog(ctx context.Context, who access.Identity, repository string, number int, log string) iter.Seq2[LogEvent, error]
	// SearchLogs yields lines of build logs as it finds them, those of the newest builds first.
	// What it yields last is a *SearchCut when it did not look through all.
	SearchLogs(ctx context.Context, who access.Identity, search LogSearch) iter.Seq2[FoundLine, error]
	Releases(ctx context.Context, who access.Identity, repository string, f ReleaseFilter) (ReleasePage, error)
	Release(ctx context.Context, who access.Identity, repository string, number int) (Release, error)
	// SBOM is what the bill of materials of a release says, in CycloneDX.
	SBOM(ctx context.Context, who access.Identity, repository string, release int) ([]byte, error)
}

// ChangeFilter narrows Backend.Changes. The zero filter means the newest.
type ChangeFilter struct {
	Part
	State  State
	Author string // who pushed it, or whom its commit names
	Path   string // file or directory that it changes
	All    bool   // not a part
}

// RefusalsShown is how long somebody is reminded of their change that was refused.
const RefusalsShown = 7 * 24 * time.Hour

// Change is one change. The lists (Story, Steps) are filled on its own page only.
type Change struct {
	Repository string    `json:"repository"`
	Number     int       `json:"change"`
	Revision   int       `json:"revision"`
	Revisions  []string  `json:"revisions,omitempty"` // commit of each revision, first is revision 1
	Branch     string    `json:"branch"`
	Subject    string    `json:"subject"`
	By         string    `json:"by"`     // the user who pushed, from the proven key
	Author     string    `json:"author"` // what the commit says, unproven
	Commit     string    `json:"commit"`
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"` // one line: why it is in that state
	Details    []string  `json:"details,omitempty"`
	Hint       string    `json:"hint,omitempty"`
	Place      int       `json:"place,omitempty"` // in the queue, from 1
	PushedAt   time.Time `json:"pushed_at"`
	EndedAt    time.Time `json:"ended_at,omitzero"`
	Candidate  string    `json:"candidate,omitempty"` // commit being tested, or landed
	Tree       string    `json:"tree,omitempty"`
	TestedWith string    `json:"tested_with,omitempty"` // "main + 410 + 412"
	Build      *Build    `json:"build,omitempty"`
	Release    int       `json:"release,omitempty"`
	RunsIn     []string  `json:"runs_in,omitempty"` // environments that run it or something newer
	Behind     int       `json:"behind,omitempty"`  // the change that must land or fail first
	Story      []Event   `json:"story,omitempty"`
	Cause      string    `json:"cause,omitempty"`         // of a refusal: build-failed, no-buildspec, denied, …; others may come
	Rules      []string  `json:"rules,omitempty"`         // of the policy that denies it or lets it wait
	Files      []string  `json:"files,omitempty"`         // in conflict, the first of them
	MoreFiles  int       `json:"more_files,omitempty"`    // in conflict, beyond those
	With       int       `json:"conflict_with,omitempty"` // the landed change that touched the same files
	Tip        string    `json:"tip,omitempty"`           // refused, in conflict: where the branch stayed
	WaitsUntil time.Time `json:"waits_until,omitzero"`    // waits: when it is its turn again, if nothing else happens
	Mended     bool      `json:"mended,omitempty"`        // refused, yours: what it wanted is on its branch all the same
	Expected   Duration  `json:"expected_ms,omitempty"`   // that a build usually takes here
	Estimate             // open: when it probably lands

	MayWithdraw bool `json:"may_withdraw,omitempty"` // its own page only, as MayRetry
	MayRetry    bool `json:"may_retry,omitempty"`
}

// Event is one entry of a change's story (a commit of refs/changes/<n>/log).
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"event,omitempty"` // pushed, tested, waits, landed, refused, conflict, withdrawn; others may come
	What string    `json:"what"`            // "pushed revision 2 to main: Say more"; who did it is By
	By   string    `json:"by,omitempty"`    // a user; empty for the server
	More string    `json:"more,omitempty"`
}
