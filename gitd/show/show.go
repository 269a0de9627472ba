// Package show holds the facts that Headgate shows, to a terminal and to a
// browser alike: repositories, changes, environments, promotions. Each struct
// is also the JSON of its page and of its command's --json: snake_case words
// of the design, RFC 3339 UTC times, keys only ever added.
//
// House is what the front door asks for them. cmd joins the rooms behind it;
// this package decides nothing and remembers nothing.
package show

import (
	"context"
	"iter"
	"time"
)

// Actor is who asks: a user proven by key, or by a console session that such a
// user opened. The zero Actor is nobody, who may see nothing.
type Actor struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"`
	Admin  bool     `json:"administrator,omitempty"`
	Via    string   `json:"via,omitempty"` // "ssh", "push", "console"
}

// State is one word of DESIGN-UI section 3; the word is what people read.
type State string

const (
	Queued     State = "queued"
	Running    State = "running"
	Green      State = "green"
	Healthy    State = "healthy"
	Landed     State = "landed"
	Refused    State = "refused"
	Failed     State = "failed"
	Conflict   State = "conflict"
	Withdrawn  State = "withdrawn"
	NotGated   State = "not gated"
	Waits      State = "waits"
	Open       State = "open"
	Drift      State = "drift"
	Hold       State = "hold"
	Unknown    State = "unknown"
	Converging State = "converging"
	Empty      State = "empty" // nothing has landed or been promoted yet
)

// Server is what the server says of itself.
type Server struct {
	Name        string    `json:"name"`     // host name people know it by
	SSH         string    `json:"ssh"`      // host:port as a client reaches it
	HTTP        string    `json:"http"`     // base URL of the console, no slash at the end
	HostKey     string    `json:"host_key"` // SHA256:… fingerprint
	Signers     string    `json:"-"`        // allowed-signers file for git log --show-signature
	Version     string    `json:"version"`
	Workers     int       `json:"workers"`
	WorkersBusy int       `json:"workers_busy"`
	Started     time.Time `json:"started"`
}

// CloneURL is where repository name is cloned from over SSH.
func (s Server) CloneURL(name string) string { return "ssh://" + s.SSH + "/" + name }

// Repository is one line of the repository list, and the head of its page.
type Repository struct {
	Name         string        `json:"repository"`
	Description  string        `json:"description,omitempty"`
	Clone        string        `json:"clone"`
	Gated        bool          `json:"gated"`
	UngatedBy    string        `json:"ungated_by,omitempty"` // who ungated it, and when: "sam on 2026-11-03"
	Branch       string        `json:"branch"`               // the gated branch shown, usually main
	Tip          string        `json:"tip,omitempty"`        // full commit id, empty before the first landing
	Tree         string        `json:"tree,omitempty"`
	State        State         `json:"state"` // of the branch: green, empty, not gated
	LandedAt     time.Time     `json:"landed_at,omitzero"`
	Release      int           `json:"release,omitempty"`
	Queue        []Change      `json:"queue"`        // in landing order
	Environments []Environment `json:"environments"` // in the order of headgate.yaml
	MayWrite     bool          `json:"may_write"`
}

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
	Files      []string  `json:"files,omitempty"`       // in conflict
	Expected   Duration  `json:"expected_ms,omitempty"` // that a build usually takes here
	LandsAt    time.Time `json:"lands_at,omitzero"`     // when it probably lands
}

// Duration is a time.Duration that is milliseconds in JSON.
type Duration time.Duration

// MarshalJSON writes milliseconds.
func (d Duration) MarshalJSON() ([]byte, error) { return milliseconds(d), nil }

// Event is one entry of a change's story (a commit of refs/changes/<n>/log).
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"event,omitempty"` // pushed, tested, waits, landed, refused, conflict, withdrawn; others may come
	What string    `json:"what"`
	By   string    `json:"by,omitempty"`
	More string    `json:"more,omitempty"`
}

// Build is one run of a buildspec, as a change or a verdict names it.
type Build struct {
	ID       string    `json:"build"`
	Tree     string    `json:"tree"`
	State    State     `json:"state"` // queued, running, green, failed
	Reason   string    `json:"reason,omitempty"`
	Log      string    `json:"log,omitempty"` // what House.Log takes
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Reused   bool      `json:"reused,omitempty"` // the verdict was there already
	Phase    string    `json:"phase,omitempty"`
	Command  string    `json:"command,omitempty"`
	Exit     int       `json:"exit,omitempty"`
	LogLine  int       `json:"log_line,omitempty"` // where the failure shows
}

// LogEvent is one entry of a build's log, in order.
type LogEvent struct {
	Kind    string    `json:"kind"`           // step, out, end, note, done
	Step    int       `json:"step,omitempty"` // from 1
	Line    int       `json:"line,omitempty"` // of the whole log, from 1; out and note only
	At      Duration  `json:"at_ms"`          // since the build began
	Phase   string    `json:"phase,omitempty"`
	Command string    `json:"command,omitempty"`
	Text    string    `json:"text,omitempty"` // may hold SGR colour codes, no other controls
	Exit    int       `json:"exit,omitempty"` // kind end
	Took    Duration  `json:"took_ms,omitempty"`
	Began   time.Time `json:"-"`
}

// Release is a landed commit with its artifacts.
type Release struct {
	Repository string     `json:"repository"`
	Number     int        `json:"release"`
	Commit     string     `json:"commit"`
	Subject    string     `json:"subject"`
	Change     int        `json:"change,omitempty"`
	By         string     `json:"by,omitempty"`
	At         time.Time  `json:"at"`
	Artifacts  []Artifact `json:"artifacts"`
	RunsIn     []string   `json:"runs_in,omitempty"`
}

// Artifact is named by digest in the artifact store.
type Artifact struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size,omitempty"`
}

// Environment is declared and actual state side by side.
type Environment struct {
	Repository   string     `json:"repository"`
	Name         string     `json:"environment"`
	After        string     `json:"after,omitempty"`
	Target       string     `json:"target"`
	State        State      `json:"state"` // of the actual side: healthy, converging, failed, unknown, empty
	Reason       string     `json:"reason,omitempty"`
	Since        time.Time  `json:"since,omitzero"`
	Release      int        `json:"release,omitempty"`  // declared
	Commit       string     `json:"commit,omitempty"`   // source commit of that release
	Declared     string     `json:"declared,omitempty"` // commit of env/<name>
	DeclaredAt   time.Time  `json:"declared_at,omitzero"`
	Behind       int        `json:"behind"` // releases behind the environment (or branch) before it
	Services     []Service  `json:"services,omitempty"`
	Held         *HoldNote  `json:"hold,omitempty"`
	Promotion    *Promotion `json:"promotion,omitempty"` // the open proposal, if any
	History      []Deployed `json:"history,omitempty"`   // newest first; its own page only
	MayRollback  bool       `json:"may_rollback"`
	URLs         []string   `json:"urls,omitempty"`
	LastApproved []Approval `json:"-"`
}

// Service is one service of an environment with its instances.
type Service struct {
	Name      string     `json:"service"`
	URL       string     `json:"url,omitempty"`
	State     State      `json:"state"`
	Instances []Instance `json:"instances"`
}

// Instance is one supervised process.
type Instance struct {
	ID       string    `json:"instance"`
	Release  int       `json:"release"`
	State    State     `json:"state"`
	Message  string    `json:"message,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Restarts int       `json:"restarts"`
}

// HoldNote says who stopped automatic promotion and why.
type HoldNote struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// Deployed is one commit of env/<name> with what became of it.
type Deployed struct {
	Commit      string     `json:"declared"`
	Release     int        `json:"release"`
	Source      string     `json:"commit"`
	Subject     string     `json:"subject"`
	At          time.Time  `json:"at"`
	By          string     `json:"by"` // who or what decided: "policy", a user
	Approvals   []Approval `json:"approvals,omitempty"`
	Outcome     State      `json:"outcome"` // healthy, failed, converging, unknown
	Message     string     `json:"message,omitempty"`
	Rollback    bool       `json:"rollback,omitempty"`
	MayRollback bool       `json:"may_rollback"` // "roll back to this" is offered
	WhyNot      string     `json:"why_not,omitempty"`
}

// Approval is one person's yes to exactly one content.
type Approval struct {
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Via   string    `json:"via"`
	Tree  string    `json:"tree"`
	Why   string    `json:"reason,omitempty"`
	Stale bool      `json:"stale,omitempty"`
}

// Promotion is the open proposal of one environment, with its gate.
type Promotion struct {
	Repository  string     `json:"repository"`
	Environment string     `json:"environment"`
	From        int        `json:"from_release,omitempty"` // 0: nothing runs there yet
	To          int        `json:"to_release"`
	Proposal    string     `json:"proposal"` // commit at promote/<environment>
	Tree        string     `json:"tree"`     // what an approval binds to
	Source      string     `json:"commit"`
	ProposedAt  time.Time  `json:"proposed_at"`
	Decision    string     `json:"decision"` // auto, manual, deny
	Summary     string     `json:"summary"`  // "waits for 1 approval and soak"
	Checks      []Check    `json:"checks"`   // open ones first
	NotBefore   time.Time  `json:"not_before,omitzero"`
	Policy      string     `json:"policy"` // digest
	Approvals   []Approval `json:"approvals"`
	MayApprove  bool       `json:"may_approve"`
	WhyNot      string     `json:"why_not,omitempty"` // why the actor may not approve
	Files       []FileDiff `json:"files,omitempty"`   // its own page only
	Carries     []Release  `json:"carries,omitempty"` // its own page only, newest first
	Commands    []string   `json:"commands"`          // that approve it, ready to paste
}

// Check is one condition of a gate.
type Check struct {
	Rule        string    `json:"rule"`
	Title       string    `json:"title"`
	Met         bool      `json:"met"`
	Detail      string    `json:"detail,omitempty"`
	Until       time.Time `json:"until,omitzero"`
	UntilPerson bool      `json:"until_a_person_acts,omitempty"`
	Who         []string  `json:"who,omitempty"`
	Progress    float64   `json:"progress,omitempty"` // 0 to 1 for a condition of time
}

// FileDiff is the change of one rendered file.
type FileDiff struct {
	Path  string     `json:"path"`
	State string     `json:"state"` // added, removed, changed
	Lines []DiffLine `json:"lines"`
	Cut   bool       `json:"cut,omitempty"` // more lines than are sent
}

// DiffLine is one line; Kind is "+", "-" or " ".
type DiffLine struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// Why answers "why not" for a change, an environment or a commit.
type Why struct {
	Answer string   `json:"answer"` // one sentence, first line of the command
	State  State    `json:"state"`
	Checks []Check  `json:"checks,omitempty"`
	Facts  []Fact   `json:"facts,omitempty"`
	Next   []string `json:"next,omitempty"` // commands to paste
}

// Fact is one labelled line.
type Fact struct {
	Label string `json:"label"`
	Text  string `json:"text"`
}

// ChangeFilter narrows House.Changes. The zero filter means the newest 50.
type ChangeFilter struct {
	State State
	All   bool
}

// Done says what an act did.
type Done struct {
	What  string   `json:"done"`            // "approved 183 -> 186 for production, tree 6f0a1e2, as ada"
	Next  string   `json:"next,omitempty"`  // "now waits for soak until 15:00 UTC"
	More  []string `json:"more,omitempty"`  // further lines
	State State    `json:"state,omitempty"` // waits when something is still missing
}

// House answers for the rooms behind the front door. All methods are safe for
// concurrent use. What an actor may not read is not found. Errors for people
// are *Error; any other error is the server's own fault.
type House interface {
	Server(ctx context.Context) Server
	Repositories(ctx context.Context, a Actor) ([]Repository, error)
	Repository(ctx context.Context, a Actor, name string) (Repository, error)
	// Changes lists newest first; total is the number of all changes.
	Changes(ctx context.Context, a Actor, repository string, f ChangeFilter) (changes []Change, total int, err error)
	Change(ctx context.Context, a Actor, repository string, number int) (Change, error)
	// Log yields a change's newest build log; with follow it ends when the build
	// has ended and what followed from it is known: the change has ended, or waits.
	Log(ctx context.Context, a Actor, repository string, number int, follow bool) iter.Seq2[LogEvent, error]
	Releases(ctx context.Context, a Actor, repository string) ([]Release, error)
	// Environment includes history and the open promotion.
	Environment(ctx context.Context, a Actor, repository, environment string) (Environment, error)
	Promotion(ctx context.Context, a Actor, repository, environment string) (Promotion, error)
	// Why answers for a change number, an environment, or a commit id.
	Why(ctx context.Context, a Actor, repository, thing string) (Why, error)

	CreateRepository(ctx context.Context, a Actor, name, description string) (Done, error)
	// Ungate and Gate set whether a repository's branches are gated.
	SetGate(ctx context.Context, a Actor, repository string, gated bool) (Done, error)
	// Approve approves the open promotion; tree, when not empty, must be its tree.
	Approve(ctx context.Context, a Actor, repository, environment, tree, reason string) (Done, error)
	// Rollback promotes the tree of an earlier release and sets a hold.
	Rollback(ctx context.Context, a Actor, repository, environment string, release int, reason string) (Done, error)

	// Watch tells, coalesced, that something about a repository ("" for any) may
	// have changed. The channel is closed by stop.
	Watch(repository string) (changed <-chan struct{}, stop func())
}
