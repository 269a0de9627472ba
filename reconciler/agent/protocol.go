package agent

import (
	"net/netip"
	"time"

	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Version is the protocol's, which only adds to what was: agents are upgraded after the server.
// Those since partsVersion know a part of a deployment when they are told one.
const (
	Version      = 2
	partsVersion = 2
)

// Paths of the protocol.
const (
	pathHello    = "/v1/hello"    // GET: Hello
	pathDeclared = "/v1/declared" // PUT a declaration; 409 with a refusal when it is older than the fence
	pathRemove   = "/v1/remove"   // POST a removal
	pathSettings = "/v1/settings" // PUT Settings
	pathWatch    = "/v1/watch"    // GET: a stream of events, all that there is first
	pathLogs     = "/v1/logs"     // POST a logQuery: a stream of logLines
	pathExec     = "/v1/exec"     // POST an execQuery, upgraded to execProtocol
	pathControl  = "/v1/control/" // POST to control/stop, drain, resume, upgrade
)

// Bounds of what is said.
const (
	maxBody       = 64 << 20 // a declaration holds an application's files
	maxLine       = 8 << 20  // of a stream
	maxAnswer     = 1 << 20
	heartbeat     = 3 * time.Second  // of a stream that has nothing to say
	farHeartbeat  = 5 * time.Second  // the same of an agent on another machine, of which there may be a thousand
	silentTimeout = 15 * time.Second // after which an agent counts as away
	callTimeout   = 30 * time.Second
)

// Hello is who answers.
type Hello struct {
	Version int       `json:"version"` // of the protocol
	Program string    `json:"program"` // version of headgate, for people
	Digest  string    `json:"digest"`  // of the program that works
	PID     int       `json:"pid"`     // of the process that holds the lock
	Worker  int       `json:"worker"`  // of the process that works
	Since   time.Time `json:"since"`   // when the worker began
	Drained bool      `json:"drained"` // nothing is started here until it is told to resume
	Running int       `json:"running"` // instances

	// Platform is what programs have to be for, of one that takes them from a server
	// elsewhere; "": it takes none.
	Platform string `json:"platform,omitempty"`
	// Refused is the program that did not work when it was on trial, and WhyRefused.
	Refused    string `json:"refused,omitempty"`
	WhyRefused string `json:"why_refused,omitempty"`

	// Unproven is what a server elsewhere declared last and was not deployed.
	Unproven []Refusal `json:"unproven,omitempty"`
}

// Settings are what an agent is told besides what is declared.
type Settings struct {
	// Host is by what name the machine is reached, and Address where services listen that
	// name none.
	Host    string     `json:"host"`
	Address netip.Addr `json:"address,omitzero"`
	// HeldPorts are declared somewhere, and given to nobody who asks for any.
	HeldPorts []int `json:"held_ports"`
	// TrustedProxies are those before the machine whose X-Forwarded-* are passed on.
	TrustedProxies []netip.Prefix `json:"trusted_proxies"`
	// Metrics is where Prometheus reads what the proxy of services counts; "" is nowhere.
	Metrics string `json:"metrics,omitempty"`
	// ACMEDirectory is of the certificate authority that is asked for the certificates of
	// services, and whose terms are agreed to; "": nobody is asked.
	ACMEDirectory string `json:"acme_directory,omitempty"`
}

// declaration is the body of pathDeclared. Its secrets are those that the files name, of
// the ones that are set: an agent is told no others.
type declaration struct {
	target.Declared
	Secrets []givenSecret `json:"secrets,omitempty"`
}

func (d *declaration) declared() target.Declared {
	all := d.Declared
	for _, s := range d.Secrets {
		if all.Secrets == nil {
			all.Secrets = target.Secrets{}
		}
		all.Secrets[s.Name] = target.Secret{Revision: s.Revision, Value: secret.NewValue(s.Value)}
	}
	return all
}

// givenSecret is the value of a secret.
type givenSecret struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
	Value    []byte `json:"value"`
}

// removal is the body of pathRemove.
type removal struct {
	target.Key
	Sequence int `json:"sequence"`
}

// refusal is the answer to what is older than what was acted on.
type refusal struct {
	Fence int `json:"fence"`
}

// event is a line of pathWatch. An empty one is a heartbeat.
type event struct {
	Observed *target.Observed `json:"observed,omitempty"`
	Gone     *target.Key      `json:"gone,omitempty"`
	Ready    bool             `json:"ready,omitempty"`   // all that there was has been said
	Version  int              `json:"version,omitempty"` // with Ready: of the protocol; 0: one before 2
}

// logQuery is the body of pathLogs.
type logQuery struct {
	target.Key
	Unit   string    `json:"unit,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Lines  int       `json:"lines,omitempty"`
	Follow bool      `json:"follow,omitempty"`
}

// logLine is a line of pathLogs: Error or End is the last.
type logLine struct {
	Line  *target.LogLine `json:"line,omitempty"`
	Error string          `json:"error,omitempty"`
	End   bool            `json:"end,omitempty"`
}
