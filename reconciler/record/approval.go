package record

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Approval is one user's yes to one content.
type Approval struct {
	User  string
	Email string
	Tree  repo.Hash
	At    time.Time
	Via   string // ssh, push, console, forge
	Why   string
}

var approvalForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(
		`^([A-Za-z0-9][A-Za-z0-9._-]{0,99}) <([^<>\s]*)> tree=([0-9a-f]{40}) at=(\S{1,40}) via=([a-z]{1,20})(?: why=(".*"))?$`)
})

// maxWhy bounds the reason that is kept with an approval, in bytes.
const maxWhy = 500

// Written reports whether the approval can be written down so that it reads back:
// a name with a space in it, say, cannot.
func (a Approval) Written() bool {
	_, ok := parseApproval(a.value())
	return ok
}

func (a Approval) value() string {
	value := fmt.Sprintf("%s <%s> tree=%s at=%s via=%s", a.User, a.Email, a.Tree, a.At.UTC().Format(time.RFC3339), a.Via)
	if why := strings.Join(strings.Fields(terminal.Message(a.Why, maxWhy)), " "); why != "" {
		value += " why=" + strconv.Quote(why)
	}
	return value
}

func parseApproval(value string) (Approval, bool) {
	m := approvalForm().FindStringSubmatch(value)
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

// ApprovedBy reports whether a user is among those who approved.
func ApprovedBy(as []Approval, user string) bool {
	return slices.ContainsFunc(as, func(a Approval) bool { return a.User == user })
}
