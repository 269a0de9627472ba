package decision

import (
	"context"
	"fmt"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
)

// Chain is the whole record of decisions of a clone, read and checked.
type Chain struct {
	Findings []string // what is not as it must be, a line each
	Signed   int      // commits whose signature was checked

	there  bool
	places map[repo.Hash]int // from 1
	list   []Saved           // oldest first
}

// Verify reads the chain of a clone. It checks that each record is signed and at
// its place, that pauses and rejections are signed, and that what it says of the server's other records still holds: where
// a record saw one of them, that one has gone on from there. Earlier versions wrote
// neither: their records are checked for what they say. The error is for what keeps
// it from reading.
func Verify(ctx context.Context, r *repo.Repository, signers repo.Signers) (*Chain, error) {
	c := &Chain{places: map[repo.Hash]int{}}
	tip, err := r.Ref(Ref)
	if err != nil {
		return c, fmt.Errorf("verify decisions: %w", err)
	}
	c.there = tip != repo.Zero
	for at := tip; at != repo.Zero; {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		kind, raw, err := r.Raw(at)
		if err != nil {
			return c, fmt.Errorf("verify decisions: %w", err)
		}
		if err := signers.VerifyObject(kind, raw); err != nil {
			c.found("%s at %s %v", Ref, ID(at), err)
		}
		c.Signed++
		s, parent, err := read(r, at)
		if err != nil {
			c.found("%s at %s does not read as a decision", Ref, ID(at))
		}
		s.Commit = at
		c.list = append(c.list, s)
		at = parent
	}
	for i, j := 0, len(c.list)-1; i < j; i, j = i+1, j-1 {
		c.list[i], c.list[j] = c.list[j], c.list[i]
	}
	for i, s := range c.list {
		c.places[s.Commit] = i + 1
		if s.Number != 0 && s.Number != i+1 {
			c.found("%s at %s says that it is decision %d, and it is number %d", Ref, ID(s.Commit), s.Number, i+1)
		}
	}
	if err := c.acts(ctx, r, signers); err != nil {
		return c, fmt.Errorf("verify decisions: %w", err)
	}
	return c, c.witnessed(r)
}

// The lines of what people have decided beside the log: pauses of landing, by branch,
// and rejections, by environment.
const (
	Landings   = "refs/decisions/landing/"
	Rejections = "refs/decisions/rejected/"
)

// acts checks that what people have decided is signed.
func (c *Chain) acts(ctx context.Context, r *repo.Repository, signers repo.Signers) error {
	for _, lines := range []struct {
		refs string
		last int // parents of the first commit of a line: a rejection's is what was rejected
	}{{Landings, 0}, {Rejections, 1}} {
		refs, err := r.Refs(lines.refs)
		if err != nil {
			return err
		}
		for _, ref := range refs {
			for at := ref.Hash; at != repo.Zero; {
				if err := ctx.Err(); err != nil {
					return err
				}
				kind, raw, err := r.Raw(at)
				if err != nil {
					return err
				}
				if err := signers.VerifyObject(kind, raw); err != nil {
					c.found("%s at %s %v", ref.Name, at, err)
				}
				c.Signed++
				commit, err := r.Commit(at)
				if err != nil {
					return err
				}
				if at = repo.Zero; len(commit.ParentHashes) > lines.last {
					at = commit.ParentHashes[0]
				}
			}
		}
	}
	return nil
}

func (c *Chain) found(format string, args ...any) {
	c.Findings = append(c.Findings, fmt.Sprintf(format, args...))
}

// Absent says that a decision that is named elsewhere is not in the chain; "" when
// it is, at the place that is named (0: none is).
func (c *Chain) Absent(commit repo.Hash, place int) string {
	switch at := c.places[commit]; {
	case !c.there:
		return fmt.Sprintf("names decision %s, and %s is not there", ID(commit), Ref)
	case at == 0:
		return fmt.Sprintf("names decision %s, which is not in %s: that was rewound or replaced", ID(commit), Ref)
	case place != 0 && place != at:
		return fmt.Sprintf("names decision %s as number %d of %s, where it is number %d", ID(commit), place, Ref, at)
	}
	return ""
}

// Decided reports whether there is a decision of a query about a subject, which may
// go on after a comma or a "by".
func (c *Chain) Decided(query, about string) bool {
	for i := len(c.list) - 1; i >= 0; i-- {
		rest, ok := strings.CutPrefix(c.list[i].About, about)
		if ok && c.list[i].Query == query && (rest == "" || rest[0] == ' ' || rest[0] == ',') {
			return true
		}
	}
	return false
}

// witnessed checks that each of the server's records holds all that a decision has
// seen of it.
func (c *Chain) witnessed(r *repo.Repository) error {
	seen := map[string]map[repo.Hash]bool{} // ref → commits that it holds
	told := map[string]bool{}
	environments := map[repo.Hash]bool{} // of all environments: one may have another name now
	refs, err := r.Refs("refs/")
	if err != nil {
		return err
	}
	for _, ref := range refs {
		name := ref.Name
		if rest, remote := strings.CutPrefix(name, "refs/remotes/"); remote {
			_, branch, _ := strings.Cut(rest, "/")
			name = "refs/heads/" + branch
		}
		if strings.HasPrefix(name, environmentPrefix) {
			if err := line(r, ref.Hash, environments); err != nil {
				return err
			}
		}
	}
	for i := len(c.list) - 1; i >= 0; i-- {
		for _, ref := range c.list[i].Moved {
			holds := environments
			if !strings.HasPrefix(ref.Name, environmentPrefix) {
				if holds = seen[ref.Name]; holds == nil {
					holds = map[repo.Hash]bool{}
					tip, err := r.Ref(ref.Name)
					if err != nil {
						return err
					}
					if err := line(r, tip, holds); err != nil {
						return err
					}
					seen[ref.Name] = holds
				}
			}
			if !holds[ref.Hash] && !told[ref.Name] {
				told[ref.Name] = true
				what := "was rewound or replaced"
				if len(holds) == 0 {
					what = "is not there"
				}
				c.found("%s %s: decision %s has seen it at %s", ref.Name, what, ID(c.list[i].Commit), ref.Hash)
			}
		}
	}
	return nil
}

const environmentPrefix = "refs/heads/env/"

// line adds a commit and its first parents; of a tag, the tag alone.
func line(r *repo.Repository, at repo.Hash, into map[repo.Hash]bool) error {
	for at != repo.Zero && !into[at] {
		into[at] = true
		kind, _, err := r.Raw(at)
		if err != nil {
			return err
		}
		if kind != "commit" {
			return nil
		}
		c, err := r.Commit(at)
		if err != nil {
			return err
		}
		if at = repo.Zero; len(c.ParentHashes) > 0 {
			at = c.ParentHashes[0]
		}
	}
	return nil
}
