package gate

import (
	"context"
	"fmt"
	"slices"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// landing is a swap that is about to happen: branch from tip to commit, which
// claims to hold the heads of some changes.
type landing struct {
	branch string
	tip    repo.Hash // Zero: the first landing
	commit repo.Hash
	heads  []repo.Hash
}

// assertion is one that failed. It means a fault in the gate, never in a change.
type assertion struct {
	name string // ancestor, verdict, contained, paths
	what string
}

func (a *assertion) Error() string { return "assertion " + a.name + ": " + a.what }

// assert checks what must hold before any swap, from the objects and notes
// alone: nothing that the loop remembers is believed. It returns the verdict
// that lets the commit land, and the paths that landing changes. An error that
// is no *assertion means that it could not be checked.
func (l *loop) assert(ctx context.Context, x landing) (verdict.Verdict, []string, error) {
	if err := l.assertAncestor(ctx, x); err != nil {
		return verdict.Verdict{}, nil, err
	}
	v, err := l.assertVerdict(x)
	if err != nil {
		return v, nil, err
	}
	if err := l.assertContained(ctx, x); err != nil {
		return v, nil, err
	}
	paths, err := l.assertPaths(ctx, x)
	return v, paths, err
}

// assertAncestor: the branch only ever grows.
func (l *loop) assertAncestor(ctx context.Context, x landing) error {
	ok, err := l.contains(ctx, x.commit, x.tip)
	if err == nil && !ok {
		err = &assertion{"ancestor", fmt.Sprintf("%s at %s is no ancestor of candidate %s", x.branch,
			show.Short(x.tip.String()), show.Short(x.commit.String()))}
	}
	return err
}

// assertVerdict: the very tree that lands is green, built as it says itself, with
// what the branch lets a build reach.
func (l *loop) assertVerdict(x landing) (verdict.Verdict, error) {
	settings, err := l.settings(x.commit)
	if err != nil {
		return verdict.Verdict{}, err
	}
	if x.tip != repo.Zero {
		branch, err := l.settings(x.tip)
		if err != nil {
			return verdict.Verdict{}, err
		}
		settings = branch.building(settings)
	}
	tree, err := l.r.TreeOf(x.commit)
	if err != nil {
		return verdict.Verdict{}, err
	}
	settings.Server = l.server()
	in, err := inputs(l.r, tree, settings)
	if err != nil {
		return verdict.Verdict{}, err
	}
	vs, err := verdict.On(l.r, tree)
	if err != nil {
		return verdict.Verdict{}, err
	}
	for in := range pinned(in, vs) {
		if v := vs.Of(in.Key()); v != nil && v.Result == verdict.Green {
			return *v, nil
		}
	}
	return verdict.Verdict{}, &assertion{"verdict", fmt.Sprintf("tree %s of candidate %s has no green verdict for %s",
		show.Short(tree.String()), show.Short(x.commit.String()), in.Buildspec)}
}

// assertContained: every change that is said to land does.
func (l *loop) assertContained(ctx context.Context, x landing) error {
	if len(x.heads) == 0 {
		return &assertion{"contained", fmt.Sprintf("candidate %s claims no change", show.Short(x.commit.String()))}
	}
	for _, head := range x.heads {
		ok, err := l.contains(ctx, x.commit, head)
		if err != nil {
			return err
		}
		if !ok {
			return &assertion{"contained",
				fmt.Sprintf("candidate %s does not hold %s", show.Short(x.commit.String()), show.Short(head.String()))}
		}
	}
	return nil
}

// assertPaths: landing changes nothing but what the changes changed, each since
// it left the branch.
func (l *loop) assertPaths(ctx context.Context, x landing) ([]string, error) {
	paths, err := l.r.ChangedPaths(ctx, x.tip, x.commit)
	if err != nil {
		return nil, err
	}
	theirs := map[string]bool{}
	for _, head := range x.heads {
		base := x.tip
		if forward, err := l.contains(ctx, head, x.tip); err != nil {
			return nil, err
		} else if !forward {
			if base, err = l.mergeBase(ctx, x.tip, head); err != nil {
				return nil, err
			}
		}
		if base == x.tip && head == x.commit {
			return paths, nil // the same two commits: the same paths
		}
		touched, err := l.r.ChangedPaths(ctx, base, head)
		if err != nil {
			return nil, err
		}
		for _, p := range touched {
			theirs[p] = true
		}
	}
	if i := slices.IndexFunc(paths, func(p string) bool { return !theirs[p] }); i >= 0 {
		return nil, &assertion{"paths",
			fmt.Sprintf("candidate %s would change %s, which none of its changes did", show.Short(x.commit.String()), paths[i])}
	}
	return paths, nil
}
