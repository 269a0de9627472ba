package receive

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Where things stand among the refs. What else is below refs/ belongs to the server.
const (
	headsPrefix       = "refs/heads/"
	tagsPrefix        = "refs/tags/"
	forPrefix         = "refs/for/"
	environmentPrefix = "refs/heads/env/"
	promotePrefix     = "refs/heads/promote/"
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

// rejection tells a person why something is refused: what happened, where, what
// to do.
type rejection struct {
	What  string
	Short string // behind the ref, where What is long; "" is What
	Where []string
	Hint  string
}

// reason is what git prints behind the ref.
func (r *rejection) reason() string {
	return terminal.Cut(terminal.Plain(cmp.Or(r.Short, r.What)), 200)
}

func reject(what, hint string, where ...string) *rejection {
	return &rejection{What: what, Where: where, Hint: hint}
}

func (r *rejection) Error() string { return r.What }

// checkName says why a ref cannot be pushed whoever pushes it: its name is not
// one, or it belongs to the server. Plain branches and tags may have any name
// that git takes and that is inert wherever it is shown or passed on; what can be
// gated, or is part of a command that Headgate prints, has a plain one.
// Environments are not among these: pushing to one may be an approval.
func checkName(ref string) *rejection {
	if len(ref) > maxRefName {
		return reject(fmt.Sprintf("a ref name of %d bytes is too long", len(ref)),
			fmt.Sprintf("use a name of at most %d bytes", maxRefName), quote(ref))
	}
	var name string
	for _, prefix := range []string{headsPrefix, tagsPrefix, forPrefix} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok {
			name = rest
		}
	}
	if name == "" {
		return reject(quote(ref)+" belongs to the server", "push to refs/heads/, refs/tags/ or refs/for/<branch>")
	}
	if err := plumbing.ReferenceName(ref).Validate(); err != nil || name[0] == '-' || name == "HEAD" ||
		!utf8.ValidString(ref) || strings.ContainsFunc(ref, terminal.Unsafe) {
		return reject(quote(ref)+" is not a valid ref name",
			"git help check-ref-format has the rules; a name may not begin with '-'")
	}
	if serverBranch(name) || strings.HasPrefix(ref, forPrefix) {
		if !nameForm.MatchString(name) {
			return reject(quote(ref)+" is not a valid name of a branch that changes are proposed for",
				"use letters, digits, '.', '_', '-' and '/', beginning with a letter or digit")
		}
	}
	if branch, ok := strings.CutPrefix(ref, forPrefix); ok && serverBranch(branch) {
		return reject(headsPrefix+branch+" belongs to the server: nothing can be proposed for it",
			"propose for a gated branch; a promotion is approved with: git push origin origin/promote/<environment>:env/<environment>", ref)
	}
	if strings.HasPrefix(ref, promotePrefix) || ref == strings.TrimSuffix(promotePrefix, "/") {
		return reject(ref+" belongs to the server",
			"to approve a promotion: git push origin origin/promote/<environment>:env/<environment>; to reject it: git push origin :promote/<environment>")
	}
	if ref == strings.TrimSuffix(environmentPrefix, "/") {
		return reject(ref+" belongs to the server", "environments are branches below it")
	}
	return nil
}

// serverBranch reports whether a branch holds environments or proposals.
func serverBranch(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return top == "env" || top == "promote"
}

// environmentOf is the environment whose branch ref is.
func environmentOf(ref string) (string, bool) { return strings.CutPrefix(ref, environmentPrefix) }

// rejectedBy is the environment whose open promotion a command rejects, by deleting
// the branch that proposes it.
func rejectedBy(c command) (string, bool) {
	environment, ok := strings.CutPrefix(c.ref, promotePrefix)
	return environment, ok && c.deletes() && len(c.ref) <= maxRefName && nameForm.MatchString(environment)
}

// quote makes a name of unknown content safe to show.
func quote(s string) string {
	const most = 60
	s = terminal.Plain(s)
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return `"` + s + `"`
}
