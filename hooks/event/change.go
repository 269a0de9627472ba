package event

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/release"
)

// Reader says what it means that a ref of r moved from one commit (Zero: it was
// not there) to another: its events, oldest first. Events has an ID that is
// unique among those of the commit they are read from.
type Reader func(ctx context.Context, r *repo.Repository, ref string, from, to repo.Hash) ([]Event, error)

// Chain walks the first parents from to down to from, which is left out, and
// returns them oldest first. A log never goes back; where from is not found, for
// it was cut off by hand, all are returned.
func Chain(r *repo.Repository, from, to repo.Hash) ([]repo.Hash, error) {
	var chain []repo.Hash
	for at := to; at != from && at != repo.Zero; {
		c, err := r.Commit(at)
		if err != nil {
			return nil, err
		}
		chain = append(chain, at)
		if len(c.ParentHashes) == 0 {
			break
		}
		at = c.ParentHashes[0]
	}
	slices.Reverse(chain)
	return chain, nil
}

// readChange reads the log of a change.
func readChange(_ context.Context, r *repo.Repository, ref string, from, to repo.Hash) ([]Event, error) {
	middle, ok := strings.CutSuffix(strings.TrimPrefix(ref, changePrefix), "/log")
	number, err := strconv.Atoi(middle)
	if !ok || err != nil {
		return nil, nil // refs/changes/<n>/head says nothing that the log does not
	}
	c, err := change.Of(r).Read(number)
	if err != nil {
		return nil, err
	}
	unread, err := Chain(r, from, to)
	if err != nil {
		return nil, err
	}

	var events []Event
	for _, e := range c.Events {
		if slices.Contains(unread, e.Commit) {
			events = append(events, ofChange(c, e)...)
		}
	}
	return events, nil
}

// ofChange is what one event of a change's log tells others.
func ofChange(c change.Change, e change.Event) []Event {
	revision := c.Revisions[e.Revision-1]
	subject := fmt.Sprintf("%s/changes/%d", c.Repository, c.Number)
	base := Event{
		ID:         e.Commit.String(),
		Kind:       access.ChangeEvents,
		At:         e.At,
		Repository: c.Repository,
		Subject:    subject,
		Content:    changeContent{Repository: reference{ID: c.Repository}},
		Data: Data{
			Branch:   c.Branch,
			Change:   c.Number,
			Revision: e.Revision,
			Commit:   revision.Commit.String(),
			By:       revision.By,
			Cause:    string(e.Cause),
			Reason:   e.Reason,
			URL:      "/" + subject,
		},
	}

	switch e.Kind {
	case change.Pushed:
		base.Type = ChangeUpdated
		if e.Revision == 1 {
			base.Type = ChangeCreated
			base.Content = changeContent{Description: revision.Subject, Repository: reference{ID: c.Repository}}
		}
	case change.Waits:
		base.Type = ChangeWaiting
		if !e.Until.IsZero() {
			base.Data.Until = &e.Until
		}
	case change.Tested:
		return []Event{built(base, e, "success")}
	case change.Landed:
		base.Type, base.Kind = ChangeMerged, access.LandingEvents
		if e.New != repo.Zero {
			base.Data.Commit = e.New.String()
		}
	case change.Withdrawn:
		base.Type = ChangeAbandoned
	case change.Refused, change.Conflict:
		base.Type = ChangeRefused
		if e.Kind == change.Conflict {
			base.Data.Cause = string(change.Conflict)
		}
		if e.Cause == change.BuildFailed {
			return []Event{built(base, e, "failure"), base}
		}
	default:
		return nil
	}
	return []Event{base}
}

// built is the end of the build that an event of a change's log tells of.
func built(of Event, e change.Event, outcome string) Event {
	of.ID += "-build"
	of.Type, of.Kind = BuildFinished, access.BuildEvents
	of.Content, of.Subject = nil, of.Repository+"/builds/"+e.Tree.String()
	of.Data.Outcome, of.Data.Tree, of.Data.Log = outcome, e.Tree.String(), e.Log
	if e.Candidate != repo.Zero {
		of.Data.Commit = e.Candidate.String()
	}
	return of
}

// readRelease reads the tag of a release.
func readRelease(_ context.Context, r *repo.Repository, ref string, _, _ repo.Hash) ([]Event, error) {
	number, err := strconv.Atoi(strings.TrimPrefix(ref, releasePrefix))
	if err != nil {
		return nil, nil
	}
	rel, err := release.Of(r).Read(number)
	if err != nil {
		return nil, err
	}
	base := Event{
		ID:         rel.Tag.String(),
		Type:       ReleaseCreated,
		Kind:       access.ReleaseEvents,
		At:         rel.Manifest.At.UTC(),
		Repository: r.Name(),
		Subject:    PackageURL(r.Name(), number, ""),
		Data: Data{
			Branch:  rel.Branch,
			Release: number,
			Commit:  rel.Commit.String(),
			Tree:    rel.Tree,
			By:      rel.Manifest.By,
			URL:     fmt.Sprintf("/%s/releases/%d", r.Name(), number),
		},
	}
	if len(rel.Changes) > 0 {
		base.Data.Change = rel.Changes[0]
	}
	for _, a := range rel.Artifacts {
		base.Data.Artifacts = append(base.Data.Artifacts, Artifact{
			ID:     PackageURL(r.Name(), number, a.Name),
			Name:   a.Name,
			Digest: a.Digest,
			Size:   a.Size,
		})
	}

	events := []Event{base}
	for i, a := range base.Data.Artifacts {
		published := base
		published.ID += "-" + strconv.Itoa(i)
		published.Type, published.Subject = ArtifactPublished, a.ID
		published.Content = publishedContent{User: rel.Manifest.By}
		published.Data.Artifacts = []Artifact{a}
		events = append(events, published)
	}
	return events, nil
}
