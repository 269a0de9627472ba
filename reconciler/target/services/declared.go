package services

import (
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// Release is what a declared state says about the release it runs.
type Release struct {
	Number    int               `json:"number"`
	Commit    string            `json:"commit"`    // landed commit the release was made from
	Artifacts map[string]string `json:"artifacts"` // name → digest
}

// Declared is the declared state of one application in one environment, as of
// one commit of the environment's branch.
type Declared struct {
	Environment, Application, Repository string

	Commit   string // environment commit: the fence token
	Sequence int    // position of Commit in the environment's branch; larger is newer

	Compose []byte // compose.yaml of the application's folder
	Release Release

	// Fallback is the last declared state that was healthy, if Commit is not known
	// to be. When nothing of the application runs yet (the server has just started)
	// its instances serve until those of this state are healthy, so that a bad release
	// does not take over by way of a restart. They serve again when this state took
	// over and its instances fail one after another.
	Fallback *Declared
}

// State is the state of an application in an environment, in one word.
type State = rollout.State

// The states. Unknown is the zero value: silence is never healthy.
const (
	Unknown    = rollout.Unknown    // nothing is known, or what is known is too old
	Converging = rollout.Converging // on the way to what is declared
	Healthy    = rollout.Healthy    // what is declared runs, is healthy, and gets the traffic
	Degraded   = rollout.Degraded   // what is declared serves, but something of it is broken and being mended
	Failed     = rollout.Failed     // what is declared does not work; what served before goes on serving
)

// Observed is what an application in an environment is.
type Observed struct {
	Environment string         `json:"environment"`
	Application string         `json:"application"`
	Commit      string         `json:"commit"` // environment commit that State is about
	Sequence    int            `json:"sequence"`
	State       State          `json:"state"`
	Since       time.Time      `json:"since"`             // when Commit came into State, as far as this run of the server knows
	Message     string         `json:"message,omitempty"` // why, for people; empty when there is nothing to say
	Services    []ServiceState `json:"services"`          // by name
}

// ServiceState is one service of an application.
type ServiceState struct {
	Name      string          `json:"name"`
	URL       string          `json:"url,omitempty"`     // where the proxy serves it; empty without ports
	Release   int             `json:"release,omitempty"` // release that gets the traffic
	Instances []InstanceState `json:"instances"`         // oldest first
}

// InstanceState is one supervised process, or the pause before its next start.
type InstanceState struct {
	ID       string    `json:"id"` // such as web-3; unique in the application while the server lives
	Release  int       `json:"release"`
	State    string    `json:"state"` // waiting, starting, healthy, unhealthy, draining, stopping
	Serving  bool      `json:"serving"`
	Port     int       `json:"port,omitempty"`
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since"` // of State
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit,omitempty"` // such as "exited 1"
	Message  string    `json:"message,omitempty"`
}
