// Package build runs one build: the commands of a buildspec on a checked-out
// tree, in a sandbox, with a log; and keeps the artifacts.
//
//   - Run does it (run.go): phases, their order and what their failure means,
//     as CodeBuild does it (doc/codebuild.md, whose rows comments name).
//   - Executor is where commands run: on the machine (host), or in containers
//     (container). executortest is the contract of both.
//   - The formats have packages of their own: buildspec, buildlog, artifact.
//
// What is built, when, and what a result means for a change is for the gate.
// `headgate run` runs the same code on a laptop.
package build

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/hooks/build/report"
)

// DefaultTimeout is CodeBuild's own.
const DefaultTimeout = 60 * time.Minute

// Request is one build to run.
type Request struct {
	ID        string            // names the build in messages and in CODEBUILD_BUILD_ID
	Source    string            // directory with the checked-out tree; the build owns it and writes there
	Work      string            // directory for what else the build needs; Run makes directories in it, the caller removes them
	Buildspec string            // path inside Source; "" is buildspec.yml
	Variables map[string]string // win over the buildspec's own (B31)
	Secrets   Secrets           // what env.secrets-manager and env.parameter-store name; nil: there is nobody to ask
	Timeout   time.Duration     // 0 is DefaultTimeout
	Network   bool              // whether commands reach the network
	Image     string            // of the container that it runs in; "": it runs on the machine itself
	Services  []Service         // beside that container
	Logins    map[string]Login  // of registries, by host, that these images are of
	Limits    buildsettings.Limits
	Objects   string   // directory with the objects of Git that Source/.git refers to at ObjectsDir; "" is none
	Cache     Cache    // what CacheDir is made of; zero: an empty one that nobody else sees
	Images    []Image  // to make when it has succeeded
	Notices   []string // what people should know of the source, a line each at the head of the log

	// What the build may know of itself.
	Number     int // of the change
	Repository string
	Branch     string // "" when it is for none
	Commit     string
	Previous   string // commit that Branch is at; "" before the first
	Tree       string
	Initiator  string
	URL        string // of the page about the build; "" when there is none
	Local      bool   // on somebody's own machine

	// Failed is called when the build has failed and its sandbox is still there. Nil:
	// nothing.
	Failed func(ctx context.Context, s Session) error

	Task *buildspec.Task // of a batch that this build is; nil for others
}

// Secrets finds the value of a secret that a buildspec names. An error that is a
// yamlfile.Problem is the change's own: there is no such secret. One that wraps
// ErrNoSecrets says why a build gets none: the variable is not set.
type Secrets func(ctx context.Context, s buildspec.Secret) (value string, err error)

// Secret is one that a buildspec names.
type Secret = buildspec.Secret

// ErrNoSecrets is why a build goes on without a secret.
var ErrNoSecrets = errors.New("this build gets no secrets")

// Image is a container image to make of what a build left behind.
type Image struct {
	Name      string
	Archive   string // path in the source of a saved image; "" makes one of Artifact
	Artifact  string // name of one of the build's
	Directory string // absolute, where the artifact's files are in it
	Config    artifact.Config
	Line      int // of headgate.yaml
}

// Status is how a build ended, in CodeBuild's words.
type Status string

const (
	Succeeded Status = "SUCCEEDED"
	Failed    Status = "FAILED"
	TimedOut  Status = "TIMED_OUT"
	Stopped   Status = "STOPPED" // somebody cancelled it; no verdict follows
)

// Result is what a build came to.
type Result struct {
	Status    Status
	Phase     string              // that failed
	Code      string              // phase context code: COMMAND_EXECUTION_ERROR, YAML_FILE_ERROR, CLIENT_ERROR
	Command   string              // that failed
	Exit      int                 // its exit status
	Reason    string              // one line for people: `build: "go test ./..." exited 1`
	LogLine   int                 // line of the log at which the failure shows; 0: none
	Artifacts []artifact.Artifact // images last
	Exported  map[string]string   // of env.exported-variables
	Reports   []report.Report
	Started   time.Time
	Finished  time.Time
}

// Cache is what the tools in a sandbox keep for the next one: Lower is read and
// never written to, Upper takes what is written, Work and Merged are the
// executor's. Without Lower there is Upper alone.
type Cache struct{ Lower, Upper, Work, Merged string }

// Executor makes sandboxes.
type Executor interface {
	// Start makes a sandbox for one build. An error is the server's own failure
	// (or the machine's), not the build's.
	Start(ctx context.Context, s Sandbox) (Session, error)
}

// UnableError is what keeps an executor from making any sandbox, and what to do
// about it, in words that everybody may read.
type UnableError string

func (e UnableError) Error() string { return string(e) }

// ForPeople is the error's text for those whose change is concerned.
func (e UnableError) ForPeople() string { return string(e) }

// ImageError is that there is no image of a name to make a sandbox of, which whoever
// wrote it can correct.
type ImageError struct{ What string }

func (e *ImageError) Error() string { return e.What }

// ForPeople is the error's text for those whose change is concerned.
func (e *ImageError) ForPeople() string { return e.What }

// Sandbox is what a session is made of.
type Sandbox struct {
	ID       string
	Image    string           // to make it of, for an executor that does
	Services []Service        // beside it; an executor that has none refuses them
	Logins   map[string]Login // of registries, by host
	Source   string           // host directory that is SourceDir inside
	Control  string           // host directory that is ControlDir inside; nothing inside may write there
	Home     string           // host directory that is the home inside
	Temp     string           // host directory that is /tmp inside
	System   string           // empty host directory for what the executor makes for the build; "" is none
	Objects  string           // host directory that is ObjectsDir inside; nothing inside may write there; "" is none
	Cache    Cache            // what is CacheDir inside
	Network  bool
	Limits   buildsettings.Limits // within what the machine allows
}

// Where things stand inside every sandbox, whatever the executor: equal paths
// make equal messages and caches.
const (
	SourceDir  = "/codebuild/output/src/src"
	ControlDir = "/codebuild/output/tmp"
	StateDir   = "/codebuild/output/state" // for what commands leave to the next; not on the host, empty at first
	HomeDir    = "/root"
	ObjectsDir = "/codebuild/output/objects"
	CacheDir   = "/codebuild/cache"
)

// Service is a container beside that of a build.
type Service = buildsettings.Service

// Login is how a registry is entered.
type Login struct {
	User, Password string
	Token          string // that the registry has given for them, instead of both
}

// Attended is what a Session can be that has services beside it.
type Attended interface {
	// Await waits until all services are healthy. The error is a *ServiceError of one that
	// never will be.
	Await(ctx context.Context) error
	// Fallen are the services that have ended since.
	Fallen(ctx context.Context) []*ServiceError
}

// ServiceError is a service that does not serve.
type ServiceError struct {
	Name    string
	What    string   // such as "exited with 1"
	Printed []string // by it, the last lines
}

func (e *ServiceError) Error() string { return "service " + e.Name + " " + e.What }

// Enterer is what a Session can be that lets people in.
type Enterer interface {
	// Enter runs an interactive shell inside, where the last command left off. The
	// session is then good for Close alone.
	Enter(ctx context.Context, shell string, in io.Reader, out, errs io.Writer) error
}

// EnterProgram is what the shell of an Enterer begins with: it has what the last command
// left, and becomes interactive. Its $0 is the shell.
const EnterProgram = "cd " + SourceDir + `; set -a; if [ -e ` + StateDir + `/env.sh ]; then . ` + StateDir +
	`/env.sh; cd "$PWD"; else . ` + ControlDir + `/first.sh; fi; set +a
PS1='(build) $PWD # ' exec "$0" -i`

// Script is something to run in a sandbox.
type Script struct {
	Shell string // "sh" or "bash"
	User  string // "" is root
	Path  string // inside
}

// Session is one live sandbox.
type Session interface {
	// Run runs a script inside and returns its exit status (128+n for signal n).
	// What it and its children print goes to out. A child that stays behind does not
	// hold Run up. When ctx is done Run returns its error; the session is then good
	// for Close alone. ErrNoShell says that there is no such shell, ErrNoUser that
	// there is no such user, ErrEnded that the build ended its own sandbox.
	Run(ctx context.Context, s Script, out io.Writer) (exit int, err error)
	// Put writes a file of ControlDir, for the scripts to come.
	Put(ctx context.Context, name string, data []byte) error
	// Files has what is in a directory inside be on the server's disk, and says where:
	// of SourceDir, HomeDir and /tmp. It is the executor's, and gone after Close or
	// the Run that follows.
	Files(ctx context.Context, inside string) (dir string, err error)
	// Notes are things that people who read the log should know of the sandbox.
	Notes() []string
	// Limit names the limits that the build has run into, "" if none.
	Limit() string
	// Close ends everything in the sandbox and returns when nothing of it is left.
	Close() error
}
