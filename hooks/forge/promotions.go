package forge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Promotions is what a forge is told of promotions, and what comes of it.
type Promotions interface {
	// Environments are those of a repository, by name.
	Environments(ctx context.Context, repository string) ([]string, error)
	// Environment is one, with its open proposal. The error is a *show.Error of the kind
	// NotFound when there is none.
	Environment(ctx context.Context, repository, environment string) (show.Environment, error)
	// Promotion is the open proposal of one. The error is a *show.Error of the kind
	// NotFound when there is none.
	Promotion(ctx context.Context, repository, environment string) (show.Promotion, error)
	// Approve says yes to the content of a commit that was proposed, and says what came
	// of it. The error is a *show.Error when it does not count.
	Approve(ctx context.Context, repository, environment string, by access.Identity, commit repo.Hash) ([]string, error)
}

// proposedPromotion is what was last said of an environment's proposal at the forge.
// There it is a request from promote/<environment> to env/<environment>, both of which
// only this server writes.
type proposedPromotion struct {
	Number int       `json:"number,omitempty"` // of the open request, 0: none
	Last   int       `json:"last,omitempty"`   // the newest request that is over
	Base   string    `json:"base,omitempty"`   // where env/<environment> was put
	Head   string    `json:"head,omitempty"`   // where promote/<environment> was put
	Title  string    `json:"title,omitempty"`
	Text   string    `json:"text,omitempty"`
	TextAt time.Time `json:"text_at,omitzero"`
	Closed string    `json:"closed,omitempty"` // the tree whose request somebody closed: it is not proposed again
}

// calmText is how long the words of a promotion's request stay as they are at least,
// unless what is proposed is another thing.
const calmText = time.Minute

// proposePromotions brings the requests of promotions to what is open here. It returns
// when to come back, zero for not before something happens.
func (p *pass) proposePromotions(ctx context.Context, now time.Time) (again time.Time, err error) {
	names, err := p.w.hub.Promotions.Environments(ctx, p.r.Name())
	if err != nil {
		return again, err
	}
	for environment := range p.memory.promotions {
		if !slices.Contains(names, environment) {
			names = append(names, environment)
		}
	}
	for _, environment := range names {
		at, err := p.proposePromotion(ctx, environment, now)
		if err != nil {
			return again, fmt.Errorf("the promotion to %s: %w", environment, err)
		}
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return again, nil
}

// proposePromotion brings the request of one environment to what is open there.
func (p *pass) proposePromotion(ctx context.Context, environment string, now time.Time) (again time.Time, err error) {
	m := p.memory.promotions[environment]
	proposal, err := p.w.hub.Promotions.Promotion(ctx, p.r.Name(), environment)
	if none := (*show.Error)(nil); errors.As(err, &none) && none.Kind == show.NotFound {
		if m == nil {
			return again, nil
		}
		return again, p.endPromotion(ctx, environment, m, none)
	}
	if err != nil {
		return again, err
	}
	if m == nil {
		m = &proposedPromotion{}
	}
	if m.Number == 0 && (!waitsForPeople(proposal) || m.Closed == proposal.Tree) {
		return again, p.pushEnvironment(ctx, environment, m)
	}
	p.memory.promotions[environment] = m
	head, err := hashOf(proposal.Proposal)
	if err != nil {
		return again, err
	}
	if err := p.pushEnvironment(ctx, environment, m); err != nil {
		return again, err
	}
	fresh := m.Head != head.String()
	if fresh {
		if err := p.put(ctx, "promote/"+environment, head, &m.Head); err != nil {
			return again, err
		}
	}

	title, text := p.wordsOf(proposal)
	if m.Number == 0 {
		if err := p.openPromotion(ctx, environment, m, title, text); err != nil {
			return again, err
		}
		if m.Number == 0 { // that one was over: what is open now is looked at again
			return now, p.memory.save()
		}
		crash.Point("forge.promotion-opened")
		m.Title, m.Text, m.TextAt, m.Closed = title, text, now, ""
		return again, p.memory.save()
	}
	if title == m.Title && text == m.Text {
		return again, nil
	}
	if at := m.TextAt.Add(calmText); !fresh && title == m.Title && now.Before(at) {
		return at, nil
	}
	if err := p.api.Edit(ctx, m.Number, title, text); err != nil {
		return again, err
	}
	m.Title, m.Text, m.TextAt = title, text, now
	return again, p.memory.save()
}

// waitsForPeople reports whether a yes would help a proposal.
func waitsForPeople(p show.Promotion) bool {
	return slices.ContainsFunc(p.Checks, func(c show.Check) bool { return !c.Met && c.UntilPerson })
}

// pushEnvironment has env/<environment> at the forge where it is here, once it was put
// there: a merge there does not move what is declared.
func (p *pass) pushEnvironment(ctx context.Context, environment string, m *proposedPromotion) error {
	if p.memory.promotions[environment] == nil {
		return nil
	}
	tip, err := p.r.Ref("refs/heads/env/" + environment)
	if err != nil || tip == repo.Zero || m.Base == tip.String() {
		return err
	}
	return p.put(ctx, "env/"+environment, tip, &m.Base)
}

// put has a branch of the server's own at the forge be at a commit, and notes it.
func (p *pass) put(ctx context.Context, branch string, commit repo.Hash, note *string) error {
	ref := "refs/heads/" + branch
	at, err := p.remote.refsAt(ctx, p.r, ref)
	if err != nil {
		return err
	}
	if at[ref] != commit {
		if was := at[ref]; was != repo.Zero && *note != was.String() {
			p.w.hub.Log.Warn("put a branch back that was moved at the forge", "connection", p.w.name, "ref", branch, "was",
				was.String(), "commit", commit.String())
		}
		if err := p.remote.push(ctx, p.r, branch, at[ref], commit); err != nil {
			return err
		}
	}
	*note = ""
	if commit != repo.Zero {
		*note = commit.String()
	}
	return p.memory.save()
}

// openPromotion opens the request, or finds the one that a kill kept from being noted,
// which may have been merged since.
func (p *pass) openPromotion(ctx context.Context, environment string, m *proposedPromotion, title, text string) error {
	r, err := p.api.Newest(ctx, "promote/"+environment, "env/"+environment)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case err == nil && r.Number > m.Last && r.State == Open:
		m.Number, err = r.Number, p.api.Edit(ctx, r.Number, title, text)
		return err
	case err == nil && r.Number > m.Last:
		m.Number = r.Number
		if r, err = p.api.Request(ctx, r.Number); err == nil { // who merged it
			_, err = p.promotionRequest(ctx, environment, r)
		}
		return err
	}
	m.Number, err = p.api.Open(ctx, "promote/"+environment, "env/"+environment, title, text)
	return err
}

// endPromotion closes the request of a proposal that is open no more.
func (p *pass) endPromotion(ctx context.Context, environment string, m *proposedPromotion, why *show.Error) error {
	if err := p.pushEnvironment(ctx, environment, m); err != nil {
		return err
	}
	if m.Number > 0 {
		r, err := p.api.Request(ctx, m.Number)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil && r.State == Open {
			text := "There is nothing to approve here any more."
			for _, line := range why.Where {
				text += " " + code(line)
			}
			if err := p.answer(ctx, m.Number, text); err != nil {
				return err
			}
			if err := p.api.Close(ctx, m.Number, repo.Zero); err != nil {
				return err
			}
		}
		m.Number, m.Last = 0, max(m.Last, m.Number)
		if err := p.memory.save(); err != nil {
			return err
		}
	}
	if m.Head != "" {
		if err := p.put(ctx, "promote/"+environment, repo.Zero, &m.Head); err != nil {
			return err
		}
	}
	m.Title, m.Text, m.Closed = "", "", ""
	return p.memory.save()
}

// promotionRequest does what somebody has done to the request of a promotion.
func (p *pass) promotionRequest(ctx context.Context, environment string, r Request) (string, error) {
	m := p.memory.promotions[environment]
	if m == nil || m.Number != r.Number || p.w.hub.Promotions == nil {
		return fmt.Sprintf("request %d is not the open one of a promotion", r.Number), nil
	}
	said := fmt.Sprintf("request %d: %s, the promotion to %s", r.Number, r.State, environment)
	switch r.State {
	case Open:
		if r.Head.String() != m.Head {
			m.Head = "" // somebody moved it: it is put back
		}
		return said, p.memory.save()
	case Closed:
		if proposal, err := p.w.hub.Promotions.Promotion(ctx, p.r.Name(), environment); err == nil {
			m.Closed = proposal.Tree
		}
		m.Number, m.Last = 0, max(m.Last, r.Number)
		return said, p.memory.save()
	}

	answer, err := p.approve(ctx, environment, r)
	if err != nil {
		return "", err
	}
	crash.Point("forge.promotion-approved")
	if answer != "" {
		said += ": " + answer
		if err := p.answer(ctx, r.Number, answer); err != nil {
			return "", err
		}
	}
	// What is still open is a request of its own: this one is over.
	m.Number, m.Last, m.Base = 0, max(m.Last, r.Number), ""
	return said, p.memory.save()
}

// approve takes a merge for the approval of who it is. It returns what to tell them, and
// an error where it has to be tried again.
func (p *pass) approve(ctx context.Context, environment string, r Request) (string, error) {
	_, err := p.w.hub.Promotions.Promotion(ctx, p.r.Name(), environment)
	if none := (*show.Error)(nil); errors.As(err, &none) && none.Kind == show.NotFound {
		return "", nil // it was promoted or taken back meanwhile, and the forge has seen that
	}
	if err != nil {
		return "", err
	}
	who, known := p.w.hub.Access().OfForge(p.w.name, r.Merger.Login, r.Merger.ID)
	if !known {
		return fmt.Sprintf(
			"The merge by %s was not counted as an approval: who that is here, nothing proves. An administrator says so in server.yaml: %s. "+
				"What is still open is proposed again.", code(r.Merger.Login), code(fmt.Sprintf("users: <name>: {forge: {%s: %s}}",
				p.w.name, r.Merger.Login))), nil
	}
	lines, err := p.w.hub.Promotions.Approve(ctx, p.r.Name(), environment, who, r.Head)
	var refused *show.Error
	if errors.As(err, &refused) && refused.Kind != show.Again {
		text := fmt.Sprintf("The merge by %s was not counted as an approval: %s", code(r.Merger.Login), code(refused.What))
		for _, line := range append(slices.Clone(refused.Where), refused.Hint) {
			if line != "" {
				text += "; " + code(line)
			}
		}
		return text + ". What is still open is proposed again.", nil
	}
	if err != nil {
		return "", err
	}
	text := "The merge was counted:"
	for _, line := range lines {
		text += "\n\n" + code(line)
	}
	return text, nil
}

// answer writes our one comment on a request that is over.
func (p *pass) answer(ctx context.Context, number int, text string) error {
	list, err := p.api.Comments(ctx, number, time.Time{})
	if err != nil {
		return err
	}
	var ours int64
	for _, c := range list {
		if strings.HasPrefix(c.Text, marker) {
			ours = c.ID
		}
	}
	_, err = p.api.Write(ctx, number, ours, marker+"\n"+text+"\n")
	return err
}

// wordsOf are the title and the text of a promotion's request.
func (p *pass) wordsOf(proposal show.Promotion) (title, text string) {
	title = fmt.Sprintf("Promote %s of %s to %s", proposal.Subject(), proposal.Repository, proposal.Environment)
	var b strings.Builder
	fmt.Fprintf(&b, "Headgate proposes %s for %s", code(proposal.Subject()), code(proposal.Environment))
	if proposal.From > 0 {
		fmt.Fprintf(&b, ", where release %d is declared", proposal.From)
	}
	fmt.Fprintf(&b, ". It %s. What changes there is what this request changes.\n\n", code(proposal.Summary))
	if means := proposal.Means(); means != "" {
		fmt.Fprintf(&b, "%s\n\n", code(means))
	}
	for _, c := range proposal.Checks {
		box := " "
		if c.Met {
			box = "x"
		}
		fmt.Fprintf(&b, "- [%s] %s", box, code(c.Title))
		if c.Detail != "" {
			fmt.Fprintf(&b, ": %s", code(c.Detail))
		}
		if !c.Met && !c.Until.IsZero() {
			fmt.Fprintf(&b, ", until %s", c.Until.UTC().Format("2006-01-02 15:04 UTC"))
		}
		if !c.Met && len(c.Who) > 0 {
			fmt.Fprintf(&b, ", by %s", code(strings.Join(c.Who, ", ")))
		}
		b.WriteString("\n")
	}
	if len(proposal.Carries) > 0 {
		b.WriteString("\nIt carries:\n\n")
	}
	for i, r := range proposal.Carries {
		if i == 50 {
			fmt.Fprintf(&b, "- and %d more\n", len(proposal.Carries)-i)
			break
		}
		fmt.Fprintf(&b, "- release %d: %s, by %s\n", r.Number, code(r.Subject), code(r.By))
	}
	b.WriteString(
		"\n**A merge of this request is the approval** of whoever merges it, if they may approve and server.yaml says who they are here. " +
			"It counts for exactly this content. Closing the request leaves the proposal as it is.\n")
	if p.w.hub.Page != nil {
		fmt.Fprintf(&b, "\n[The proposal](%s/promote/%s)\n", p.w.hub.Page(p.r.Name(), 0), proposal.Environment)
	}
	return title, b.String()
}
