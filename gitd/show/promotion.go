package show

import (
	"fmt"
	"strings"
	"time"
)

// Promotion is the open proposal of one environment, with its gate.
type Promotion struct {
	Repository  string       `json:"repository"`
	Environment string       `json:"environment"`
	From        int          `json:"from_release,omitempty"` // 0: nothing runs there yet
	To          int          `json:"to_release"`
	Removal     bool         `json:"removal,omitempty"` // it is to run nothing any more; ToRelease is 0
	Stops       []string     `json:"stops,omitempty"`   // services that a removal stops
	Proposal    string       `json:"proposal"`          // commit at promote/<environment>
	Tree        string       `json:"tree"`              // what an approval binds to
	Source      string       `json:"commit"`
	ProposedAt  time.Time    `json:"proposed_at"`
	FailedAt    time.Time    `json:"failed_at,omitzero"` // the release was here before, and failed
	Failure     string       `json:"failure,omitempty"`  // what was said of that
	Stuck       bool         `json:"stuck,omitempty"`    // fewer people may approve than must
	WayOut      string       `json:"way_out,omitempty"`  // what can be done, when it is stuck
	Decision    string       `json:"decision"`           // auto, manual, deny
	Summary     string       `json:"summary"`            // "waits for 1 approval and soak"
	Checks      []Check      `json:"checks"`             // open ones first
	Cover       []Cover      `json:"cover,omitempty"`    // whose yes covers which changes; empty where none is asked for
	Rules       []RuleChange `json:"rules,omitempty"`    // that it changes; those before it hold as well until then
	NotBefore   time.Time    `json:"not_before,omitzero"`
	Policy      string       `json:"policy"` // digest
	Approvals   []Approval   `json:"approvals"`
	Chosen      *Choice      `json:"chosen,omitempty"` // by whom it is proposed; nil: it came by itself
	MayReject   bool         `json:"may_reject"`
	Approved    bool         `json:"approved_by_you"` // the actor has said yes to this content
	MayApprove  bool         `json:"may_approve"`
	WhyNot      string       `json:"why_not,omitempty"` // why the actor may not approve
	Files       []FileDiff   `json:"files,omitempty"`   // its own page only
	Carries     []Release    `json:"carries,omitempty"` // its own page only, newest first
	Commands    []string     `json:"commands"`          // that approve it, ready to paste
}

// Subject names what is proposed: "release 186", "the removal".
func (p Promotion) Subject() string {
	if p.Removal {
		return "the removal"
	}
	return fmt.Sprintf("release %d", p.To)
}

// Means says what a removal does, "" for another promotion.
func (p Promotion) Means() string {
	switch {
	case !p.Removal:
		return ""
	case len(p.Stops) == 0:
		return p.Environment + " is removed from headgate.yaml: nothing will be declared there any more"
	}
	return p.Environment + " is removed from headgate.yaml: this stops " + strings.Join(p.Stops, ", ")
}

// Choice is that a person proposed it.
type Choice struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Rejection is a person's no to a release that would be proposed else.
type Rejection struct {
	Release int       `json:"release"` // 0: the removal
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Via     string    `json:"via"`
	Reason  string    `json:"reason,omitempty"`
	Commit  string    `json:"commit"` // of the record
}

// What names what was rejected.
func (r Rejection) What() string { return Promotion{To: r.Release, Removal: r.Release == 0}.Subject() }

// Approval is one person's yes to exactly one content.
type Approval struct {
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Via   string    `json:"via"`
	Tree  string    `json:"tree"`
	Why   string    `json:"reason,omitempty"`
	Stale bool      `json:"stale,omitempty"`
}

// Check is one condition of a gate.
type Check struct {
	Rule        string    `json:"rule"`
	Title       string    `json:"title"`
	Met         bool      `json:"met"`
	Detail      string    `json:"detail,omitempty"`
	Until       time.Time `json:"until,omitzero"`
	UntilPerson bool      `json:"until_a_person_acts,omitempty"`
	Who         []string  `json:"who,omitempty"`
	Progress    float64   `json:"progress,omitempty"` // 0 to 1 for a condition of time
}

// Cover says whose yes covers changes that a promotion carries and that the same
// people wrote.
type Cover struct {
	Changes []int    `json:"changes"`
	Authors []string `json:"authors"`
	Yes     []string `json:"approved_by"` // by people who did not write them
	Missing int      `json:"missing"`     // approvals by such people
	Who     []string `json:"who"`         // who may give one
}

// What names the changes and who wrote them: "changes 4, 5 by ada".
func (c Cover) What() string {
	what := NameChanges(c.Changes)
	if len(c.Authors) > 0 {
		what += " by " + strings.Join(c.Authors, ", ")
	}
	return what
}

// Answer is what they have and what they lack: "yes from jun", "1 approval
// missing, from jun or sam".
func (c Cover) Answer() string {
	var parts []string
	if len(c.Yes) > 0 {
		parts = append(parts, "yes from "+strings.Join(c.Yes, ", "))
	}
	switch {
	case c.Missing > len(c.Who):
		parts = append(parts, Plural(c.Missing, "approval")+" missing, and too few are there to give one")
	case c.Missing > 0:
		parts = append(parts, Plural(c.Missing, "approval")+" missing, from "+strings.Join(c.Who, " or "))
	}
	return strings.Join(parts, "; ")
}

// maxNamed bounds the numbers of changes in a line.
const maxNamed = 12

// NameChanges names changes by their numbers, "what it carries" without any.
func NameChanges(numbers []int) string {
	switch len(numbers) {
	case 0:
		return "what it carries"
	case 1:
		return fmt.Sprintf("change %d", numbers[0])
	}
	var all []string
	for _, n := range numbers[:min(len(numbers), maxNamed)] {
		all = append(all, fmt.Sprint(n))
	}
	if more := len(numbers) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return "changes " + strings.Join(all, ", ")
}

// RuleChange is a rule of an environment that a promotion changes.
type RuleChange struct {
	Rule string `json:"rule"`
	Was  string `json:"was"`
	Is   string `json:"is"`
}
