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

// validation is the work on one push in pre-receive.
type validation struct {
	l          *Listener
	r          *repo.Repository
	push       *push
	access     *access.Config
	quarantine repo.Quarantine
	options    options
	dirs       []string
	objects    *reader // started when first needed
	passed     map[string]acceptedCommand
	warnings   yamlfile.Problems // about the files of the proposed tree
	notices    []string          // what comes of it that the pusher should know, a line each
}

func (v *validation) all(ctx context.Context, commands []command) (rejections []*rejection, err error) {
	branches, err := readBranches(v.r, v.access)
	if err != nil {
		return nil, err
	}
	v.passed = make(map[string]acceptedCommand, len(commands))
	var special []string
	for _, c := range commands {
		if rejection := checkName(c.ref); rejection != nil {
			rejections = append(rejections, rejection)
			continue
		}
		if _, twice := v.passed[c.ref]; twice {
			rejections = append(rejections, reject(c.ref+" is pushed twice", "push it once"))
			continue
		}
		jc, err := v.classify(ctx, c, branches)
		if err != nil {
			return nil, err
		}
		if jc.action != plainRef {
			special = append(special, c.ref)
		}
		v.passed[c.ref] = jc
	}
	if len(rejections) > 0 {
		return rejections, nil
	}
	// A gated ref waits for its build; what is pushed beside it would wait too,
	// or land although it was refused (spec/git.md 4.1).
	if len(special) > 0 && len(commands) > 1 {
		return []*rejection{reject("a push of "+quote(special[0])+" must be alone", "push the other refs by themselves",
			fmt.Sprintf("it is gated, or an environment, and came with others (%d refs in all); none was moved", len(commands)))}, nil
	}
	if v.options.cancel > 0 && len(special) == 0 {
		return []*rejection{reject("-o cancel works on a push to a gated branch only", fmt.Sprintf("git push -o cancel=%d origin <gated branch>", v.options.cancel))}, nil
	}
	ordered := make([]acceptedCommand, len(commands))
	refused := map[int]*rejection{}
	for i, c := range commands {
		ordered[i] = v.passed[c.ref]
		if refused[i], err = v.one(ctx, &ordered[i], branches); err != nil {
			return nil, err
		}
	}
	// The policies are asked about what is refused already as well: who tried
	// belongs to the record.
	denied, err := v.decide(ctx, ordered)
	if err != nil {
		return nil, err
	}
	for i, c := range ordered {
		if rejection := refused[i]; rejection != nil {
			rejections = append(rejections, rejection)
		} else if rejection := denied[i]; rejection != nil {
			rejections = append(rejections, rejection)
		}
		v.passed[c.ref] = c
	}
	if len(rejections) == 0 && len(ordered) == 1 && ordered[0].action == propose {
		// The dear part comes last: only who may propose has a tree checked.
		rejection, err := v.checkTree(ctx, ordered[0].tree, branches.changeSettings(ordered[0].branch))
		if err != nil {
			return nil, err
		}
		if rejection != nil {
			rejections = append(rejections, rejection)
		}
	}
	return rejections, nil
}

// classify says which way a command goes.
func (v *validation) classify(ctx context.Context, c command, b *branches) (acceptedCommand, error) {
	jc := acceptedCommand{command: c}
	if name, ok := environmentOf(c.ref); ok {
		jc.action, jc.environment = approve, name
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
		// The first push to an empty repository is decided by its own headgate.yaml.
		var err error
		if jc.gated, err = v.ownGates(ctx, c.new, name); err != nil {
			return jc, err
		}
	}
	if proposed || jc.gated {
		jc.action, jc.branch = propose, name
	}
	return jc, nil
}

// one finds what is wrong with one command whoever sends it, and fills in what
// the policies and proc-receive need.
func (v *validation) one(ctx context.Context, c *acceptedCommand, b *branches) (*rejection, error) {
	c.policiesAt = b.policyCommit(c.branch)
	switch c.action {
	case approve:
		return v.promotion(ctx, c)
	case propose:
		if c.deletes() {
			return reject(c.branch+" is gated and cannot be deleted", "an administrator can take it out of land.branches in headgate.yaml"), nil
		}
		if !c.gated {
			return reject(c.branch+" is not gated, so nothing can be proposed for it", "push to "+headsPrefix+c.branch, c.ref), nil
		}
		if v.options.cancel > 0 {
			c.action, c.withdraw = cancelled, v.options.cancel
			return nil, nil
		}
		return v.proposal(ctx, c, b)
	}
	return v.plain(ctx, c, b)
}

// promotion checks a push to an environment: only its open promotion may be
// pushed, which approves it.
func (v *validation) promotion(ctx context.Context, c *acceptedCommand) (*rejection, error) {
	hint := fmt.Sprintf("to approve what is proposed: git fetch, then git push origin origin/promote/%s:env/%s", c.environment, c.environment)
	if c.deletes() {
		return reject(c.ref+" belongs to the server and cannot be deleted", "remove the environment from headgate.yaml"), nil
	}
	if v.l.Environments == nil {
		return reject(c.ref+" belongs to the server", "push to a branch of your own"), nil
	}
	var err error
	if c.isPromotion, err = v.l.Environments.Proposed(ctx, v.r.Name(), c.environment, c.new); c.isPromotion || err != nil {
		return nil, err
	}
	open, err := v.r.Ref(promotePrefix + c.environment)
	if err != nil {
		return nil, err
	}
	if open == repo.Zero {
		return reject(c.ref+" belongs to the server, and no promotion to it is open", hint), nil
	}
	return reject(c.ref+" belongs to the server", hint,
		fmt.Sprintf("the open promotion is %s; you pushed %s", short(open), short(c.new))), nil
}

// plain checks a ref that the daemon moves at once.
func (v *validation) plain(ctx context.Context, c *acceptedCommand, b *branches) (*rejection, error) {
	switch {
	case c.deletes():
		if c.ref == b.headRef {
			return reject(c.ref+" is the branch that clones check out and cannot be deleted", "delete other branches only"), nil
		}
		return nil, nil
	case c.old == repo.Zero:
		if rejection, err := v.roomFor(c.ref); rejection != nil || err != nil {
			return rejection, err
		}
	}
	objects, err := v.reader(ctx)
	if err != nil {
		return nil, err
	}
	kind, err := objects.kind(c.new)
	if err != nil {
		return nil, err
	}
	branch := strings.HasPrefix(c.ref, headsPrefix)
	if kind != "commit" && (branch || kind != "tag") {
		return reject(fmt.Sprintf("%s cannot point at a %s", c.ref, kind), "push a commit"), nil
	}
	if c.old != repo.Zero {
		forward := false
		if kind == "commit" {
			if forward, err = v.forward(ctx, c.old, c.new); err != nil {
				return nil, err
			}
		}
		c.force = !forward
	}
	return nil, nil
}

// roomFor refuses a new ref where git could not keep it: below a ref, or above one.
func (v *validation) roomFor(ref string) (*rejection, error) {
	for i := len(headsPrefix); i < len(ref); i++ {
		if ref[i] != '/' {
			continue
		}
		above, err := v.r.Ref(ref[:i])
		if err != nil {
			return nil, err
		}
		if above != repo.Zero {
			return reject(fmt.Sprintf("%s cannot be made: %s exists", ref, ref[:i]), "choose a name that is not below it"), nil
		}
	}
	below, err := v.r.Refs(ref + "/")
	if err != nil {
		return nil, err
	}
	if len(below) > 0 {
		return reject(fmt.Sprintf("%s cannot be made: %s exists", ref, below[0].Name), "choose another name"), nil
	}
	return nil, nil
}

// forward reports whether new contains old. A push of one commit on top is the
// usual case and needs no child.
func (v *validation) forward(ctx context.Context, old, new repo.Hash) (bool, error) {
	objects, err := v.reader(ctx)
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
	_, err = v.r.GitIn(ctx, v.quarantine, nil, "merge-base", "--is-ancestor", old.String(), new.String())
	var ge *repo.GitError
	if errors.As(err, &ge) && ge.Exit == 1 {
		return false, nil
	}
	return err == nil, err
}

// proposal checks what is to be landed.
func (v *validation) proposal(ctx context.Context, c *acceptedCommand, b *branches) (*rejection, error) {
	objects, err := v.reader(ctx)
	if err != nil {
		return nil, err
	}
	kind, err := objects.kind(c.new)
	if err != nil {
		return nil, err
	}
	if kind != "commit" {
		return reject(fmt.Sprintf("%s cannot point at a %s", c.ref, kind), "push a commit"), nil
	}
	pushed, err := objects.commit(c.new)
	if err != nil {
		return nil, err
	}
	c.subject, c.tree = pushed.subject, pushed.tree
	if strings.HasPrefix(c.ref, headsPrefix) && c.old != repo.Zero {
		forward, err := v.forward(ctx, c.old, c.new)
		if err != nil {
			return nil, err
		}
		if c.force = !forward; c.force {
			return reject(c.branch+" is gated and cannot be forced", fmt.Sprintf("git pull --rebase origin %s, then push; or propose it from any base: git push origin HEAD:refs/for/%s", c.branch, c.branch),
				fmt.Sprintf("%s does not contain %s, which %s was at", short(c.new), short(c.old), c.branch)), nil
		}
	}
	if c.old == repo.Zero && b.tips[c.branch] == repo.Zero {
		if rejection, err := v.roomFor(headsPrefix + c.branch); rejection != nil || err != nil {
			return rejection, err
		}
	}
	return nil, nil
}

func (v *validation) reader(ctx context.Context) (*reader, error) {
	if v.objects == nil {
		var err error
		if v.objects, err = newReader(ctx, v.r, v.quarantine); err != nil {
			return nil, err
		}
	}
	return v.objects, nil
}
