package gate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/crash"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/gate/plan"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// candidate is what a plan.Candidate turned out to be.
type candidate struct {
	plan.Candidate
	base   repo.Hash
	commit repo.Hash // the commit that would land
	tree   repo.Hash
	key    string
	inputs verdict.Inputs
	Settings
	known   verdict.List // on tree, as last read
	failure string       // why its build could not run, for people
	problem *problem     // why it cannot be tested; commit, tree and key may then be zero
	outside bool         // nobody who may write has vouched for one of its changes
}

// problem ends a change before anything is built.
type problem struct {
	kind    change.Kind // Refused, Conflict, or Landed: the branch holds it already
	details []string
	change.Facts
}

// with is what is tested: "main + 412".
func (c *candidate) with() string {
	s := c.Branch
	for _, r := range c.Changes {
		s += " + " + strconv.Itoa(r.Change)
	}
	return s
}

// prepare finds out what a candidate is. What it could not find out for a fault of
// the server's makes the change wait.
func (l *loop) prepare(ctx context.Context, pc plan.Candidate) {
	c := &candidate{Candidate: pc}
	c.base, _ = repo.ParseHash(pc.Base)
	for _, ref := range pc.Changes {
		if o := l.open[ref.Change]; o == nil || o.story.Head().Number != ref.Revision {
			return // the plan is made again
		}
	}
	err := l.merge(ctx, c)
	if err == nil && c.problem == nil {
		c.known, err = verdict.On(l.r, c.tree)
	}
	if errors.Is(err, errAsking) {
		l.open[pc.Changes[0].Change].waiting = &waiting{reason: err.Error(), image: true}
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			l.retryLater(pc.Changes[0].Change, "the server could not prepare it, and tries again", err)
		}
		return
	}
	l.made[pc.ID()] = c
}

// merge makes the commit of a candidate and says how it is built. The same
// inputs give the same commit, byte for byte, also after a restart.
func (l *loop) merge(ctx context.Context, c *candidate) (err error) {
	at := c.base
	for _, ref := range c.Changes {
		s := l.open[ref.Change].story
		if c.base != repo.Zero && c.Strategy == "" {
			if c.Settings, err = l.settings(c.base); err != nil {
				return c.unreadable(err, fmt.Sprintf("on %s at %s", c.Branch, show.Short(c.base.String())),
					"an administrator can ungate the repository, fix the file and gate it again")
			}
		}
		if at, err = l.apply(ctx, c, at, s); err != nil || c.problem != nil {
			return err
		}
	}
	c.commit = at
	if c.tree, err = l.r.TreeOf(at); err != nil {
		return err
	}
	// Its own file must be readable whoever judges it, or nothing could ever land
	// again.
	own, err := l.g.c.Settings(l.r, c.tree)
	if err != nil {
		return c.unreadable(err, "", "fix it, commit and push again")
	}
	c.outside = slices.ContainsFunc(c.Changes,
		func(ref plan.Ref) bool { return untrusted(l.open[ref.Change].story.Head()) })
	switch {
	case c.base == repo.Zero:
		c.Settings = own.filled() // the first push to an empty branch is judged by its own
	case c.outside: // what the branch says, and nothing of its own
		c.Network = c.Forks.Network
	default:
		c.Settings = c.Settings.building(own)
	}
	c.Server = l.server()
	if given := c.Server.Network; c.outside && given != nil && *given {
		c.Server.Network = nil // it is for those who may write
	}
	if l.g.c.Check != nil {
		if err := l.g.c.Check(ctx, l.r, c.tree); err != nil {
			return c.unreadable(err, "", "fix it, commit and push again")
		}
	}
	var wrong *build.ImageError
	if err = c.pin(ctx, l.image); errors.As(err, &wrong) {
		c.problem = &problem{kind: change.Refused, Facts: change.Facts{
			Cause:  change.InvalidFile,
			Reason: wrong.Error(),
			Short:  "no image to build it in",
			Hint:   "correct the image in headgate.yaml, commit and push again",
		}}
		return nil
	}
	if err != nil {
		return err
	}
	c.inputs, err = inputs(l.r, c.tree, c.Settings)
	if errors.Is(err, repo.ErrNoFile) {
		c.problem = noBuildspec(c.Buildspec)
		return nil
	}
	c.key = c.inputs.Key()
	return err
}

// apply puts one change on a commit.
func (l *loop) apply(ctx context.Context, c *candidate, on repo.Hash, s change.Change) (repo.Hash, error) {
	head := s.Head()
	if fromForge(head) { // what was pushed has been measured in its quarantine
		pushed, err := l.r.TreeOf(head.Commit)
		if err == nil {
			err = l.measure(ctx, c, pushed, "leave out what belongs elsewhere, then push again")
		}
		if err != nil || c.problem != nil {
			return repo.Zero, err
		}
	}
	if on == repo.Zero {
		return head.Commit, nil
	}
	held, err := l.contains(ctx, on, head.Commit)
	if err != nil {
		return repo.Zero, err
	}
	if held {
		c.problem = &problem{
			kind:  change.Landed,
			Facts: change.Facts{In: c.base, Reason: fmt.Sprintf("%s holds it already", c.Branch)},
		}
		return repo.Zero, nil
	}
	forward, err := l.contains(ctx, head.Commit, on)
	if err != nil || forward {
		return head.Commit, err
	}
	base, err := l.mergeBase(ctx, on, head.Commit)
	if err != nil {
		return repo.Zero, err
	}
	if base == repo.Zero {
		c.problem = &problem{kind: change.Refused, Facts: change.Facts{
			Cause:  change.NoSharedHistory,
			Reason: fmt.Sprintf("%s shares no history with %s", show.Short(head.Commit.String()), c.Branch),
			Short:  "no history shared with " + c.Branch,
			Hint:   fmt.Sprintf("begin from %s: git fetch origin, git switch -c work origin/%s", c.Branch, c.Branch),
		}}
		return repo.Zero, nil
	}
	if c.Strategy == FastForward {
		c.problem = &problem{kind: change.Refused, Facts: change.Facts{
			Cause:  change.NotFastForward,
			Reason: fmt.Sprintf("%s has moved to %s, and only fast-forwards land on it", c.Branch, show.Short(on.String())),
			Short:  c.Branch + " has moved",
			Hint:   fmt.Sprintf("git pull --rebase origin %s, git push origin %s", c.Branch, c.Branch),
		}}
		return repo.Zero, nil
	}
	tree, conflicts, err := l.r.Merge(ctx, on, head.Commit)
	var driver *repo.DriverError
	if errors.As(err, &driver) {
		c.problem = &problem{kind: change.Refused, Facts: change.Facts{
			Cause:  change.MergeDriver,
			Files:  []string{driver.Path},
			Reason: driver.Error(),
			Short:  fmt.Sprintf("%s has a merge driver", driver.Path),
			Hint:   fmt.Sprintf("git pull --rebase origin %s, which runs your driver, git push origin %s", c.Branch, c.Branch),
		}}
		return repo.Zero, nil
	}
	var fault *repo.TreeFault
	if errors.As(err, &fault) {
		c.problem = &problem{kind: change.Refused, Facts: change.Facts{
			Cause:  change.InvalidFile,
			Reason: fmt.Sprintf("it cannot be merged into %s: %s", c.Branch, fault.What),
			Short:  "cannot be merged",
			Hint:   fmt.Sprintf("git pull --rebase origin %s, git push origin %s", c.Branch, c.Branch),
		}}
		return repo.Zero, nil
	}
	if err != nil {
		return repo.Zero, err
	}
	if len(conflicts) > 0 {
		c.problem, err = l.conflict(ctx, c.Branch, on, base, conflicts)
		return repo.Zero, err
	}
	// Two trees that each hold what one may can hold more together.
	err = l.measure(ctx, c, tree, fmt.Sprintf("leave out what belongs elsewhere, or take some out of %s, then push again",
		c.Branch))
	if err != nil || c.problem != nil {
		return repo.Zero, err
	}
	commit, err := l.r.WriteCommit(repo.NewCommit{
		Tree: tree, Parents: []repo.Hash{on, head.Commit}, At: head.At,
		Message: repo.Message(fmt.Sprintf("Merge change %d into %s: %s", s.Number, c.Branch, head.Subject), "",
			trailers("Change", strconv.Itoa(s.Number), "Revision", strconv.Itoa(head.Number), "By", head.By)...),
	})
	crash.Point("candidate.merged")
	return commit, err
}

// measure refuses a tree that nothing may walk.
func (l *loop) measure(ctx context.Context, c *candidate, tree repo.Hash, hint string) error {
	err := l.r.CheckExtent(ctx, tree)
	var large *repo.TooLarge
	if errors.As(err, &large) {
		c.problem = &problem{kind: change.Refused, Facts: change.Facts{
			Cause:  change.InvalidFile,
			Reason: "the tree is larger than this server takes: " + large.Error(),
			Short:  "the tree is too large",
			Hint:   hint,
		}}
		return nil
	}
	return err
}

func (l *loop) mergeBase(ctx context.Context, a, b repo.Hash) (repo.Hash, error) {
	out, err := l.r.Git(ctx, "merge-base", a.String(), b.String())
	if ge := (*repo.GitError)(nil); errors.As(err, &ge) && ge.Exit == 1 {
		return repo.Zero, nil
	}
	if err != nil {
		return repo.Zero, err
	}
	base, ok := repo.ParseHash(strings.TrimSpace(string(out)))
	if !ok {
		return repo.Zero, fmt.Errorf("merge base of %s and %s in %s: git answered %q", a, b, l.r.Name(), out)
	}
	return base, nil
}

// conflict says which files do not merge, and which change that has landed
// since the merge base touched them.
func (l *loop) conflict(ctx context.Context, branch string, tip, base repo.Hash, files []string) (*problem, error) {
	files = slices.Compact(slices.Sorted(slices.Values(files)))
	const shown = 20
	p := &problem{kind: change.Conflict, Facts: change.Facts{
		Tip:       tip,
		Files:     files[:min(shown, len(files))],
		MoreFiles: max(0, len(files)-shown),
		Reason:    "conflicts in " + many(len(files), "file"),
		Short:     "conflict in " + many(len(files), "file"),
		Hint:      fmt.Sprintf("git pull --rebase origin %s, resolve, git push origin %s", branch, branch),
	}}
	all, err := l.log.Summaries()
	if err != nil {
		return nil, err
	}
	landed := map[repo.Hash]int{}
	for _, of := range all {
		if of.Branch == branch && of.New != repo.Zero {
			landed[of.New] = of.Number
		}
	}
	for at := tip; at != base && at != repo.Zero; {
		number, known := landed[at]
		if !known {
			break // it came before the gate, or past it
		}
		s, err := l.log.Read(number)
		if err != nil {
			return nil, err
		}
		e, _ := s.Landing()
		touched, err := l.r.ChangedPaths(ctx, e.Old, at)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(touched, func(t string) bool { return slices.Contains(files, t) }) {
			p.With = s.Number
			p.Reason = fmt.Sprintf("conflicts with %d, which landed at %s", s.Number, e.At.Format("15:04 UTC"))
			p.Short = fmt.Sprintf("conflict with %d in %s", s.Number, many(len(files), "file"))
			break
		}
		at = e.Old
	}
	return p, nil
}

// settings is what the tree of a tip says, with defaults filled in.
func (l *loop) settings(commit repo.Hash) (Settings, error) {
	tree, err := l.r.TreeOf(commit)
	if err != nil {
		return Settings{}, err
	}
	s, err := l.g.c.Settings(l.r, tree)
	return s.filled(), err
}

// building is how a tree is built and landed on a branch with these settings. How
// it is built is the tree's own matter: buildspec, image, services, timeout. What the build
// may reach, and how it lands, is the branch's.
func (s Settings) building(tree Settings) Settings {
	s.Buildspec, s.Image, s.Timeout, s.Variables = tree.Buildspec, tree.Image, tree.Timeout, tree.Variables
	s.Services, s.Registries = tree.Services, tree.Registries
	return s.filled()
}

func (s Settings) filled() Settings {
	if s.Strategy == "" {
		s.Strategy = Merge
	}
	if s.Buildspec == "" {
		s.Buildspec = "buildspec.yml"
	}
	if s.Image == "" {
		s.Image = headgateyaml.HostImage
	}
	return s
}

// server is what the server adds to the repository's settings.
func (l *loop) server() ServerSettings { return l.g.server(l.r.Name()) }

func (g *Gate) server(repository string) ServerSettings {
	if g.c.Server == nil || repository == Own {
		return ServerSettings{}
	}
	return g.c.Server(repository)
}

// builtin begins the name of a build that needs no file.
const builtin = "builtin:"

// inputs are what a build of tree depends on. The error is repo.ErrNoFile when
// the tree has no such buildspec.
func inputs(r *repo.Repository, tree repo.Hash, s Settings) (verdict.Inputs, error) {
	in := verdict.Inputs{Tree: tree, Buildspec: s.Buildspec, Image: s.Image, Variables: s.Variables}
	_, in.Network, _ = s.environment()
	in.Server = s.Server.digest()
	for _, of := range s.Services {
		in.Services = append(in.Services, verdict.Service{Name: of.Name, Image: of.Image, Settings: of.Settings()})
	}
	if strings.HasPrefix(s.Buildspec, builtin) {
		return in, nil
	}
	e, err := r.Lookup(tree, path.Clean(s.Buildspec))
	if err != nil {
		return in, err
	}
	if !e.Mode.IsFile() {
		return in, repo.ErrNoFile
	}
	in.Blob = e.Hash
	return in, nil
}

func noBuildspec(name string) *problem {
	return &problem{
		kind: change.Refused,
		details: []string{
			"`headgate init` in the project writes one that fits it, and what else is wanted; or",
			"paste this into " + name + ", then push again:",
			"  version: 0.2", "  phases:", "    build:", `      commands: ["make test"]`,
		},
		Facts: change.Facts{
			Cause:  change.NoBuildspec,
			Reason: "no " + name + ": nothing says how to test this tree",
			Short:  "no " + name,
			Hint:   "add one; or an administrator ungates the repository: ssh host repo set <name> gate=off",
		},
	}
}

// unreadable is a file that judges a change and cannot be read. Problems in it
// are for the pusher; any other error is the server's.
func (c *candidate) unreadable(err error, where, hint string) error {
	ps, ok := yamlfile.ProblemsIn(err)
	if !ok || len(ps) == 0 {
		return err
	}
	c.problem = &problem{kind: change.Refused, Facts: change.Facts{
		Cause:  change.InvalidFile,
		Reason: ps[0].Error(),
		Short:  ps[0].Place() + ": " + ps[0].What,
		Hint:   hint,
	}}
	if where != "" {
		c.problem.Reason += " (" + where + ")"
	}
	for _, p := range ps[1:] {
		c.problem.details = append(c.problem.details, p.Error())
	}
	return nil
}
