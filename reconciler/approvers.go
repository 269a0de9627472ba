package reconciler

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/policies"
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
	carries []policies.Carried // at least one; without changes where it carries none
	own     bool               // nobody's yes is worth less for what they wrote
}

func (rc *Reconciler) approvers(ctx context.Context, s *snapshot) (a approvers, err error) {
	a = approvers{rc: rc, s: s, own: true}
	if a.rules, err = rc.rulesFor(s, s.Proposal.Source); err != nil {
		return a, err
	}
	for _, r := range a.rules {
		a.own = a.own && (r.settings.Approvals.Count == 0 || r.settings.Approvals.Own)
	}
	if a.carries, err = rc.carries(ctx, s); len(a.carries) == 0 {
		a.carries = []policies.Carried{{}}
	}
	return a, err
}

// names are the users whose approval is missing and would count.
func (a approvers) names() []string {
	var names []string
	for _, c := range a.cover() {
		names = append(names, c.Who...)
	}
	if !a.asked() {
		for _, u := range a.rc.Access().Users() {
			if a.whyNot(access.Recorded(u.Name)) == "" && !record.ApprovedBy(a.s.Proposal.Approvals, u.Name) {
				names = append(names, u.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// asked reports whether any of the rules asks for approvals.
func (a approvers) asked() bool {
	return slices.ContainsFunc(a.rules, func(r rules) bool { return r.settings.Approvals.Count > 0 })
}

// counts reports whether somebody's yes counts by a rule, whatever they wrote.
func (a approvers) counts(r rules, who access.Identity) bool {
	config, repository := a.rc.Access(), a.s.repo.Name()
	if r.settings.Approvals.From == "" {
		return config.May(who, access.Write, repository)
	}
	return slices.Contains(config.Members(r.settings.Approvals.From), who.User) && config.May(who, access.Read, repository)
}

// wrote reports whether somebody's yes to a change is not worth anything, because
// it is theirs.
func (a approvers) wrote(who string, c policies.Carried) bool {
	return !a.own && slices.Contains(c.Authors, who)
}

// cover says whose yes covers which changes: for each the strictest of the rules.
// It is empty where no approvals are asked for. The policies say the same with
// their own words, from the same facts.
func (a approvers) cover() []show.Cover {
	if !a.asked() {
		return nil
	}
	var all []show.Cover
	for _, c := range a.carries {
		one := show.Cover{Changes: c.Changes, Authors: c.Authors, Yes: []string{}, Who: []string{}}
		for _, r := range a.rules {
			if r.settings.Approvals.Count == 0 {
				continue
			}
			given := 0
			for _, yes := range a.s.Proposal.Approvals {
				if a.counts(r, access.Recorded(yes.User)) && !a.wrote(yes.User, c) {
					one.Yes = append(one.Yes, yes.User)
					given++
				}
			}
			if given >= r.settings.Approvals.Count {
				continue
			}
			one.Missing = max(one.Missing, r.settings.Approvals.Count-given)
			for _, u := range a.rc.Access().Users() {
				if a.counts(r, access.Recorded(u.Name)) && !a.wrote(u.Name, c) &&
					!record.ApprovedBy(a.s.Proposal.Approvals, u.Name) {
					one.Who = append(one.Who, u.Name)
				}
			}
		}
		slices.Sort(one.Yes)
		slices.Sort(one.Who)
		one.Yes, one.Who = slices.Compact(one.Yes), slices.Compact(one.Who)
		all = append(all, one)
	}
	return all
}

// whyNot says why somebody's approval would not count, "" when it would: they are
// not among those who are asked, or wrote a part of all that lacks one.
func (a approvers) whyNot(who access.Identity) string {
	config, repository := a.rc.Access(), a.s.repo.Name()
	if !who.Scope.Allows(access.Approve, repository) {
		return fmt.Sprintf(
			"what %s came with does not allow to approve in %s: it takes a key, a session, or a token made with --approve", someone(who), repository)
	}

	if !a.asked() {
		if !config.May(who, access.Write, repository) {
			return fmt.Sprintf("%s may not write %s", someone(who), repository)
		}
		return ""
	}
	group, wanted := "", false
	for _, r := range a.rules {
		switch want := r.settings.Approvals; {
		case want.Count == 0:
		case a.counts(r, who):
			wanted = true
		case want.From != "":
			group = want.From
		}
	}
	switch {
	case !wanted && group != "":
		return fmt.Sprintf("%s is not in the group %s", someone(who), group)
	case !wanted:
		return fmt.Sprintf("%s may not write %s", someone(who), repository)
	}

	var open, theirs []show.Cover
	for _, c := range a.cover() {
		if c.Missing > 0 || len(a.carries) == 1 {
			open = append(open, c)
			if a.wrote(who.User, policies.Carried{Authors: c.Authors}) {
				theirs = append(theirs, c)
			}
		}
	}
	switch {
	case len(theirs) == 0 || len(theirs) < len(open):
		return ""
	case len(open) == len(a.carries):
		return fmt.Sprintf("%s carries a change of %s, and nobody approves their own", a.s.proposed(), who.User)
	}
	var changes []int
	for _, c := range theirs {
		changes = append(changes, c.Changes...)
	}
	return fmt.Sprintf("what lacks an approval is %s, of %s, and nobody approves their own",
		show.NameChanges(changes), who.User)
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
		e.Hint = "nobody may; " + s.wayOut()
	}
	return e
}

// wayOut is what lets a proposal go on whose approvals nobody is there to give.
func (s *snapshot) wayOut() string {
	way := "an administrator can add users or groups in headgate.git"
	if s.Declared == nil { // else the rules before it hold as well
		way += ", or set own: true under approvals in headgate.yaml"
	}
	return way
}

// maxCommits bounds whose commits are looked at for one proposal.
const maxCommits = 20000

// carries are the changes that the open proposal carries, by who made them: who
// pushed them, and whose addresses their commits name as author or co-author. The
// latter are unproven, which is safe: a claim only ever takes a vote away.
func (rc *Reconciler) carries(ctx context.Context, s *snapshot) ([]policies.Carried, error) {
	from, source, err := rc.carriesSince(s)
	if err != nil {
		return nil, err
	}

	var all []policies.Carried
	add := func(change int, to repo.Hash, users ...string) error {
		emails, err := rc.emailsBetween(ctx, s.repo, source, to)
		if err != nil {
			return err
		}
		for _, e := range emails {
			if u, ok := rc.Access().UserByEmail(e); ok {
				users = append(users, u.Name)
			}
		}
		for i, name := range users { // who asked for it to land at a forge
			if u, ok := rc.Access().UserOfForge(name); ok {
				users[i] = u.Name
			}
		}
		slices.Sort(users)
		users = slices.DeleteFunc(slices.Compact(users), func(u string) bool { return u == "" })
		i := slices.IndexFunc(all, func(c policies.Carried) bool { return slices.Equal(c.Authors, users) })
		if i < 0 {
			i = len(all)
			all = append(all, policies.Carried{Authors: users})
		}
		if change > 0 {
			all[i].Changes = append(all[i].Changes, change)
		}
		source = to
		return nil
	}
	for _, rel := range s.landed {
		if rel.Number > from && (rel.Number <= s.Proposal.Release || s.Proposal.Removal) {
			if err := add(rel.Change, rel.Commit, append([]string{rel.By}, rel.Authors...)...); err != nil {
				return nil, err
			}
		}
	}
	if s.Proposal.Source != source { // what no release is of, which a removal may be
		err = add(0, s.Proposal.Source)
	}
	return all, err
}

// carriesSince is the release after which a proposal's changes begin, with its
// commit: what is declared. What an environment that declares nothing gets first
// is new where no other one of the application ran it: it does not carry all of history.
func (rc *Reconciler) carriesSince(s *snapshot) (release int, source repo.Hash, err error) {
	if s.Declared == nil || s.Declared.Removal {
		if s.Proposal.Removal {
			return 0, repo.Zero, nil
		}
		return rc.ranElsewhere(s)
	}
	all, err := rc.rulesFor(s, s.Proposal.Source)
	if err != nil {
		return 0, repo.Zero, err
	}
	if len(ruleChanges(all)) > 0 {
		// A release that was merely covered may have brought them.
		return s.Declared.Release, s.Declared.Source, nil
	}
	return s.covers(), s.sourceDeclared(), nil
}

// ranElsewhere is the newest release before the proposed one that any other
// environment of the application ever declared.
func (rc *Reconciler) ranElsewhere(s *snapshot) (release int, source repo.Hash, err error) {
	refs, err := s.repo.Refs(record.EnvironmentRef(""))
	if err != nil {
		return 0, repo.Zero, err
	}
	for _, ref := range refs {
		if ref.Name == record.EnvironmentRef(s.environment) {
			continue
		}
		all, err := record.HistoryFrom(s.repo, s.application, ref.Hash, maxShown)
		if err != nil {
			return 0, repo.Zero, err
		}
		for _, c := range all {
			if n := c.Covers(); n < s.Proposal.Release && n > release {
				release, source = n, c.CoveredSource()
			}
			if c.Release < s.Proposal.Release && c.Release > release {
				release, source = c.Release, c.Source
			}
		}
	}
	return release, source, nil
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
	args := []string{"log", fmt.Sprintf("--max-count=%d", maxCommits),
		"--format=%ae%n%(trailers:key=Co-authored-by,valueonly)", "--end-of-options", to.String()}
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
