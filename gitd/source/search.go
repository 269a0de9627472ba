package source

import (
	"context"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
)

// maxFound is how many commits a search names in one repository.
const maxFound = 20

// Search finds commits of a branch: the one that query is the id of, or those
// whose message or author has all of it as it is written, whatever the case.
func Search(ctx context.Context, r *repo.Repository, tip repo.Hash, query string) ([]show.Commit, error) {
	if tip == repo.Zero || query == "" {
		return nil, nil
	}
	if len(query) >= 7 && strings.Trim(query, "0123456789abcdef") == "" {
		if h, err := Resolve(ctx, r, query); err == nil {
			return log(ctx, r, 1, "--end-of-options", h.String())
		}
	}

	// --grep and --author together would want both.
	found, err := log(ctx, r, maxFound, "-F", "-i", "--grep="+query, "--end-of-options", tip.String())
	if err != nil {
		return nil, err
	}
	by, err := log(ctx, r, maxFound, "-F", "-i", "--author="+query, "--end-of-options", tip.String())
	if err != nil {
		return nil, err
	}

	has := map[string]bool{}
	for _, c := range found {
		has[c.ID] = true
	}
	for _, c := range by {
		if !has[c.ID] {
			found = append(found, c)
		}
	}
	return found[:min(len(found), maxFound)], nil
}
