package receive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/receive/wire"
)

// way is what will be done about a command.
type way int

const (
	plainRef  way = iota // the daemon moves the ref
	propose              // to the gate
	approve              // of a promotion
	cancelled            // nothing: a change is withdrawn instead
)

// judged is one command that pre-receive let pass.
type judgedCommand struct {
	command
	way         way
	branch      string // short name, for propose
	environment string // for approve
	withdraw    int    // change, for cancelled
	subject     string // of the pushed commit, for propose
	decision    repo.Hash
}

// judged is a push that pre-receive let pass; proc-receive does this and nothing else.
type judged struct {
	commands map[string]judgedCommand // by ref
	options  options
	folders  []string // below objects/, into which its objects go
}

// options are the push options that mean something.
type options struct {
	raw    []string
	nowait bool
	cancel int
}

// judgeTime bounds the whole of pre-receive, which the pusher waits for.
const judgeTime = 2 * time.Minute

// maxInput is what the commands of pre-receive may be.
const maxInput = maxCommands * (2*41 + maxPacket/16)

// preReceive answers the hook that git runs while the objects of the push are in
// quarantine. A refusal leaves no object behind; nothing is promised yet.
func (l *Listener) preReceive(ctx context.Context, h *hook, p *push, header wire.Header) {
	ctx, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	input, err := io.ReadAll(io.LimitReader(h.in, maxInput+1))
	var refusals []*refusal
	if err == nil {
		refusals, err = l.judgePush(ctx, p, header, input)
	}
	log := l.Log.With("repo", p.repository, "user", p.actor.Name)
	switch {
	case errors.Is(err, errGone), err != nil && p.ctx.Err() != nil:
		log.Info("push went away before it was judged")
	case err != nil:
		log.Error("push could not be judged", "err", err)
		r := refuse("headgate could not judge this push; nothing was changed",
			"push again; if it stays, tell an administrator: the server's log has more at "+l.Now().UTC().Format(time.RFC3339))
		h.lines(r.lines()...)
	case len(refusals) > 0:
		for i, r := range refusals {
			if i == maxShown {
				h.lines(fmt.Sprintf("error: and %d more", len(refusals)-maxShown))
				break
			}
			h.lines(r.lines()...)
		}
		log.Info("push refused", "reason", plain(refusals[0].What))
	default:
		h.exit(0)
		return
	}
	h.exit(1)
}

// maxShown refusals of one push are spelled out.
const maxShown = 10

// judgePush decides about a whole push and keeps what it decided in p. Refusals
// are for the pusher, an error is the server's.
func (l *Listener) judgePush(ctx context.Context, p *push, header wire.Header, input []byte) ([]*refusal, error) {
	if header.Overflow {
		return []*refusal{refuse(errOptions.Error(), "give fewer or shorter -o options")}, nil
	}
	if len(input) > maxInput {
		return []*refusal{refuse(errTooMany.Error(), "push in several steps")}, nil
	}
	opts, no := parseOptions(header.Options)
	if no != nil {
		return []*refusal{no}, nil
	}
	commands, err := parseCommands(input)
	if errors.Is(err, errTooMany) {
		return []*refusal{refuse(err.Error(), "push in several steps")}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := l.Store.Repository(p.repository)
	if err != nil {
		return nil, err
	}
	q, err := quarantineOf(r, header.Quarantine)
	if err != nil {
		return nil, err
	}
	j := &judging{l: l, r: r, push: p, access: l.Access(), quarantine: q, options: opts}
	if j.folders, err = arriving(q); err != nil {
		return nil, err
	}
	refusals, err := j.all(ctx, commands)
	if j.objects != nil {
		j.objects.close()
	}
	if err != nil || len(refusals) > 0 {
		return refusals, err
	}
	p.judged = &judged{commands: j.passed, options: opts, folders: j.folders}
	return nil, nil
}

// parseOptions reads -o nowait and -o cancel=<change>. Others are kept as the
// pusher wrote them; they mean nothing to the server.
func parseOptions(raw []string) (options, *refusal) {
	o := options{raw: raw}
	for _, text := range raw {
		key, value, has := strings.Cut(text, "=")
		switch {
		case text == "nowait":
			o.nowait = true
		case key == "cancel" && has:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || strconv.Itoa(n) != value {
				return o, refuse("-o cancel="+quote(value)+" names no change", "name it by its number: -o cancel=7")
			}
			o.cancel = n
		}
	}
	return o, nil
}

// judging is the work on one push in pre-receive.
type judging struct {
	l          *Listener
	r          *repo.Repository
	push       *push
	access     *access.Config
	quarantine repo.Quarantine
	options    options
	folders    []string
	objects    *reader // started when first needed
	passed     map[string]judgedCommand
}

func (j *judging) all(ctx context.Context, commands []command) (refusals []*refusal, err error) {
	branches, err := readBranches(j.r, j.access)
	if err != nil {
		return nil, err
	}
	j.passed = make(map[string]judgedCommand, len(commands))
	var special []string
	for _, c := range commands {
		if no := checkName(c.ref); no != nil {
			refusals = append(refusals, no)
			continue
		}
		if _, twice := j.passed[c.ref]; twice {
			refusals = append(refusals, refuse(c.ref+" is pushed twice", "push it once"))
			continue
		}
		jc, err := j.classify(ctx, c, branches)
		if err != nil {
			return nil, err
		}
		if jc.way != plainRef {
			special = append(special, c.ref)
		}
		j.passed[c.ref] = jc
	}
	if len(refusals) > 0 {
		return refusals, nil
	}
	// A gated ref waits for its build; what is pushed beside it would wait too,
	// or land although it was refused (spec/git.md 4.1).
	if len(special) > 0 && len(commands) > 1 {
		return []*refusal{refuse("a push of "+quote(special[0])+" must be alone", "push the other refs by themselves",
			fmt.Sprintf("it is gated, or an environment, and came with %d other refs; none was moved", len(commands)-1))}, nil
	}
	if j.options.cancel > 0 && len(special) == 0 {
		return []*refusal{refuse("-o cancel works on a push to a gated branch only", fmt.Sprintf("git push -o cancel=%d origin <gated branch>", j.options.cancel))}, nil
	}
	for _, c := range commands {
		jc := j.passed[c.ref]
		no, err := j.one(ctx, &jc, branches)
		if err != nil {
			return nil, err
		}
		if no != nil {
			refusals = append(refusals, no)
		}
		j.passed[c.ref] = jc
	}
	return refusals, nil
}

// classify says which way a command goes.
func (j *judging) classify(ctx context.Context, c command, b *branches) (judgedCommand, error) {
	jc := judgedCommand{command: c}
	if name, ok := environmentOf(c.ref); ok {
		jc.way, jc.environment = approve, name
		return jc, nil
	}
	if name, ok := strings.CutPrefix(c.ref, forPrefix); ok {
		jc.way, jc.branch = propose, name
		return jc, nil
	}
	if name, ok := strings.CutPrefix(c.ref, headsPrefix); ok {
		gated := b.gated(name)
		if b.empty && j.gatedRepository() && !c.deletes() {
			// The first push to an empty repository is judged by its own headgate.yaml.
			var err error
			if gated, err = j.ownGates(ctx, c.new, name); err != nil {
				return jc, err
			}
		}
		if gated {
			jc.way, jc.branch = propose, name
		}
	}
	return jc, nil
}

func (j *judging) gatedRepository() bool { return j.access.Gated(j.r.Name()) }

// one judges one command. It fills in what proc-receive needs.
func (j *judging) one(ctx context.Context, c *judgedCommand, b *branches) (*refusal, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(c.ref, headsPrefix), forPrefix)
	mayWrite := j.access.MayWrite(j.push.actor.Name, j.r.Name())
	question := Question{Repository: j.r.Name(), Ref: c.ref, User: j.push.actor.Name,
		Groups: j.access.Groups(j.push.actor.Name), Admin: j.access.IsAdmin(j.push.actor.Name), MayWrite: mayWrite, Gated: c.way == propose}
	tip := b.head
	switch c.way {
	case approve:
		question.Action = "approve"
		if no, err := j.promotion(c); no != nil || err != nil {
			return no, err
		}
	case propose:
		question.Action = "propose"
		if c.deletes() {
			return refuse(c.branch+" is gated and cannot be deleted", "an administrator can take it out of land.branches in headgate.yaml"), nil
		}
		if !b.gated(c.branch) && !b.empty {
			return refuse(c.branch+" is not gated, so nothing can be proposed for it", "push to "+headsPrefix+c.branch, c.ref), nil
		}
		if t := b.tips[c.branch]; t != repo.Zero {
			tip = t
		}
		if j.options.cancel > 0 {
			c.way, c.withdraw, question.Action = cancelled, j.options.cancel, "withdraw"
			break
		}
		if no, err := j.proposal(ctx, c, b); no != nil || err != nil {
			return no, err
		}
	default:
		no, err := j.plain(ctx, c, b, &question)
		if no != nil || err != nil {
			return no, err
		}
	}
	saved, no, err := j.l.judge(ctx, j.r, tip, question)
	if err != nil {
		return nil, err
	}
	c.decision = saved
	if no == nil && !mayWrite && c.way != approve {
		no = refuse(fmt.Sprintf("%s may not write to %s", j.push.actor.Name, j.r.Name()), "ask an administrator to add you to its writers", "server.yaml: repositories: "+j.r.Name()+": write", "ref "+name)
	}
	return no, nil
}

// promotion checks a push to an environment: only its open promotion may be
// pushed, which approves it.
func (j *judging) promotion(c *judgedCommand) (*refusal, error) {
	hint := fmt.Sprintf("to approve what is proposed: git fetch, then git push origin origin/promote/%s:env/%s", c.environment, c.environment)
	if c.deletes() {
		return refuse(c.ref+" belongs to the server and cannot be deleted", "remove the environment from headgate.yaml"), nil
	}
	if j.l.Environments == nil {
		return refuse(c.ref+" belongs to the server", "push to a branch of your own"), nil
	}
	proposed, err := j.r.Ref(promotePrefix + c.environment)
	if err != nil {
		return nil, err
	}
	switch {
	case proposed == repo.Zero:
		return refuse(c.ref+" belongs to the server, and no promotion to it is open", hint), nil
	case proposed != c.new:
		return refuse(c.ref+" belongs to the server", hint,
			fmt.Sprintf("the open promotion is %s; you pushed %s", short(proposed), short(c.new))), nil
	}
	return nil, nil
}

// plain checks a ref that the daemon moves at once.
func (j *judging) plain(ctx context.Context, c *judgedCommand, b *branches, q *Question) (*refusal, error) {
	switch {
	case c.deletes():
		q.Action = "delete"
		if c.ref == b.headRef {
			return refuse(c.ref+" is the branch that clones check out and cannot be deleted", "delete other branches only"), nil
		}
		return nil, nil
	case c.old == repo.Zero:
		q.Action = "create"
		if no, err := j.roomFor(c.ref); no != nil || err != nil {
			return no, err
		}
	default:
		q.Action = "update"
	}
	objects, err := j.reader(ctx)
	if err != nil {
		return nil, err
	}
	kind, err := objects.kind(c.new)
	if err != nil {
		return nil, err
	}
	branch := strings.HasPrefix(c.ref, headsPrefix)
	if kind != "commit" && (branch || kind != "tag") {
		return refuse(fmt.Sprintf("%s cannot point at a %s", c.ref, kind), "push a commit"), nil
	}
	if c.old != repo.Zero {
		forward := false
		if kind == "commit" {
			if forward, err = j.forward(ctx, c.old, c.new); err != nil {
				return nil, err
			}
		}
		if !forward {
			q.Action = "force"
		}
	}
	return nil, nil
}

// roomFor refuses a new ref where git could not keep it: below a ref, or above one.
func (j *judging) roomFor(ref string) (*refusal, error) {
	for i := len(headsPrefix); i < len(ref); i++ {
		if ref[i] != '/' {
			continue
		}
		above, err := j.r.Ref(ref[:i])
		if err != nil {
			return nil, err
		}
		if above != repo.Zero {
			return refuse(fmt.Sprintf("%s cannot be made: %s exists", ref, ref[:i]), "choose a name that is not below it"), nil
		}
	}
	below, err := j.r.Refs(ref + "/")
	if err != nil {
		return nil, err
	}
	if len(below) > 0 {
		return refuse(fmt.Sprintf("%s cannot be made: %s exists", ref, below[0].Name), "choose another name"), nil
	}
	return nil, nil
}

// forward reports whether new contains old. A push of one commit on top is the
// usual case and needs no child.
func (j *judging) forward(ctx context.Context, old, new repo.Hash) (bool, error) {
	objects, err := j.reader(ctx)
	if err != nil {
		return false, err
	}
	if kind, err := objects.kind(old); err != nil || kind != "commit" {
		if errors.Is(err, repo.ErrNoFile) {
			return false, nil // old is a guess of the client; the swap will fail
		}
		return false, err
	}
	c, err := objects.commit(new)
	if err != nil {
		return false, err
	}
	for _, p := range c.parents {
		if p == old {
			return true, nil
		}
	}
	_, err = j.r.GitIn(ctx, j.quarantine, nil, "merge-base", "--is-ancestor", old.String(), new.String())
	var ge *repo.GitError
	if errors.As(err, &ge) && ge.Exit == 1 {
		return false, nil
	}
	return err == nil, err
}

// proposal checks what is to be landed.
func (j *judging) proposal(ctx context.Context, c *judgedCommand, b *branches) (*refusal, error) {
	objects, err := j.reader(ctx)
	if err != nil {
		return nil, err
	}
	kind, err := objects.kind(c.new)
	if err != nil {
		return nil, err
	}
	if kind != "commit" {
		return refuse(fmt.Sprintf("%s cannot point at a %s", c.ref, kind), "push a commit"), nil
	}
	pushed, err := objects.commit(c.new)
	if err != nil {
		return nil, err
	}
	c.subject = pushed.subject
	if strings.HasPrefix(c.ref, headsPrefix) && c.old != repo.Zero {
		forward, err := j.forward(ctx, c.old, c.new)
		if err != nil {
			return nil, err
		}
		if !forward {
			return refuse(c.branch+" is gated and cannot be forced", fmt.Sprintf("git pull --rebase origin %s, then push; or propose it from any base: git push origin HEAD:refs/for/%s", c.branch, c.branch),
				fmt.Sprintf("%s does not contain %s, which %s was at", short(c.new), short(c.old), c.branch)), nil
		}
	}
	if c.old == repo.Zero && strings.HasPrefix(c.ref, headsPrefix) {
		if no, err := j.roomFor(c.ref); no != nil || err != nil {
			return no, err
		}
	}
	target := b.settings(c.branch)
	if b.tips[c.branch] == repo.Zero {
		target = nil // the first push to a branch is judged by its own
	}
	return j.checkTree(ctx, pushed.tree, target)
}

func (j *judging) reader(ctx context.Context) (*reader, error) {
	if j.objects == nil {
		var err error
		if j.objects, err = newReader(ctx, j.r, j.quarantine); err != nil {
			return nil, err
		}
	}
	return j.objects, nil
}

// refuseProblems is one refusal for all that is wrong with files.
func refuseProblems(problems yamlfile.Problems) *refusal {
	r := &refusal{Hint: "fix it, look with: headgate check, then push again"}
	if len(problems) == 1 {
		r.What = problems[0].File + " is not right"
	} else {
		r.What = fmt.Sprintf("%d things are not right in what you pushed", len(problems))
	}
	for _, p := range problems {
		r.Where = append(r.Where, p.Place()+": "+p.What)
		if p.Fix != "" {
			r.Where = append(r.Where, "  fix: "+p.Fix)
		}
	}
	return r
}
