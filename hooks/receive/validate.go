package receive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
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
	undo       func()            // not nil: takes back what was counted against the pusher's quota
	warnings   yamlfile.Problems // about the files of the proposed tree
	notices    []string          // what comes of it that the pusher should know, a line each
}

// all decides about every command. Rejections refuse the whole push: what is
// wrong with all of it, or with a ref that the others depend on. A ref that is
// refused by itself is kept as unfit.
func (v *validation) all(ctx context.Context, commands []command) ([]*rejection, error) {
	branches, err := readBranches(v.r, v.access)
	if err != nil {
		return nil, err
	}
	if over, err := v.overQuota(); err != nil || over != nil {
		return []*rejection{over}, err
	}
	ordered := make([]acceptedCommand, len(commands))
	special := -1 // place of the one command that is not about a plain ref
	seen := map[string]bool{}
	for i, c := range commands {
		if seen[c.ref] {
			return []*rejection{reject(quote(c.ref)+" is pushed twice", "push it once")}, nil
		}
		seen[c.ref] = true
		if _, rejects := rejectedBy(c); rejects {
			// The one thing that may be done to a branch of the server's below promote/.
		} else if unfit := checkName(c.ref); unfit != nil {
			ordered[i] = acceptedCommand{command: c, unfit: unfit, misnamed: true}
			continue
		}
		if ordered[i], err = v.classify(ctx, c, branches); err != nil {
			return nil, err
		}
		if m, _ := v.access.Repository(v.r.Name()); m.Mirror != "" &&
			(ordered[i].action == plainRef || ordered[i].action == propose) {
			return []*rejection{reject(fmt.Sprintf("%s is a mirror: only its forge moves its branches and tags", v.r.Name()),
				fmt.Sprintf("push there; connection %s says where: forge show %s", m.Mirror, m.Mirror))}, nil
		}
		switch {
		case ordered[i].action == plainRef:
		case special >= 0:
			return notTogether(commands[special], c), nil
		default:
			special = i
		}
	}
	if special >= 0 && len(commands) > 1 && ordered[special].action != propose {
		return notTogether(commands[special], commands[(special+1)%len(commands)]), nil
	}
	if v.options.cancel > 0 && (special < 0 || len(commands) > 1) {
		return []*rejection{reject("-o cancel works on a push to one gated branch only",
			fmt.Sprintf("git push -o cancel=%d origin HEAD:refs/for/<gated branch>", v.options.cancel))}, nil
	}
	if (v.options.pause || v.options.resume) && (special < 0 || len(commands) > 1 || ordered[special].action != propose) {
		return []*rejection{reject("-o pause and -o resume work on a push to one gated branch only",
			"git push -o pause -o reason=<text> origin HEAD:refs/for/<gated branch>")}, nil
	}

	for i := range ordered {
		if c := &ordered[i]; c.unfit == nil {
			if c.unfit, err = v.one(ctx, c, branches); err != nil {
				return nil, err
			}
		}
	}
	if err := v.decide(ctx, ordered); err != nil {
		return nil, err
	}
	if special >= 0 {
		proposed := &ordered[special]
		if proposed.unfit == nil && proposed.action == propose {
			// The dear part comes last: only who may propose has a tree checked.
			proposed.unfit, err = v.checkTree(ctx, branches.tips[proposed.branch], proposed.tree)
			if err != nil {
				return nil, err
			}
		}
		if err := v.markAfterwards(ctx, ordered, special); err != nil {
			return nil, err
		}
	}
	return v.keep(ordered, special), nil
}

// keep fills in what passed. When nothing did, or only what waits for a proposal
// that did not, the whole push is refused and leaves no object behind.
func (v *validation) keep(ordered []acceptedCommand, special int) (rejections []*rejection) {
	v.passed = make(map[string]acceptedCommand, len(ordered))
	fit := false
	for _, c := range ordered {
		if c.afterwards && ordered[special].unfit != nil {
			c.unfit = reject(c.ref+" was not made: "+ordered[special].branch+" was refused",
				"push it again with a commit that lands")
		}
		if c.unfit != nil {
			rejections = append(rejections, c.unfit)
		} else {
			fit = true
		}
		v.passed[c.ref] = c
	}
	if fit {
		return nil
	}
	return rejections
}

// notTogether refuses a push of two refs of which each would have to wait for
// the other.
func notTogether(a, b command) []*rejection {
	return []*rejection{reject("a push of "+quote(a.ref)+" cannot hold "+quote(b.ref)+" too",
		"push them one after the other",
		"one gated branch may come with tags and branches that are not gated;",
		"an approval must be alone; none was moved")}
}

// markAfterwards finds the tags of what is proposed: they are made once it has
// landed, and not at all when it does not.
func (v *validation) markAfterwards(ctx context.Context, ordered []acceptedCommand, special int) error {
	for i := range ordered {
		c := &ordered[i]
		if i == special || c.unfit != nil || c.deletes() || !strings.HasPrefix(c.ref, tagsPrefix) {
			continue
		}
		_, err := v.r.GitIn(ctx, v.quarantine, nil, "merge-base", "--is-ancestor", c.new.String(),
			ordered[special].new.String())
		var ge *repo.GitError
		switch {
		case err == nil:
			c.afterwards = true
		case errors.As(err, &ge) && ge.Exit > 0: // 1: it is not an ancestor; 128: it is not a commit
		default:
			return err
		}
	}
	return nil
}

// classify says which way a command goes.
func (v *validation) classify(ctx context.Context, c command, b *branches) (acceptedCommand, error) {
	jc := acceptedCommand{command: c}
	if name, ok := environmentOf(c.ref); ok {
		jc.action, jc.environment = approve, name
		return jc, nil
	}
	if name, ok := rejectedBy(c); ok {
		jc.action, jc.environment = turnDown, name
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
	case turnDown:
		return v.turnedDown(ctx, c)
	case propose:
		if c.deletes() {
			return reject(c.branch+" is gated and cannot be deleted",
				"an administrator can take it out of land.branches in headgate.yaml"), nil
		}
		if !c.gated {
			return reject(c.branch+" is not gated, so nothing can be proposed for it", "push to "+headsPrefix+c.branch, c.ref),
				nil
		}
		switch {
		case v.options.pause:
			c.action = paused
			return nil, nil
		case v.options.resume:
			c.action = resumed
			return nil, nil
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
	hint := fmt.Sprintf("to approve what is proposed: git fetch, then git push origin origin/promote/%s:env/%s",
		c.environment, c.environment)
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
		fmt.Sprintf("the open promotion is %s; you pushed %s", show.Short(open.String()), show.Short(c.new.String()))), nil
}

// turnedDown checks the deletion of a proposal: only an open promotion may go so,
// which rejects it.
func (v *validation) turnedDown(ctx context.Context, c *acceptedCommand) (*rejection, error) {
	if v.l.Environments == nil {
		return reject(c.ref+" belongs to the server", "push to a branch of your own"), nil
	}
	open, err := v.r.Ref(c.ref)
	if err != nil {
		return nil, err
	}
	if open == repo.Zero {
		return reject("no promotion to "+c.environment+" is open", "git fetch --prune", c.ref), nil
	}
	if c.isPromotion, err = v.l.Environments.Proposed(ctx, v.r.Name(), c.environment, c.old); c.isPromotion || err != nil {
		return nil, err
	}
	return reject("what you would reject is not what is proposed for "+c.environment+" any more",
		"git fetch, look at it, and push again",
		fmt.Sprintf("the open promotion is %s; you deleted %s", show.Short(open.String()), show.Short(c.old.String()))), nil
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
			return reject(c.branch+" is gated and cannot be forced",
				fmt.Sprintf("git pull --rebase origin %s, then push; or propose it from any base: git push origin HEAD:refs/for/%s",
					c.branch, c.branch),
				fmt.Sprintf("%s does not contain %s, which %s was at", show.Short(c.new.String()), show.Short(c.old.String()),
					c.branch)), nil
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
