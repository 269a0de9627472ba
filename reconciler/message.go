package reconciler

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// EnvironmentRef is the branch that declares an environment.
func EnvironmentRef(environment string) string { return "refs/heads/env/" + environment }

// PromotionRef holds the environment's open proposal.
func PromotionRef(environment string) string { return "refs/heads/promote/" + environment }

// Approval is one user's yes to one content.
type Approval struct {
	User  string
	Email string
	Tree  repo.Hash
	At    time.Time
	Via   string // ssh, push, console
	Why   string
}

var approvalForm = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,99}) <([^<>\s]*)> tree=([0-9a-f]{40}) at=(\S{1,40}) via=([a-z]{1,20})(?: why=(".*"))?$`)

func (a Approval) trailer() repo.Trailer {
	value := fmt.Sprintf("%s <%s> tree=%s at=%s via=%s", a.User, a.Email, a.Tree, a.At.UTC().Format(time.RFC3339), a.Via)
	if a.Why != "" {
		value += " why=" + strconv.Quote(terminal.Message(strings.Join(strings.Fields(a.Why), " "), 500))
	}
	return repo.Trailer{Key: approvedBy, Value: value}
}

func parseApproval(value string) (Approval, bool) {
	m := approvalForm.FindStringSubmatch(value)
	if m == nil {
		return Approval{}, false
	}
	tree, ok := repo.ParseHash(m[3])
	at, err := time.Parse(time.RFC3339, m[4])
	if !ok || err != nil {
		return Approval{}, false
	}
	a := Approval{User: m[1], Email: m[2], Tree: tree, At: at, Via: m[5]}
	if m[6] != "" {
		if a.Why, err = strconv.Unquote(m[6]); err != nil {
			return Approval{}, false
		}
	}
	return a, true
}

// Keys of the trailers in a promotion's message.
const (
	keyRelease      = "Release"
	keySource       = "Source-Commit"
	keyPath         = "Path"
	keyIncludes     = "Includes"
	keyArtifact     = "Artifact"
	keyPromotedFrom = "Promoted-From"
	keySoak         = "Soak"
	keyPolicy       = "Policy"
	keyDecision     = "Decision"
	approvedBy      = "Approved-by"
	formerApproval  = "Former-Approval"
	keyPromotion    = "Promotion-Id"

	keyReason     = "Reason"
	keyRollbackOf = "Rollback-Of"
	keyRestores   = "Restores"
	keyTrigger    = "Trigger"
	keyHold       = "Hold"
)

// Promotion is what the message of a promotion or rollback says: of a commit of
// an environment's branch, or of a proposal, which has no decision yet.
type Promotion struct {
	Release      int
	Source       repo.Hash
	Path         string // folder of the release, as headgate.yaml had it
	Artifacts    []string
	PromotedFrom string
	Soak         string
	Policy       string
	Decision     string // "auto d-1a2b3c4 <commit>"
	Approvals    []Approval
	Former       []Approval // of other contents, or before a hold; they count for nothing
	ID           string

	// Of a rollback only.
	RollbackOf, Restores repo.Hash
	By, Reason           string
	Hold                 string

	includesFrom repo.Hash // Source of what it replaces
	subject      string    // of the release
	carries      string    // how much more it carries, in words; not read back
}

// id names a promotion by what it is: the same content on the same state of the
// same environment has the same id, however often it is made after kills.
func promotionID(repository, environment string, parent, tree repo.Hash) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s", repository, environment, parent, tree))
	return "p-" + hex.EncodeToString(sum[:])[:12]
}

// message writes p as the commit's message (spec/environments.md 8.3).
func (p Promotion) message(repository, environment string) string {
	var ts []repo.Trailer
	add := func(key, value string) {
		if value != "" {
			ts = append(ts, repo.Trailer{Key: key, Value: value})
		}
	}
	head := fmt.Sprintf("promote %s to %s: release %d (%s)", repository, environment, p.Release, short(p.Source))
	body := terminal.Message(p.subject, 200) + "\n\n" + p.carries
	if p.RollbackOf != repo.Zero {
		head = fmt.Sprintf("rollback %s in %s to release %d", repository, environment, p.Release)
		body = ""
		add(keyReason, strconv.Quote(p.Reason))
		add(keyRollbackOf, p.RollbackOf.String())
		add(keyRestores, p.Restores.String())
		add(keyTrigger, p.By)
		add(keyHold, p.Hold)
	}
	add(keyRelease, strconv.Itoa(p.Release))
	add(keySource, p.Source.String())
	add(keyPath, p.Path)
	switch {
	case p.RollbackOf != repo.Zero:
	case p.includesFrom != repo.Zero:
		add(keyIncludes, p.includesFrom.String()+".."+p.Source.String())
	default:
		add(keyIncludes, p.Source.String())
	}
	for _, a := range p.Artifacts {
		add(keyArtifact, a)
	}
	add(keyPromotedFrom, p.PromotedFrom)
	add(keySoak, p.Soak)
	add(keyPolicy, p.Policy)
	add(keyDecision, p.Decision)
	for _, a := range p.Approvals {
		ts = append(ts, a.trailer())
	}
	for _, a := range p.Former {
		ts = append(ts, repo.Trailer{Key: formerApproval, Value: a.trailer().Value})
	}
	if p.Decision != "" && len(p.Approvals) == 0 && p.RollbackOf == repo.Zero {
		add(approvedBy, "policy")
	}
	add(keyPromotion, p.ID)
	return repo.Message(head, body, ts...)
}

// parsePromotion reads a message that message wrote. Approvals that do not read
// as such, or are of another tree than the commit's, do not count.
func parsePromotion(message string, tree repo.Hash) (p Promotion, ok bool) {
	for _, t := range repo.Trailers(message) {
		var h repo.Hash
		switch t.Key {
		case keyRelease:
			p.Release, _ = strconv.Atoi(t.Value) // 0 is no release; checked below
		case keySource:
			p.Source, _ = repo.ParseHash(t.Value)
		case keyPath:
			p.Path = t.Value
		case keyArtifact:
			p.Artifacts = append(p.Artifacts, t.Value)
		case keyPromotedFrom:
			p.PromotedFrom = t.Value
		case keySoak:
			p.Soak = t.Value
		case keyPolicy:
			p.Policy = t.Value
		case keyDecision:
			p.Decision = t.Value
		case approvedBy:
			a, is := parseApproval(t.Value)
			if is && a.Tree == tree && !approved(p.Approvals, a.User) {
				p.Approvals = append(p.Approvals, a)
			}
		case formerApproval:
			if a, is := parseApproval(t.Value); is {
				p.Former = append(p.Former, a)
			}
		case keyPromotion:
			p.ID = t.Value
		case keyReason:
			if s, err := strconv.Unquote(t.Value); err == nil {
				p.Reason = s
			}
		case keyRollbackOf:
			h, _ = repo.ParseHash(t.Value)
			p.RollbackOf = h
		case keyRestores:
			h, _ = repo.ParseHash(t.Value)
			p.Restores = h
		case keyTrigger:
			p.By = t.Value
		case keyHold:
			p.Hold = t.Value
		case keyIncludes:
			from, _, _ := strings.Cut(t.Value, "..")
			p.includesFrom, _ = repo.ParseHash(from)
		}
	}
	_, body, _ := strings.Cut(message, "\n\n")
	p.subject, _, _ = strings.Cut(strings.TrimSpace(body), "\n")
	if p.RollbackOf != repo.Zero {
		p.subject = "rolled back"
		if p.Reason != "" {
			p.subject += ": " + p.Reason
		}
	}
	return p, p.Release > 0 && p.Source != repo.Zero && p.ID != ""
}

func approved(as []Approval, user string) bool {
	return slices.ContainsFunc(as, func(a Approval) bool { return a.User == user })
}

func short(h repo.Hash) string { return h.String()[:7] }
