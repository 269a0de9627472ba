package receive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

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
	warnings   yamlfile.Problems // about the files of the proposed tree
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
			fmt.Sprintf("it is gated, or an environment, and came with others (%d refs in all); none was moved", len(commands)))}, nil
	}
	if j.options.cancel > 0 && len(special) == 0 {
		return []*refusal{refuse("-o cancel works on a push to a gated branch only", fmt.Sprintf("git push -o cancel=%d origin <gated branch>", j.options.cancel))}, nil
	}
	ordered := make([]judgedCommand, len(commands))
	refused := map[int]*refusal{}
	for i, c := range commands {
		ordered[i] = j.passed[c.ref]
		if refused[i], err = j.one(ctx, &ordered[i], branches); err != nil {
			return nil, err
		}
	}
	// The policies are asked about what is refused already as well: who tried
	// belongs to the record.
	denied, err := j.decide(ctx, ordered)
	if err != nil {
		return nil, err
	}
	for i, c := range ordered {
		if no := refused[i]; no != nil {
			refusals = append(refusals, no)
		} else if no := denied[i]; no != nil {
			refusals = append(refusals, no)
		}
		j.passed[c.ref] = c
	}
	if len(refusals) == 0 && len(ordered) == 1 && ordered[0].way == propose {
		// The dear part comes last: only who may propose has a tree checked.
		no, err := j.checkTree(ctx, ordered[0].tree, branches.judgesChange(ordered[0].branch))
		if err != nil {
			return nil, err
		}
		if no != nil {
			refusals = append(refusals, no)
		}
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
	name, proposed := strings.CutPrefix(c.ref, forPrefix)
	if !proposed {
		var branch bool
		if name, branch = strings.CutPrefix(c.ref, headsPrefix); !branch {
			return jc, nil
		}
	}
	jc.gated = b.gated(name)
	if b.empty && b.on && !c.deletes() {
		// The first push to an empty repository is judged by its own headgate.yaml.
		var err error
		if jc.gated, err = j.ownGates(ctx, c.new, name); err != nil {
			return jc, err
		}
	}
	if proposed || jc.gated {
		jc.way, jc.branch = propose, name
	}
	return jc, nil
}

// one finds what is wrong with one command whoever sends it, and fills in what
// the policies and proc-receive need.
func (j *judging) one(ctx context.Context, c *judgedCommand, b *branches) (*refusal, error) {
	c.judgedAt = b.judgesPush(c.branch)
	switch c.way {
	case approve:
		return j.promotion(ctx, c)
	case propose:
		if c.deletes() {
			return refuse(c.branch+" is gated and cannot be deleted", "an administrator can take it out of land.branches in headgate.yaml"), nil
		}
		if !c.gated {
			return refuse(c.branch+" is not gated, so nothing can be proposed for it", "push to "+headsPrefix+c.branch, c.ref), nil
		}
		if j.options.cancel > 0 {
			c.way, c.withdraw = cancelled, j.options.cancel
			return nil, nil
		}
		return j.proposal(ctx, c, b)
	}
	return j.plain(ctx, c, b)
}

// promotion checks a push to an environment: only its open promotion may be
// pushed, which approves it.
func (j *judging) promotion(ctx context.Context, c *judgedCommand) (*refusal, error) {
	hint := fmt.Sprintf("to approve what is proposed: git fetch, then git push origin origin/promote/%s:env/%s", c.environment, c.environment)
	if c.deletes() {
		return refuse(c.ref+" belongs to the server and cannot be deleted", "remove the environment from headgate.yaml"), nil
	}
	if j.l.Environments == nil {
		return refuse(c.ref+" belongs to the server", "push to a branch of your own"), nil
	}
	var err error
	if c.isPromotion, err = j.l.Environments.Proposed(ctx, j.r.Name(), c.environment, c.new); c.isPromotion || err != nil {
		return nil, err
	}
	open, err := j.r.Ref(promotePrefix + c.environment)
	if err != nil {
		return nil, err
	}
	if open == repo.Zero {
		return refuse(c.ref+" belongs to the server, and no promotion to it is open", hint), nil
	}
	return refuse(c.ref+" belongs to the server", hint,
		fmt.Sprintf("the open promotion is %s; you pushed %s", short(open), short(c.new))), nil
}

// plain checks a ref that the daemon moves at once.
func (j *judging) plain(ctx context.Context, c *judgedCommand, b *branches) (*refusal, error) {
	switch {
	case c.deletes():
		if c.ref == b.headRef {
			return refuse(c.ref+" is the branch that clones check out and cannot be deleted", "delete other branches only"), nil
		}
		return nil, nil
	case c.old == repo.Zero:
		if no, err := j.roomFor(c.ref); no != nil || err != nil {
			return no, err
		}
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
		c.force = !forward
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
	c.subject, c.tree = pushed.subject, pushed.tree
	if strings.HasPrefix(c.ref, headsPrefix) && c.old != repo.Zero {
		forward, err := j.forward(ctx, c.old, c.new)
		if err != nil {
			return nil, err
		}
		if c.force = !forward; c.force {
			return refuse(c.branch+" is gated and cannot be forced", fmt.Sprintf("git pull --rebase origin %s, then push; or propose it from any base: git push origin HEAD:refs/for/%s", c.branch, c.branch),
				fmt.Sprintf("%s does not contain %s, which %s was at", short(c.new), short(c.old), c.branch)), nil
		}
	}
	if c.old == repo.Zero && b.tips[c.branch] == repo.Zero {
		if no, err := j.roomFor(headsPrefix + c.branch); no != nil || err != nil {
			return no, err
		}
	}
	return nil, nil
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
