package record

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/policies"
)

// Keys of the trailers in a commit's message.
const (
	keyRelease        = "Release"
	keySource         = "Source-Commit"
	keyPath           = "Path"
	keyIncludes       = "Includes"
	keyArtifact       = "Artifact"
	keyPromotedFrom   = "Promoted-From"
	keySoak           = "Soak"
	keyPolicy         = "Policy"
	keyDecision       = "Decision"
	keyApproval       = "Approved-by"
	keyFormerApproval = "Former-Approval"
	keyPromotion      = "Promotion-Id"
	keySequence       = "Sequence"

	keyReason     = "Reason"
	keyRollbackOf = "Rollback-Of"
	keyRestores   = "Restores"
	keyTrigger    = "Trigger"
	keyHold       = "Hold"
	keyRemoves    = "Removes"
	keyRenamed    = "Renamed-From"
)

// approvedByPolicy is the approval trailer of what needed no person.
const approvedByPolicy = "policy"

// Promotion is what a commit of an environment says: a release that goes there,
// or back. A proposal says the same, but has no decision yet.
type Promotion struct {
	ID        string
	Sequence  int // place of the commit in the environment's branch, from 1; 0: a proposal, or an earlier version did not say
	Release   int
	Source    repo.Hash // landed commit of the release
	Path      string    // directory of the release, as headgate.yaml had it
	Artifacts []Artifact
	From      Origin
	Soak      Soak

	Replaces repo.Hash // Source of what was declared before; Zero: nothing was
	Policy   string    // digest
	Decision Decision

	Approvals []Approval
	Former    []Approval // of other contents, or before a hold; they count for nothing

	Chosen   *Choice   // nil: it came by itself
	Rollback *Rollback // nil: it goes forward
	Removal  bool      // it takes the application out of the environment; Source is what no longer declares it

	Renamed string // the name that the environment had until then; what it declares stays as it is

	Subject string // of the release
	Carries Span   // told to people, not read back
}

// Rollback is what a promotion says besides when it goes back.
type Rollback struct {
	Of       repo.Hash // commit that is rolled back
	Restores repo.Hash // earlier commit whose content this is
	By       string    // user, or Automatic
	Reason   string
}

// Automatic is who rolled back when nobody did: the deployment gave up. No user has
// such a name.
const Automatic = "(deployment)"

// Origin is the environment that a promotion comes from, as it was.
type Origin struct {
	Environment string
	Commit      repo.Hash
}

// Soak is how long a release was to be healthy in the environment before.
type Soak struct {
	Since    time.Time // healthy there
	Required time.Duration
}

// Decision names the decision of a policy that allowed a commit.
type Decision struct {
	Decision policies.Decision
	Commit   repo.Hash // its record
	Place    int       // of the record in the chain of all decisions, from 1; 0: an earlier version did not say
}

// Span counts the releases that a promotion carries since another.
type Span struct{ Releases, Since int }

// PromotionID names a promotion by what it is: the same content on the same state
// of the same environment has the same id, however often it is made after kills.
func PromotionID(repository, environment string, parent, tree repo.Hash) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s", repository, environment, parent, tree))
	return "p-" + hex.EncodeToString(sum[:])[:12]
}

// Message writes p as the message of a commit of an environment.
func (p Promotion) Message(application, environment string) string {
	var ts []repo.Trailer
	add := func(key, value string) {
		if value != "" {
			ts = append(ts, repo.Trailer{Key: key, Value: value})
		}
	}

	head := fmt.Sprintf("promote %s to %s: release %d (%s)", application, environment, p.Release,
		show.Short(p.Source.String()))
	body := terminal.Message(p.Subject, 200) + "\n\n" + p.Carries.String()
	if b := p.Rollback; b != nil {
		head = fmt.Sprintf("rollback %s in %s to release %d", application, environment, p.Release)
		body = ""
		add(keyReason, strconv.Quote(b.Reason))
		add(keyRollbackOf, b.Of.String())
		add(keyRestores, b.Restores.String())
		add(keyTrigger, b.By)
		add(keyHold, application+" until promoted forward")
	}

	if p.Renamed != "" {
		head, body = fmt.Sprintf("rename environment %s of %s to %s", p.Renamed, application, environment), ""
		add(keyRenamed, p.Renamed)
	}
	if p.Removal {
		head, body = fmt.Sprintf("remove %s from %s", application, environment), ""
		add(keyRemoves, environment)
	} else {
		add(keyRelease, strconv.Itoa(p.Release))
	}
	add(keySource, p.Source.String())
	add(keyPath, p.Path)
	switch {
	case p.Rollback != nil, p.Removal, p.Renamed != "":
	case p.Replaces != repo.Zero:
		add(keyIncludes, p.Replaces.String()+".."+p.Source.String())
	default:
		add(keyIncludes, p.Source.String())
	}
	for _, a := range p.Artifacts {
		add(keyArtifact, a.Name+"@"+a.Digest)
	}
	add(keyPromotedFrom, p.From.String())
	add(keySoak, p.Soak.String())
	add(keyPolicy, p.Policy)
	add(keyDecision, p.Decision.String())

	if p.Chosen != nil {
		add(keyChosen, p.Chosen.value())
	}
	for _, a := range p.Approvals {
		add(keyApproval, a.value())
	}
	for _, a := range p.Former {
		add(keyFormerApproval, a.value())
	}
	if p.Decision != (Decision{}) && len(p.Approvals) == 0 && p.Rollback == nil {
		add(keyApproval, approvedByPolicy)
	}
	if p.Sequence > 0 {
		add(keySequence, strconv.Itoa(p.Sequence))
	}
	add(keyPromotion, p.ID)
	return repo.Message(head, body, ts...)
}

// ParsePromotion reads a message that Message wrote, of a commit with that tree.
// Approvals that do not read as such, or are of another tree, do not count.
func ParsePromotion(message string, tree repo.Hash) (p Promotion, ok bool) {
	var back Rollback
	for _, t := range repo.Trailers(message) {
		// What does not parse stays zero, which is checked below or says nothing.
		switch t.Key {
		case keyRelease:
			p.Release, _ = strconv.Atoi(t.Value)
		case keyRemoves:
			p.Removal = t.Value != ""
		case keyRenamed:
			p.Renamed = t.Value
		case keySource:
			p.Source, _ = repo.ParseHash(t.Value)
		case keyPath:
			p.Path = t.Value
		case keyArtifact:
			if i := strings.LastIndexByte(t.Value, '@'); i > 0 {
				p.Artifacts = append(p.Artifacts, Artifact{Name: t.Value[:i], Digest: t.Value[i+1:]})
			}
		case keyPromotedFrom:
			p.From = parseOrigin(t.Value)
		case keySoak:
			p.Soak = parseSoak(t.Value)
		case keyPolicy:
			p.Policy = t.Value
		case keyDecision:
			p.Decision = parseDecision(t.Value)
		case keyChosen:
			p.Chosen = parseChoice(t.Value)
		case keyApproval:
			a, is := parseApproval(t.Value)
			if is && a.Tree == tree && !ApprovedBy(p.Approvals, a.User) {
				p.Approvals = append(p.Approvals, a)
			}
		case keyFormerApproval:
			if a, is := parseApproval(t.Value); is {
				p.Former = append(p.Former, a)
			}
		case keyPromotion:
			p.ID = t.Value
		case keySequence:
			p.Sequence, _ = strconv.Atoi(t.Value)
		case keyReason:
			back.Reason, _ = strconv.Unquote(t.Value)
		case keyRollbackOf:
			back.Of, _ = repo.ParseHash(t.Value)
		case keyRestores:
			back.Restores, _ = repo.ParseHash(t.Value)
		case keyTrigger:
			back.By = t.Value
		case keyIncludes:
			if from, _, ok := strings.Cut(t.Value, ".."); ok {
				p.Replaces, _ = repo.ParseHash(from)
			}
		}
	}
	switch {
	case back.Of != repo.Zero:
		p.Rollback = &back
	case p.Renamed == "":
		_, body, _ := strings.Cut(message, "\n\n")
		p.Subject, _, _ = strings.Cut(strings.TrimSpace(body), "\n")
	}
	return p, (p.Release > 0) != p.Removal && p.Source != repo.Zero && p.ID != ""
}

// approvalsNamed counts the trailers that claim to be a person's approval,
// whether or not they count.
func approvalsNamed(message string) int {
	named := 0
	for _, t := range repo.Trailers(message) {
		if t.Key == keyApproval && t.Value != approvedByPolicy {
			named++
		}
	}
	return named
}

func (o Origin) String() string {
	if o.Environment == "" {
		return ""
	}
	return "env/" + o.Environment + "@" + o.Commit.String()
}

func parseOrigin(value string) Origin {
	environment, commit, _ := strings.Cut(strings.TrimPrefix(value, "env/"), "@")
	h, ok := repo.ParseHash(commit)
	if !ok || environment == "" || !strings.HasPrefix(value, "env/") {
		return Origin{}
	}
	return Origin{environment, h}
}

func (s Soak) String() string {
	if s.Since.IsZero() {
		return ""
	}
	return fmt.Sprintf("healthy there since %s (required %s)", s.Since.UTC().Format(time.RFC3339), s.Required)
}

func parseSoak(value string) Soak {
	value, ok := strings.CutPrefix(value, "healthy there since ")
	if !ok {
		return Soak{}
	}
	at, required, _ := strings.Cut(strings.TrimSuffix(value, ")"), " (required ")
	since, err := time.Parse(time.RFC3339, at)
	length, lerr := time.ParseDuration(required)
	if cmp.Or(err, lerr) != nil {
		return Soak{}
	}
	return Soak{since, length}
}

func (d Decision) String() string {
	if d == (Decision{}) {
		return ""
	}
	if d.Place == 0 {
		return fmt.Sprintf("%s %s %s", d.Decision, decision.ID(d.Commit), d.Commit)
	}
	return fmt.Sprintf("%s %s %s #%d", d.Decision, decision.ID(d.Commit), d.Commit, d.Place)
}

func parseDecision(value string) Decision {
	fields := strings.Fields(value)
	place := 0
	if len(fields) == 4 {
		var err error
		if place, err = strconv.Atoi(strings.TrimPrefix(fields[3], "#")); err != nil || place < 1 || fields[3][0] != '#' {
			return Decision{}
		}
		fields = fields[:3]
	}
	if len(fields) != 3 || !slices.Contains([]policies.Decision{policies.Auto, policies.Manual, policies.Deny},
		policies.Decision(fields[0])) {
		return Decision{}
	}
	h, ok := repo.ParseHash(fields[2])
	if !ok || fields[1] != decision.ID(h) {
		return Decision{}
	}
	return Decision{policies.Decision(fields[0]), h, place}
}

func (s Span) String() string {
	switch {
	case s.Releases == 0 || s.Since == 0:
		return ""
	case s.Releases == 1:
		return fmt.Sprintf("1 release since release %d", s.Since)
	}
	return fmt.Sprintf("%d releases since release %d", s.Releases, s.Since)
}
