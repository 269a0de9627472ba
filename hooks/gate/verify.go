package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// Report is what Verify found.
type Report struct {
	Branches []string  `json:"branches"`           // that changes have landed on
	Tips     int       `json:"tips"`               // commits that were ever the tip of one of them
	Verdicts int       `json:"verdicts"`           // green verdicts that were needed and found
	Mirrored int       `json:"mirrored,omitempty"` // tips among them that came from a forge, past the gate
	Releases int       `json:"releases"`           // that verify
	Signed   int       `json:"signed"`             // objects whose signature was checked
	Findings []Finding `json:"findings"`           // what is not as it must be

	r         *repo.Repository
	signers   repo.Signers
	decisions *decision.Chain
	lines     map[string][]repo.Hash // branch → its tips, newest first
	tested    map[repo.Hash]int      // candidate → the change whose log says that it is green
	landed    map[repo.Hash]bool     // commits that the gate has made tips
	forges    map[string][]mirroredTip
	built     map[repo.Hash]bool // commits that a forge has made tips, whose tree is green
}

// Finding is something that is not as it must be.
type Finding struct {
	Where string `json:"where"` // ref
	What  string `json:"what"`
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// Verify proves a repository from its objects and refs alone, as a mirror or an
// ordinary clone with refs/changes, refs/notes and refs/releases fetched has them:
//
//   - the tips that each gated branch ever had form one line, without a gap, from
//     nothing to where it is now, each put there by the gate
//   - no change is missing, and each log is of the change whose ref it is at
//   - of a mirror, tips that came from its forge are on record as such; all others
//   - each had a green verdict for its tree, built as that tree says and with what
//     the tip before it lets a build reach, noted before the branch moved
//   - change logs, verdicts, releases and decisions are signed by one of signers
//   - releases are of such commits, or of green ones that came from a forge, none is missing, and their provenance verifies
//   - the decisions that change logs name are on record, and what each decision has
//     seen of the server's other records is still there
//
// The error is only for what could not be looked at; what was found wrong is in
// the Report.
func Verify(ctx context.Context, r *repo.Repository, signers repo.Signers) (*Report, error) {
	rep := &Report{
		r:       r,
		signers: signers,
		lines:   map[string][]repo.Hash{},
		tested:  map[repo.Hash]int{},
		landed:  map[repo.Hash]bool{},
		forges:  map[string][]mirroredTip{},
		built:   map[repo.Hash]bool{},
	}
	var err error
	if rep.decisions, err = decision.Verify(ctx, r, signers); err != nil {
		return rep, err
	}
	for _, what := range rep.decisions.Findings {
		rep.found(decision.Ref, "%s", what)
	}
	rep.Signed += rep.decisions.Signed
	// Releases are read before what they stand on: a gate may be at work, and makes them last.
	refs, err := r.Refs("refs/releases/")
	if err != nil {
		return rep, err
	}
	made, unreadable := release.Of(r).List()
	stories, err := change.Of(r).List()
	if err != nil {
		return rep, err
	}
	byBranch := map[string][]landed{}
	name, number := "", 0
	for _, s := range stories {
		// Numbers are given without gaps: one that is missing was taken away.
		for number++; number < s.Number; number++ {
			rep.found(change.Ref(number), "is not there, and change %d is", s.Number)
		}
		of, err := rep.changeLog(s)
		if err != nil {
			return rep, err
		}
		if name == "" {
			name = of
		} else if of != name {
			rep.found(change.Ref(s.Number), "is a change of %q, and others are of %q", of, name)
		}
		for i, e := range s.Events {
			if e.Kind == change.Tested {
				rep.tested[e.Candidate] = s.Number
			}
			if e.Kind == change.Landed && e.New != repo.Zero {
				byBranch[s.Branch] = append(byBranch[s.Branch], landed{s, e, s.Events[:i]})
			}
		}
	}
	if err := rep.notes(); err != nil {
		return rep, err
	}
	if err := rep.mirrored(); err != nil {
		return rep, err
	}
	for branch := range byBranch {
		rep.Branches = append(rep.Branches, branch)
	}
	for branch := range rep.forges {
		if byBranch[branch] == nil {
			rep.Branches = append(rep.Branches, branch)
		}
	}
	if len(stories) > 0 || len(rep.forges) > 0 {
		if err := rep.unlanded(); err != nil {
			return rep, err
		}
	}
	slices.Sort(rep.Branches)
	for _, branch := range rep.Branches {
		if err := rep.branch(ctx, branch, name, byBranch[branch]); err != nil {
			return rep, err
		}
	}
	if unreadable != nil {
		rep.found("refs/releases/", "%v", unreadable)
		return rep, nil
	}
	rep.releases(made)
	if len(refs) > len(made) {
		rep.found("refs/releases/", "%d refs, %d releases", len(refs), len(made))
	}
	return rep, nil
}

type landed struct {
	story  change.Change
	event  change.Event
	before []change.Event
}

func (rep *Report) found(where, format string, args ...any) {
	rep.Findings = append(rep.Findings, Finding{where, fmt.Sprintf(format, args...)})
}

// signed checks a chain of first parents, from tip to its end, and returns the
// message of the last.
func (rep *Report) signed(ref string, tip repo.Hash) (string, error) {
	for at := tip; ; {
		kind, raw, err := rep.r.Raw(at)
		if err != nil {
			return "", err
		}
		if err := rep.signers.VerifyObject(kind, raw); err != nil {
			rep.found(ref, "commit %s %v", show.Short(at.String()), err)
		}
		rep.Signed++
		c, err := rep.r.Commit(at)
		if err != nil {
			return "", err
		}
		if len(c.ParentHashes) == 0 {
			return c.Message, nil
		}
		at = c.ParentHashes[0]
	}
}

// changeLog checks one log's signatures, and that it is of the change whose ref
// it is at. It returns the repository's name in it.
func (rep *Report) changeLog(s change.Change) (string, error) {
	for _, e := range s.Events {
		if e.Decision == repo.Zero {
			continue
		}
		if absent := rep.decisions.Absent(e.Decision, 0); absent != "" {
			rep.found(change.Ref(s.Number), "%s", absent)
			break // the others are not there either, or do not matter then
		}
	}
	if head, err := rep.r.Ref(change.HeadRef(s.Number)); err != nil {
		return "", err
	} else if want := s.Head().Commit; head != want {
		rep.found(change.HeadRef(s.Number), "is at %s, and the newest revision is %s", show.Short(head.String()),
			show.Short(want.String()))
	}
	root, err := rep.signed(change.Ref(s.Number), s.Tip)
	if i := slices.IndexFunc(s.Events, func(e change.Event) bool { return e.Of != s.Number }); i >= 0 {
		rep.found(change.Ref(s.Number), "is the log of change %d", s.Events[i].Of)
	}
	return repo.TrailerValue(root, "Repository"), err
}

// unlanded finds branches that are gated, by their own headgate.yaml, and on
// which nothing has landed.
func (rep *Report) unlanded() error {
	prefix := "refs/remotes/origin/"
	refs, err := rep.r.Refs(prefix)
	if err == nil && len(refs) == 0 {
		prefix = "refs/heads/"
		refs, err = rep.r.Refs(prefix)
	}
	for _, ref := range refs {
		branch := strings.TrimPrefix(ref.Name, prefix)
		if slices.Contains(rep.Branches, branch) || strings.HasPrefix(branch, "env/") ||
			strings.HasPrefix(branch, "promote/") {
			continue
		}
		tree, err := rep.r.TreeOf(ref.Hash)
		if err != nil {
			return err
		}
		f, err := headgateyaml.In(rep.r.FilesOf(tree).ReadFile)
		if _, wrong := yamlfile.ProblemsIn(err); wrong {
			f = headgateyaml.Default()
		} else if err != nil {
			return err
		}
		if f.Gates(branch) {
			rep.found(ref.Name, "is gated and at %s, and no change has landed on it", show.Short(ref.Hash.String()))
		}
	}
	return err
}

func (rep *Report) notes() error {
	tip, err := rep.r.Ref(verdict.Ref)
	if err != nil || tip == repo.Zero {
		return err
	}
	_, err = rep.signed(verdict.Ref, tip)
	return err
}

// tip is where a branch is: as its server has it, if this is a clone.
func (rep *Report) tip(branch string) (ref string, tip repo.Hash, err error) {
	for _, ref = range []string{"refs/remotes/origin/" + branch, "refs/heads/" + branch} {
		if tip, err = rep.r.Ref(ref); err != nil || tip != repo.Zero {
			break
		}
	}
	return ref, tip, err
}

// branch walks the line of landings back from the present tip.
func (rep *Report) branch(ctx context.Context, branch, name string, landings []landed) error {
	ref, tip, err := rep.tip(branch)
	if err != nil {
		return err
	}
	byNew := map[repo.Hash]landed{}
	for _, l := range landings {
		byNew[l.event.New] = l
	}
	mirrored := rep.forges[branch]
	if tip == repo.Zero && (len(mirrored) == 0 || mirrored[0].new != repo.Zero) {
		rep.found(ref, "%d changes have landed on it, and it is not there", len(landings))
		return nil
	}
	seen := 0
	for at := tip; ; {
		l, known := byNew[at]
		i := slices.IndexFunc(mirrored, func(m mirroredTip) bool { return m.new == at })
		if i == 0 || i > 0 && !known { // what is on record before it never came to be
			m := mirrored[i]
			mirrored = mirrored[i+1:] // a branch may go back and forth
			if at != repo.Zero {
				seen++
				rep.Mirrored++
				if err := rep.mirroredTip(name, m); err != nil {
					return err
				}
			}
			at = m.old
			continue
		}
		if at == repo.Zero {
			break
		}
		if !known {
			rep.found(ref, "was at %s, and no change landed as that", at)
			if n, tested := rep.tested[at]; tested {
				rep.found(change.Ref(n), "ends before it says that it landed as %s, which it tested", show.Short(at.String()))
			}
			break
		}
		delete(byNew, at)
		seen++
		old := l.event.Old
		if err := rep.landing(ctx, name, old, at, l); err != nil {
			return err
		}
		rep.landed[at] = true
		rep.lines[branch] = append(rep.lines[branch], at)
		at = old
	}
	rep.Tips += seen
	for new, l := range byNew {
		rep.found(change.Ref(l.story.Number), "landed as %s, which is not in the line of %s", new, ref)
	}
	return nil
}

// mirrored reads the tips that came from a forge, by branch, newest first.
func (rep *Report) mirrored() error {
	list, tip, err := mirroredTips(rep.r, repo.Zero)
	if err != nil || tip == repo.Zero {
		return err
	}
	for _, m := range list {
		rep.forges[m.branch] = append(rep.forges[m.branch], m)
	}
	_, err = rep.signed(MirrorRef, tip)
	return err
}

// mirroredTip sees whether a tip that came from a forge was built, and green: then it may
// have a release.
func (rep *Report) mirroredTip(name string, m mirroredTip) error {
	tree, err := rep.r.TreeOf(m.new)
	if err != nil {
		return err
	}
	settings, err := tipSettings(rep.r,
		func(tree repo.Hash) (Settings, error) { return settingsIn(rep.r, name, tree) }, m.old, m.new)
	if _, wrong := yamlfile.ProblemsIn(err); wrong {
		return nil // it could not be built
	}
	if err != nil {
		return err
	}
	in, err := inputs(rep.r, tree, settings)
	if errors.Is(err, repo.ErrNoFile) {
		return nil
	}
	if err != nil {
		return err
	}
	vs, err := verdict.On(rep.r, tree)
	for in := range pinned(in, vs) {
		if v := vs.Of(in.Key()); v != nil && v.Result == verdict.Green {
			rep.built[m.new] = true
		}
	}
	return err
}

// landing checks one step of a branch.
func (rep *Report) landing(ctx context.Context, name string, old, new repo.Hash, l landed) error {
	where := change.Ref(l.story.Number)
	if grows, err := rep.r.Contains(ctx, new, old); err != nil {
		return err
	} else if !grows {
		rep.found(where, "moved %s from %s to %s, which does not hold it", l.story.Branch, show.Short(old.String()),
			show.Short(new.String()))
	}
	pushed := l.story.Revisions[l.event.Revision-1].Commit
	if holds, err := rep.r.Contains(ctx, new, pushed); err != nil {
		return err
	} else if !holds {
		rep.found(where, "landed as %s, which does not hold the pushed commit %s", show.Short(new.String()),
			show.Short(pushed.String()))
	}
	tree, err := rep.r.TreeOf(new)
	if err != nil {
		return err
	}
	settings, err := settingsIn(rep.r, name, tree)
	if err != nil {
		rep.found(where, "settings at %s: %v", show.Short(new.String()), err)
		return nil
	}
	settings = settings.filled()
	rules := []Settings{settings}
	if old != repo.Zero {
		before, err := rep.r.TreeOf(old)
		if err != nil {
			return err
		}
		branch, err := settingsIn(rep.r, name, before)
		if err != nil {
			rep.found(where, "settings at %s: %v", show.Short(old.String()), err)
			return nil
		}
		// Versions up to the first took all of it from the branch. Whichever was in force
		// then, the verdict's key says by which it was built.
		rules = []Settings{branch.building(settings), branch.filled()}
	}
	vs, err := verdict.On(rep.r, tree)
	if err != nil {
		return err
	}
	problem := ""
	for _, by := range rules {
		in, err := inputs(rep.r, tree, by)
		what := ""
		switch {
		case errors.Is(err, repo.ErrNoFile):
			what = "landed without " + by.Buildspec
		case err != nil:
			return err
		default:
			what = tested(vs, in, new, l.before)
			// What the server's own settings added, the verdict alone says.
			for _, v := range vs {
				if in.Server, in.Network = v.Server, v.Network; v.Server != "" && what != "" {
					what = tested(vs, in, new, l.before)
				}
			}
		}
		if what == "" {
			rep.Verdicts++
			return nil
		}
		if problem == "" {
			problem = what
		}
	}
	rep.found(where, "%s %s", show.Short(new.String()), problem)
	return nil
}

// tested says what is missing for a landing to have been built with inputs, and
// green, before; "" for nothing.
func tested(vs verdict.List, in verdict.Inputs, new repo.Hash, before []change.Event) (missing string) {
	for in := range pinned(in, vs) {
		if missing = testedIn(vs, in, new, before); missing == "" {
			break
		}
	}
	return missing
}

func testedIn(vs verdict.List, in verdict.Inputs, new repo.Hash, before []change.Event) string {
	if v := vs.Of(in.Key()); v == nil || v.Result != verdict.Green {
		return fmt.Sprintf("landed, and its tree %s has no green verdict for %s", show.Short(in.Tree.String()), in.Buildspec)
	}
	// The order of events, not of clocks: it was known to be green before it moved.
	if !slices.ContainsFunc(before, func(e change.Event) bool {
		return e.Kind == change.Tested && e.Candidate == new && e.Verdict == in.Key()
	}) {
		return "landed, and its log does not say before that it was green"
	}
	return ""
}

// unreleased finds landings without their release: since the first one, every
// landing on its branch is one.
func (rep *Report) unreleased(list []release.Release) {
	released, first := map[repo.Hash]bool{}, 0
	for i, rel := range list {
		released[rel.Commit] = true
		if i == 0 || rel.Number < first {
			first = rel.Number
		}
	}
	if first > 1 {
		rep.found(release.Ref(1), "is not there, and release %d is", first)
	}
	for branch, line := range rep.lines {
		if !slices.ContainsFunc(line, func(h repo.Hash) bool { return released[h] }) {
			continue
		}
		for _, h := range line { // newest first
			if released[h] {
				break
			}
			rep.found("refs/releases/", "no release is of %s, which landed on %s", show.Short(h.String()), branch)
		}
	}
}

func (rep *Report) releases(list []release.Release) {
	for _, rel := range list {
		ref := release.Ref(rel.Number)
		if err := rel.Verify(rep.r, rep.signers); err != nil {
			rep.found(ref, "%v", err)
			continue
		}
		rep.Signed++
		if !rep.landed[rel.Commit] && !rep.built[rel.Commit] {
			what := "which did not land"
			if len(rep.forges) > 0 {
				what += ", nor came from the forge and was green"
			}
			rep.found(ref, "is on %s, %s", show.Short(rel.Commit.String()), what)
			continue
		}
		rep.Releases++
	}
	rep.unreleased(list)
}
