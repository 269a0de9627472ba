package receive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/hooks/gate"
)

// procReceive answers the hook that git runs for every ref, when the objects
// have left the quarantine. It does what pre-receive let pass and nothing else.
//
// ctx ends when the pusher is gone. What has been begun is finished all the
// same; only the telling stops.
func (l *Listener) procReceive(ctx context.Context, h *hook, p *push) {
	log := l.Log.With("repo", p.repository, "user", p.actor.User)
	a, err := readRequest(h.in, h.output)
	if err != nil {
		if ctx.Err() == nil {
			log.Error("proc-receive could not be understood", "err", err)
			h.lines("error: headgate could not understand git; nothing was changed", "hint: tell an administrator")
		}
		h.exit(1)
		return
	}
	results := l.act(ctx, h, p, a)
	if h.output(report(results, h.shown)) == nil {
		h.exit(0)
	}
}

// act does what is requested and returns what is to be reported.
func (l *Listener) act(ctx context.Context, h *hook, p *push, a request) []result {
	log := l.Log.With("repo", p.repository, "user", p.actor.User)
	all := func(reason string) []result {
		results := make([]result, len(a.commands))
		for i, c := range a.commands {
			results[i] = refused(c.ref, reason)
		}
		return results
	}
	// Without its result there is no pre-receive hook, which git passes over in
	// silence: nothing may move then.
	if p.accepted == nil {
		log.Error("push was not checked; is the pre-receive hook there?")
		h.lines("error: this push was not checked, so nothing was changed",
			"hint: tell an administrator: the hook pre-receive did not run")
		return all("not checked")
	}
	commands := make([]acceptedCommand, len(a.commands))
	for i, c := range a.commands {
		jc, ok := p.accepted.commands[c.ref]
		if !ok || jc.command != c {
			log.Error("git asks for what was not checked", "ref", c.ref)
			return all("not what was checked")
		}
		commands[i] = jc
	}
	r, err := l.Store.Repository(p.repository)
	if err == nil {
		err = r.SyncObjects(p.accepted.dirs)
	}
	if err != nil {
		log.Error("push could not be taken", "err", err)
		h.lines("error: headgate could not keep what was pushed; nothing was changed",
			"hint: push again; if it stays, tell an administrator")
		return all("not kept")
	}
	crash.Point("push.objects-kept")
	return l.carryOut(ctx, h, r, p, commands, a.atomic)
}

// carryOut does what passed, in the order in which one depends on the other:
// plain refs at once, then what is proposed, then its tags. An atomic push is
// done whole or not at all, so its plain refs wait for the proposal too.
func (l *Listener) carryOut(
	ctx context.Context, h *hook, r *repo.Repository, p *push, commands []acceptedCommand, atomic bool,
) []result {
	results := make([]result, len(commands))
	var now, later []int // places of plain refs
	special := -1
	for i, c := range commands {
		switch {
		case c.unfit != nil && atomic:
			for j := range commands {
				results[j] = refused(commands[j].ref, "atomic push: "+c.ref+" was refused")
			}
			results[i] = refused(c.ref, c.unfit.reason())
			return results
		case c.unfit != nil:
			results[i] = refused(c.ref, c.unfit.reason())
		case c.action != plainRef:
			special = i
		case c.afterwards || atomic:
			later = append(later, i)
		default:
			now = append(now, i)
		}
	}
	l.movePlaces(ctx, h, r, commands, results, now, false)

	if special >= 0 {
		switch c := commands[special]; c.action {
		case propose:
			results[special] = l.propose(ctx, h, p, c)
		case approve:
			results[special] = l.approve(ctx, h, p, c)
		case turnDown:
			results[special] = l.turnDown(ctx, h, p, c)
		case cancelled:
			results[special] = l.withdraw(ctx, h, p, c)
		case paused:
			results[special] = l.pause(ctx, h, p, c)
		case resumed:
			results[special] = l.resume(ctx, h, p, c)
		}
		tip, err := r.Ref(headsPrefix + commands[special].branch)
		landed := false
		if err == nil && results[special].reason == "" && len(later) > 0 {
			landed, err = r.Contains(context.WithoutCancel(ctx), tip, commands[special].new)
		}
		if !landed || err != nil {
			for _, i := range later {
				results[i] = refused(commands[i].ref, commands[special].branch+" has not landed; push it again when it has")
			}
			return results
		}
	}
	l.movePlaces(ctx, h, r, commands, results, later, atomic)
	return results
}

// movePlaces moves the commands at places and fills in their results.
func (l *Listener) movePlaces(
	ctx context.Context, h *hook, r *repo.Repository, commands []acceptedCommand, results []result,
	places []int, atomic bool,
) {
	if len(places) == 0 {
		return
	}
	moving := make([]acceptedCommand, len(places))
	for i, place := range places {
		moving[i] = commands[place]
	}
	for i, done := range l.move(ctx, h, r, moving, atomic) {
		results[places[i]] = done
	}
}

// move moves plain refs, each from where it was advertised.
func (l *Listener) move(ctx context.Context, h *hook, r *repo.Repository, commands []acceptedCommand,
	atomic bool) []result {
	// A pusher who leaves now must not leave half a push behind.
	ctx = context.WithoutCancel(ctx)
	results := make([]result, len(commands))
	for i, c := range commands {
		results[i] = accepted(c.ref)
	}
	fail := func(done int, i int, err error) []result {
		results[i] = refused(commands[i].ref, l.whyNot(h, r, commands[i], err))
		if !atomic {
			return nil
		}
		for j := range commands {
			if j != i {
				results[j] = refused(commands[j].ref, "atomic push: "+commands[i].ref+" was refused")
			}
		}
		l.moveBack(ctx, h, r, commands[:done], results)
		return results
	}
	if atomic {
		for i, c := range commands {
			now, err := r.Ref(c.ref)
			if err == nil && now != c.old {
				err = repo.ErrMoved
			}
			if err != nil {
				return fail(0, i, err)
			}
		}
	}
	for i, c := range commands {
		if c.old == repo.Zero && c.deletes() {
			continue // git has said that there is no such ref
		}
		crash.Point("push.moving")
		if err := r.Move(ctx, c.ref, c.old, c.new); err != nil {
			if all := fail(i, i, err); all != nil {
				return all
			}
			continue
		}
		crash.Point("push.moved")
		l.Log.Info("ref moved", "repo", r.Name(), "ref", c.ref, "commit", c.new.String())
	}
	return results
}

// moveBack undoes moves of an atomic push that could not be finished. A ref that
// somebody moved on meanwhile stays, and is reported as moved.
func (l *Listener) moveBack(ctx context.Context, h *hook, r *repo.Repository, moved []acceptedCommand,
	results []result) {
	for i, c := range moved {
		crash.Point("push.moving-back")
		if err := r.Move(ctx, c.ref, c.new, c.old); err != nil {
			l.Log.Error("ref of an atomic push could not be moved back", "repo", r.Name(), "ref", c.ref, "err", err)
			h.lines("error: " + c.ref + " was moved and could not be moved back")
			results[i] = accepted(c.ref)
		}
	}
}

// whyNot tells the pusher why a ref did not move, and returns the short form.
func (l *Listener) whyNot(h *hook, r *repo.Repository, c acceptedCommand, err error) string {
	if errors.Is(err, repo.ErrMoved) {
		now, readErr := r.Ref(c.ref)
		at := "it is gone"
		if readErr == nil && now != repo.Zero {
			at = "it is at " + show.Short(now.String())
		}
		h.lines(reject(c.ref+" moved while you pushed", "git fetch, look, and push again",
			at+"; your push began when it was at "+show.Short(c.old.String())).lines()...)
		return "moved meanwhile; fetch first"
	}
	l.Log.Error("ref could not be moved", "repo", r.Name(), "ref", c.ref, "err", err)
	h.lines(reject(c.ref+" could not be moved", "push again; if it stays, tell an administrator").lines()...)
	return "could not be moved"
}

// propose hands a commit to the gate and, unless told not to, waits for the end.
func (l *Listener) propose(ctx context.Context, h *hook, p *push, c acceptedCommand) result {
	crash.Point("push.proposing")
	acc, err := l.Gate.Propose(context.WithoutCancel(ctx), gate.Proposal{
		Repository: p.repository, Branch: c.branch, Commit: c.new, By: p.actor, Key: p.key,
		Options: p.accepted.options.raw, Decision: c.decision,
	})
	if err != nil {
		return l.failed(h, p, c, "could not be proposed", err)
	}
	l.Log.Info("change proposed", "repo", p.repository, "ref", c.ref, "commit", c.new.String(), "change", acc.Change)
	f := follower{l: l, h: h, repository: p.repository, change: acc.Change, reporter: &reporter{
		server: l.Server(), repository: p.repository, branch: c.branch,
		change: acc.Change, revision: acc.Revision, subject: c.subject, pushed: acc.PushedAt, attached: acc.Attached,
		others: acc.Others, paused: acc.Paused,
	}}
	if p.accepted.options.nowait {
		h.lines(f.reporter.related()...)
		f.first(ctx)
		at := l.atHead(p.repository, c, acc.Change)
		at.old = repo.Zero // a new reference, in git's words
		return at
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(p.client, stop)()
	// Whoever takes their own rights away reads how that ended.
	if l.Reading != nil && p.repository != access.Own {
		reads, stop := l.Reading(ctx, p.actor, p.repository)
		defer stop()
		ctx = reads
	}
	last, ended := f.follow(ctx)
	if taken := (*show.Error)(nil); !ended && errors.As(context.Cause(ctx), &taken) {
		h.lines("error: "+taken.What, "hint: "+taken.Advice(l.Server().Login()))
		return refused(c.ref, taken.What)
	}
	if !ended {
		if ctx.Err() == nil && last.Kind != gate.Restarting { // not the pusher left: the server is stopping
			last = gate.Progress{Kind: gate.Restarting, At: l.Now()}
			h.lines(f.reporter.progress(last)...)
		}
		return refused(c.ref, f.reporter.reason(gate.Progress{Kind: gate.Restarting}))
	}
	if last.Kind != gate.Landed {
		return refused(c.ref, f.reporter.reason(last))
	}
	// What a client is told about a branch is where that is: others may have landed
	// since, and a client that comes back to an old push must not go back with it.
	tip, err := l.tip(p.repository, headsPrefix+c.branch)
	switch {
	case err != nil || tip != c.new:
	case c.ref == headsPrefix+c.branch:
		return accepted(c.ref) // the very commit: the client is where the branch is
	default:
		return result{ref: c.ref, as: headsPrefix + c.branch, old: last.Old, new: tip}
	}
	// Reported so that no client tries to move its copy of the branch to a commit
	// that it does not have.
	return result{ref: c.ref, as: "refs/landed/" + c.branch, old: last.Old, new: last.Landed}
}

// tip is where a ref is now.
func (l *Listener) tip(repository, ref string) (repo.Hash, error) {
	r, err := l.Store.Repository(repository)
	if err != nil {
		return repo.Zero, err
	}
	return r.Ref(ref)
}

// approve makes the pusher's approval of a promotion.
func (l *Listener) approve(ctx context.Context, h *hook, p *push, c acceptedCommand) result {
	crash.Point("push.approving")
	landed, lines, err := l.Environments.ApprovePush(context.WithoutCancel(ctx), p.repository, c.environment, p.actor,
		c.new, p.accepted.options.reason)
	for i, line := range lines {
		if i == 0 && err == nil {
			line = "success: " + line
		}
		h.lines(oneLine("", line)...)
	}
	if err != nil {
		return l.failed(h, p, c, "could not be approved", err)
	}
	l.Log.Info("promotion approved", "repo", p.repository, "env", c.environment, "user", p.actor.User, "commit",
		landed.String())
	if landed == repo.Zero {
		// Kept, but something else is missing: the environment has not moved.
		return result{ref: c.ref, as: "refs/approved/env/" + c.environment, old: c.new, new: c.new}
	}
	return result{ref: c.ref, as: "refs/landed/env/" + c.environment, old: c.old, new: landed}
}

// turnDown makes the pusher's rejection of a promotion.
func (l *Listener) turnDown(ctx context.Context, h *hook, p *push, c acceptedCommand) result {
	crash.Point("push.rejecting")
	lines, err := l.Environments.RejectPush(context.WithoutCancel(ctx), p.repository, c.environment, p.actor, c.old,
		p.accepted.options.reason)
	if err != nil {
		return l.failed(h, p, c, "could not be rejected", err)
	}
	for i, line := range lines {
		if i == 0 {
			line = "success: " + line
		}
		h.lines(oneLine("", line)...)
	}
	l.Log.Info("promotion rejected", "repo", p.repository, "env", c.environment, "user", p.actor.User)
	return accepted(c.ref) // where it is now is another proposal's, which a fetch brings
}

// withdraw takes a change out of the queue. Nothing is proposed.
func (l *Listener) withdraw(ctx context.Context, h *hook, p *push, c acceptedCommand) result {
	crash.Point("push.withdrawing")
	if err := l.Gate.Withdraw(context.WithoutCancel(ctx), p.repository, c.withdraw, p.actor); err != nil {
		return l.failed(h, p, c, fmt.Sprintf("change %d could not be withdrawn", c.withdraw), err)
	}
	h.lines(fmt.Sprintf("success: change %d was withdrawn; nothing was proposed", c.withdraw))
	return l.atHead(p.repository, c, c.withdraw)
}

// pause lets nothing land on a branch. Nothing is proposed.
func (l *Listener) pause(ctx context.Context, h *hook, p *push, c acceptedCommand) result {
	crash.Point("push.pausing")
	by := p.actor
	by.Via = access.ViaPush
	paused, already, err := l.Gate.Pause(context.WithoutCancel(ctx), p.repository, c.branch, by, p.accepted.options.reason)
	if err != nil {
		return l.failed(h, p, c, "could not be paused", err)
	}
	text := "success: " + paused.String()
	if already {
		text = "nothing to do: " + paused.String()
	}
	h.lines(append(oneLine("", text),
		"hint: to resume: git push -o resume origin HEAD:refs/for/"+c.branch+"; or "+
			l.Server().Command("repo resume "+p.repository+" "+c.branch))...)
	return l.atBranch(p.repository, c)
}

// resume lets changes land on a branch again. Nothing is proposed.
func (l *Listener) resume(ctx context.Context, h *hook, p *push, c acceptedCommand) result {
	by := p.actor
	by.Via = access.ViaPush
	ended, _, err := l.Gate.Resume(context.WithoutCancel(ctx), p.repository, c.branch, by, p.accepted.options.reason)
	if err != nil {
		return l.failed(h, p, c, "could not be resumed", err)
	}
	if ended == nil {
		h.lines("nothing to do: landing on " + c.branch + " is not paused")
	} else {
		h.lines(oneLine("", "success: landing on "+c.branch+" is resumed, as "+p.actor.User)...)
	}
	return l.atBranch(p.repository, c)
}

// atBranch reports a push that moved nothing: its branch is where it is.
func (l *Listener) atBranch(repository string, c acceptedCommand) result {
	tip, err := l.tip(repository, headsPrefix+c.branch)
	if err != nil || tip == repo.Zero {
		tip = c.new
	}
	return result{ref: c.ref, as: "refs/landed/" + c.branch, old: tip, new: tip}
}

// atHead reports a push as the newest revision of a change, where that is now.
func (l *Listener) atHead(repository string, c acceptedCommand, change int) result {
	ref := fmt.Sprintf("refs/changes/%d/head", change)
	head, err := l.tip(repository, ref)
	if err != nil || head == repo.Zero { // it was read a moment ago
		head = c.new
	}
	return result{ref: c.ref, as: ref, old: head, new: head}
}

// failed tells why an act was not done, and reports it.
func (l *Listener) failed(h *hook, p *push, c acceptedCommand, what string, err error) result {
	var shown *show.Error
	if errors.As(err, &shown) {
		h.lines((&rejection{What: shown.What, Where: shown.Where, Hint: shown.Advice(l.Server().Login())}).lines()...)
		return refused(c.ref, terminal.Cut(terminal.Plain(shown.What), 200))
	}
	l.Log.Error("push "+what, "repo", p.repository, "ref", c.ref, "err", err)
	h.lines(reject(c.ref+" "+what, "push again; if it stays, tell an administrator: the server's log has more at "+
		l.Now().UTC().Format(time.RFC3339)).lines()...)
	return refused(c.ref, what)
}
