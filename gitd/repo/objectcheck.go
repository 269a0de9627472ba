package repo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
)

// maxDamagedObjects is how many objects are named: one bad disk block is in few, and
// who has lost more restores all.
const maxDamagedObjects = 50

// What git fsck says of one object: that it cannot be read, and that it is wanted.
var (
	corruptForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^error: ([0-9a-f]{40}): object corrupt or missing`)
	})
	packedForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^error: (?:cannot unpack|packed|.*unpack entry|failed to read) ?([0-9a-f]{40})\b`)
	})
	missingForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^missing ([a-z]+) ([0-9a-f]{40})(?: \((.{1,200})\))?`)
	})
)

// DamagedObjects reads every object of the repository and follows what refers to
// what: it names those that cannot be read or are missing, by their place where git
// knows it. Damaged refs are Inspect's; with them it may not get to the objects.
func (r *Repository) DamagedObjects(ctx context.Context) ([]string, error) {
	cmd := r.Command(ctx, "fsck", "--full", "--no-dangling", "--no-progress", "--name-objects")
	var out bounded
	out.max = 4 << 20
	cmd.Stdout, cmd.Stderr = &out, &out
	failed := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}

	said := map[string]string{} // by object
	var other string
	for lines := bufio.NewScanner(bytes.NewReader(out.Bytes())); lines.Scan(); {
		line := lines.Text()
		if m := missingForm().FindStringSubmatch(line); m != nil {
			said[m[2]] = fmt.Sprintf("%s %s is missing or cannot be read", m[1], m[2])
			if m[3] != "" {
				said[m[2]] += fmt.Sprintf(" (%s)", m[3])
			}
			continue
		}
		m := corruptForm().FindStringSubmatch(line)
		if m == nil {
			m = packedForm().FindStringSubmatch(line)
		}
		if m == nil {
			other = line
			continue
		}
		if said[m[1]] == "" {
			said[m[1]] = fmt.Sprintf("object %s cannot be read", m[1])
		}
	}

	var what []string
	for _, s := range said {
		what = append(what, s)
	}
	slices.Sort(what)
	if more := len(what) - maxDamagedObjects; more > 0 {
		what = append(what[:maxDamagedObjects], fmt.Sprintf("%d more objects cannot be read", more))
	}
	if failed != nil && len(what) == 0 {
		return nil, fmt.Errorf("git fsck: %w: %s", failed, other)
	}
	return what, nil
}
