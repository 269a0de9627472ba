package web

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// noTokens: the console has nothing to do with tokens.
type noTokens = show.Tokens

// sources is a show.Source of fixed facts.
type sources struct {
	noTokens
	text  string // in place of all that somebody wrote, when set
	asked int    // differences that were worked out
	fails error
}

func (s *sources) said(text string) string {
	if s.text != "" {
		return s.text
	}
	return text
}

// comparison has a file of every kind.
func (s *sources) comparison(repo string) show.Comparison {
	lines := func(n int) []show.DiffLine {
		all := []show.DiffLine{{Kind: "@", Text: fmt.Sprintf("@@ -1,3 +1,%d @@", n)}}
		for i := range n {
			all = append(all, show.DiffLine{Kind: []string{" ", "-", "+"}[i%3], Text: s.said(fmt.Sprintf("line %d", i))})
		}
		return all
	}
	return show.Comparison{
		Repository: repo,
		From:       commit("51aa0d3"),
		To:         commit("9f1c2ab"),
		Commits: []show.Commit{
			{ID: commit("9f1c2ab"), Parents: []string{commit("51aa0d3")}, Subject: s.said("Round tax per line"),
				Author: s.said("jun"), At: at("13:48:00")},
			{ID: commit("aa01"), Subject: s.said("Prepare rounding"), Author: s.said("jun"), At: at("13:40:00")},
		},
		Files: []show.FileDiff{
			{Path: s.said("headgate.yaml"), State: show.FileChanged, Added: 1, Removed: 1, Rule: true, Lines: lines(3)},
			{Path: s.said("basket/tax.go"), State: show.FileChanged, Added: 30, Removed: 30, Lines: lines(90), Cut: true},
			{Path: s.said("basket/round.go"), From: s.said("basket/rounding.go"), State: show.FileRenamed, OldMode: "100644",
				Mode: "100755"},
			{Path: s.said("logo.png"), State: show.FileAdded, Binary: true},
		},
		Changed: 9,
		Added:   1031,
		Removed: 31,
		Cut:     true,
		Git:     []string{"git diff 51aa0d3 9f1c2ab"},
		Artifacts: []show.ArtifactDiff{
			{Name: s.said("app"), State: show.FileChanged, From: "sha256:02fe61", To: "sha256:8c41b0", Size: 8_412_300,
				Files: []show.ArtifactFile{{Path: s.said("bin/shop"), State: show.FileChanged, From: 8_000_000, To: 8_100_000}}},
			{Name: s.said("docs"), State: show.FileChanged, From: "sha256:1", To: "sha256:2",
				Why: s.said("the store does not hold it")},
			{Name: s.said("assets"), State: show.FileSame, From: "sha256:3", To: "sha256:3"},
		},
	}
}

func (s *sources) Commit(_ context.Context, _ access.Identity, repo, revision string) (show.CommitPage, error) {
	if strings.HasPrefix(revision, "0000") {
		return show.CommitPage{}, &show.Error{Kind: show.NotFound, What: "there is no such commit"}
	}
	c := s.comparison(repo)
	return show.CommitPage{
		Commit:     c.Commits[0],
		Repository: repo,
		Tree:       commit("5b1de09"),
		Message:    s.said("Half a cent was lost on every line.\n\nSigned-off-by: jun"),
		Difference: c,
	}, nil
}

func (s *sources) Commits(_ context.Context, _ access.Identity, repo, revision string) ([]show.Commit, bool, error) {
	return s.comparison(repo).Commits, revision == "", nil
}

func (s *sources) Content(_ context.Context, _ access.Identity, repo, revision, path string) (show.Content, error) {
	c := show.Content{Repository: repo, Revision: revision, Commit: commit("9f1c2ab"), Path: path}
	switch path {
	case "":
		c.Kind = show.Directory
		c.Entries = []show.TreeEntry{
			{Name: s.said("basket"), Kind: show.Directory, Hash: commit("1")},
			{Name: s.said("vendor"), Kind: show.Submodule, Hash: commit("2")},
			{Name: s.said("a b#?%.go"), Kind: show.File, Hash: commit("3")},
		}
	case "logo.png":
		c.Kind, c.Binary, c.Size = show.File, true, 2048
	case "basket/tax.go":
		c.Kind, c.Size, c.Text = show.File, 40, s.said("package basket\n\n// <b>no markup</b>\n")
	default:
		return c, &show.Error{Kind: show.NotFound, What: "there is no such file"}
	}
	return c, nil
}

func (s *sources) Compare(_ context.Context, _ access.Identity, repo, _, _ string) (show.Comparison, error) {
	return s.comparison(repo), s.fails
}

func (s *sources) ChangeDiff(_ context.Context, _ access.Identity, repo string,
	_, from, _ int) (show.Comparison, error) {
	s.asked++
	c := s.comparison(repo)
	c.Artifacts, c.Rebased = nil, from > 0
	return c, s.fails
}

func (s *sources) ReleaseDiff(_ context.Context, _ access.Identity, repo string,
	from, to int) (show.Comparison, error) {
	s.asked++
	c := s.comparison(repo)
	c.FromRelease, c.ToRelease = from, to
	return c, s.fails
}

func (s *sources) decision(repo string) show.Decision {
	return show.Decision{
		Repository: repo,
		ID:         "d-5aa10e3",
		Commit:     commit("5aa10e3"),
		At:         at("13:58:10"),
		Question:   "promote",
		About:      s.said("release 186 to staging"),
		Answer:     "auto",
		Policy:     "sha256:5aa1",
		Digest:     "sha256:77",
		Document:   `{"input":{"release":186},"answer":{"decision":"auto"}}`,
	}
}

func (s *sources) Decision(_ context.Context, _ access.Identity, repo, id string) (show.Decision, error) {
	if id != "d-5aa10e3" {
		return show.Decision{}, &show.Error{Kind: show.NotFound, What: "there is no such decision"}
	}
	return s.decision(repo), nil
}

func (s *sources) Decisions(_ context.Context, _ access.Identity, repo, before string) ([]show.Decision, bool, error) {
	deny := s.decision(repo)
	deny.ID, deny.Answer, deny.About, deny.Question = "d-0000001", "deny", s.said("refs/heads/main by mallory"), "push"
	return []show.Decision{s.decision(repo), deny}, before == "", nil
}

func (s *sources) Search(_ context.Context, a access.Identity, query string) (show.Found, error) {
	found := show.Found{Query: query}
	if a.User == "outsider" || query == "nothing" {
		return found, nil
	}
	found.Repositories = []show.Repository{{Name: "checkout", Description: s.said("Baskets, payment, receipts")}}
	found.Changes = []show.Change{changeOf("checkout", 409, s.said("Round tax per line, not per basket"), "jun",
		show.Landed, at("13:49:00"), at("13:58:02"))}
	found.Commits = []show.FoundCommit{{Repository: "checkout", Commit: s.comparison("checkout").Commits[0]}}
	line := show.FoundLine{Repository: "checkout", Change: 411, Build: "sha256:e47110000000aa", BuiltAt: at("13:40:00"), Step: 1,
		Phase: "build", Command: s.said("go test ./..."), Line: 88, At: show.Duration(2e9), Text: s.said("round tax: no relation")}
	again, nightly := line, line
	again.Line, again.Text = 90, "tax again"
	nightly.Change, nightly.Schedule, nightly.Run, nightly.Build = 0, "nightly", 7, "nightly-7"
	found.Lines = []show.FoundLine{line, again, nightly}
	found.LinesCut = "time was up"
	found.Cut = true
	return found, nil
}

// TestADifferenceIsWorkedOutOnce: a page that redraws four times a second asks
// git once.
func TestADifferenceIsWorkedOutOnce(t *testing.T) {
	h := fullBackend()
	b := signedIn(t, console(h), "ada")
	for range 3 {
		b.get("/checkout/promote/production")
	}
	if h.asked != 1 {
		t.Errorf("asked %d times", h.asked)
	}
}

// TestPagesStandWithoutTheirDifference: an approver is told that it is missing.
func TestPagesStandWithoutTheirDifference(t *testing.T) {
	for _, c := range []struct {
		fails error
		want  string
	}{
		{fmt.Errorf("open /srv/secret: too many open files"), "the difference could not be worked out"},
		{&show.Error{Kind: show.Again, What: "this takes longer than 20s to work out"}, "This takes longer than 20s"},
	} {
		h := fullBackend()
		h.fails = c.fails
		b := signedIn(t, console(h), "ada")
		for _, path := range []string{"/checkout/promote/production", "/checkout/changes/411", "/checkout/releases/186",
			"/checkout/changes/411/diff"} {
			a := b.get(path)
			if a.StatusCode != http.StatusOK || !strings.Contains(strings.ToLower(a.body), strings.ToLower(c.want)) ||
				strings.Contains(a.body, "/srv/secret") {
				t.Errorf("%s with %v: %s", path, c.fails, a.Status)
			}
		}
	}
}

// TestWhatIsNotThere names what is.
func TestWhatIsNotThere(t *testing.T) {
	b := signedIn(t, console(fullBackend()), "ada")
	for _, path := range []string{
		"/checkout/commits/0000000", "/checkout/tree/9f1c2ab?path=nothing", "/checkout/decisions/d-1234567",
		"/checkout/env/production/1234567",
		"/checkout/changes/411/diff?revision=9", "/checkout/changes/411/diff?from=3", "/checkout/changes/411/diff?from=x",
	} {
		if a := b.get(path); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
}

// Deployments are the history of the environment, from a commit on.
func (h *backend) Deployments(ctx context.Context, a access.Identity,
	repo, env string, f show.DeploymentFilter) (show.DeploymentPage, error) {
	e, err := h.Environment(ctx, a, repo, env)
	found := show.DeploymentPage{Total: len(e.History)}
	if err != nil || found.Total == 0 {
		return found, err
	}
	i := slices.IndexFunc(e.History, func(d show.Deployed) bool { return strings.HasPrefix(d.Commit, f.From+f.After) })
	if i < 0 {
		return found, &show.Error{Kind: show.NotFound, What: "there is no such deployment"}
	}
	if f.After != "" {
		i = max(0, i-show.Deployments)
	}
	list := slices.Clone(e.History[i:])
	for i := range list[:len(list)-1] {
		list[i].From = list[i+1].Release
	}
	if i > 0 {
		found.Newer = e.History[i].Commit
	}
	list = slices.DeleteFunc(list, func(d show.Deployed) bool { return f.Outcome != "" && d.Outcome != f.Outcome })
	if len(list) > show.Deployments {
		found.Older, list = list[show.Deployments].Commit, list[:show.Deployments]
	}
	found.Deployments = list
	return found, nil
}
