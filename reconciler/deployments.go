package reconciler

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/reconciler/record"
)

// Wanted says whether a deployment belongs to a list. before is the one that it took
// the place of, nil if there was none.
type Wanted func(d, before *show.Deployed) (bool, error)

// Deployments is a part of an environment's history: the newest, from one of its
// commits on, or what came after one. With wanted it is those that are, of the first
// show.MaxLooked.
func (rc *Reconciler) Deployments(ctx context.Context, repository, name, from, after string,
	wanted Wanted) (page show.DeploymentPage, err error) {
	page.Deployments = []show.Deployed{}
	e, err := rc.Environment(ctx, access.Identity{}, repository, name)
	if err != nil || len(e.History) == 0 {
		return page, err
	}
	r, err := rc.repository(repository)
	if err != nil {
		return page, err
	}
	s, err := rc.load(ctx, r, name)
	if err != nil {
		return page, err
	}
	l := deployments{s: s, e: e, wanted: wanted}
	if l.tip, err = r.Ref(record.EnvironmentRef(name)); err != nil {
		return page, err
	}
	if page.Total, err = countDeployments(ctx, r, l.tip); err != nil {
		return page, err
	}
	if l.newest, err = record.HistoryFrom(r, s.application, l.tip, 1); err != nil {
		return page, err
	}

	switch {
	case after != "":
		at, err := deploymentAt(ctx, r, l.tip, name, after)
		if err != nil {
			return page, err
		}
		if whole, err := l.behind(ctx, at, &page); whole || err != nil {
			return page, err
		}
		page.Deployments = []show.Deployed{} // of the newest part, which is whole
		return page, l.before(l.tip, &page)
	case from != "":
		at, err := deploymentAt(ctx, r, l.tip, name, from)
		if err != nil {
			return page, err
		}
		if at != l.tip {
			page.Newer = at.String()
		}
		return page, l.before(at, &page)
	}
	return page, l.before(l.tip, &page)
}

// deployments is the history of an environment as it is listed.
type deployments struct {
	s      *snapshot
	e      show.Environment
	tip    repo.Hash
	newest []record.Commit // the one at tip
	wanted Wanted
}

// read reads so many from one on, and what the last of them replaced.
func (l *deployments) read(at repo.Hash, n int) ([]show.Deployed, []record.Commit, error) {
	part, err := record.HistoryFrom(l.s.repo, l.s.application, at, n+1)
	if err != nil {
		return nil, nil, err
	}
	return history(l.e, l.newest, part), part, nil
}

// fits says whether one of what was read belongs to the list.
func (l *deployments) fits(list []show.Deployed, i int) (bool, error) {
	if l.wanted == nil {
		return true, nil
	}
	var before *show.Deployed
	if i+1 < len(list) {
		before = &list[i+1]
	}
	return l.wanted(&list[i], before)
}

// before fills a page with what comes before at, which is the first.
func (l *deployments) before(at repo.Hash, page *show.DeploymentPage) error {
	for looked := 0; at != repo.Zero; looked += maxShown {
		if looked >= show.MaxLooked {
			page.Older = at.String()
			return nil
		}
		list, part, err := l.read(at, maxShown)
		if err != nil {
			return err
		}
		at = repo.Zero
		for i := range list {
			if i == maxShown {
				at = part[i].Hash
				break
			}
			if len(page.Deployments) == maxShown {
				page.Older = list[i].Commit
				return nil
			}
			switch fits, err := l.fits(list, i); {
			case err != nil:
				return err
			case fits:
				page.Deployments = append(page.Deployments, list[i])
			}
		}
		if len(page.Deployments) == maxShown && at != repo.Zero {
			page.Older = at.String()
			return nil
		}
	}
	return nil
}

// behind fills a page with what came after at, the nearest of it. It is not whole when
// there is no more than the newest part has.
func (l *deployments) behind(ctx context.Context, at repo.Hash, page *show.DeploymentPage) (whole bool, err error) {
	page.Older = at.String()
	defer func() {
		slices.Reverse(page.Deployments)
		if !whole {
			page.Older = ""
		}
	}()
	left, err := countDeployments(ctx, l.s.repo, at)
	if err != nil {
		return false, err
	}
	looked := min(page.Total-left, show.MaxLooked)
	if looked <= 0 {
		return false, nil
	}
	out, err := l.s.repo.Git(ctx, "rev-list", "--first-parent", fmt.Sprint("--max-count=", looked),
		fmt.Sprint("--skip=", page.Total-left-looked), "--end-of-options", l.tip.String())
	if err != nil {
		return false, err
	}
	commits := strings.Fields(string(out)) // the newest first
	if len(commits) != looked {
		return false, fmt.Errorf("list the deployments of %s: git named %d of %d", l.s.repo.Name(), len(commits), looked)
	}
	for end := looked; end > 0; {
		begin := max(0, end-maxShown)
		first, _ := repo.ParseHash(commits[begin])
		list, _, err := l.read(first, end-begin)
		if err != nil {
			return false, err
		}
		for i := min(end-begin, len(list)) - 1; i >= 0; i-- {
			if n := len(page.Deployments); n == maxShown {
				page.Newer = page.Deployments[n-1].Commit
				return true, nil
			}
			switch fits, err := l.fits(list, i); {
			case err != nil:
				return false, err
			case fits:
				page.Deployments = append(page.Deployments, list[i])
			}
		}
		end = begin
	}
	if looked == page.Total-left {
		return false, nil
	}
	page.Newer = commits[0]
	return true, nil
}

// countDeployments counts the commits of an environment from one on, but for the
// first, which declares nothing.
func countDeployments(ctx context.Context, r *repo.Repository, from repo.Hash) (int, error) {
	out, err := r.Git(ctx, "rev-list", "--count", "--min-parents=1", "--end-of-options", from.String())
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, fmt.Errorf("count the deployments of %s: git answered %q", r.Name(), out)
	}
	return n, nil
}

// deploymentAt is the commit of an environment that is meant by from.
func deploymentAt(ctx context.Context, r *repo.Repository, tip repo.Hash, name, from string) (repo.Hash, error) {
	at, err := resolve(ctx, r, from)
	if err != nil {
		return repo.Zero, err
	}
	in := false
	if at != repo.Zero {
		if in, err = r.Contains(ctx, tip, at); err != nil {
			return repo.Zero, err
		}
	}
	if !in {
		return repo.Zero, &show.Error{
			Kind:    show.NotFound,
			What:    fmt.Sprintf("there is no deployment %q in %s", from, name),
			Hint:    "see what there was",
			Command: "env log " + r.Name() + " " + name,
		}
	}
	return at, nil
}
