package forge

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// commentOption names the newest comment that led to a revision.
const commentOption = "comment"

// obey does what was commented since the last time. again: the request can be
// proposed now.
func (p *pass) obey(ctx context.Context, r Request, m *remembered) (again bool, err error) {
	seen := m.Seen
	if s, has := p.changes[r.Number]; has {
		for _, revision := range s.Revisions {
			value, _ := revision.Option(commentOption)
			if id, err := strconv.ParseInt(value, 10, 64); err == nil {
				seen = max(seen, id)
			}
		}
	}
	comments, err := p.api.Comments(ctx, r.Number, m.SeenAt)
	if err != nil {
		return false, err
	}
	for _, c := range comments {
		if c.ID <= seen {
			continue
		}
		if c.ID != m.Comment && !strings.Contains(c.Text, marker) {
			p.heard = true
			now, err := p.comment(ctx, r, m, c)
			if err != nil {
				return again, err
			}
			again = again || now
		}
		m.Seen, seen = c.ID, c.ID
		if c.Created.After(m.SeenAt) {
			m.SeenAt = c.Created
		}
		if err := p.memory.save(); err != nil {
			return again, err
		}
	}
	return again, nil
}

// comment does what one comment asks for: all of it in one revision.
func (p *pass) comment(ctx context.Context, r Request, m *remembered, c Comment) (again bool, err error) {
	commands := commandsOf(c.Text)
	if len(commands) == 0 {
		return false, nil
	}
	if c.Edited {
		m.reply("The comment of %s was edited: its commands do not count. Write a new one.", code(c.Author.Login))
		return false, nil
	}
	may, err := p.api.MayWrite(ctx, c.Author)
	if err != nil {
		return false, err
	}
	s, has := p.changes[r.Number]
	has = has && s.Head().Commit == r.Head
	var options []string
	if has {
		options = slices.Clone(s.Head().Options)
	}
	changed := false
	set := func(add string, without ...string) {
		options = slices.DeleteFunc(options, func(o string) bool {
			name, _, _ := strings.Cut(o, "=")
			return slices.Contains(without, name)
		})
		options, changed = append(options, add), true
	}
	for _, cmd := range commands {
		if cmd.name == cmdWhy {
			m.reply("/why: %s", p.desired(r.Number, m).Text)
			continue
		}
		if !may {
			m.reply("%s may not /%s: it takes the right to write to this repository.", code(c.Author.Login), cmd.name)
			continue
		}
		if cmd.name == cmdOkToTest {
			if cmd.arg != r.Head.String() {
				m.reply("/ok-to-test takes the full id of the request's newest commit, which is %s.", code(r.Head.String()))
				continue
			}
			m.OK, again = cmd.arg, !has
			continue
		}
		if !has {
			m.reply("/%s: %s is not built yet: %s.", cmd.name, code(r.Head.String()), p.desired(r.Number, m).Text)
			continue
		}
		switch cmd.name {
		case cmdLand:
			if why := stale(s, r, c, cmd.arg); why != "" {
				m.reply("/land: %s Look at it, then write /land %s.", why, r.Head)
				continue
			}
			set(gate.OptionLand, gate.OptionLand, gate.OptionHold)
		case cmdHold:
			set(gate.OptionHold, gate.OptionLand, gate.OptionHold)
		case cmdRetry:
			set("rebuild", "rebuild")
		case cmdPriority:
			if !slices.Contains([]string{"high", "normal", "low"}, cmd.arg) {
				m.reply("/priority takes high, normal or low.")
				continue
			}
			set("priority="+cmd.arg, "priority")
		}
	}
	if !changed {
		return again, nil
	}
	set(fmt.Sprintf("%s=%d", commentOption, c.ID), commentOption)
	if e, ended := s.End(); ended && e.Kind == change.Landed {
		m.reply("Change %d has landed.", s.Number)
		return again, nil
	}
	return again, p.revise(ctx, r, access.ByForge(p.conf.Name, c.Author.Login), options, s.Number)
}

// stale says why a comment may have been meant for another commit than the one that
// is there now, "" if it was not.
func stale(s change.Change, r Request, c Comment, commit string) string {
	if commit != "" {
		if h, ok := repo.ParseHash(commit); !ok || h != r.Head {
			return fmt.Sprintf("%s is not the request's newest commit, written in full.", code(commit))
		}
		return ""
	}
	first := s.Head()
	for _, revision := range slices.Backward(s.Revisions) {
		if revision.Commit != r.Head {
			break
		}
		first = revision
	}
	if c.Created.Before(first.At.Truncate(time.Second)) {
		return fmt.Sprintf("%s came after the comment, or at the same time.", code(r.Head.String()))
	}
	return ""
}
