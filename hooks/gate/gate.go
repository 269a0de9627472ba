package gate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// Config is what a Gate is made from. Builder, Settings and Ask must be there.
type Config struct {
	Store    *repo.Store
	Access   func() *access.Config // who may do what, now; nil: nobody but for their own changes
	Builder  Builder
	Settings func(r *repo.Repository, tree repo.Hash) (Settings, error) // what a tree's headgate.yaml says; problems are shown to the pusher
	// Server is what the server adds to the settings of a repository's builds. Nil:
	// nothing.
	Server func(repository string) ServerSettings
	Ask    func(ctx context.Context, q Question) (Answer, error) // the land policy
	// Check says what else must hold of any tree that lands: that configuration
	// and policies in it can be read. Nil: nothing.
	Check func(ctx context.Context, r *repo.Repository, tree repo.Hash) error
	// Releases reports whether landings in a repository make releases. Nil: all
	// but the repository headgate.
	Releases func(repository string) bool
	// Landed is called when a change has landed, before anybody is told: what must
	// be so when a pusher reads "landed". The repository's gate waits for it.
	// build is the log of the build that was green. Nil: nothing. After a kill it may
	// not have been called.
	Landed func(ctx context.Context, repository, build string)
	// Forward moves a branch that lives elsewhere from old to new, before it is moved
	// here; for a branch that does not it does nothing. It is called again after a
	// kill. repo.ErrMoved: the branch is elsewhere now, and has been followed. Nil:
	// all branches live here.
	Forward func(ctx context.Context, r *repo.Repository, branch string, old, new repo.Hash) error
	// Image finds out which image a name stands for now: the name with the digest of its
	// content. An error that is a build.ImageError is the change's own. Nil: builds run on
	// the machine itself alone.
	Image func(ctx context.Context, q ImageQuery) (pinned string, err error)

	Workers    int           // builds at once over all repositories; 0: one for each core
	Containers int           // of those in containers, besides; 0: as many
	Retry      time.Duration // before a policy or a repository that could not be read is asked again; 0: 30 s
	Log        *slog.Logger  // nil: slog.Default
	Now        func() time.Time
}

// ImageQuery asks which image a name stands for.
type ImageQuery struct {
	Repository string
	Name       string
	Login      string // name of the repository's secret by which the registry is entered; "": it is not
}

// Settings is what a tree says about how it is built and landed. A change brings
// the first ones of its own, as it brings what is built; the others are taken from
// the target branch. The first push to an empty branch is judged by its own.
type Settings struct {
	Buildspec string        // path in the tree; empty: buildspec.yml. A path that begins with "builtin:" needs no file
	Image     string        // empty: headgateyaml.HostImage
	Timeout   time.Duration // 0: the Builder's default

	Strategy   Strategy // empty: Merge
	Network    bool
	Forks      headgateyaml.Forks // instead, for what nobody who may write has vouched for
	Variables  map[string]string
	Limits     buildsettings.Limits
	Services   []buildsettings.Service
	Registries map[string]string // by host, the secrets by which they are entered

	Server ServerSettings
}

// ServerSettings is what the server says of a repository's builds.
type ServerSettings struct {
	Variables map[string]string // that headgate.yaml wins over
	Own       map[string]string // that win over headgate.yaml
	Network   *bool             // nil: as headgate.yaml says
	Limits    buildsettings.Limits
}

// digest names all that a verdict depends on; "" when it is nothing.
func (s ServerSettings) digest() string {
	if len(s.Variables)+len(s.Own) == 0 && s.Network == nil {
		return ""
	}
	data, _ := json.Marshal([]any{s.Variables, s.Own, s.Network}) // there is nothing in it that could not be
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}

// environment is what a build has in the end.
func (s Settings) environment() (variables map[string]string, network bool, limits buildsettings.Limits) {
	network = s.Network
	if s.Server.Network != nil {
		network = *s.Server.Network
	}
	return buildsettings.Merge(s.Server.Variables, s.Variables, s.Server.Own), network, s.Limits.Within(s.Server.Limits)
}

// Strategy is how a change lands on a branch that has moved.
type Strategy string

const (
	Merge       Strategy = "merge"        // the pushed commit if it fast-forwards, else a merge commit
	FastForward Strategy = "fast-forward" // the pushed commit or nothing
)

// Builder runs builds. It is called from several goroutines at once.
type Builder interface {
	// Build runs one build to its end, or until ctx is done, and leaves nothing
	// running. An error means that there is no answer: the build was stopped or
	// could not be run. Red is no error.
	Build(ctx context.Context, j Job) (Result, error)
}

// Job is one build to run.
type Job struct {
	Repository *repo.Repository
	Branch     string
	Change     int // or the number of a scheduled build, among those of its schedule
	Revision   int
	By         string // the user who pushed
	Candidate  repo.Hash
	Base       repo.Hash // where the branch is; Zero before the first landing
	Tree       repo.Hash
	Buildspec  string
	Image      string
	Timeout    time.Duration // 0: the Builder's default
	Network    bool
	Variables  map[string]string
	Limits     buildsettings.Limits
	Services   []buildsettings.Service
	Registries map[string]string
	Outside    bool   // nobody who may write has vouched for it: it gets no secrets
	Log        string // id of the log to write; unique for each run
	Cache      CacheUse
}

// CacheUse is what a build has of what earlier builds of its repository left for later ones.
type CacheUse int

const (
	ReadsCache CacheUse = iota // and what it leaves itself is dropped
	KeepsCache                 // what it leaves is kept if it is green and lands
	NoCache                    // it begins with nothing, and leaves nothing
)

// Result is what a build that ran to its end said.
type Result struct {
	Green     bool
	Reason    string // red: one line for people
	Phase     string
	Command   string // that failed
	Exit      int
	LogLine   int // where the failure shows, from 1
	LogDigest string
	Artifacts []verdict.Artifact
	SBOM      *verdict.Artifact // nil: the tree says of nothing that it is made of
	Flaky     []string          // red: the tests that failed, where all of them are known to be flaky
}

// Question is what the land policy is asked: may this candidate land?
type Question struct {
	Repository *repo.Repository
	Branch     string
	Tip        repo.Hash // where the branch is; Zero before the first landing
	Candidate  repo.Hash
	Tree       repo.Hash
	Change     change.Change
	Verdict    verdict.Verdict
	Paths      []string // that landing would change
	Now        time.Time
}

// Answer is the policy's decision. The zero Answer is deny.
type Answer struct {
	Decision  string // auto, manual, deny
	Reasons   []string
	Rules     []string  // that the reasons are of, each once
	Missing   []string  // manual: what is missing
	NotBefore time.Time // manual: when to ask again, zero if only a person can help
	Hint      string
	Record    decision.Record // saved before the answer is acted on
}

// Proposal is a push to a gated branch that may enter the queue.
type Proposal struct {
	Repository string
	Branch     string // short name
	Commit     repo.Hash
	By         access.Identity
	Key        string   // fingerprint
	Options    []string // push options: change=<n>, priority=high, rebuild; others are only kept
	Decision   repo.Hash
}

// Accepted is what became of a Proposal.
type Accepted struct {
	Change   int
	Revision int
	Attached bool // the same commit was proposed before and has not ended, or has landed
	PushedAt time.Time
	Others   []int       // open changes of the same user to the same branch, beside this one
	Paused   *show.Pause // nothing lands on the branch for now; nil: it does
}

// Kind is what a Progress tells.
type Kind string

const (
	Queued     Kind = "queued"
	Building   Kind = "building"
	Verdict    Kind = "verdict"
	Landed     Kind = "landed"
	Refused    Kind = "refused"
	Conflict   Kind = "conflict"
	Withdrawn  Kind = "withdrawn"
	Restarting Kind = "restarting"
)

// Progress is one thing that happened to a change.
type Progress struct {
	At       time.Time
	Kind     Kind
	Change   int
	Revision int
	Branch   string

	Place     int // queued, building: as in Entry
	Behind    int
	Waits     bool // queued: a policy waits; Reason says for what
	Candidate repo.Hash
	Tree      repo.Hash
	With      string // what is tested: "main + 412"
	Log       string // id of the build's log

	Green      bool // verdict
	Reused     bool // verdict: it was there already
	GreenSince time.Time
	From       string // reused: what earned it, "change 7"

	Reason    string // one line
	Short     string // the same for git's "remote rejected" line
	Details   []string
	Hint      string
	Cause     change.Cause // refused
	Files     []string     // conflict: the first of them
	MoreFiles int          // conflict: beyond Files
	Tip       repo.Hash    // refused, conflict: where the branch stays

	Landed      repo.Hash // where the branch is now
	Old         repo.Hash // where it was
	FastForward bool      // the very commit that was pushed landed
	Release     int
	Took        time.Duration // landed: since the push; verdict: of the build

	show.Estimate // queued, building: as of when Follow yields it
}

// Ends reports whether nothing follows p.
func (p Progress) Ends() bool {
	switch p.Kind {
	case Landed, Refused, Conflict, Withdrawn, Restarting:
		return true
	}
	return false
}

// Entry is one change in a queue, in the order in which they will be tried.
type Entry struct {
	Repository string
	Branch     string
	Change     int
	Revision   int
	State      show.State // queued, running, waits
	Place      int        // in its branch's queue, from 1, without those that wait; 0: it waits
	Behind     int        // the change before it, which lands or fails first; 0: none
	Reason     string
	Until      time.Time // waits: when its turn comes by itself; zero: when what it waits for happens
	Candidate  repo.Hash
	Tree       repo.Hash
	With       string
	Log        string
	Started    time.Time     // of the running build
	Took       time.Duration // that a build usually takes here; 0 if unknown

	show.Estimate
}
