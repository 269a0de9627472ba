// Package policies answers whether something may happen: a push, a landing, a
// promotion, a healing, a command. It embeds Open Policy Agent and the default Rego, which
// most teams never look at: it reads the facts that headgate.yaml and server.yaml
// gave. A repository's own Rego in policies/ is evaluated as well, and the
// stricter answer wins.
//
//   - Pool compiles, tests and evaluates policies in processes of their own, which call
//     Work. A repository's are trusted with nothing else.
//   - Engine is a set of compiled policies; its methods Push, Land, Promote,
//     Rollback, Converge and Exec take one documented input each and return an Answer.
//   - Record is all that is needed to evaluate the same query again.
//   - Schema is the JSON Schema of a query's input.
//
// A repository answers a query in the package headgate.push, headgate.land,
// headgate.promote, headgate.rollback, headgate.converge or headgate.exec, with sets of objects:
// deny (rule, msg, until) ends it, need (rule, msg, at, group, count, who) leaves it open, met and
// warn are for people. What these refer to counts with them: other packages below
// policies/, and the members of the JSON and YAML objects in policies/ itself, as
// data.<name>. All else there is some other program's.
//
// The package knows nobody else in the project: callers join facts (who is in
// which group, what verified) and keep records. Time is a fact like any other.
// It fails closed: whatever is undefined, broken or late is a denial that says so.
package policies

import (
	"fmt"
	"strings"
	"time"
)

// Decision is what an Answer comes to.
type Decision string

const (
	Auto   Decision = "auto"   // it may happen now
	Manual Decision = "manual" // it waits for a person, a time or an event; evaluate again then
	Deny   Decision = "deny"   // it may not happen
)

// Answer is a policy's answer. It must be Auto for anything to move.
type Answer struct {
	Decision  Decision    `json:"decision"`
	Reasons   []Reason    `json:"reasons,omitempty"`   // what denied, or what is open
	Missing   []Missing   `json:"missing,omitempty"`   // approvals that persons must give
	NotBefore time.Time   `json:"not_before,omitzero"` // earliest time at which evaluating again can help; zero: time alone does not help
	Checks    []Condition `json:"checks,omitempty"`    // every condition, the open ones first
	Warnings  []Reason    `json:"warnings,omitempty"`  // what stops nothing and should be read
	Policy    string      `json:"policy"`              // digest of the modules that were evaluated
}

// Reason is what one rule says.
type Reason struct {
	Rule    string `json:"rule"`
	Message string `json:"message"`
	At      Place  `json:"at,omitzero"` // in a repository's own policies
}

func (r Reason) String() string {
	if r.At == (Place{}) {
		return r.Message
	}
	return fmt.Sprintf("%s (%s:%d)", r.Message, r.At.File, r.At.Line)
}

// Place is where a rule is.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// RulePolicy is the rule of a denial that is not about the input: the policy is broken,
// its result is invalid, or it took too long.
const RulePolicy = "policy"

// Unanswered reports whether the denial is not about the input, so that the same
// query later, or with a repaired policy, may have another answer.
func (a Answer) Unanswered() bool {
	return a.Decision == Deny && len(a.Reasons) == 1 && a.Reasons[0].Rule == RulePolicy
}

// Why joins the reasons into one line.
func (a Answer) Why() string {
	var s []string
	for _, r := range a.Reasons {
		s = append(s, r.Message)
	}
	return strings.Join(s, "; ")
}

// Missing says how many more approvals are needed, from whom.
type Missing struct {
	Group  string   `json:"group,omitempty"` // empty: everybody who may write
	Count  int      `json:"count"`
	Who    []string `json:"who,omitempty"`    // users who may give one
	Cannot []string `json:"cannot,omitempty"` // users whose approval does not count, because it is their own change
}

// Condition is one condition of the answer, for people.
type Condition struct {
	Rule        string    `json:"rule"`
	Title       string    `json:"title"`
	Met         bool      `json:"met"`
	Denied      bool      `json:"denied,omitempty"` // it will not be met by waiting
	Detail      string    `json:"detail,omitempty"`
	Until       time.Time `json:"until,omitzero"`
	UntilPerson bool      `json:"until_a_person_acts,omitempty"`
	Who         []string  `json:"who,omitempty"`
}

// User is somebody who acts.
type User struct {
	Name     string   `json:"name"`
	Groups   []string `json:"groups"`
	Admin    bool     `json:"administrator"`
	MayRead  bool     `json:"may_read"`
	MayWrite bool     `json:"may_write"`
}

// The classes of a ref that is pushed to.
const (
	ClassPlain       = "plain"       // an ungated branch, a tag
	ClassGated       = "gated"       // a gated branch: a proposal for it
	ClassProposal    = "proposal"    // refs/for/<gated branch>
	ClassEnvironment = "environment" // env/<name>
	ClassServer      = "server"      // refs that only the server writes
)

// PushInput is about: may this user write this ref?
type PushInput struct {
	Now        time.Time `json:"now"`
	Repository string    `json:"repository"`
	Own        bool      `json:"own"` // it is the server's own configuration
	Ref        string    `json:"ref"`
	Class      string    `json:"class"`
	User       User      `json:"user"`
	Key        string    `json:"key"` // fingerprint of the key that was proven
	Old        string    `json:"old"`
	New        string    `json:"new"`
	Create     bool      `json:"create"`
	Delete     bool      `json:"delete"`
	Force      bool      `json:"force"`     // new does not descend from old
	Approval   bool      `json:"approval"`  // class environment: new is what is proposed for it
	Rejection  bool      `json:"rejection"` // class environment: it deletes what is proposed for it, which rejects that
}

// Verdict is what a build said of a tree.
type Verdict struct {
	Result string `json:"result"` // green or red
	Tree   string `json:"tree"`
	Key    string `json:"key"`
}

// LandInput is about: may this candidate become the tip of the gated branch?
type LandInput struct {
	Now        time.Time `json:"now"`
	Repository string    `json:"repository"`
	Own        bool      `json:"own"`
	Branch     string    `json:"branch"`
	Change     int       `json:"change"`
	Revision   int       `json:"revision"`
	User       User      `json:"user"` // who pushed, with the rights of now
	Commit     string    `json:"commit"`
	Candidate  string    `json:"candidate"`
	Tree       string    `json:"tree"`
	Verdict    Verdict   `json:"verdict"`
}

// Environment is what headgate.yaml says of an environment.
type Environment struct {
	Name      string    `json:"name"`
	After     string    `json:"after"`
	Soak      int64     `json:"soak_seconds"`
	Approvals Approvals `json:"approvals"`
}

// Approvals is whose yes a promotion needs.
type Approvals struct {
	Count int    `json:"count"`
	From  string `json:"from"` // group; empty: everybody who may write
	Own   bool   `json:"own"`
}

// Approval is one yes. It counts for the content it was given to and no other.
type Approval struct {
	User     string    `json:"user"`
	Groups   []string  `json:"groups"`
	MayWrite bool      `json:"may_write"`
	Tree     string    `json:"tree"`
	Commit   string    `json:"commit"` // that carried it: the evidence
	At       time.Time `json:"at"`
	Via      string    `json:"via"`
	Stale    bool      `json:"stale"` // its giver could not know what happened since, a hold for one; it does not count
}

// ReleaseFact is a release as a promotion sees it.
type ReleaseFact struct {
	Number int    `json:"number"`
	Commit string `json:"commit"`
}

// Upstream is the environment that a promotion comes after, and how the release
// stands or stood there.
type Upstream struct {
	Release      int       `json:"release"`                // that it declares now
	Healthy      bool      `json:"healthy"`                // the proposed release is healthy there, or was until a newer one came
	HealthySince time.Time `json:"healthy_since,omitzero"` // since when it, or what is newer, is; left out while neither is
	Soaked       int64     `json:"soaked_seconds"`         // how long they were before that
}

// HoldFact is a mark that stops automatic promotion.
type HoldFact struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Carried are changes that the same people wrote, of those that a promotion carries.
type Carried struct {
	Changes []int    `json:"changes"`
	Authors []string `json:"authors"` // users
}

// PromoteInput is about: may this release be given to this environment?
type PromoteInput struct {
	Now         time.Time   `json:"now"`
	Repository  string      `json:"repository"`
	Application string      `json:"application"`
	Environment Environment `json:"environment"`
	Release     ReleaseFact `json:"release"`
	Current     int         `json:"current_release"` // 0: nothing runs there
	Tree        string      `json:"tree"`            // content that approvals bind to
	Authors     []string    `json:"authors"`         // users whose changes it carries
	Carries     []Carried   `json:"carries"`         // those changes, by who wrote them
	Approvals   []Approval  `json:"approvals"`
	Candidates  []User      `json:"candidates"`         // users who may read the repository
	Upstream    *Upstream   `json:"upstream,omitempty"` // nil without an environment before
	Hold        *HoldFact   `json:"hold,omitempty"`
	Removal     bool        `json:"removal"` // the environment is to run nothing any more; release is 0
	Verifies    bool        `json:"provenance_verifies"`
	VerifyError string      `json:"verify_error"`
}

// RollbackInput is about: may this environment go back to this release?
type RollbackInput struct {
	Now         time.Time   `json:"now"`
	Repository  string      `json:"repository"`
	Application string      `json:"application"`
	Environment string      `json:"environment"`
	User        User        `json:"user"` // who asks
	Reason      string      `json:"reason"`
	Release     ReleaseFact `json:"release"`
	Current     int         `json:"current_release"`
	WasHealthy  bool        `json:"was_healthy"` // the release was healthy here to the end
	Verifies    bool        `json:"provenance_verifies"`
	VerifyError string      `json:"verify_error"`
}

// ConvergeInput is about: may drift be healed, or only reported?
type ConvergeInput struct {
	Now         time.Time `json:"now"`
	Repository  string    `json:"repository"`
	Environment string    `json:"environment"`
	Release     int       `json:"release"`
}

// ExecInput is about: may this person run this command where a service runs?
type ExecInput struct {
	Now         time.Time   `json:"now"`
	Repository  string      `json:"repository"`
	Application string      `json:"application"`
	Environment Environment `json:"environment"`
	Release     int         `json:"release"`
	Service     string      `json:"service"`
	Instance    string      `json:"instance"` // empty: any of the service
	Command     []string    `json:"command"`  // empty: a shell
	Terminal    bool        `json:"terminal"` // whether it has one
	Session     string      `json:"session"`  // names this run, so that each one is on record
	User        User        `json:"user"`     // who asks
}
