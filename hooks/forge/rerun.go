package forge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/delivery"
)

// rerunOption names the delivery that led to a revision.
const rerunOption = "rerun"

// rerun builds again what somebody has pressed GitHub's button for, who may write there at
// this moment: the change of the request whose head it is.
func (p *pass) rerun(ctx context.Context) error {
	for _, d := range p.w.pending.list(p.remote.kind) {
		if !d.is(OfRerun) {
			continue
		}
		sequence := d.sequence
		outcome, detail, err := p.rerunOne(ctx, d.hints.Keys[0], sequence)
		if err != nil {
			p.w.note(p.w.inbox.Settle(delivery.Pending, "tried again, for it failed: "+err.Error(), sequence))
			return err
		}
		p.w.note(p.w.inbox.Settle(outcome, detail, sequence))
	}
	return nil
}

func (p *pass) rerunOne(ctx context.Context, k Key, sequence int64) (delivery.Outcome, string, error) {
	number := 0
	var s change.Change
	for n, one := range p.changes {
		if one.Head().Commit.String() == k.Commit && n > number {
			number, s = n, one
		}
	}
	if number == 0 {
		return delivery.Ignored, fmt.Sprintf("no request is at %.7s", k.Commit), nil
	}
	if e, ended := s.End(); ended && e.Kind == change.Landed {
		return delivery.Ignored, fmt.Sprintf("change %d has landed", s.Number), nil
	}
	may, err := p.api.MayWrite(ctx, k.By)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", "", err
	}
	if !may {
		return delivery.Ignored, fmt.Sprintf(
			"%.100q may not run it again: that takes the right to write there",
			k.By.Login,
		), nil
	}
	done := strconv.FormatInt(sequence, 10)
	if by, _ := s.Head().Option(rerunOption); by != done { // else a kill came before it was noted
		options := slices.DeleteFunc(slices.Clone(s.Head().Options), func(o string) bool {
			name, _, _ := strings.Cut(o, "=")
			return name == rerunOption || name == "rebuild"
		})
		options = append(options, "rebuild", rerunOption+"="+done)
		r, err := p.api.Request(ctx, number)
		switch {
		case err != nil:
			return "", "", err
		case r.State != Open || r.Head != s.Head().Commit:
			return delivery.Ignored, fmt.Sprintf("request %d is not there any more", number), nil
		}
		if err := p.revise(ctx, r, access.ByForge(p.conf.Name, k.By.Login), options, s.Number); err != nil {
			return "", "", err
		}
	}
	return delivery.Applied, fmt.Sprintf("request %d: change %d is built again", number, s.Number), nil
}
