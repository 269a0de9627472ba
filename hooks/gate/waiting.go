package gate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/hooks/change"
)

// waiting is why an open change is passed by the others, and what ends that. A
// new revision ends it too.
type waiting struct {
	reason string
	hint   string
	until  time.Time // when it is its turn again; zero: not by time alone

	// rules are what the policy was compiled from, when it is the policy that waits:
	// it is asked again when the branch has others.
	policy bool
	rules  rules

	paused bool // the branch is, which ends with that
	image  bool // its image is asked for, which ends with the answer
}

// over reports whether time ends it.
func (w *waiting) over(now time.Time) bool {
	return !w.until.IsZero() && !now.Before(w.until)
}

// rules are the files of a branch's tip that a land policy may read.
type rules struct{ policies, settings repo.Hash }

// policiesDir is the directory in which a repository keeps its policies.
const policiesDir = "policies"

// rulesAt are the rules of a tip; Zero has none.
func rulesAt(r *repo.Repository, tip repo.Hash) (rules, error) {
	var found rules
	if tip == repo.Zero {
		return found, nil
	}
	tree, err := r.TreeOf(tip)
	if err != nil {
		return found, err
	}
	for _, file := range []struct {
		path string
		hash *repo.Hash
	}{
		{policiesDir, &found.policies},
		{headgateyaml.Name, &found.settings},
	} {
		entry, err := r.Lookup(tree, file.path)
		if err != nil && !errors.Is(err, repo.ErrNoFile) {
			return found, err
		}
		*file.hash = entry.Hash
	}
	return found, nil
}

// Wake makes the gate ask the policies of waiting changes again, because
// something that they read and that is in no ref of the repository (signal.All:
// of any repository) has changed. It returns at once. A repository that is not
// there has nothing to wake. What is in the repository, and time, wake the gate
// by themselves.
func (g *Gate) Wake(repository string) {
	if repository != signal.All {
		if l, err := g.loop(repository); err == nil {
			l.askAgain()
		}
		return
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.loops {
		l.askAgain()
	}
}

func (l *loop) askAgain() {
	l.mailbox.Post(func() {
		for _, o := range l.open {
			o.waiting = nil
		}
	})
}

// endWaits ends the waits that time, or other rules on the branch, end.
func (l *loop) endWaits(now time.Time) error {
	current := map[string]rules{} // by branch
	for _, o := range l.open {
		w := o.waiting
		switch {
		case w == nil:
			continue
		case w.over(now):
			o.waiting = nil
			continue
		}

		branch := o.story.Branch
		if w.paused {
			if p, err := pauseOf(l.r, branch); err != nil {
				return err
			} else if p == nil || p.String() != w.reason { // another one is to be noted
				o.waiting = nil
			}
		}
		if !w.policy {
			continue
		}
		if _, known := current[branch]; !known {
			tip, err := l.r.Ref("refs/heads/" + branch)
			if err != nil {
				return err
			}
			if current[branch], err = rulesAt(l.r, tip); err != nil {
				return err
			}
		}
		if current[branch] != w.rules {
			o.waiting = nil
		}
	}
	return nil
}

// nextTurn is when the first wait is over by time; zero if none is.
func (l *loop) nextTurn() (next time.Time) {
	for _, o := range l.open {
		if w := o.waiting; w != nil && !w.until.IsZero() && (next.IsZero() || w.until.Before(next)) {
			next = w.until
		}
	}
	return next
}

// wait notes that a policy waits. Others pass the change.
func (l *loop) wait(ctx context.Context, c *candidate, o *open, a Answer, asked time.Time, record repo.Hash) {
	reason := strings.Join(append(slices.Clone(a.Reasons), a.Missing...), "; ")
	if reason == "" {
		reason = "its policy lets it wait"
	}
	used, err := rulesAt(l.r, c.base)
	if err != nil {
		if ctx.Err() == nil {
			l.retryLater(o.story.Number, "the server could not read its policy again", err)
		}
		return
	}
	o.waiting = &waiting{reason: reason, hint: a.Hint, until: a.NotBefore, policy: true, rules: used}
	if !a.NotBefore.IsZero() && !a.NotBefore.After(asked) {
		o.waiting.until = asked.Add(l.g.c.Retry) // a time that is past: no reason to ask without end
	}

	l.noteWait(ctx, o, change.Facts{
		Candidate: c.commit,
		Tree:      c.tree,
		Decision:  record,
		Rules:     a.Rules,
		Until:     a.NotBefore,
		Reason:    reason,
		Hint:      a.Hint,
	})
}

// noteWait notes in a change's log what it waits for, unless that is what it says.
func (l *loop) noteWait(ctx context.Context, o *open, facts change.Facts) {
	if e := o.story.Last(); e.Kind == change.Waits && e.Reason == facts.Reason {
		return
	}
	s, err := l.log.Append(ctx, o.story, change.Event{
		Kind:    change.Waits,
		At:      l.g.c.Now(),
		Subject: "waits: " + facts.Reason,
		Facts:   facts,
	})
	if err == nil {
		o.story = s
	} else if !isMoved(err) && ctx.Err() == nil {
		l.slog.Error("cannot note that a change waits", "change", o.story.Number, "err", err)
	}
}

// retryLater lets a change wait because the server could not go on with it: longer
// each time, and for as long as the change is open. What is wrong with the server
// refuses nobody's change.
func (l *loop) retryLater(number int, what string, err error) {
	o := l.open[number]
	if o == nil {
		return
	}
	o.trouble++
	again := l.g.c.Retry / 8 << min(o.trouble-1, 6)
	if known := troubleOf(err); known != "" {
		what = known + "; " + what
	}
	o.waiting = &waiting{reason: what, until: l.g.c.Now().Add(again)}
	l.slog.Error("change waits", "change", number, "try", o.trouble, "again_in", again, "err", err)
}

// troubleOf names what is wrong with the server, if err says it. A git child says
// it in words.
func troubleOf(err error) string {
	damaged := (*repo.Damaged)(nil)
	said := err.Error()
	is := func(words string, kinds ...error) bool {
		return strings.Contains(said, words) || slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) })
	}
	switch {
	case errors.As(err, &damaged):
		return damaged.Error()
	case is("No space left on device", syscall.ENOSPC, syscall.EDQUOT):
		return "the server's disk is full"
	case is("Too many open files", syscall.EMFILE, syscall.ENFILE):
		return "the server has too many open files"
	case is("Input/output error", syscall.EIO):
		return "the server's disk has an error"
	case is("Read-only file system", syscall.EROFS):
		return "the server's disk cannot be written"
	case is("Cannot allocate memory", syscall.ENOMEM):
		return "the server is out of memory"
	}
	return ""
}
