package show

import (
	"context"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Agents answers for the agents of other machines. All of it is administrators'.
type Agents interface {
	Agents(ctx context.Context, who access.Identity) ([]Agent, error)
	Agent(ctx context.Context, who access.Identity, name string) (Agent, error)
	// EnrolAgent makes a one-time token with which a machine becomes an agent.
	EnrolAgent(ctx context.Context, who access.Identity, r AgentRequest) (Enrolment, error)
	// DrainAgent has nothing new be deployed to an agent, which is not counted then; not
	// drained, it gets what is declared.
	DrainAgent(ctx context.Context, who access.Identity, name string, drained bool) (Done, error)
	// UpgradeAgents has an agent, "" for all, go on with the server's program, also when it did
	// not come about before.
	UpgradeAgents(ctx context.Context, who access.Identity, name string) (Done, error)
	// RemoveAgent takes an agent's key away and ends its connection. What runs there goes
	// on running.
	RemoveAgent(ctx context.Context, who access.Identity, name string) (Done, error)
}

// AgentRequest is what a machine is to be as an agent.
type AgentRequest struct {
	Name         string            // "": the machine says, by its host name
	Tags         map[string]string // by which environments find it
	Repositories []string          // that may deploy there; nil: all
	Life         time.Duration     // of the token; 0: an hour
	Cluster      *ClusterRequest   // nil: it is a machine's
}

// ClusterRequest is what a cluster's agent is to be.
type ClusterRequest struct {
	Namespaces []string // that applications have there: it may change nothing elsewhere
	Image      string   // of the agent, where the cluster pulls it
}

// Enrolment is what a machine enrols with.
type Enrolment struct {
	Command  string            `json:"command,omitempty"`  // to be pasted there; it holds the token
	Download string            `json:"download,omitempty"` // where it gets the program; "": it has to be copied there
	Program  string            `json:"program"`            // SHA-256 of the program
	Platform string            `json:"platform"`           // that it is for
	Name     string            `json:"agent,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Expires  time.Time         `json:"expires"`
	Manifest string            `json:"manifest,omitempty"` // of a cluster's agent, to be applied there instead; it holds the token
}

// Agent is the agent of another machine.
type Agent struct {
	Name         string            `json:"agent"`
	Tags         map[string]string `json:"tags,omitempty"`
	Repositories []string          `json:"repositories,omitempty"` // that may deploy there; left out: all
	Key          string            `json:"key"`                    // its fingerprint
	Connected    bool              `json:"connected"`
	Drained      bool              `json:"drained,omitempty"` // nothing new is deployed there
	Since        time.Time         `json:"since,omitzero"`    // it is connected, or was last seen then; zero: never
	From         string            `json:"from,omitempty"`    // address that it came from
	Version      string            `json:"version,omitempty"`
	Upgrade      *AgentUpgrade     `json:"upgrade,omitempty"` // to the server's program; left out: there is none
	Runs         []AgentRuns       `json:"runs"`              // what is deployed there, as it said last
}

// AgentUpgrade is how far an agent is on its way to the server's program.
type AgentUpgrade struct {
	State   State  `json:"state"` // Queued, Running or Failed
	Message string `json:"message,omitempty"`
}

// Text is what people read of it.
func (u *AgentUpgrade) Text() string {
	switch {
	case u == nil:
		return ""
	case u.State == Running:
		return "being upgraded"
	case u.State == Failed:
		return "not upgraded"
	}
	return "to be upgraded"
}

// AgentRuns is what an agent has of one environment.
type AgentRuns struct {
	Repository  string `json:"repository"`
	Environment string `json:"environment"`
	Application string `json:"application"`
	Release     int    `json:"release,omitempty"`
	State       State  `json:"state"`
	Message     string `json:"message,omitempty"`
}
