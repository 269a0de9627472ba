package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// noon is the moment of every fixture: a Tuesday, as on the design's pictures.
var noon = time.Date(2026, 11, 24, 14, 3, 51, 0, time.UTC)

func at(clock string) time.Time {
	t, err := time.Parse("15:04:05", clock)
	if err != nil {
		panic(err)
	}
	return time.Date(2026, 11, 24, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// unasked is what no page shows.
type unasked interface {
	show.Execs
	show.Members
	show.Agents
	show.Secrets
	show.Forges
	show.Events
}

// backend is a show.Backend of fixed facts, with news that a test can make.
type backend struct {
	sources
	unasked

	mu       sync.Mutex // guards all
	repos    []show.Repository
	changes  map[string][]show.Change
	releases map[string][]show.Release
	logs     map[string][]show.LogEvent     // by repository/number
	printed  map[string][]show.InstanceLine // by repository/environment
	grow     chan struct{}                  // closed when a log has grown
	watchers map[chan struct{}]string
	promos   map[string]show.Promotion // by repository/environment
	acts     []string
	broken   error // what every question is answered with
	server   show.Server
}

func commit(seed string) string {
	return fmt.Sprintf("%s%0*x", seed, 40-len(seed), 0xabc)
}

func (h *backend) Server(context.Context) show.Server { return h.server }

func (h *backend) Repositories(_ context.Context, a access.Identity) ([]show.Repository, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return nil, h.broken
	}
	if a.User == "outsider" {
		return nil, nil
	}
	return slices.Clone(h.repos), nil
}

func (h *backend) Repository(_ context.Context, a access.Identity, name string) (show.Repository, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return show.Repository{}, h.broken
	}
	for _, r := range h.repos {
		if r.Name == name && a.User != "outsider" {
			if r.State == show.Damaged {
				return show.Repository{}, &show.Error{
					Kind:  show.Again,
					What:  r.Reason,
					Where: []string{"refs/heads/main is empty"},
					Hint:  "an administrator of this server can look at it with: headgate doctor",
				}
			}
			return r, nil
		}
	}
	return show.Repository{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no repository %q", name)}
}

func (h *backend) Changes(_ context.Context, _ access.Identity, repo string,
	f show.ChangeFilter) (show.ChangePage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.changes[repo]
	found := show.ChangePage{Total: len(all)}
	for _, c := range all {
		switch {
		case f.State != "" && c.State != f.State, f.Author != "" && c.By != f.Author,
			f.Before > 0 && c.Number >= f.Before, f.After > 0 && c.Number <= f.After:
			continue
		}
		found.Changes = append(found.Changes, c)
	}
	if n := len(found.Changes); !f.All && n > show.Newest {
		found.Changes = found.Changes[:show.Newest]
		found.Older = found.Changes[show.Newest-1].Number
	}
	if f.Before > 0 {
		found.Newer = f.Before - 1
	}
	return found, nil
}

func (h *backend) Change(_ context.Context, _ access.Identity, repo string, n int) (show.Change, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.changes[repo] {
		if c.Number == n {
			c.MayWithdraw = c.EndedAt.IsZero()
			c.MayRetry = !c.MayWithdraw && c.State != show.Landed
			return c, nil
		}
	}
	return show.Change{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no change %d in %s", n, repo)}
}

func (h *backend) Log(ctx context.Context, _ access.Identity, repo string, n int,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		for i := 0; ; {
			h.mu.Lock()
			events, grow := h.logs[fmt.Sprintf("%s/%d", repo, n)], h.grow
			h.mu.Unlock()
			for ; i < len(events); i++ {
				if !yield(events[i], nil) || events[i].Kind == "done" {
					return
				}
			}
			if !follow {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-grow:
			}
		}
	}
}

// BuildLog is that of an earlier build of change 411.
func (h *backend) BuildLog(ctx context.Context, a access.Identity, repo string, n int,
	log string) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		if n != 411 || log != "e47110000000" {
			yield(show.LogEvent{}, &show.Error{Kind: show.NotFound, What: "there is no such build"})
			return
		}
		for _, e := range []show.LogEvent{
			{Kind: show.LogStep, Step: 1, Phase: "build", Command: "go test ./..."},
			{Kind: show.LogOut, Step: 1, Line: 1, Text: "legacy_code of an earlier build"},
			{Kind: show.LogEnd, Step: 1, Exit: 1},
			{Kind: show.LogDone},
		} {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// SearchLogs finds nothing: pages ask Search.
func (h *backend) SearchLogs(context.Context, access.Identity, show.LogSearch) iter.Seq2[show.FoundLine, error] {
	return func(func(show.FoundLine, error) bool) {}
}

// say adds events to a log under the eyes of its readers.
func (h *backend) say(repo string, n int, events ...show.LogEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := fmt.Sprintf("%s/%d", repo, n)
	h.logs[key] = append(slices.Clone(h.logs[key]), events...)
	close(h.grow)
	h.grow = make(chan struct{})
}

// watched waits until n live pages watch: only then is their stream open.
func (h *backend) watched(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(time.Millisecond) {
		got := h.watching()
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pages watch, want %d", got, n)
		}
	}
}

func (h *backend) watching() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// change alters facts and tells the watchers.
func (h *backend) change(repo string, act func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	act()
	for c, of := range h.watchers {
		if of == "" || of == repo {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

func (h *backend) SBOM(ctx context.Context, a access.Identity, repo string, n int) ([]byte, error) {
	if r, err := h.Release(ctx, a, repo, n); err != nil || r.SBOM == nil {
		return nil, cmp.Or(err, error(&show.Error{Kind: show.NotFound, What: "there is no bill of materials"}))
	}
	return []byte(`{"bomFormat": "CycloneDX"}`), nil
}

func (h *backend) Releases(_ context.Context, _ access.Identity, repo string,
	f show.ReleaseFilter) (show.ReleasePage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := show.ReleasePage{Total: len(h.releases[repo])}
	for _, r := range h.releases[repo] {
		switch {
		case f.Author != "" && r.By != f.Author, f.Before > 0 && r.Number >= f.Before, r.Number <= f.After:
			continue
		case len(found.Releases) == show.Newest && !f.All:
			found.Older = r.Number + 1
			return found, nil
		}
		found.Releases = append(found.Releases, r)
	}
	if f.Before > 0 {
		found.Newer = f.Before - 1
	}
	return found, nil
}

func (h *backend) Release(ctx context.Context, a access.Identity, repo string, n int) (show.Release, error) {
	found, _ := h.Releases(ctx, a, repo, show.ReleaseFilter{})
	for i, r := range found.Releases {
		if r.Number == n {
			if i+1 < len(found.Releases) {
				r.Before = found.Releases[i+1].Number
			}
			if r.SBOM != nil {
				r.Provenance = &show.Provenance{
					Buildspec: "buildspec.yml",
					Image:     "host",
					Built:     r.Commit,
					Builder:   "ssh:SHA256:pZcYv7oW0dQnq2bq8pYw3l9m5r1tXxkJ2h4uE6sVtIo",
					Started:   r.At.Add(-4 * time.Minute),
					Finished:  r.At.Add(-20 * time.Second),
					Envelope:  json.RawMessage(`{"payloadType":"application/vnd.in-toto+json"}`),
				}
			}
			return r, nil
		}
	}
	return show.Release{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no release %d in %s", n, repo)}
}

func (h *backend) Environment(ctx context.Context, a access.Identity, repo, env string) (show.Environment, error) {
	r, err := h.Repository(ctx, a, repo)
	if err != nil {
		return show.Environment{}, err
	}
	for _, e := range r.Environments {
		if e.Name == env {
			return e, nil
		}
	}
	return show.Environment{}, &show.Error{Kind: show.NotFound,
		What: fmt.Sprintf("there is no environment %q in %s", env, repo)}
}

// InstanceLogs yields what there is, and with Follow what a test adds.
func (h *backend) InstanceLogs(ctx context.Context, a access.Identity, repo, env string,
	q show.LogQuery) iter.Seq2[show.InstanceLine, error] {
	return func(yield func(show.InstanceLine, error) bool) {
		if _, err := h.Environment(ctx, a, repo, env); err != nil {
			yield(show.InstanceLine{}, err)
			return
		}
		for seen := 0; ; {
			h.mu.Lock()
			lines, grow := h.printed[repo+"/"+env], h.grow
			h.mu.Unlock()
			for _, l := range lines[seen:] {
				seen++
				if (q.Service == "" || q.Service == l.Service) && !yield(l, nil) {
					return
				}
			}
			if !q.Follow {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-grow:
			}
		}
	}
}

func (h *backend) Promotion(_ context.Context, a access.Identity, repo, env string) (show.Promotion, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.promos[repo+"/"+env]
	if !ok {
		return p, &show.Error{Kind: show.NotFound, What: "nothing waits to be promoted to " + env}
	}
	if a.User == "mirek" {
		p.MayApprove, p.WhyNot = false, "you wrote part of what it carries, and nobody approves their own change"
	}
	return p, nil
}

func (h *backend) Why(_ context.Context, _ access.Identity, repo, thing string) (show.Why, error) {
	if thing == "411" {
		return show.Why{Answer: "411 was refused", State: show.Refused, Next: []string{"git push origin main"},
			Checks: []show.Check{
				{Rule: "owner", Title: "Owner of db/** approves", Met: true, Detail: "jun, for revision 3, 13:59:40"},
				{Rule: "verdict", Title: "Green verdict for the tree", Detail: "refused, see the verdict", UntilPerson: true,
					Who: []string{"ada"}},
			}}, nil
	}
	return show.Why{}, &show.Error{Kind: show.NotFound, What: "nothing is known about " + thing}
}

func (h *backend) CreateRepository(context.Context, access.Identity, string, string) (show.Done, error) {
	return show.Done{}, &show.Error{Kind: show.Forbidden, What: "not here"}
}

func (h *backend) Set(context.Context, access.Identity, string, access.Switch, bool) (show.Done, error) {
	return show.Done{}, &show.Error{Kind: show.Forbidden, What: "not here"}
}

func (h *backend) Approve(_ context.Context, a access.Identity, repo, env, tree, reason string) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.promos[repo+"/"+env]
	if !ok {
		return show.Done{}, &show.Error{Kind: show.NotFound, What: "nothing waits to be promoted to " + env}
	}
	if a.User == "mirek" {
		return show.Done{}, &show.Error{Kind: show.Forbidden, What: "nobody approves their own change"}
	}
	if tree != "" && tree != p.Tree {
		return show.Done{}, &show.Error{Kind: show.Denied, What: "the proposal has changed since you read it",
			Hint: "read it again"}
	}
	h.acts = append(h.acts, fmt.Sprintf("approve %s %s %s %q as %s via %s", repo, env, tree, reason, a.User, a.Via))
	p.Approvals = append(slices.Clone(p.Approvals),
		show.Approval{By: a.User, At: noon, Via: string(a.Via), Tree: p.Tree, Why: reason})
	p.MayApprove, p.WhyNot = false, "you have approved it already"
	h.promos[repo+"/"+env] = p
	return show.Done{What: "approved 183 -> 186 for production, tree 6f0a1e2, as " + a.User,
		Next: "now waits for soak until 15:00 UTC", State: show.Waits}, nil
}

func (h *backend) Withdraw(_ context.Context, a access.Identity, repo string, number int) (show.Done, error) {
	return h.end("withdraw", a, repo, number)
}

func (h *backend) Replace(_ context.Context, a access.Identity, repo string, number, _ int) (show.Done, error) {
	return h.end("replace", a, repo, number)
}

func (h *backend) Retry(_ context.Context, a access.Identity, repo string, number int) (show.Done, error) {
	return h.end("retry", a, repo, number)
}

func (h *backend) end(act string, a access.Identity, repo string, number int) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.User == "mirek" {
		return show.Done{}, &show.Error{Kind: show.Forbidden, What: "it is not yours to " + act}
	}
	h.acts = append(h.acts, fmt.Sprintf("%s %s %d as %s via %s", act, repo, number, a.User, a.Via))
	return show.Done{What: act + " done"}, nil
}

func (h *backend) Reject(_ context.Context, a access.Identity, repo, env, tree, reason string) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts = append(h.acts, fmt.Sprintf("reject %s %s %s %q as %s via %s", repo, env, tree, reason, a.User, a.Via))
	return show.Done{What: "rejected release 186 for " + env, Next: "it is not proposed again until somebody says so"}, nil
}

func (h *backend) Choose(_ context.Context, a access.Identity, repo, env string, release int) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts = append(h.acts, fmt.Sprintf("choose %s %s %d as %s via %s", repo, env, release, a.User, a.Via))
	return show.Done{What: fmt.Sprintf("proposed release %d for %s", release, env)}, nil
}

func (h *backend) Paused(ctx context.Context, a access.Identity, repository string) ([]show.Pause, error) {
	r, err := h.Repository(ctx, a, repository)
	return r.Paused, err
}

func (h *backend) PauseLanding(_ context.Context, a access.Identity, _, branch, reason string) (show.Done, error) {
	return show.Done{What: "landing on " + branch + " is paused by " + a.User + ": " + reason}, nil
}

func (h *backend) ResumeLanding(_ context.Context, a access.Identity, _, branch, _ string) (show.Done, error) {
	return show.Done{What: "landing on " + branch + " is resumed, as " + a.User}, nil
}

func (h *backend) RenameEnvironment(_ context.Context, _ access.Identity,
	repository, environment, to string) (show.Done, error) {
	return show.Done{What: "proposed as change 31: " + environment + " of " + repository + " is called " + to,
		State: show.Queued}, nil
}

func (h *backend) Scale(_ context.Context, _ access.Identity, repository, environment, service string,
	count int) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("proposed as change 31: %s in %s of %s: %d", service, environment, repository,
		count), State: show.Queued}, nil
}

func (h *backend) Rollback(_ context.Context, a access.Identity, repo, env string, release int,
	reason string) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts = append(h.acts, fmt.Sprintf("rollback %s %s %d %q as %s via %s", repo, env, release, reason, a.User, a.Via))
	return show.Done{What: fmt.Sprintf("rolled back %s to %d", env, release), Next: "hold set"}, nil
}

func (h *backend) Watch(repo string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	h.watchers[c] = repo
	h.mu.Unlock()
	return c, sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, c)
		close(c)
	})
}

func (h *backend) did() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.acts)
}

// Schedules answers for checkout with one that runs well, and one that fails.
func (h *backend) Schedules(_ context.Context, a access.Identity, repo string) ([]show.Schedule, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if repo != "checkout" {
		return nil, nil
	}
	green := show.Run{
		Number: 12,
		At:     at("03:00:00"),
		Commit: commit("9f1c2ab"),
		Build:  show.Build{State: show.Green, Log: "log-12", Started: at("03:00:01"), Finished: at("03:20:00")},
	}
	failed := show.Run{
		Number: 3,
		At:     at("06:00:00"),
		Late:   true,
		Commit: commit("9f1c2ab"),
		Build: show.Build{
			State:    show.Failed,
			Reason:   `build: "make soak" exited 2`,
			Log:      "log-3",
			Started:  at("06:30:00"),
			Finished: at("07:02:00"),
		},
	}
	return []show.Schedule{
		{
			Repository: repo,
			Name:       "nightly",
			Cron:       "0 3 * * *",
			Zone:       "Europe/Prague",
			Branch:     "main",
			Buildspec:  "nightly.yml",
			State:      show.Green,
			Next:       at("03:00:00").Add(24 * time.Hour),
			Last:       &green,
		},
		{
			Repository: repo,
			Name:       "soak",
			Cron:       "@every 6h",
			Branch:     "main",
			Buildspec:  "soak.yml",
			Notify:     "release",
			State:      show.Failed,
			Next:       at("18:00:00"),
			Last:       &failed,
			NotifyYou:  a.User == "ada",
			MayRun:     a.User == "ada",
		},
	}, nil
}

func (h *backend) Schedule(ctx context.Context, a access.Identity, repo, name string) (show.Schedule, error) {
	all, _ := h.Schedules(ctx, a, repo)
	for _, s := range all {
		if s.Name == name {
			s.Runs = []show.Run{*s.Last}
			return s, nil
		}
	}
	return show.Schedule{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("there is no schedule %q", name)}
}

func (h *backend) ScheduleLog(ctx context.Context, a access.Identity, repo, _ string, _ int,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return h.Log(ctx, a, repo, 411, follow)
}

func (h *backend) RunSchedule(_ context.Context, a access.Identity, repo, name string) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts = append(h.acts, fmt.Sprintf("run %s %s as %s", repo, name, a.User))
	return show.Done{What: "run 4 of " + name + " is on its way"}, nil
}

func (h *backend) Pause(context.Context, access.Identity, string, string, string) (show.Done, error) {
	return show.Done{What: "paused"}, nil
}

func (h *backend) Continue(context.Context, access.Identity, string, string) (show.Done, error) {
	return show.Done{What: "goes on"}, nil
}

func (h *backend) StopDeployment(_ context.Context, a access.Identity, repo, env, reason string) (show.Done, error) {
	return h.acted("stop %s %s %s as %s", repo, env, reason, a.User)
}

func (h *backend) RetryDeployment(_ context.Context, a access.Identity, repo, env, host string) (show.Done, error) {
	return h.acted("retry %s %s %s as %s", repo, env, host, a.User)
}

func (h *backend) SkipHost(_ context.Context, a access.Identity, repo, env, host string) (show.Done, error) {
	return h.acted("skip %s %s %s as %s", repo, env, host, a.User)
}

// acted notes an act.
func (h *backend) acted(format string, args ...any) (show.Done, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acts = append(h.acts, fmt.Sprintf(format, args...))
	return show.Done{What: "it is so"}, nil
}

// exampleCoverage is that of two reports of checkout.
func exampleCoverage() []show.CoverageSeries {
	var all []show.CoverageSeries
	for name, covered := range map[string][]int{"": {1603, 1631, 1627}, "checkout-unit": {803, 806, 811}} {
		s := show.CoverageSeries{Report: name, Branch: "main"}
		for i, n := range covered {
			p := show.CoveragePoint{At: time.Date(2026, 11, 24, 12+i, 0, 0, 0, time.UTC), Change: 407 + i, Commit: "9f1c2abffff",
				Tree: "77e03b1ffff", Covered: n, Lines: 1000}
			if name == "" {
				p.Lines = 2000
			}
			p.Percent = 100 * float64(n) / float64(p.Lines)
			s.Points = append(s.Points, p)
		}
		s.Points[0].Change, s.Points[0].Schedule = 0, "nightly"
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b show.CoverageSeries) int { return strings.Compare(a.Report, b.Report) })
	return all
}

// exampleTests are what the builds of checkout have said.
func exampleTests() []show.Test {
	at := time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC)
	return []show.Test{
		{
			Name: "basket.TestVoucher", State: show.Failed, Builds: 3, Failed: 2, Took: show.Duration(40 * time.Millisecond),
			FlakyAt: at, Tree: "51aa0d3ffff",
			Runs: []show.TestRun{
				{At: at, State: show.Failed, Change: 411, Commit: "9f1c2abffff", Tree: "77e03b1ffff", Log: "c-411",
					Message: "no relation <b>\u202etxt\nvoucher_test.go:88"},
				{At: at.Add(-time.Hour), State: show.Green, Change: 410, Commit: "51aa0d3ffff", Tree: "51aa0d3ffff", Log: "c-410",
					Took: show.Duration(40 * time.Millisecond)},
				{At: at.Add(-2 * time.Hour), State: show.Failed, Commit: "51aa0d3ffff", Tree: "51aa0d3ffff", Log: "nightly-7",
					Message: "timed out"},
			},
		},
		{Name: "basket.TestRound", State: show.Failed, Builds: 3, Failed: 1, Took: show.Duration(2 * time.Second)},
		{Name: "basket.TestImport", State: show.Skipped, Builds: 3},
		{Name: "basket.TestTotal", State: show.Green, Builds: 3, Took: show.Duration(75 * time.Second)},
	}
}

func (h *backend) ChangeTests(_ context.Context, _ access.Identity, repository string,
	number int) (show.TestReport, error) {
	if repository != "checkout" || number != 409 {
		return show.TestReport{}, &show.Error{Kind: show.NotFound,
			What: fmt.Sprintf("no test reports are kept of change %d of %s", number, repository)}
	}
	before := 80.25
	r := show.TestReport{
		Repository: repository, Change: number, Total: 120, Failed: 2, Skipped: 1,
		Coverage: &show.Coverage{Covered: 811, Lines: 1000, Before: &before},
	}
	for _, t := range exampleTests() {
		k := show.TestCase{Name: t.Name, State: t.State, Took: t.Took, FlakyAt: t.FlakyAt}
		if len(t.Runs) > 0 {
			k.Message = t.Runs[0].Message
		}
		r.Tests = append(r.Tests, k)
	}
	return r, nil
}

func (h *backend) Tests(_ context.Context, _ access.Identity, repository string) (show.TestSummary, error) {
	if repository != "checkout" {
		return show.TestSummary{Repository: repository}, nil
	}
	s := show.TestSummary{Repository: repository, Builds: 3,
		Since: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Flaky: 1, Coverage: exampleCoverage()}
	for _, t := range exampleTests() {
		t.Runs = nil
		s.Tests = append(s.Tests, t)
	}
	return s, nil
}

func (h *backend) Test(_ context.Context, _ access.Identity, repository, name string) (show.Test, error) {
	for _, t := range exampleTests() {
		if repository == "checkout" && t.Name == name {
			return t, nil
		}
	}
	return show.Test{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("no build of %s that is kept has run a test %q",
		repository, name), Hint: "see them", Command: "test list " + repository}
}

// Connections are one that is well and one that fails.
func (h *backend) Connections(_ context.Context, a access.Identity) ([]show.Connection, error) {
	if len(h.promos) == 0 || a.User == "outsider" {
		return nil, nil
	}
	return []show.Connection{
		{
			Name:         "hub",
			Forge:        "github",
			Repository:   "tarn/catalogue",
			URL:          "https://github.com/tarn/catalogue.git",
			Mirror:       "catalogue",
			Webhook:      "https://git.tarn.example/webhooks/hub",
			State:        show.Healthy,
			Secrets:      []show.SecretUse{{Name: "hub-hook-2", Used: 3, Last: at("13:51:20")}, {Name: "hub-hook"}},
			LastDelivery: at("13:51:20"),
			Silent:       show.Duration(12*time.Minute + 31*time.Second),
			LastSync:     at("13:51:21"),
			NextPoll:     at("14:11:21"),
			Pending:      1,
			Kept:         4,
			Recovered:    3,
			LastLost:     at("09:14:00"),
			Hook:         "off",
			MayAct:       a.User == "ada",
			Follows:      true,
			Requests:     2,
		},
		{
			Name:       "lab",
			Forge:      "gitlab",
			Repository: "tarn/ledger",
			URL:        "https://gitlab.com/tarn/ledger.git",
			Mirror:     "ledger",
			Webhook:    "https://git.tarn.example/webhooks/lab",
			State:      show.Failed,
			Unset:      []string{"lab-hook"},
			Failing:    "list the refs at the forge: unable to access 'https://gitlab.com/tarn/ledger.git/': The requested URL returned error: 503",
			RetryAt:    at("14:04:40"),
			MayAct:     a.User == "ada",
		},
	}, nil
}

// Publications are one that is well, but for what somebody has moved.
func (h *backend) Publications(_ context.Context, a access.Identity) ([]show.Publication, error) {
	if len(h.promos) == 0 || a.User == "outsider" {
		return nil, nil
	}
	return []show.Publication{{
		Name:       "away",
		Forge:      "gitea",
		Repository: "catalogue",
		URL:        "ssh://git@codeberg.org/tarn/catalogue.git",
		State:      show.Drift,
		Refs:       12,
		LastStep:   at("13:51:23"),
		Diverged:   []string{"refs/heads/docs"},
	}}, nil
}

// Deliveries are one of each outcome.
func (h *backend) Deliveries(_ context.Context, _ access.Identity, name string) ([]show.Delivery, error) {
	if name != "hub" {
		return nil, nil
	}
	return []show.Delivery{
		{Connection: name, Number: 4, ID: "d4", Event: "pull_request", At: at("13:51:20"), Secret: "hub-hook",
			Outcome: "pending", Detail: "tried again, for it failed: the forge is busy (HTTP 429) and wants to be asked again in 40s"},
		{Connection: name, Number: 3, ID: "d3", Event: "push", At: at("13:50:02"), Secret: "hub-hook", Outcome: "applied",
			Detail: "main at 9f1c2ab", Duplicates: 2},
		{Connection: name, Number: 2, ID: "d2", Event: "star", At: at("11:00:00"), Secret: "hub-hook", Outcome: "ignored",
			Detail: `event "star" is not used`},
		{Connection: name, Number: 1, ID: "d1", Event: "pull_request", At: at("10:59:00"), Secret: "hub-hook",
			Outcome: "failed", Detail: "it names no request"},
	}, nil
}

// TestConnection and Replay note that they were asked for.
func (h *backend) TestConnection(_ context.Context, a access.Identity, name string) (show.Done, error) {
	return h.end("test", a, name, 0)
}

func (h *backend) Replay(_ context.Context, a access.Identity, name string, delivery int64) (show.Done, error) {
	return h.end("replay", a, name, int(delivery))
}

// Agents are three machines: one well, one that has drifted and is drained, one away.
func (h *backend) Agents(context.Context, access.Identity) ([]show.Agent, error) {
	if len(h.promos) == 0 {
		return []show.Agent{}, nil
	}
	return []show.Agent{
		{
			Name:      "web-1",
			Tags:      map[string]string{"role": "web", "zone": "a"},
			Connected: true,
			Since:     at("09:12:00"),
			From:      "192.0.2.17",
			Version:   "v1.4.0",
			Runs: []show.AgentRuns{
				{Repository: "checkout", Environment: "production", Application: "checkout", Release: 182, State: show.Healthy},
				{Repository: "web", Environment: "production", Application: "web", Release: 9, State: show.Healthy},
			},
		},
		{
			Name:         "web-2",
			Tags:         map[string]string{"role": "web", "zone": "b"},
			Repositories: []string{"checkout"},
			Connected:    true,
			Drained:      true,
			Since:        at("11:40:00"),
			From:         "192.0.2.18",
			Version:      "v1.3.2",
			Runs: []show.AgentRuns{{
				Repository:  "checkout",
				Environment: "production",
				Application: "checkout",
				Release:     181,
				State:       show.Drift,
				Message:     "drift: /srv/checkout/app.conf has other content",
			}},
		},
		{Name: "db-1", Since: at("03:05:00").AddDate(0, 0, -2), From: "2001:db8::7", Version: "v1.4.0",
			Runs: []show.AgentRuns{}},
		{Name: "new-1", Runs: []show.AgentRuns{}},
	}, nil
}

func (h *backend) EnrolAgent(context.Context, access.Identity, show.AgentRequest) (show.Enrolment, error) {
	return show.Enrolment{Command: "headgate agent join", Program: "0123", Platform: "linux/amd64",
		Expires: at("15:03:51")}, nil
}
