package show

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
)

// Environments answers for environments and their open promotions.
type Environments interface {
	// InstanceLogs yields what instances printed, in the order of time. With Follow it
	// ends with ctx, or with the right to read.
	InstanceLogs(ctx context.Context, who access.Identity, repository, environment string,
		q LogQuery) iter.Seq2[InstanceLine, error]
	// Environment includes history and the open promotion.
	Environment(ctx context.Context, who access.Identity, repository, environment string) (Environment, error)
	Promotion(ctx context.Context, who access.Identity, repository, environment string) (Promotion, error)
	// Deployments are commits of env/<environment>.
	Deployments(ctx context.Context, who access.Identity, repository, environment string,
		f DeploymentFilter) (DeploymentPage, error)
}

// Environment is declared and actual state side by side.
type Environment struct {
	Repository  string      `json:"repository"`
	Application string      `json:"application,omitempty"` // empty: the one that bears the repository's name
	Name        string      `json:"environment"`
	Formerly    []string    `json:"formerly,omitempty"` // names that it had, newest first
	After       string      `json:"after,omitempty"`
	Target      string      `json:"target"`
	State       State       `json:"state"` // of the actual side: healthy, converging, failed, unknown, empty
	Reason      string      `json:"reason,omitempty"`
	Unhealed    bool        `json:"unhealed,omitempty"` // drift that policy has reported, not healed
	Since       time.Time   `json:"since,omitzero"`
	Release     int         `json:"release,omitempty"`  // declared
	Commit      string      `json:"commit,omitempty"`   // source commit of that release
	Declared    string      `json:"declared,omitempty"` // commit of env/<name>
	DeclaredAt  time.Time   `json:"declared_at,omitzero"`
	Removed     time.Time   `json:"removed_at,omitzero"` // when its removal was promoted, and nothing has been since
	Behind      int         `json:"behind"`              // releases behind the environment (or branch) before it
	Services    []Service   `json:"services,omitempty"`
	Strays      []Stray     `json:"strays,omitempty"` // what runs besides, and is reported only
	Held        *HoldNote   `json:"hold,omitempty"`
	Promotion   *Promotion  `json:"promotion,omitempty"` // the open proposal, if any
	History     []Deployed  `json:"history,omitempty"`   // newest first; its own page only
	Rejected    []Rejection `json:"rejected,omitempty"`  // releases newer than what is declared that are not proposed, newest first
	MayRollback bool        `json:"may_rollback"`
	// RollbackTo is the last release that was healthy to its end, and was not rolled
	// back; on its own page only.
	RollbackTo   int        `json:"rollback_to,omitempty"`
	Stepwise     bool       `json:"stepwise,omitempty"` // hosts can be skipped and retried, and the deployment stopped
	Paused       *HoldNote  `json:"paused,omitempty"`   // its deployment, by a person
	Stopped      *HoldNote  `json:"stopped,omitempty"`  // the same, for good
	Skipped      []string   `json:"skipped,omitempty"`  // hosts that people leave out of it
	URLs         []string   `json:"urls,omitempty"`
	LastApproved []Approval `json:"-"`
}

// Runs are the releases that its instances run and are well with, newest first:
// what somebody who calls it meets. A target that tells of no instance runs what
// is declared, as long as that is healthy.
func (e Environment) Runs() []int {
	var releases []int
	instances := 0
	for _, s := range e.Services {
		for _, i := range s.Instances {
			instances++
			if i.Release > 0 && (i.State == Healthy || i.State == Drift) && !slices.Contains(releases, i.Release) {
				releases = append(releases, i.Release)
			}
		}
	}
	if instances == 0 && e.Release > 0 && (e.State == Healthy || e.State == Drift) {
		releases = append(releases, e.Release)
	}
	slices.Sort(releases)
	slices.Reverse(releases)
	return releases
}

// Local reports whether one of its addresses is for programs on the server's
// machine only.
func (e Environment) Local(address string) bool {
	return slices.ContainsFunc(e.Services, func(s Service) bool { return s.URL == address && s.Local })
}

// Failing are its services that do not run as they should, all of them when the
// environment as a whole has failed and none says so of itself.
func (e Environment) Failing() []string {
	var failing, all []string
	for _, s := range e.Services {
		all = append(all, s.Name)
		if s.State == Failed || slices.ContainsFunc(s.Instances, func(i Instance) bool { return i.State == Failed }) {
			failing = append(failing, s.Name)
		}
	}
	if len(failing) == 0 && e.State == Failed {
		return all
	}
	return failing
}

// Next is where a release that has just landed goes by itself.
type Next struct {
	Environment string   `json:"environment"`
	Going       bool     `json:"going"` // it is declared there
	URLs        []string `json:"urls,omitempty"`
	Waits       string   `json:"waits,omitempty"` // for what, when it is not
}

// LocalOnly reports whether an address is for programs on the server's machine
// only, while people reach that by host, another name.
func LocalOnly(address, host string) bool {
	return !isLoopback(host) && isLoopback(hostOf(address))
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil &&
		ip.Unmap().IsLoopback()
}

// Service is one service of an environment with its instances.
type Service struct {
	Name      string     `json:"service"`
	URL       string     `json:"url,omitempty"`
	Local     bool       `json:"local,omitempty"` // URL is for programs on the server's machine only
	State     State      `json:"state"`
	Release   int        `json:"release,omitempty"` // that gets the traffic; 0: none, or nobody can say
	Canary    int        `json:"canary,omitempty"`  // that gets Weight percent of it; 0: none
	Weight    int        `json:"weight,omitempty"`
	Instances []Instance `json:"instances"`
	Message   string     `json:"message,omitempty"` // what is wrong with it besides
	Reason    string     `json:"reason,omitempty"`  // the same in one word
	Times     *Times     `json:"times,omitempty"`   // nil: its instances run on

	Events []ServiceEvent `json:"events,omitempty"` // what happened to it lately, newest first
}

// ServiceEvent is something that happened to a service.
type ServiceEvent struct {
	At    time.Time `json:"at"` // the last time
	What  string    `json:"what"`
	Times int       `json:"times,omitempty"` // in a row, if more than one
}

// Says is what happened, and how often.
func (e ServiceEvent) Says() string {
	if e.Times > 1 {
		return fmt.Sprintf("%s (%d times)", e.What, e.Times)
	}
	return e.What
}

// Traffic is how requests are shared by two releases, "" when one gets all.
func (s Service) Traffic() string {
	if s.Canary == 0 {
		return ""
	}
	return fmt.Sprintf("%d%% of the traffic to release %d, %d%% to release %d", 100-s.Weight, s.Release, s.Weight, s.Canary)
}

// Instance is one supervised process.
type Instance struct {
	ID       string    `json:"instance"`
	Release  int       `json:"release"`
	State    State     `json:"state"`
	Message  string    `json:"message,omitempty"`
	Reason   string    `json:"reason,omitempty"` // the same in one word, where there is one
	Since    time.Time `json:"since,omitzero"`
	Restarts int       `json:"restarts"`
	LastExit string    `json:"last_exit,omitempty"` // how it ended the last time
	Serving  bool      `json:"serving,omitempty"`   // it gets traffic
	PID      int       `json:"pid,omitempty"`       // on the machine that it runs on
	Usage    *Used     `json:"usage,omitempty"`     // nil: nobody knows
	Drained  bool      `json:"drained,omitempty"`   // it gets nothing new, and is not counted
}

// Stray is something that runs for an environment and that nobody has on record.
type Stray struct {
	Service   string `json:"service,omitempty"`   // that it seems to be of
	Container string `json:"container,omitempty"` // its name, of a container
	PID       int    `json:"pid,omitempty"`       // of a process
}

// What names it for people.
func (s Stray) What() string {
	if s.Container != "" {
		return "container " + s.Container
	}
	return fmt.Sprintf("process %d", s.PID)
}

// Used is what an instance uses of its machine.
type Used struct {
	CPU         float64 `json:"cpu"`                    // share of one core, in the seconds before
	Memory      int64   `json:"memory"`                 // in bytes
	MemoryLimit int64   `json:"memory_limit,omitempty"` // in bytes; 0 for none
}

// Measured reports whether it can be known what instances use: where they are processes or
// containers of a machine.
func (e *Environment) Measured() bool {
	return slices.ContainsFunc(e.Services, func(s Service) bool {
		return slices.ContainsFunc(s.Instances, func(i Instance) bool { return i.PID > 0 || i.Usage != nil })
	})
}

// CPU is the part of one core that it uses, for people.
func (i Instance) CPU() string {
	if i.Usage == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.0f%%", 100*i.Usage.CPU)
}

// Memory is how much it uses of what it may, for people.
func (i Instance) Memory() string {
	switch {
	case i.Usage == nil:
		return "unknown"
	case i.Usage.MemoryLimit > 0:
		return Bytes(i.Usage.Memory) + " of " + Bytes(i.Usage.MemoryLimit)
	}
	return Bytes(i.Usage.Memory)
}

// Says is what there is to say of it besides its state.
func (i Instance) Says() string {
	var all []string
	if i.Message != "" {
		all = append(all, i.Message)
	}
	if i.Restarts > 0 {
		all = append(all, Plural(i.Restarts, "restart"))
		if i.LastExit != "" && !strings.Contains(i.Message, i.LastExit) {
			all = append(all, "the last time it "+i.LastExit)
		}
	}
	return strings.Join(all, ", ")
}

// LogQuery says which lines of instances are wanted.
type LogQuery struct {
	Service string    // "" for all
	Since   time.Time // zero for all that is kept
	Lines   int       // the newest so many; then all that come, with Follow
	Follow  bool
}

// InstanceLine is one line that an instance printed.
type InstanceLine struct {
	At       time.Time `json:"at"`
	Service  string    `json:"service"`
	Instance string    `json:"instance"`
	Own      bool      `json:"own,omitempty"` // it is Headgate's: that the instance has started, or ended
	Text     string    `json:"text"`
}

// HoldNote says who stopped automatic promotion and why.
type HoldNote struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// Deployed is one commit of env/<name> with its outcome.
type Deployed struct {
	Commit      string     `json:"declared"`
	Tree        string     `json:"tree,omitempty"` // what approvals bound to
	Release     int        `json:"release"`
	From        int        `json:"from_release,omitempty"` // declared before; 0: nothing, or not known
	Source      string     `json:"commit"`
	Subject     string     `json:"subject"`
	At          time.Time  `json:"at"`
	By          string     `json:"by"`                  // who or what decided: "policy", a user
	Decision    string     `json:"decision,omitempty"`  // of the policy: d-1a2b3c4
	Chosen      string     `json:"chosen_by,omitempty"` // who proposed just this release
	Approvals   []Approval `json:"approvals,omitempty"`
	Outcome     State      `json:"outcome"` // healthy, failed, converging, unknown
	Message     string     `json:"message,omitempty"`
	Rollback    bool       `json:"rollback,omitempty"`
	Renamed     string     `json:"renamed_from,omitempty"` // it gave the environment its name; nothing else changed
	MayRollback bool       `json:"may_rollback"`           // "roll back to this" is offered
	WhyNot      string     `json:"why_not,omitempty"`
}
