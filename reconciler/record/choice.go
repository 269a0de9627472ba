package record

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Choice is that a person proposed a release which would not have been proposed by
// itself: an older one, or one that was rejected.
type Choice struct {
	User       string
	At         time.Time
	Rejections repo.Hash // the newest rejection then, which it overrules; Zero: there was none
}

const keyChosen = "Chosen-by"

var choiceForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,99}) at=(\S{1,40}) rejections=([0-9a-f]{40})$`)
})

func (c Choice) value() string {
	return fmt.Sprintf("%s at=%s rejections=%s", c.User, c.At.UTC().Format(time.RFC3339), c.Rejections)
}

func parseChoice(value string) *Choice {
	m := choiceForm().FindStringSubmatch(value)
	if m == nil {
		return nil
	}
	at, err := time.Parse(time.RFC3339, m[2])
	rejections, ok := repo.ParseHash(m[3])
	if err != nil || !ok && m[3] != repo.Zero.String() {
		return nil
	}
	return &Choice{User: m[1], At: at, Rejections: rejections}
}

// Rejection is a person's no to a proposal: that release is not proposed again
// until somebody chooses it. It is a signed commit of the environment's line of
// rejections, with the content that was rejected.
type Rejection struct {
	Hash     repo.Hash // the commit
	Release  int
	Removal  bool      // it was to take the application out; Release is 0
	Declared repo.Hash // what the environment declared then
	Proposal repo.Hash // commit that was rejected
	By       string
	Via      string
	Reason   string
	At       time.Time
}

// RejectionsRef holds the rejections of an environment, the newest first.
func RejectionsRef(environment string) string { return decision.Rejections + environment }

const (
	keyRejected = "Rejected-by"
	keyRejects  = "Rejects"
	keyDeclared = "Declared"
	keyVia      = "Via"
)

// Message writes the message of a rejection's commit, whose tree is the proposal's
// and whose parents are the rejection before it and the proposal.
func (r Rejection) Message(application, environment string) string {
	what := fmt.Sprintf("release %d", r.Release)
	if r.Removal {
		what = "the removal"
	}
	reason := strings.Join(strings.Fields(terminal.Message(r.Reason, maxWhy)), " ")
	return repo.Message(fmt.Sprintf("reject %s of %s for %s", what, application, environment), reason,
		repo.Trailer{Key: keyRelease, Value: strconv.Itoa(r.Release)},
		repo.Trailer{Key: keyRejects, Value: r.Proposal.String()},
		repo.Trailer{Key: keyDeclared, Value: r.Declared.String()},
		repo.Trailer{Key: keyRejected, Value: r.By},
		repo.Trailer{Key: keyVia, Value: r.Via},
		repo.Trailer{Key: keyReason, Value: strconv.Quote(reason)},
	)
}

// parseRejection reads a message that Message wrote.
func parseRejection(message string) (r Rejection) {
	for _, t := range repo.Trailers(message) {
		// What does not parse stays zero and says nothing.
		switch t.Key {
		case keyRelease:
			r.Release, _ = strconv.Atoi(t.Value)
		case keyRejects:
			r.Proposal, _ = repo.ParseHash(t.Value)
		case keyDeclared:
			r.Declared, _ = repo.ParseHash(t.Value)
		case keyRejected:
			r.By = t.Value
		case keyVia:
			r.Via = t.Value
		case keyReason:
			r.Reason, _ = strconv.Unquote(t.Value)
		}
	}
	r.Removal = r.Release == 0
	return r
}

// maxRejections bounds how many are remembered; a release that was rejected before
// so many others is long behind what is declared.
const maxRejections = 200

// Rejections reads an environment's, newest first.
func Rejections(r *repo.Repository, environment string) ([]Rejection, error) {
	at, err := r.Ref(RejectionsRef(environment))
	if err != nil {
		return nil, err
	}
	var all []Rejection
	for at != repo.Zero && len(all) < maxRejections {
		c, err := r.Commit(at)
		if err != nil {
			return nil, err
		}
		one := parseRejection(c.Message)
		one.Hash, one.At = at, c.Committer.When.UTC()
		all = append(all, one)
		at = repo.Zero
		if len(c.ParentHashes) > 1 {
			at = c.ParentHashes[0]
		}
	}
	return all, nil
}
