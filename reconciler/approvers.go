package reconciler

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// email is the address under which an approval names a user.
func (rc *Reconciler) email(user string) string {
	u, _ := rc.Access().User(user)
	for _, e := range u.Email {
		if !strings.ContainsAny(e, "<> \t\r\n") {
			return e
		}
	}
	return ""
}

// mayWrite refuses who may not write the repository, and names who may.
func (rc *Reconciler) mayWrite(s *snapshot, by show.Actor, what string) error {
	config := rc.Access()
	if config.May(by, access.Write, s.application) {
		return nil
	}
	return &show.Error{Kind: show.Forbidden,
		What: fmt.Sprintf("%s may not %s %s of %s", someone(by), what, s.environment, s.application),
		Hint: "ask one of: " + list(config.Who(access.Write, s.application))}
}

func someone(by show.Actor) string {
	if by.User == "" {
		return "who is not signed in"
	}
	return by.User
}

// approvers are the users whose approval of the open proposal would count and
// is not there yet.
func (rc *Reconciler) approvers(s *snapshot, authors []string) []string {
	var names []string
	for _, u := range rc.Access().Users() {
		if rc.whyNotApprove(s, access.Recorded(u.Name), authors) == "" && !record.ApprovedBy(s.Proposal.Approvals, u.Name) {
			names = append(names, u.Name)
		}
	}
	return names
}

// whyNotApprove says why somebody's approval would not count, "" when it would.
func (rc *Reconciler) whyNotApprove(s *snapshot, who access.Identity, authors []string) string {
	config := rc.Access()
	if !who.Scope.Allows(access.Write, s.application) {
		return fmt.Sprintf("what %s came with does not allow to write %s", someone(who), s.application)
	}
	if from := s.settings.Approvals.From; from != "" && s.settings.Approvals.Count > 0 {
		if !slices.Contains(config.Members(from), who.User) || !config.May(who, access.Read, s.application) {
			return fmt.Sprintf("%s is not in the group %s", someone(who), from)
		}
	} else if !config.May(who, access.Write, s.application) {
		return fmt.Sprintf("%s may not write %s", someone(who), s.application)
	}
	if !s.settings.Approvals.Own && s.settings.Approvals.Count > 0 && slices.Contains(authors, who.User) {
		return fmt.Sprintf("release %d carries a change of %s, and nobody approves their own", s.Proposal.Release, who.User)
	}
	return ""
}

// mayApprove refuses who may not approve the open proposal, and names who may.
func (rc *Reconciler) mayApprove(ctx context.Context, s *snapshot, by show.Actor) error {
	authors, err := rc.authors(ctx, s)
	if err != nil {
		return err
	}
	why := rc.whyNotApprove(s, by, authors)
	if why == "" {
		return nil
	}
	e := &show.Error{Kind: show.Forbidden, What: fmt.Sprintf("%s may not approve release %d for %s of %s", someone(by), s.Proposal.Release, s.environment, s.application),
		Where: []string{why}}
	if who := rc.approvers(s, authors); len(who) > 0 {
		e.Hint = "ask one of: " + list(who)
	} else {
		e.Hint = "nobody may; an administrator can add users or groups in headgate.git, or set own: true under approvals in headgate.yaml"
	}
	return e
}

// maxCommits bounds whose commits are looked at for one proposal.
const maxCommits = 20000

// authors are the users who made what the open proposal carries: who pushed the
// changes, and whose addresses the commits name as author or co-author. The
// latter are unproven, which is safe: a claim only ever takes a vote away.
func (rc *Reconciler) authors(ctx context.Context, s *snapshot) ([]string, error) {
	var users []string
	for _, rel := range s.carried(s.Proposal.Release) {
		users = append(users, rel.By)
		users = append(users, rel.Authors...)
	}
	emails, err := rc.emailsBetween(ctx, s.repo, s.sourceDeclared(), s.Proposal.Source)
	if err != nil {
		return nil, err
	}
	for _, e := range emails {
		if u, ok := rc.Access().UserByEmail(e); ok {
			users = append(users, u.Name)
		}
	}
	slices.Sort(users)
	users = slices.DeleteFunc(slices.Compact(users), func(u string) bool { return u == "" })
	return users, nil
}

// emailsBetween are the addresses of authors and co-authors of the commits that
// are in to and not in from.
func (rc *Reconciler) emailsBetween(ctx context.Context, r *repo.Repository, from, to repo.Hash) ([]string, error) {
	if to == repo.Zero {
		return nil, nil
	}
	key := r.Name() + " " + from.String() + " " + to.String()
	if e, ok := rc.emails.get(key); ok {
		return e, nil
	}
	args := []string{"log", fmt.Sprintf("--max-count=%d", maxCommits), "--format=%ae%n%(trailers:key=Co-authored-by,valueonly)", "--end-of-options", to.String()}
	if from != repo.Zero {
		args = append(args, "^"+from.String())
	}
	out, err := r.Git(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("read the authors of %s: %w", r.Name(), err)
	}
	var emails []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndexByte(line, '<'); i >= 0 { // "Name <address>"
			line, _, _ = strings.Cut(line[i+1:], ">")
		}
		if strings.Contains(line, "@") {
			emails = append(emails, strings.ToLower(line))
		}
	}
	slices.Sort(emails)
	emails = slices.Compact(emails)
	rc.emails.put(key, emails)
	return emails, nil
}
