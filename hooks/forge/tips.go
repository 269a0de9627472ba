package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// sayTips says of every gated branch how what the forge has there was built. It returns
// when to come back, zero for not before something happens.
func (p *pass) sayTips(ctx context.Context, now time.Time) (again time.Time, err error) {
	tips, err := p.w.hub.Gate.Tips(p.r.Name())
	if err != nil {
		return again, err
	}
	groups, err := p.mergeGroups()
	if err != nil {
		return again, err
	}
	tips = append(tips, groups...)
	current := map[string]bool{}
	for _, t := range tips {
		current[t.Branch] = true
		c := p.checkOfTip(t)
		if c.State == CheckPending {
			again = now.Add(whileBusy) // that a build begins moves no ref
		}
		as := CheckKind("")
		if m := p.memory.tips[t.Branch]; m != nil {
			if m.Commit != t.Commit.String() {
				if err := p.passedOver(ctx, t.Branch, m); err != nil {
					return again, err
				}
			} else if m.Check == c || m.Check.State == c.State && c.State == CheckPending && now.Before(m.At.Add(calm)) {
				continue
			} else {
				as = cmp.Or(m.As, ByStatus)
			}
		}
		as, err := p.check(ctx, t.Commit, as, c, func() Failed { return p.failed(t.Log, t.Commit) })
		if err != nil {
			return again, fmt.Errorf("%s at %.7s: %w", t.Branch, t.Commit, err)
		}
		p.memory.tips[t.Branch] = &publishedTip{Commit: t.Commit.String(), Check: c, As: as, At: now}
		if err := p.memory.save(); err != nil {
			return again, err
		}
	}
	for branch, m := range p.memory.tips {
		if current[branch] {
			continue
		}
		if err := p.passedOver(ctx, branch, m); err != nil {
			return again, err
		}
	}
	return again, nil
}

// queuePrefix is where GitHub's merge queue has the branches that it asks about: each is
// what its target would be, and is called <target>/pr-<number>-<base>.
const queuePrefix = "gh-readonly-queue/"

// mergeGroups are the commits that the forge's own merge queue asks about, built as tips
// of their targets. They are branches there, so the mirror has them; no webhook is needed.
func (p *pass) mergeGroups() (list []gate.Tip, err error) {
	if p.remote.kind != GitHub {
		return nil, nil
	}
	refs, err := p.r.Refs("refs/heads/" + queuePrefix)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		branch := strings.TrimPrefix(ref.Name, "refs/heads/")
		i := strings.LastIndex(branch, "/pr-")
		if i <= len(queuePrefix) {
			continue
		}
		t, err := p.w.hub.Gate.Judge(p.r.Name(), branch[len(queuePrefix):i], ref.Hash)
		if err != nil {
			return nil, err
		}
		t.Branch = branch
		list = append(list, t)
	}
	return list, nil
}

// passedOver says of a tip that was not built when its branch moved on that it is not.
func (p *pass) passedOver(ctx context.Context, branch string, m *publishedTip) error {
	commit, err := hashOf(m.Commit)
	if err == nil && m.Check.State == CheckPending && !strings.HasPrefix(branch, queuePrefix) {
		_, err = p.check(ctx, commit, cmp.Or(m.As, ByStatus),
			Check{State: CheckPending, Text: "not built: " + branch + " moved on before it was", URL: m.Check.URL}, nil)
		if busy := (*BusyError)(nil); errors.As(err, &busy) {
			return fmt.Errorf("%s at %.7s: %w", branch, m.Commit, err)
		} else if err != nil { // a commit that was pushed over may be gone
			p.w.hub.Log.Info("did not tell of a tip that was not built", "connection", p.w.name, "ref", branch, "commit",
				m.Commit, "err", err)
		}
	}
	delete(p.memory.tips, branch)
	return p.memory.save()
}

// checkOfTip is what to say of a tip that came past the gate.
func (p *pass) checkOfTip(t gate.Tip) Check {
	c := Check{State: CheckPending, Text: "queued"}
	red := "no release: "
	if strings.HasPrefix(t.Branch, queuePrefix) {
		red = ""
	}
	switch t.State {
	case show.Green:
		c = Check{State: CheckSuccess, Text: "green"}
		if t.Release > 0 {
			c.Text = fmt.Sprintf("green: release %d", t.Release)
		}
	case show.Failed:
		c = Check{State: CheckFailure, Text: red + t.Reason}
	case show.Running:
		c.Text, c.Running = "building "+t.Branch, true
	case show.Waits:
		c = Check{State: CheckFailure, Text: "not built: " + t.Reason}
	}
	if p.w.hub.Page != nil {
		c.URL = p.w.hub.Page(p.r.Name(), 0)
	}
	return c
}
