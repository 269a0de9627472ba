// Package deploy deploys one revision on one host, the way CodeDeploy's agent does:
// it unpacks the revision, copies the files that its appspec.yml names, sets their
// permissions, and runs its scripts event by event.
//
// Two things are better than there. Everything is checked first: what can be known
// to fail, fails before anything is touched. And a deployment that fails later puts
// the files of the previous revision back, byte for byte, and starts that again.
//
// # How
//
// A Host has a directory, laid out as CodeDeploy's (layout.go). A deployment is a
// journal in it (journal.go), rewritten durably before and after each step, so that
// a process that was killed at any moment is followed by one that goes on from
// there: a script that had been started is never started again; its event has
// failed (Interrupted). What Install is going to change is planned (plan.go), what
// was there before is saved, and what comes is staged beside its place with its
// permissions, before the first file is replaced (install.go).
//
// Deployments of a group come one at a time, in the order of their sequence; one
// with a lower sequence than the newest is refused for ever.
//
// Which revision a host should run, and when, is left to others.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// Host is a machine that revisions are deployed on: this one.
type Host struct {
	// Root holds archives, logs and records. Nobody else may write there.
	Root string
	// MaxRevisions is how many archives of a group are kept; 0 is DefaultRevisions.
	MaxRevisions int
	// Grace is how long a script that was told to end may take; 0 is five seconds.
	Grace time.Duration

	// fault, for tests, makes what is about to change the disk fail.
	fault func(op, path string) error
}

// DefaultRevisions is CodeDeploy's default.
const DefaultRevisions = 5

// Kind is the part that a host has in a deployment.
type Kind string

// The kinds. A rollback in place is a deployment in place.
const (
	InPlace             Kind = ""
	Original            Kind = "original"    // of a blue/green deployment: it is taken out of the traffic
	Replacement         Kind = "replacement" // of a blue/green deployment: it gets the traffic
	RollbackOriginal    Kind = "rollback-original"
	RollbackReplacement Kind = "rollback-replacement"

	Restart Kind = "restart" // what is installed is stopped and started, which CodeDeploy does not know
)

// Events are the lifecycle events of a kind, in order. Those about traffic exist
// where there is something to take a host out of.
func Events(k Kind, traffic bool) []appspec.Event {
	block := []appspec.Event{appspec.BeforeBlockTraffic, appspec.BlockTraffic, appspec.AfterBlockTraffic}
	allow := []appspec.Event{appspec.BeforeAllowTraffic, appspec.AllowTraffic, appspec.AfterAllowTraffic}
	install := []appspec.Event{
		appspec.ApplicationStop, appspec.DownloadBundle, appspec.BeforeInstall, appspec.Install,
		appspec.AfterInstall, appspec.ApplicationStart, appspec.ValidateService,
	}
	switch k {
	case Original, RollbackReplacement:
		return block
	case RollbackOriginal:
		return allow
	case Restart:
		return []appspec.Event{appspec.ApplicationStop, appspec.ApplicationStart, appspec.ValidateService}
	case Replacement:
		if traffic {
			return append(install, allow...)
		}
		return install
	}
	if traffic {
		return append(append(block, install...), allow...)
	}
	return install
}

// Request is a deployment that somebody wants.
type Request struct {
	ID       string // names the deployment; the same again goes on with it, or says how it ended
	Group    string // the deployment group's id; revisions of a group replace each other
	Sequence int    // 0: after all that were; else no lower one of the group is taken any more

	Content string // what tells it apart from deployments that would do something else; it is in the Result

	Application string // APPLICATION_NAME of scripts
	GroupName   string // DEPLOYMENT_GROUP_NAME of scripts; "" is Group
	Env         map[string]string

	// Unpack puts the revision into a directory that exists and is empty.
	Unpack func(ctx context.Context, dir string) error
	// Spec is the name of the appspec.yml in the revision that was asked for; "" looks
	// for the usual names.
	Spec string
	// Declared is the appspec.yml when it does not come with the revision.
	Declared *appspec.Spec

	FileExists FileExists // for when the appspec.yml does not say; "" is Disallow
	Kind       Kind
	Events     []appspec.Event // overrides the events of Kind; DownloadBundle and Install are added
	Strict     bool            // refuses what is only warned of in appspec.yml

	// Traffic takes the host out of the traffic and back; nil where there is none.
	Traffic func(ctx context.Context, allow bool) error

	// Healthy waits, at the end of ApplicationStart, for what was started to be well; nil: it
	// is. It may be asked again.
	Healthy func(ctx context.Context) error

	// IgnoreStopFailures goes on when ApplicationStop, BeforeBlockTraffic or
	// AfterBlockTraffic fails.
	IgnoreStopFailures bool
	// KeepFailed leaves what has failed as it is, as CodeDeploy does, instead of putting
	// the previous revision back.
	KeepFailed bool

	// Progress, if not nil, is told what happens while it does. It must not block.
	Progress func(Progress)
}

// FileExists is appspec.FileExists, which a deployment may also give.
type FileExists = appspec.FileExists

// Progress is something that happened in a deployment.
type Progress struct {
	Time      time.Time     `json:"time"`
	Kind      ProgressKind  `json:"kind"`
	Event     appspec.Event `json:"event,omitempty"`
	Script    string        `json:"script,omitempty"`
	Stream    string        `json:"stream,omitempty"` // of Output: "stdout" or "stderr"
	Text      string        `json:"text,omitempty"`
	Restoring bool          `json:"restoring,omitempty"` // it is about the previous revision, which is put back
	Failure   *Failure      `json:"failure,omitempty"`
}

// ProgressKind says what happened.
type ProgressKind string

// What can happen.
const (
	Warned       ProgressKind = "warning"
	EventStarted ProgressKind = "event"
	EventEnded   ProgressKind = "event-ended"
	ScriptBegun  ProgressKind = "script"
	Output       ProgressKind = "output"
	ScriptEnded  ProgressKind = "script-ended"
)

// Status is how a deployment ended.
type Status string

// The statuses.
const (
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
)

// Result is how a deployment ended on this host.
type Result struct {
	ID        string    `json:"id"`
	Content   string    `json:"content,omitempty"` // of the Request
	Status    Status    `json:"status"`
	Failure   *Failure  `json:"failure,omitempty"`
	Restored  Restored  `json:"restored,omitempty"`  // what became of the previous revision
	Previous  string    `json:"previous,omitempty"`  // deployment that was installed before
	Installed string    `json:"installed,omitempty"` // deployment that is installed now
	Verified  string    `json:"verified,omitempty"`  // newest deployment that succeeded
	Started   time.Time `json:"started"`
	Finished  time.Time `json:"finished"`
}

// Restored is what a failed deployment left.
type Restored string

// What there can be.
const (
	NotTouched  Restored = "untouched"     // the previous revision went on: nothing had been changed
	PutBack     Restored = "restored"      // the previous revision is installed and started again
	Emptied     Restored = "removed"       // there was no previous revision; what was installed is gone
	NotRestored Restored = "failed"        // it could not be put back whole; see the log
	Left        Restored = "left-as-it-is" // as was asked for
	Unrestored  Restored = ""              // it did not fail
)

// Code is CodeDeploy's for what went wrong with a script.
type Code int

// The codes.
const (
	CodeMissing     Code = 1
	CodeExecutable  Code = 2
	CodeTimeout     Code = 3
	CodeFailed      Code = 4
	CodeUnknown     Code = 5
	CodeOutputsOpen Code = 6
	CodeInterrupted Code = 7
)

// Failure is why a deployment failed.
type Failure struct {
	Event  appspec.Event `json:"event,omitempty"`  // "" for what was found before the first
	Script string        `json:"script,omitempty"` // "" for what Headgate does itself
	Code   Code          `json:"code,omitempty"`   // of a script
	What   string        `json:"what"`
	Fix    string        `json:"fix,omitempty"`
	Output string        `json:"output,omitempty"` // the end of what the script printed
}

func (f *Failure) Error() string {
	s := f.What
	if f.Event != "" {
		s = string(f.Event) + ": " + s
	}
	if f.Fix != "" {
		s += "\nhint: " + strings.ReplaceAll(f.Fix, "\n", "\nhint: ")
	}
	return s
}

// failure makes a Failure of whatever went wrong in an event.
func failure(event appspec.Event, err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		if f.Event == "" {
			f.Event = event
		}
		return f
	}
	return &Failure{Event: event, What: err.Error()}
}

// ErrFenced is the error of a deployment that is older than the newest of its group.
var ErrFenced = errors.New("a newer deployment of the group was begun")

// ErrBusy is the error of a deployment whose group has another one in progress, in
// another process.
var ErrBusy = errors.New("another deployment of the group is in progress")

var plainName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
})

func (r *Request) validate() error {
	for what, name := range map[string]string{"deployment id": r.ID, "deployment group id": r.Group} {
		if !plainName().MatchString(name) {
			return fmt.Errorf("invalid %s %q: use letters, digits, '.', '_' and '-'", what, name)
		}
	}
	if r.Group == instructions {
		return fmt.Errorf("the deployment group id %q is taken for records", r.Group)
	}
	switch r.FileExists {
	case "", appspec.Disallow, appspec.Overwrite, appspec.Retain:
	default:
		return fmt.Errorf("file exists behavior %q is not one of DISALLOW, OVERWRITE and RETAIN", r.FileExists)
	}
	return nil
}

// events are those that the deployment goes through.
func (r *Request) events() []appspec.Event {
	if r.Events == nil {
		return Events(r.Kind, r.Traffic != nil)
	}
	var own []appspec.Event
	has := map[appspec.Event]bool{}
	for _, e := range r.Events {
		has[e] = true
	}
	for _, e := range []appspec.Event{appspec.DownloadBundle, appspec.Install} {
		if !has[e] {
			own = append(own, e)
		}
	}
	return append(own, r.Events...)
}
