package server

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/hooks/release"
)

// bounds are how many of a numbered list a part holds, and how many are looked at for it.
type bounds struct{ most, looked int }

// page is a part of a list, newest first, of what has one of the numbers, which ascend:
// what read finds at a number's place, and says is wanted.
func page[T any](numbers []int, part show.Part, b bounds,
	read func(at int) (item T, wanted bool, err error)) (list []T, beside show.Beside, err error) {
	low, _ := slices.BinarySearch(numbers, part.After+1)
	high := len(numbers)
	if part.Before > 0 {
		high, _ = slices.BinarySearch(numbers, part.Before)
	}
	upwards := part.After > 0 && part.Before == 0

	start, end := low, max(low, high) // of what is to be looked at yet
	high = end
	for looked := 0; start < end && looked < b.looked && len(list) < b.most; looked++ {
		at := end - 1
		if upwards {
			at = start
		}
		item, wanted, err := read(at)
		if err != nil {
			return nil, beside, err
		}
		if wanted {
			list = append(list, item)
		}
		if upwards {
			start++
		} else {
			end--
		}
	}
	if upwards {
		high = start
		slices.Reverse(list)
	} else {
		low = end
	}

	switch { // the part is numbers[low:high]
	case low == 0:
	case low < len(numbers):
		beside.Older = numbers[low]
	default:
		beside.Older = numbers[low-1] + 1
	}
	if high < len(numbers) {
		beside.Newer = numbers[high] - 1
	}
	return list, beside, nil
}

// named reports whether an author that somebody looks for is one of the users, or is named by a commit.
func named(author, commit string, users ...string) bool {
	return author == "" || slices.ContainsFunc(users, func(u string) bool { return strings.EqualFold(u, author) }) ||
		strings.Contains(strings.ToLower(commit), strings.ToLower(author))
}

// differs reports whether two commits differ in a file or directory; Zero is nothing.
func differs(ctx context.Context, r *repo.Repository, from, to repo.Hash, path string) (bool, error) {
	base := from.String()
	if from == repo.Zero {
		base = emptyTree
	}
	_, err := r.Git(ctx, "--literal-pathspecs", "diff-tree", "-r", "--quiet", base, to.String(), "--", path)
	var differ *repo.GitError
	if errors.As(err, &differ) && differ.Exit == 1 {
		return true, nil
	}
	return false, err
}

// emptyTree is what the first commit of a repository stands on.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// wrote reports whether an author had part in what landed as a release.
func wrote(r *repo.Repository, rel release.Release, author string) (bool, error) {
	if users := append([]string{rel.Manifest.By}, rel.AlsoBy...); named(author, "", users...) {
		return true, nil
	}
	c, err := r.Commit(rel.Commit)
	if err != nil {
		return false, err
	}
	return named(author, c.Author.Name), nil
}
