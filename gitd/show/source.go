package show

import (
	"context"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Commit is one commit as lists show it. Author is what the commit says,
// unproven; who pushed it is a fact of its change.
type Commit struct {
	ID      string    `json:"commit"`
	Parents []string  `json:"parents,omitempty"`
	Subject string    `json:"subject"`
	Author  string    `json:"author"`
	Email   string    `json:"email,omitempty"`
	At      time.Time `json:"at"` // when it was written
}

// Comparison is what lies between two commits: what a reader wants to have seen
// before a yes.
type Comparison struct {
	Repository  string `json:"repository"`
	From        string `json:"from,omitempty"` // a commit; empty: nothing was there
	To          string `json:"to"`
	FromRelease int    `json:"from_release,omitempty"`
	ToRelease   int    `json:"to_release,omitempty"`

	Commits     []Commit `json:"commits"`                // newest first
	MoreCommits bool     `json:"more_commits,omitempty"` // older ones are left out

	Files   []FileDiff `json:"files"`
	Changed int        `json:"changed"` // files, those left out included
	Added   int        `json:"added"`   // lines
	Removed int        `json:"removed"`
	Cut     bool       `json:"cut,omitempty"` // files are left out

	Artifacts []ArtifactDiff `json:"artifacts,omitempty"`

	// Rebased: From's changes were first brought onto what To stands on, so that
	// only what the author changed shows. Unrebased: that could not be done, and
	// the difference holds what landed in between as well.
	Rebased   bool `json:"rebased,omitempty"`
	Unrebased bool `json:"unrebased,omitempty"`

	Git []string `json:"git"` // commands that show the same from a clone
}

// ArtifactDiff is one artifact of two releases.
type ArtifactDiff struct {
	Name  string         `json:"name"`
	State FileState      `json:"state"`
	From  string         `json:"from_digest,omitempty"`
	To    string         `json:"to_digest,omitempty"`
	Size  int64          `json:"size,omitempty"` // of the newer
	Files []ArtifactFile `json:"files,omitempty"`
	Cut   bool           `json:"cut,omitempty"`     // more files differ than are listed
	Why   string         `json:"unknown,omitempty"` // why the files are not known: the artifact is gone
}

// ArtifactFile is one file that differs between two artifacts.
type ArtifactFile struct {
	Path  string    `json:"path"`
	State FileState `json:"state"`
	From  int64     `json:"from_size,omitempty"`
	To    int64     `json:"to_size,omitempty"`
}

// FileDiff is the change of one file. Rule marks a file that says how changes
// are judged or run.
type FileDiff struct {
	Path    string     `json:"path"`
	From    string     `json:"from_path,omitempty"` // its name before, when it was renamed
	State   FileState  `json:"state"`
	Added   int        `json:"added"`
	Removed int        `json:"removed"`
	OldMode string     `json:"old_mode,omitempty"` // when the mode changed
	Mode    string     `json:"mode,omitempty"`     // when it is not that of an ordinary file
	Binary  bool       `json:"binary,omitempty"`
	Rule    bool       `json:"rule,omitempty"`
	Lines   []DiffLine `json:"lines"`
	Cut     bool       `json:"cut,omitempty"` // more lines than are sent
}

// DiffLine is one line; Kind is "+", "-", " ", or "@" for where a hunk begins.
type DiffLine struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// FileState is what became of a file between two commits.
type FileState string

const (
	FileAdded   FileState = "added"
	FileRemoved FileState = "removed"
	FileChanged FileState = "changed"
	FileRenamed FileState = "renamed"
	FileSame    FileState = "same"
)

// CommitPage is one commit with all that it says and what it changed against
// its first parent.
type CommitPage struct {
	Commit
	Repository string     `json:"repository"`
	Tree       string     `json:"tree"`
	Message    string     `json:"message,omitempty"` // below the subject
	Difference Comparison `json:"difference"`
}

// Content is a directory or a file of a commit.
type Content struct {
	Repository string      `json:"repository"`
	Revision   string      `json:"revision"` // as it was asked for
	Commit     string      `json:"commit"`
	Path       string      `json:"path"` // "" is the root
	Kind       ContentKind `json:"kind"`
	Entries    []TreeEntry `json:"entries,omitempty"`
	Size       int64       `json:"size,omitempty"`
	Text       string      `json:"text,omitempty"`   // of a file; the target of a link
	Binary     bool        `json:"binary,omitempty"` // Text is left out
	Cut        bool        `json:"cut,omitempty"`    // more entries or text than is sent
}

// ContentKind says what stands at a path.
type ContentKind string

const (
	Directory ContentKind = "directory"
	File      ContentKind = "file"
	Program   ContentKind = "program" // an executable file
	Link      ContentKind = "link"
	Submodule ContentKind = "submodule"
)

// TreeEntry is one name in a directory.
type TreeEntry struct {
	Name string      `json:"name"`
	Kind ContentKind `json:"kind"`
	Hash string      `json:"hash"`
}

// Decision is one recorded answer of the policies.
type Decision struct {
	Repository string    `json:"repository"`
	ID         string    `json:"decision"` // d-1a2b3c4
	Commit     string    `json:"commit"`   // of refs/decisions/log
	At         time.Time `json:"at"`
	Question   string    `json:"question"` // push, land, promote …
	About      string    `json:"about"`
	Answer     string    `json:"answer"` // auto, manual, deny
	Policy     string    `json:"policy"` // digest
	Digest     string    `json:"digest"` // of Document
	Document   string    `json:"document"`
}

// Found is what a search found, newest first in each list.
type Found struct {
	Query        string        `json:"query"`
	Repositories []Repository  `json:"repositories"`
	Changes      []Change      `json:"changes"`
	Commits      []FoundCommit `json:"commits"`
	Lines        []FoundLine   `json:"lines"`               // of logs of what was built lately
	LinesCut     string        `json:"lines_cut,omitempty"` // why not all logs were looked through
	Cut          bool          `json:"cut,omitempty"`       // there is more, or time was up
}

// FoundCommit is a commit and where it is.
type FoundCommit struct {
	Repository string `json:"repository"`
	Commit
}

// Source shows what repositories hold: commits, trees, files, differences. All
// of it is read-only and bounded; what is left out is said.
type Source interface {
	// Commit is the commit that revision names: an id, the first digits of one, a branch or a tag.
	Commit(ctx context.Context, who access.Identity, repository, revision string) (CommitPage, error)
	// Commits are the newest of a revision's history; "" is the gated branch.
	Commits(ctx context.Context, who access.Identity, repository, revision string) (list []Commit, more bool, err error)
	// Content is what stands at a path of a revision.
	Content(ctx context.Context, who access.Identity, repository, revision, path string) (Content, error)
	// Compare is the difference between two revisions.
	Compare(ctx context.Context, who access.Identity, repository, from, to string) (Comparison, error)
	// ChangeDiff is what a revision of a change alters, or, with from, what it
	// alters against that earlier revision. Revision 0 is the newest.
	ChangeDiff(ctx context.Context, who access.Identity, repository string, number, from, revision int) (Comparison, error)
	// ReleaseDiff is the difference between two releases, from 0 being nothing.
	ReleaseDiff(ctx context.Context, who access.Identity, repository string, from, to int) (Comparison, error)
	// Decision is one recorded decision, by the id that people are shown.
	Decision(ctx context.Context, who access.Identity, repository, id string) (Decision, error)
	// Decisions are the newest, below the commit before, which may be empty.
	Decisions(ctx context.Context, who access.Identity, repository, before string) (list []Decision, more bool, err error)
	// Search looks for text in names, subjects, authors, commits, and logs of what was built lately.
	Search(ctx context.Context, who access.Identity, query string) (Found, error)
}
