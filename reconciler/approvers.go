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
func (rc *Reconciler) mayWrite(s *snapshot, by access.Identity, what string) error {
	config := rc.Access()
	if config.May(by, access.Write, s.repo.Name()) {
		return nil
	}
	return &show.Error{Kind: show.Forbidden,
		What: fmt.Sprintf("%s may not %s %s of %s", someone(by), what, s.environment, s.repo.Name()),
		Hint: "ask one of: " + list(config.Who(access.Write, s.repo.Name()))}
}

func someone(by access.Identity) string {
	if by.User == "" {
		return "who is not signed in"
	}
	return by.User
}

// approvers tells who may approve an open proposal.
type approvers struct {
	rc      *Reconciler
	s       *snapshot
	rules   []rules
	authors []string
}

func (rc *Reconciler) approvers(ctx context.Context, s *snapshot) (a approvers, err error) {
	a = approvers{rc: rc, s: s}
	if a.rules, err = rc.rulesFor(s, s.Proposal.Source); err != nil {
		return a, err
	}
	a.authors, err = rc.authors(ctx, s)
	return a, err
}

// names are the users whose approval would count and is not there yet.
func (a approvers) names() []string {
	var names []string
	for _, u := range a.rc.Access().Users() {
		if a.whyNot(access.Recorded(u.Name)) == "" && !record.ApprovedBy(a.s.Proposal.Approvals, u.Name) {
			names = append(names, u.Name)
		}
	}
	return names
}

// whyNot says why somebody's approval would not count, "" when it would. Whoever
// wrote a part of it cannot while any of the rules says so; else it is enough that
// one of the rules wants the approval.
func (a approvers) whyNot(who access.Identity) string {
	config, repository := a.rc.Access(), a.s.repo.Name()
	if !who.Scope.Allows(access.Write, repository) {
		return fmt.Sprintf("what %s came with does not allow to write %s", someone(who), repository)
	}

	group, asked, wanted := "", false, false
	for _, r := range a.rules {
		want := r.settings.Approvals
		switch {
		case want.Count == 0:
			continue
		case want.From == "":
			wanted = wanted || config.May(who, access.Write, repository)
		case slices.Contains(config.Members(want.From), who.User) && config.May(who, access.Read, repository):
			wanted = true
		default:
			group = want.From
		}
		asked = true
	}
	switch {
	case asked && !wanted && group != "":
		return fmt.Sprintf("%s is not in the group %s", someone(who), group)
	case asked && !wanted, !asked && !config.May(who, access.Write, repository):
		return fmt.Sprintf("%s may not write %s", someone(who), repository)
	}
	for _, r := range a.rules {
		if want := r.settings.Approvals; want.Count > 0 && !want.Own && slices.Contains(a.authors, who.User) {
			return fmt.Sprintf("%s carries a change of %s, and nobody approves their own", a.s.proposed(), who.User)
		}
	}
	return ""
}

// mayApprove refuses who may not approve the open proposal, and names who may.
func (rc *Reconciler) mayApprove(ctx context.Context, s *snapshot, by access.Identity) error {
	may, err := rc.approvers(ctx, s)
	if err != nil {
		return err
	}
	why := may.whyNot(by)
	if why == "" {
		return nil
	}
	e := &show.Error{
		Kind:  show.Forbidden,
		What:  fmt.Sprintf("%s may not approve %s for %s of %s", someone(by), s.proposed(), s.environment, s.repo.Name()),
		Where: []string{why},
	}
	if who := may.names(); len(who) > 0 {
		e.Hint = "ask one of: " + list(who)
	} else {
		e.Hint = "nobody may; an administrator can add users or groups in headgate.git"
		if s.Declared == nil { // else the rules before it hold as well
			e.Hint += ", or set own: true under approvals in headgate.yaml"
		}
	}
	return e
}

// maxCommits bounds whose commits are looked at for one proposal.
const maxCommits = 20000

// authors are the users who made what the open proposal carries: who pushed the
// changes, and whose addresses the commits name as author or co-author. The
// latter are unproven, which is safe: a claim only ever takes a vote away.
func (rc *Reconciler) authors(ctx context.Context, s *snapshot) ([]string, error) {
	from, source := s.covers(), s.sourceDeclared()
	if s.Declared != nil && !s.Declared.Removal {
		all, err := rc.rulesFor(s, s.Proposal.Source)
		if err != nil {
			return nil, err
		}
		if len(ruleChanges(all)) > 0 {
			// A release that was merely covered may have brought them.
			from, source = s.Declared.Release, s.Declared.Source
		}
	}
	var users []string
	for _, rel := range s.landed {
		if rel.Number > from && (rel.Number <= s.Proposal.Release || s.Proposal.Removal) {
			users = append(users, rel.By)
			users = append(users, rel.Authors...)
		}
	}
	emails, err := rc.emailsBetween(ctx, s.repo, source, s.Proposal.Source)
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
