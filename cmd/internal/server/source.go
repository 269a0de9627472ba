package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/decision"
	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/source"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/change"
	"github.com/headgate-cd/headgate/hooks/release"
	"github.com/headgate-cd/headgate/hooks/verdict"
)

// Commit implements show.Backend.
func (s *Server) Commit(ctx context.Context, a access.Identity, name, revision string) (show.CommitPage, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.CommitPage{}, err
	}
	h, err := source.Resolve(ctx, r, revision)
	if err != nil {
		return show.CommitPage{}, err
	}
	return source.Commit(ctx, r, h)
}

// Commits implements show.Backend.
func (s *Server) Commits(ctx context.Context, a access.Identity, name, revision string) ([]show.Commit, bool, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return nil, false, err
	}
	h, err := source.Resolve(ctx, r, cmp.Or(revision, s.gate.Branch(name)))
	if err != nil {
		return nil, false, err
	}
	return source.Commits(ctx, r, repo.Zero, h)
}

// Content implements show.Backend.
func (s *Server) Content(ctx context.Context, a access.Identity, name, revision, path string) (show.Content, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Content{}, err
	}
	h, err := source.Resolve(ctx, r, revision)
	if err != nil {
		return show.Content{}, err
	}
	c, err := source.Content(r, h, path)
	c.Revision = revision
	return c, err
}

// Compare implements show.Backend.
func (s *Server) Compare(ctx context.Context, a access.Identity, name, from, to string) (show.Comparison, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Comparison{}, err
	}
	old, err := source.Resolve(ctx, r, from)
	if err != nil {
		return show.Comparison{}, err
	}
	head, err := source.Resolve(ctx, r, to)
	if err != nil {
		return show.Comparison{}, err
	}
	return source.Compare(ctx, r, old, head)
}

// ChangeDiff implements show.Backend.
func (s *Server) ChangeDiff(ctx context.Context, a access.Identity, name string,
	number, from, revision int) (show.Comparison, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Comparison{}, err
	}
	story, _, err := s.gate.Change(name, number)
	if errors.Is(err, change.ErrNone) {
		return show.Comparison{}, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("there is no change %d in %s", number, name),
			Hint: "see what there is", Command: "change list " + name,
		}
	}
	if err != nil {
		return show.Comparison{}, err
	}

	if revision == 0 {
		revision = story.Head().Number
	}
	last := len(story.Revisions)
	if revision < 1 || revision > last || from < 0 || from >= revision {
		what := fmt.Sprintf("change %d of %s has no revision %d", number, name, max(revision, from))
		if from >= revision && revision <= last {
			what = fmt.Sprintf("revision %d is not older than revision %d", from, revision)
		}
		return show.Comparison{}, &show.Error{
			Kind: show.NotFound,
			What: what,
			Hint: fmt.Sprintf("it has revisions 1 to %d", last),
		}
	}

	head := story.Revisions[revision-1].Commit
	base, err := s.baseOf(ctx, r, story, head)
	if err != nil {
		return show.Comparison{}, err
	}
	if from == 0 {
		return source.Compare(ctx, r, base, head)
	}
	old := story.Revisions[from-1].Commit
	oldBase, err := s.baseOf(ctx, r, story, old)
	if err != nil {
		return show.Comparison{}, err
	}
	return source.Between(ctx, r, oldBase, old, base, head)
}

// baseOf is the commit of the branch that a revision of a change stands on. Once
// it has landed the branch holds the revision itself: then it is what the branch
// was before.
func (s *Server) baseOf(ctx context.Context, r *repo.Repository, story change.Change,
	head repo.Hash) (repo.Hash, error) {
	if landing, ok := story.Landing(); ok && landing.New != repo.Zero {
		return source.Base(ctx, r, landing.Old, head)
	}
	tip, err := r.Ref("refs/heads/" + story.Branch)
	if err != nil {
		return repo.Zero, err
	}
	base, err := source.Base(ctx, r, tip, head)
	if err != nil || base != head {
		return base, err
	}

	c, err := r.Commit(head) // another change brought it
	if err != nil || len(c.ParentHashes) == 0 {
		return repo.Zero, err
	}
	return c.ParentHashes[0], nil
}

// ReleaseDiff implements show.Backend.
func (s *Server) ReleaseDiff(ctx context.Context, a access.Identity, name string,
	from, to int) (show.Comparison, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Comparison{}, err
	}
	read := func(number int) (release.Release, error) {
		rel, err := s.gate.ReleasesOf(name).Read(number)
		if errors.Is(err, release.ErrNone) {
			err = noRelease(name, number)
		}
		return rel, err
	}

	next, err := read(to)
	if err != nil {
		return show.Comparison{}, err
	}
	var old release.Release
	if from != 0 {
		if old, err = read(from); err != nil {
			return show.Comparison{}, err
		}
	}

	c, err := source.Compare(ctx, r, old.Commit, next.Commit)
	if err != nil {
		return c, err
	}
	c.FromRelease, c.ToRelease = from, to
	c.Artifacts = s.artifactDiffs(ctx, old.Artifacts, next.Artifacts)
	return c, nil
}

// Bounds of a comparison of artifacts.
const (
	maxArtifact      = 512 << 20 // bytes unpacked; a larger one is not looked into
	maxArtifactFiles = 200       // that differ and are listed
	artifactTimeout  = 10 * time.Second
)

// artifactDiffs compares what two releases deliver, file by file.
func (s *Server) artifactDiffs(ctx context.Context, old, next []verdict.Artifact) []show.ArtifactDiff {
	ctx, cancel := context.WithTimeout(ctx, artifactTimeout)
	defer cancel()

	was := map[string]verdict.Artifact{}
	for _, a := range old {
		was[a.Name] = a
	}
	var all []show.ArtifactDiff
	for _, a := range next {
		d := show.ArtifactDiff{
			Name:  a.Name,
			To:    a.Digest,
			From:  was[a.Name].Digest,
			Size:  a.Size,
			State: show.FileChanged,
		}
		switch d.From {
		case "":
			d.State = show.FileAdded
		case d.To:
			d.State = show.FileSame
		default:
			s.artifactFiles(ctx, &d)
		}
		delete(was, a.Name)
		all = append(all, d)
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		all = append(all, show.ArtifactDiff{Name: name, State: show.FileRemoved, From: was[name].Digest})
	}
	return all
}

// artifactFiles fills in which files of an artifact differ, or why that is not
// known: an old artifact may have been cleared away.
func (s *Server) artifactFiles(ctx context.Context, d *show.ArtifactDiff) {
	old, err := s.artifacts.List(ctx, d.From, maxArtifact)
	if err != nil {
		d.Why = err.Error()
		return
	}
	next, err := s.artifacts.List(ctx, d.To, maxArtifact)
	if err != nil {
		d.Why = err.Error()
		return
	}

	was := map[string]artifact.Content{}
	for _, f := range old {
		was[f.Path] = f
	}
	var files []show.ArtifactFile
	for _, f := range next {
		before, there := was[f.Path]
		delete(was, f.Path)
		switch {
		case !there:
			files = append(files, show.ArtifactFile{Path: f.Path, State: show.FileAdded, To: f.Size})
		case before.Digest != f.Digest:
			files = append(files, show.ArtifactFile{
				Path:  f.Path,
				State: show.FileChanged,
				From:  before.Size,
				To:    f.Size,
			})
		}
	}
	for path, f := range was {
		files = append(files, show.ArtifactFile{Path: path, State: show.FileRemoved, From: f.Size})
	}
	slices.SortFunc(files, func(a, b show.ArtifactFile) int { return cmp.Compare(a.Path, b.Path) })
	if len(files) > maxArtifactFiles {
		files, d.Cut = files[:maxArtifactFiles], true
	}
	d.Files = files
}

// Decision implements show.Backend.
func (s *Server) Decision(ctx context.Context, a access.Identity, name, id string) (show.Decision, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return show.Decision{}, err
	}
	saved, err := decision.Find(ctx, r, id)
	if errors.Is(err, decision.ErrNone) {
		return show.Decision{}, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("there is no decision %q in %s", id, name),
		}
	}
	return decisionOf(name, saved), err
}

// Decisions implements show.Backend.
func (s *Server) Decisions(ctx context.Context, a access.Identity, name, before string) ([]show.Decision, bool, error) {
	r, err := s.readable(a, name)
	if err != nil {
		return nil, false, err
	}
	at, ok := repo.ParseHash(before)
	if before != "" && !ok {
		return nil, false, &show.Error{Kind: show.Usage, What: fmt.Sprintf("%q is not a commit", before)}
	}
	saved, more, err := decision.List(ctx, r, at, show.Newest)
	if errors.Is(err, decision.ErrNone) {
		return nil, false, &show.Error{
			Kind: show.NotFound,
			What: fmt.Sprintf("%s is not a decision of %s", before, name),
		}
	}
	list := []show.Decision{}
	for _, d := range saved {
		one := decisionOf(name, d)
		one.Document = ""
		list = append(list, one)
	}
	return list, more, err
}

func decisionOf(name string, d decision.Saved) show.Decision {
	return show.Decision{
		Repository: name,
		ID:         decision.ID(d.Commit),
		Commit:     d.Commit.String(),
		At:         d.At,
		Question:   d.Query,
		About:      d.About,
		Answer:     d.Answer,
		Policy:     d.Policy,
		Digest:     d.Digest,
		Document:   string(d.JSON),
	}
}

// Bounds of a search.
const (
	maxQuery      = 200
	maxFound      = 20 // of each kind
	searchTimeout = 5 * time.Second
)

// Search implements show.Backend.
func (s *Server) Search(ctx context.Context, a access.Identity, query string) (show.Found, error) {
	found := show.Found{
		Query:        query,
		Repositories: []show.Repository{},
		Changes:      []show.Change{},
		Commits:      []show.FoundCommit{},
		Lines:        []show.FoundLine{},
	}
	query = strings.TrimSpace(query)
	if query == "" {
		return found, nil
	}
	if len(query) > maxQuery {
		return found, &show.Error{Kind: show.Usage, What: fmt.Sprintf("a search is at most %d bytes", maxQuery)}
	}
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()

	all, err := s.Repositories(ctx, a)
	if err != nil {
		return found, err
	}
	for _, view := range all {
		if has(query, view.Name, view.Description) {
			found.Repositories = append(found.Repositories, view)
		}
		if view.State == show.Damaged {
			continue
		}
		if err := s.searchIn(ctx, a, view, query, &found); err != nil {
			found.Cut = true // what was found is true all the same
			if ctx.Err() != nil {
				break // time was up
			}
			s.log.Error("a repository cannot be searched", "repo", view.Name, "err", err)
		}
	}

	slices.SortStableFunc(found.Changes, func(x, y show.Change) int { return y.PushedAt.Compare(x.PushedAt) })
	slices.SortStableFunc(found.Commits, func(x, y show.FoundCommit) int { return y.At.Compare(x.At) })
	found.Cut = found.Cut || len(found.Changes) > maxFound || len(found.Commits) > maxFound
	found.Changes = found.Changes[:min(len(found.Changes), maxFound)]
	found.Commits = found.Commits[:min(len(found.Commits), maxFound)]
	s.glanceAtLogs(whole, a, &found)
	return found, nil
}

// glanceAtLogs adds lines of what was built lately.
func (s *Server) glanceAtLogs(ctx context.Context, a access.Identity, found *show.Found) {
	ctx, cancel := context.WithTimeout(ctx, logGlanceTimeout)
	defer cancel()
	for l, err := range s.SearchLogs(ctx, a, show.LogSearch{Text: found.Query, Lines: maxGlancedLines}) {
		if cut := (*show.SearchCut)(nil); errors.As(err, &cut) {
			found.LinesCut = cut.Error()
			return
		}
		if err != nil {
			s.log.Error("logs cannot be searched", "err", err)
			found.LinesCut = "logs cannot be searched; the server's log says why"
			return
		}
		found.Lines = append(found.Lines, l)
	}
}

// searchIn looks through one repository.
func (s *Server) searchIn(ctx context.Context, a access.Identity, view show.Repository, query string,
	found *show.Found) error {
	r, err := s.readable(a, view.Name)
	if err != nil {
		return err
	}
	queue := s.gate.Queue(view.Name)
	number, matches := strings.TrimPrefix(query, "#"), 0
	sought := func(of change.Summary) bool {
		return number == strconv.Itoa(of.Number) || has(query, of.Subject, of.By, of.Author) ||
			strings.HasPrefix(of.Head.String(), query)
	}
	for story, err := range s.gate.Changes(view.Name).Find(sought) {
		if err != nil {
			return err
		}
		c, err := s.summary(r, story, entryOf(queue, story.Number))
		if err != nil {
			return err
		}
		found.Changes = append(found.Changes, c)
		if matches++; matches > maxFound || ctx.Err() != nil {
			break
		}
	}

	tip, ok := repo.ParseHash(view.Tip)
	if !ok {
		return nil
	}
	commits, err := source.Search(ctx, r, tip, query)
	if err != nil {
		return err
	}
	for _, c := range commits {
		found.Commits = append(found.Commits, show.FoundCommit{Repository: view.Name, Commit: c})
	}
	return nil
}

// has reports whether one of the texts has query in it, whatever the case.
func has(query string, texts ...string) bool {
	query = strings.ToLower(query)
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(strings.ToLower(text), query) })
}
