package reconciler

import (
	"context"
	"fmt"
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

// Deployments is a part of an environment's history: the newest, or from one of its
// commits on. With wanted it is those that are, of the first show.MaxLooked.
func (rc *Reconciler) Deployments(ctx context.Context, repository, name, from string,
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
	tip, err := r.Ref(record.EnvironmentRef(name))
	if err != nil {
		return page, err
	}
	if page.Total, err = countDeployments(ctx, r, tip); err != nil {
		return page, err
	}

	at := tip
	if from != "" {
		if at, err = deploymentAt(ctx, r, tip, name, from); err != nil {
			return page, err
		}
		switch {
		case at == tip:
		case wanted != nil:
			page.Newer = tip.String()
		default:
			if page.Newer, err = newerThan(ctx, r, tip, at, page.Total); err != nil {
				return page, err
			}
		}
	}
	newest, err := record.HistoryFrom(r, s.application, tip, 1)
	if err != nil {
		return page, err
	}
	for looked := 0; at != repo.Zero; looked += maxShown {
		if looked >= show.MaxLooked {
			page.Older = at.String()
			return page, nil
		}
		part, err := record.HistoryFrom(r, s.application, at, maxShown+1) // one more, for what the last replaced
		if err != nil {
			return page, err
		}
		at = repo.Zero
		list := history(e, newest, part)
		for i := range list {
			if i == maxShown {
				at = part[i].Hash
				break
			}
			if len(page.Deployments) == maxShown {
				page.Older = list[i].Commit
				return page, nil
			}
			if wanted != nil {
				var before *show.Deployed
				if i+1 < len(list) {
					before = &list[i+1]
				}
				switch fits, err := wanted(&list[i], before); {
				case err != nil:
					return page, err
				case !fits:
					continue
				}
			}
			page.Deployments = append(page.Deployments, list[i])
		}
		if len(page.Deployments) == maxShown && at != repo.Zero {
			page.Older = at.String()
			return page, nil
		}
	}
	return page, nil
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

// newerThan is the commit with which the part begins that ends before at, "" when at
// is the newest of total.
func newerThan(ctx context.Context, r *repo.Repository, tip, at repo.Hash, total int) (string, error) {
	left, err := countDeployments(ctx, r, at)
	if err != nil || left >= total {
		return "", err
	}
	skip := max(0, total-left-maxShown)
	out, err := r.Git(ctx, "rev-list", "--first-parent", "--max-count=1", fmt.Sprint("--skip=", skip),
		"--end-of-options", tip.String())
	return strings.TrimSpace(string(out)), err
}
