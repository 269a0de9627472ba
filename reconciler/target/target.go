// Package target is the contract between the reconciler, which knows what an
// environment should be, and whatever makes it so: services, and in time hosts,
// Kubernetes and functions. It holds types, and the Topic that reports go
// through.
//
// # What a target promises
//
// A target keeps each application that it was given, by Key, at the newest
// Declared, and says with Observed what it sees. Every implementation runs the
// suite in targettest, which holds it to this:
//
//   - Idempotent: Converge with what it has already changes nothing that runs.
//   - Fenced: a Declared or a Remove with a lower Sequence than the newest one
//     told for the same Key is ignored, however late it comes. Sequences of
//     different Keys have nothing to do with each other.
//   - Silence is Unknown: a target never says Healthy of what it has not looked
//     at lately, of what it was not told of, or before Run and after it.
//   - Retrying is the target's: what may pass (a port that is taken, a process
//     that ended, a host that is away) it tries again for as long as that is
//     declared, with a growing pause. The reconciler calls Converge once per
//     commit and process, and never again because of what it observes.
//   - An error belongs to the Declared that had it, and goes with it.
//
// # What its errors mean
//
// Check's problems are faults of the files, by place: they stop a push. Problems
// that only show in the environment are states: Converging is being retried and
// needs nobody; Degraded serves and is being mended; Failed needs a person or a
// newer commit, and its Message says what to do; Unknown is no information. Run's
// error is a fault of the machine that the target cannot work without, and ends
// the server.
package target

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Target converges applications. All its methods may be called at any time and
// by several goroutines; none but Run blocks.
type Target interface {
	// Check says what is wrong with the files of an application's directory, dir being
	// its path for messages. Warnings stop nothing.
	Check(dir string, files Files) (problems, warnings yamlfile.Problems)

	// Run converges until ctx is done and all that it started has ended. It is called
	// once. What was declared before it is taken up when it begins.
	Run(ctx context.Context) error

	// Converge tells what is declared now.
	Converge(d Declared)

	// Remove takes away all of what was declared up to sequence. When all of it is gone,
	// Observe knows nothing of it any more. The same Declared brings it back.
	Remove(k Key, sequence int)

	// Observe says what is, without waiting for anything.
	Observe(k Key) Observed

	// Watch returns a channel that gets a value when Observe may answer differently than
	// when the last value was taken, and a function that ends that and closes it. k is
	// one application in one environment, or Key{Repository: "hello"} for all that
	// "hello" runs, or the zero Key for all.
	Watch(k Key) (changed <-chan struct{}, end func())
}

// Logger is implemented by a target that keeps what its instances print.
type Logger interface {
	// Logs yields what instances printed, those that are gone included as far as it is
	// kept, in the order of time. With Follow it ends with ctx, else at once.
	Logs(ctx context.Context, k Key, q LogQuery) iter.Seq2[LogLine, error]
}

// LogQuery says which lines are wanted.
type LogQuery struct {
	Unit   string    // "" for all
	Since  time.Time // zero for all
	Lines  int       // the newest so many; then all that come, with Follow
	Follow bool
}

// LogLine is one line that an instance printed. Text is fit for a terminal.
type LogLine struct {
	At       time.Time `json:"at"`
	Unit     string    `json:"unit"`
	Instance string    `json:"instance"`
	Own      bool      `json:"own,omitempty"` // it is the target's own: that an instance has started, or ended
	Text     string    `json:"text"`
}

// Addresser is implemented by a target whose units listen on this machine, where
// an address can be had by one environment only. Who may have it is decided in Git,
// by the reconciler and at the push; a target just takes it.
type Addresser interface {
	// Addresses are those that the files of an application's directory ask for: with
	// port 0 for any, with no IP for that of the server (access.Config.Address).
	Addresses(files Files) []Address
}

// Address is one that a unit is to be reached at.
type Address struct {
	Address netip.AddrPort
	Unit    string
	File    string // of Files
	Line    int    // in it, 0 when it has none
}

// SecretUse is a secret that a unit is given: one that was set with `secret set` of the
// repository that declares it.
type SecretUse struct {
	Name string
	Unit string
	File string // of Files
	Line int    // in it, 0 when it has none
}

// PartUse is a part of a release that a unit is made of, by the name that is given to it.
type PartUse struct {
	Name  string
	Image bool // one of headgate.yaml's images; else an artifact of the build
	Unit  string
	File  string // of Files
	Line  int    // in it, 0 when it has none
}

// Key names what a target converges: one application in one environment.
type Key struct {
	Repository  string `json:"repository"`
	Application string `json:"application"`
	Environment string `json:"environment"`
}

func (k Key) String() string { return k.Application + " in " + k.Environment }

// Compare orders keys for people.
func (k Key) Compare(l Key) int {
	return cmp.Or(strings.Compare(k.Repository, l.Repository), strings.Compare(k.Environment, l.Environment),
		strings.Compare(k.Application, l.Application))
}

// Topic wakes those who watch applications; the zero value is ready.
type Topic struct{ topic signal.Topic }

// Watch does what Target asks of it.
func (t *Topic) Watch(k Key) (changed <-chan struct{}, end func()) {
	return t.topic.Watch(k.topic())
}

// Notify wakes whoever watches k, its repository, or all.
func (t *Topic) Notify(k Key) {
	t.topic.Notify(k.topic())
	t.topic.Notify(Key{Repository: k.Repository}.topic())
}

func (k Key) topic() string {
	if k.Application == "" && k.Environment == "" {
		return k.Repository
	}
	return k.Repository + "/" + k.Environment + "/" + k.Application
}

// Files are those of an application's directory, by slash-separated path in it.
// Whoever made them does not change them after.
type Files map[string][]byte

// Declared is the declared state of an application in an environment, as of one
// commit of the environment's branch.
type Declared struct {
	Key

	Commit   string `json:"commit"`   // of the environment's branch
	Sequence int    `json:"sequence"` // place of Commit in that branch; larger is newer

	Files   Files   `json:"files"`
	Release Release `json:"release"`

	// Was are names that the environment had before, the newest first: what the target
	// has under one of them, and nothing under the present one, goes on as it is.
	Was []string `json:"was,omitempty"`

	// Drift says what to do about what breaks once Commit was reached. It may change
	// while Commit and Sequence stay.
	Drift Drift `json:"drift,omitempty"`

	Steer

	// Attempt is the place of this try among those of Commit, for one host: the next one is
	// told to a host that has failed, when somebody wants it to be retried.
	Attempt int `json:"attempt,omitempty"`

	// Part is what one host has to do for Commit in a blue/green deployment. It only goes on
	// while Commit and Attempt stay.
	Part Part `json:"part,omitempty"`

	// GaveUp is why Commit was given up before, by a process of the server that has ended
	// since, and Steer says nothing newer; "": it was not.
	GaveUp string `json:"-"`

	// Fallback is the last declared state that was healthy to its end, nil for none or
	// when Commit is itself known to be good. It serves where nothing does yet (the
	// server has just started) until this state is healthy, so that a bad release does
	// not take over by way of a restart; and again when this state took over and then
	// failed for good.
	Fallback *Declared `json:"fallback,omitempty"`

	// Secrets are the values of those that Files, here and in Fallback, name: of the ones
	// that are set. They may change while Commit and Sequence stay, and are kept apart
	// from all the rest, encrypted.
	Secrets Secrets `json:"-"`
}

// Secrets are values of secrets, by name.
type Secrets map[string]Secret

// Secret is the value of one, with a name for that value which tells nothing of it.
type Secret struct {
	Revision string
	Value    secret.Value
}

// Revisions are those of the values, by name.
func (s Secrets) Revisions() map[string]string {
	all := map[string]string{}
	for name, v := range s {
		all[name] = v.Revision
	}
	return all
}

// Steer is what people say to a deployment that is under way. It may change while
// Commit and Sequence stay.
type Steer struct {
	Paused    bool     `json:"paused,omitempty"`    // it goes no further
	Continued []string `json:"continued,omitempty"` // what waited for a person, and was let go on

	// What only a Stepper is told:
	Stopped string         `json:"stopped,omitempty"` // who has stopped it, and why; "": nobody
	Skipped []string       `json:"skipped,omitempty"` // units that are left out
	Retried map[string]int `json:"retried,omitempty"` // how often, by unit; "": the deployment as a whole
}

// Equal reports whether two say the same.
func (s Steer) Equal(t Steer) bool {
	return s.Paused == t.Paused && slices.Equal(s.Continued, t.Continued) && s.Stopped == t.Stopped &&
		slices.Equal(s.Skipped, t.Skipped) && maps.Equal(s.Retried, t.Retried)
}

// Stepper is implemented by a target that deploys to one unit after the other. Its
// deployments can be stopped, units be skipped, and those that failed be retried.
type Stepper interface {
	// Steps says which of the three what is declared under a key takes: an error, for
	// people, if none.
	Steps(k Key) error
}

// Part is what a host does in a deployment.
type Part string

// The parts. A host of the replacement installs first, and is let into the traffic when all
// have; then those that served before are taken out of it, and keep what they have.
const (
	InPlace     Part = ""
	Replacement Part = "replacement"
	Allowed     Part = "allowed"
	Blocked     Part = "blocked"
)

// Before reports whether a part comes before another one.
func (p Part) Before(q Part) bool {
	order := []Part{InPlace, Replacement, Allowed, Blocked}
	return slices.Index(order, p) < slices.Index(order, q)
}

// Drift is what a target does about drift.
type Drift string

// What is done. Getting to what is declared in the first place is not drift.
const (
	Heal   Drift = ""       // bring it back to what is declared
	Report Drift = "report" // leave it as it is, and say so
)

// Release is what runs.
type Release struct {
	Number    int               `json:"number"`
	Commit    string            `json:"commit"`           // landed commit that it was made from
	Artifacts map[string]string `json:"artifacts"`        // name → digest, of files
	Images    map[string]string `json:"images,omitempty"` // name → digest

	// Definitions are files that name images, by the artifact that they are in, where the
	// target asks for such.
	Definitions map[string][]byte `json:"definitions,omitempty"`
}

// State is the state of an application, or of a unit of it, in one word.
type State string

// The states, from nothing known to bad. Unknown is the zero value: silence is
// never healthy.
const (
	Unknown    State = ""           // nothing is known, or what is known is too old
	Converging State = "converging" // on the way to what is declared
	Healthy    State = "healthy"    // what is declared runs, is healthy, and gets the traffic
	Degraded   State = "degraded"   // what is declared serves, but something of it is broken and being mended
	Failed     State = "failed"     // what is declared does not work; what served before goes on serving
)

func (s State) String() string {
	if s == Unknown {
		return "unknown"
	}
	return string(s)
}

// Observed is what an application in an environment is. The zero value is one of
// which nothing is known.
type Observed struct {
	Key

	Commit   string    `json:"commit"` // that State is about
	Sequence int       `json:"sequence"`
	State    State     `json:"state"`
	Since    time.Time `json:"since,omitzero"`     // when Commit came into State, as far as the target has seen
	Message  string    `json:"message,omitempty"`  // why, for people; empty when there is nothing to say
	Reason   Reason    `json:"reason,omitempty"`   // the same in one word, where there is one
	Unhealed bool      `json:"unhealed,omitempty"` // what is Degraded stays so: it is reported only
	RollBack bool      `json:"rollBack,omitempty"` // what is Failed is so for good, and its deployment wants it to be rolled back
	Attempt  int       `json:"attempt,omitempty"`  // that State is about: of Declared, or of Steer as a whole
	Part     Part      `json:"part,omitempty"`     // that State is about, of Declared
	Waits    string    `json:"waits,omitempty"`    // that a person lets what is so named go on; "": nothing does
	Units    []Unit    `json:"units,omitempty"`    // by name
	Strays   []Stray   `json:"strays,omitempty"`   // what runs besides, and is reported only
}

// Stray is something that runs for an application and that its target has not on record:
// somebody started it, or what was on record of it is lost.
type Stray struct {
	Unit      string `json:"unit,omitempty"`      // that it seems to be of
	Container string `json:"container,omitempty"` // its name, of a container
	PID       int    `json:"pid,omitempty"`       // of a process
}

func (s Stray) String() string {
	text := fmt.Sprintf("process %d", s.PID)
	if s.Container != "" {
		text = "container " + s.Container
	}
	if s.Unit != "" {
		text += " of " + s.Unit
	}
	return text
}

// Unit is a part of an application that is judged and reached on its own: a
// service, a host, a workload, a function.
type Unit struct {
	Name      string     `json:"name"`
	State     State      `json:"state"`
	URL       string     `json:"url,omitempty"`       // where it answers; empty when it does not or nobody can say
	Release   int        `json:"release,omitempty"`   // that gets the traffic; 0 for none
	Canary    int        `json:"canary,omitempty"`    // that gets a part of it; 0 for none
	Weight    int        `json:"weight,omitempty"`    // percent of the traffic that Canary gets
	Instances []Instance `json:"instances,omitempty"` // oldest first
	Message   string     `json:"message,omitempty"`   // what is wrong with it besides, for people
	Reason    Reason     `json:"reason,omitempty"`    // the same in one word
	Schedule  *Schedule  `json:"schedule,omitempty"`  // nil: its instances run on
	Events    []Event    `json:"events,omitempty"`    // what happened to it lately, newest first
}

// Event is something that happened to a unit, for people.
type Event struct {
	At    time.Time `json:"at"` // the last time
	What  string    `json:"what"`
	Times int       `json:"times"` // in a row
}

// Schedule is when a unit runs that does so at times, and what came of it.
type Schedule struct {
	Cron string    `json:"cron"`
	Zone string    `json:"zone,omitempty"`
	Next time.Time `json:"next,omitzero"`  // zero: nobody can say
	Runs []Run     `json:"runs,omitempty"` // newest first
}

// Run is what came of one time of a Schedule.
type Run struct {
	At      time.Time `json:"at"`                // for which it was due
	Late    bool      `json:"late,omitempty"`    // it began after that, as when nobody was there
	Skipped int       `json:"skipped,omitempty"` // so many times up to At did not begin: the run before went on
	Release int       `json:"release"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"` // zero: it runs
	Failed  bool      `json:"failed,omitempty"`
	Exit    *int      `json:"exit,omitempty"`    // exit code; nil: it has none
	Message string    `json:"message,omitempty"` // how it ended, for people
}

// Instance is one process, pod or copy of a unit, or the pause before its next
// start.
type Instance struct {
	ID       string    `json:"id"` // unique in its application while the target lives
	Release  int       `json:"release"`
	Phase    Phase     `json:"phase"`
	Since    time.Time `json:"since"`             // of Phase
	Serving  bool      `json:"serving"`           // whether it gets traffic
	Drained  bool      `json:"drained,omitempty"` // by a person: it gets nothing new, and is not counted
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit,omitempty"` // how it ended the last time, for people
	Message  string    `json:"message,omitempty"`   // what is wrong with it, for people
	Reason   Reason    `json:"reason,omitempty"`    // the same in one word, where there is one
	Port     int       `json:"port,omitempty"`      // on the machine it runs on; 0 for none
	PID      int       `json:"pid,omitempty"`       // on the machine it runs on; 0 for none
	Usage    *Usage    `json:"usage,omitempty"`     // nil: nobody knows
}

// Usage is what an instance uses of its machine.
type Usage struct {
	CPU         float64 `json:"cpu"`                    // share of one core, in the seconds before
	Memory      int64   `json:"memory"`                 // in bytes
	MemoryLimit int64   `json:"memory_limit,omitempty"` // in bytes; 0 for none
}

// Phase is where an instance is in its life.
type Phase string

// The phases.
const (
	PhaseWaiting   Phase = "waiting"   // not running, starts when its pause is over
	PhaseStarting  Phase = "starting"  // started, not healthy yet
	PhaseHealthy   Phase = "healthy"   // fit for traffic
	PhaseUnhealthy Phase = "unhealthy" // its checks failed; to be stopped and started again
	PhaseDraining  Phase = "draining"  // out of the traffic, requests in flight may finish
	PhaseStopping  Phase = "stopping"  // told to stop
	PhaseDone      Phase = "done"      // ended well, and is not to be started again
	PhaseFailed    Phase = "failed"    // ended badly, and is not to be started again
	PhaseAway      Phase = "away"      // its machine cannot be reached, where it may go on
)

// Reason is what is wrong with an instance, most often why it does not run, in one word that programs may compare.
type Reason string

// The reasons that have a word, besides those of package engine.
const (
	ReasonSecretMissing Reason = "secret-missing" // a secret that it is to be given is not set
	ReasonSecretInvalid Reason = "secret-invalid" // the secret is not what it is to be given as
	ReasonTimedOut      Reason = "timed-out"      // it ran longer than it may
	ReasonLogLost       Reason = "log-lost"       // it runs, and what it prints cannot be written down

	// ReasonCertificateMissing is of a unit, which an authority gave no certificate, or none
	// anew although its time has come.
	ReasonCertificateMissing Reason = "certificate-missing"
)

// Leaving reports whether an instance in this phase is on its way out.
func (p Phase) Leaving() bool { return p == PhaseDraining || p == PhaseStopping }
