package shell

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/secret"
	"github.com/headgate-cd/headgate/gitd/show"
)

var testNow = time.Date(2026, 11, 24, 14, 3, 48, 0, time.UTC)

func today(hour, minute int) time.Time { return time.Date(2026, 11, 24, hour, minute, 0, 0, time.UTC) }

// backend is a Backend with the facts of the design's examples.
type backend struct {
	show.Backend
	repositories []show.Repository
	changes      []show.Change
	environment  show.Environment
	kept         string // by SetSecret
}

const evil = "\x1b]0;owned\x07 \u202etxt"

func newBackend() *backend {
	promotion := &show.Promotion{
		Repository: "checkout", Environment: "production", From: 183, To: 186, Tree: "6f0a1e2aaaa", Decision: "manual",
		Summary: "1 approval, soak until 15:00 UTC", MayApprove: true, FailedAt: today(9, 30), Failure: "web exited 7",
		Rules: []show.RuleChange{{Rule: "approvals", Was: "1", Is: "none"}},
	}
	production := show.Environment{
		Repository: "checkout", Name: "production", After: "staging", Target: "services", State: show.Drift,
		Reason: "prod-c differs",
		Since:  today(11, 42), Release: 183, Commit: "51aa0d3ffff", Declared: "2aa9c07ffff",
		DeclaredAt: time.Date(2026, 11, 23, 10, 2, 0, 0, time.UTC),
		Strays:     []show.Stray{{Service: "web", Container: "extra"}, {PID: 4711}},
		Behind:     3, Promotion: promotion, MayRollback: true, RollbackTo: 182, URLs: []string{"http://127.0.0.1:8081"},
		Services: []show.Service{{Name: "web", State: show.Drift, Instances: []show.Instance{
			{ID: "prod-a", Release: 183, State: show.Healthy, Message: "200 in 11 ms",
				PID: 4100, Usage: &show.Used{CPU: 0.034, Memory: 67 << 20, MemoryLimit: 512 << 20}},
			{ID: "prod-b", Release: 183, State: show.Healthy, Message: "200 in 9 ms", Restarts: 1,
				LastExit: "was ended by SIGKILL: " + evil},
			{ID: "prod-c", Release: 183, State: show.Drift, Message: "config/limits.yaml differs since 11:42 UTC"},
		}, Events: []show.ServiceEvent{
			{At: today(11, 42), What: "prod-b was ended by SIGKILL: " + evil, Times: 2},
			{At: today(11, 41), What: "release 183 gets the traffic"},
		}}, {Name: "backup", State: show.Healthy, Release: 183, Times: &show.Times{Cron: "30 2 * * *", Next: today(2, 30),
			Runs: []show.TimesRun{
				{At: today(2, 30), State: show.Running, Release: 183, Late: true},
				{At: today(1, 30), State: show.Skipped, Skipped: 2, Release: 183},
				{At: today(0, 30), State: show.Failed, Release: 182, Took: show.Duration(1500 * time.Millisecond),
					Message: "exited 3: " + evil},
				{At: today(0, 30), State: show.Green, Release: 182},
			}}}},
		History: []show.Deployed{
			{Commit: "2aa9c07ffff", Release: 183, Subject: "Round tax per line",
				At: time.Date(2026, 11, 23, 10, 2, 0, 0, time.UTC), By: "policy", Outcome: show.Healthy,
				Approvals: []show.Approval{{By: "jun"}, {By: "ada"}}},
			{Commit: "77e0c1fffff", Release: 182, Subject: "Log the key", At: time.Date(2025, 11, 20, 9, 0, 0, 0, time.UTC),
				By: "ada", Outcome: show.Healthy, MayRollback: true},
		},
	}
	staging := show.Environment{Repository: "checkout", Name: "staging", State: show.Healthy, Release: 186,
		Since: today(14, 0)}
	other := show.Environment{Repository: "catalogue", Name: "staging", State: show.Empty}
	return &backend{
		environment: production,
		repositories: []show.Repository{
			{
				Name: "catalogue", Clone: "ssh://git.tarn.example/catalogue", State: show.Empty,
				Environments: []show.Environment{other},
				Paused: []show.Pause{{Branch: "main", By: "sam", At: today(13, 59), Via: "ssh",
					Reason: "we move the shelves"}},
			},
			{Name: "checkout", Clone: "ssh://git.tarn.example/checkout", Description: "the till " + evil, Gated: true,
				Branch: "main", Tip: "9f1c2abffff", State: show.Green, Release: 186,
				LandedAt: today(13, 58), Queue: make([]show.Change, 4), Environments: []show.Environment{staging, production}},
			{Name: "headgate", Clone: "ssh://git.tarn.example/headgate", State: show.Green},
		},
		changes: []show.Change{
			{Repository: "checkout", Number: 417, State: show.Conflict, Place: 7, By: "sam",
				Subject: "Move vouchers to their own schema", Branch: "main", Commit: "417aaaaffff",
				Revision: 2, PushedAt: today(14, 1), Author: "Sam", Files: []string{"voucher/load.go:12"},
				Reason: "conflicts with 412", Hint: "git pull --rebase origin main, resolve, git push origin main"},
			{Repository: "checkout", Number: 412, State: show.Running, Place: 2, By: "ines",
				Subject: "Show fees before the last step " + evil, Branch: "main", Commit: "0c51e9dffff",
				Revision: 1, PushedAt: today(14, 2), Author: "Ines", Tree: "71d0c3effff", TestedWith: "main + 410 + 412",
				Behind: 410, Expected: show.Duration(5 * time.Minute), Estimate: show.Estimate{LandsAt: today(14, 8)},
				Build: &show.Build{ID: "b1", State: show.Running, Started: today(14, 3), Phase: "build", Command: "go test ./..."},
				Story: []show.Event{{At: today(14, 2), What: "proposed", By: "ines"},
					{At: today(14, 3), What: "building", More: "main + 410 + 412"}}},
			{Repository: "checkout", Number: 411, State: show.Refused, By: "ada", Subject: "Drop the legacy voucher table",
				Branch: "main", Commit: "411aaaaffff", PushedAt: today(13, 1),
				Revision: 1, Reason: "1 test fails with it and passes without it",
				Details: []string{"TestVoucherRoundTrip, voucher_test.go:88"},
				Build: &show.Build{State: show.Failed, Started: today(13, 1), Finished: today(13, 3), Phase: "build",
					Command: "go test ./...", Exit: 1, LogLine: 1086}},
			{Repository: "checkout", Number: 409, State: show.Landed, By: "jun", Subject: "Round tax per line, not per basket",
				Branch: "main", Commit: "9f1c2abffff", Candidate: "9f1c2abffff",
				Revision: 1, PushedAt: today(13, 50), EndedAt: today(13, 58), Release: 186,
				Build: &show.Build{State: show.Green, Reused: true, Finished: today(13, 32)}, RunsIn: []string{"staging"}},
		},
	}
}

func missing(format string, args ...any) error {
	return &show.Error{Kind: show.NotFound, What: fmt.Sprintf(format, args...)}
}

func (b *backend) Server(context.Context) show.Server {
	return show.Server{Name: "git.tarn.example", SSH: "git.tarn.example:22", HTTP: "https://git.tarn.example",
		Signers: "headgate@tarn.example namespaces=\"git\" ssh-ed25519 AAAA\n"}
}

func (b *backend) Repositories(_ context.Context, a access.Identity) ([]show.Repository, error) {
	if a.User == "sam" {
		return nil, errors.New("disk on fire at /secret/path")
	}
	if a.User == "new" || a.User == "guest" {
		return nil, nil
	}
	return b.repositories, nil
}

func (b *backend) Repository(_ context.Context, _ access.Identity, name string) (show.Repository, error) {
	for _, r := range b.repositories {
		if r.Name == name {
			return r, nil
		}
	}
	return show.Repository{}, missing("no such repository: %q", name)
}

func (b *backend) Changes(ctx context.Context, a access.Identity, name string,
	f show.ChangeFilter) (show.ChangePage, error) {
	if _, err := b.Repository(ctx, a, name); err != nil {
		return show.ChangePage{}, err
	}
	var found show.ChangePage
	for _, c := range b.changes {
		if c.Repository == name && (f.State == "" || f.State == c.State) && (f.Before == 0 || c.Number < f.Before) {
			found.Changes = append(found.Changes, c)
		}
	}
	if name == "checkout" {
		found.Total = 417
		if !f.All && f.Author != "" {
			found.Older = 362
		}
	}
	if f.Before > 0 {
		found.Newer = f.Before - 1
	}
	return found, nil
}

func (b *backend) Change(_ context.Context, _ access.Identity, name string, n int) (show.Change, error) {
	for _, c := range b.changes {
		if c.Repository == name && c.Number == n {
			return c, nil
		}
	}
	return show.Change{}, missing("%s has no change %d", name, n)
}

func (b *backend) Log(ctx context.Context, a access.Identity, name string, n int,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return func(yield func(show.LogEvent, error) bool) {
		if _, err := b.Change(ctx, a, name, n); err != nil {
			yield(show.LogEvent{}, err)
			return
		}
		for _, e := range []show.LogEvent{
			{Kind: "step", Step: 1, Phase: "build", Command: "go test ./..."},
			{Kind: "out", Step: 1, Line: 1, Text: "ok\t\x1b[32mbasket\x1b[0m" + evil},
			{Kind: "out", Step: 1, Line: 90, Text: "voucher_test.go:88: no relation"},
			{Kind: "end", Step: 1, Exit: 1, Took: show.Duration(146 * time.Second)},
			{Kind: "done"},
		} {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (b *backend) BuildLog(ctx context.Context, a access.Identity, name string, n int,
	log string) iter.Seq2[show.LogEvent, error] {
	if !show.IsLog(earlierLog, log) {
		return func(yield func(show.LogEvent, error) bool) {
			yield(show.LogEvent{}, missing("change %d of %s has no build with that log", n, name))
		}
	}
	return b.Log(ctx, a, name, n, false)
}

// earlierLog is that of an earlier build.
var earlierLog = "sha256:" + strings.Repeat("7", 64)

// SearchLogs finds lines of two builds of checkout and of a scheduled one, and "fees" in more
// than it looks through.
func (b *backend) SearchLogs(_ context.Context, _ access.Identity, q show.LogSearch) iter.Seq2[show.FoundLine, error] {
	return func(yield func(show.FoundLine, error) bool) {
		if q.Repository != "" && q.Repository != "checkout" {
			yield(show.FoundLine{}, missing("there is no repository %q", q.Repository))
			return
		}
		if q.Text == "nothing" || q.Text == "before the last" {
			return
		}
		newest := show.FoundLine{Repository: "checkout", Change: 411, Build: "sha256:" + strings.Repeat("8", 64), Newest: true,
			BuiltAt: today(14, 0), Step: 2, Phase: "build", Command: "go test ./...", Line: 90, At: show.Duration(time.Second),
			Text: "voucher_test.go:88: no relation " + evil}
		second := newest
		second.Line, second.Text = 97, "no relation, again"
		earlier := newest
		earlier.Build, earlier.Newest, earlier.BuiltAt, earlier.Step, earlier.Phase, earlier.Command = earlierLog, false,
			today(13, 0), 0, "", ""
		scheduled := newest
		scheduled.Change, scheduled.Schedule, scheduled.Run, scheduled.Build = 0, "nightly", 7, "nightly-7"
		for _, l := range []show.FoundLine{newest, second, earlier, scheduled} {
			l.URL = "https://git.tarn.example" + l.Path()
			if !yield(l, nil) {
				return
			}
		}
		if q.Text == "fees" {
			yield(show.FoundLine{}, &show.SearchCut{Why: "time was up", Until: today(12, 0)})
		}
	}
}

func (b *backend) SBOM(ctx context.Context, a access.Identity, name string, n int) ([]byte, error) {
	r, err := b.Release(ctx, a, name, n)
	if err == nil && r.SBOM == nil {
		err = missing("release %d of %s has no bill of materials", n, name)
	}
	return []byte("{\n \"bomFormat\": \"CycloneDX\"\n}\n"), err
}

// Releases are three of checkout; the oldest one's tag is not what it was.
func (b *backend) Releases(_ context.Context, _ access.Identity, name string,
	f show.ReleaseFilter) (show.ReleasePage, error) {
	if name != "checkout" {
		return show.ReleasePage{}, nil
	}
	app := show.Artifact{Name: "app", Digest: "sha256:" + strings.Repeat("a", 64), Size: 3 << 20}
	bill := &show.Artifact{Name: "sbom.cdx.json", Digest: "sha256:" + strings.Repeat("b", 64), Size: 4200}
	all := []show.Release{
		{
			Repository: name, Number: 186, Commit: "0c51e9dffff", Change: 411, By: "ines", At: today(13, 58), SBOM: bill,
			Subject: "Show fees before the last step " + evil, Artifacts: []show.Artifact{app}, RunsIn: []string{"staging"},
		},
		{
			Repository: name, Number: 185, Commit: "77e0c1fffff", At: today(9, 0), Subject: "Log the key",
			Artifacts: []show.Artifact{app},
		},
		{
			Repository: name, Number: 183, Commit: "51aa0d3ffff", Change: 402, By: "ada", Subject: "Round tax per line",
			At:        time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
			Artifacts: []show.Artifact{}, RunsIn: []string{"production"},
		},
	}
	found := show.ReleasePage{Total: len(all)}
	found.Releases = slices.DeleteFunc(all, func(r show.Release) bool {
		return f.Before > 0 && r.Number >= f.Before || r.Number <= f.After || f.Author != "" && r.By != f.Author
	})
	if f.Before > 0 {
		found.Newer = f.Before - 1
	}
	return found, nil
}

func (b *backend) Release(ctx context.Context, a access.Identity, name string, n int) (show.Release, error) {
	found, err := b.Releases(ctx, a, name, show.ReleaseFilter{})
	all := found.Releases
	for i, r := range all {
		if r.Number != n {
			continue
		}
		r.Branch, r.Tree = "main", "6f0a1e2aaaa"
		if i+1 == len(all) {
			r.Invalid = "its tag: is signed by a key that this server does not know"
			return r, nil
		}
		r.Before = all[i+1].Number
		r.Provenance = &show.Provenance{
			Buildspec: "buildspec.yml",
			Image:     "host",
			Key:       "sha256:" + strings.Repeat("c", 64),
			Built:     all[0].Commit,
			Builder:   "ssh:SHA256:abc",
			Started:   today(13, 50),
			Finished:  today(13, 57),
			Envelope:  json.RawMessage(`{"payloadType":"application/vnd.in-toto+json"}`),
		}
		return r, nil
	}
	return show.Release{}, cmp.Or(err, missing("there is no release %d in %s", n, name))
}

func (b *backend) Environment(_ context.Context, _ access.Identity,
	name, environment string) (show.Environment, error) {
	if name == "checkout" && environment == "production" {
		return b.environment, nil
	}
	if name == "catalogue" && environment == "staging" {
		return b.repositories[0].Environments[0], nil
	}
	return show.Environment{}, missing("%s has no environment %q", name, environment)
}

// Deployments are the history of the environment.
func (b *backend) Deployments(ctx context.Context, a access.Identity, name, environment string,
	f show.DeploymentFilter) (show.DeploymentPage, error) {
	e, err := b.Environment(ctx, a, name, environment)
	found := show.DeploymentPage{Total: len(e.History)}
	for i, d := range e.History {
		if f.From != "" && strings.HasPrefix(d.Commit, f.From) {
			found.Deployments, found.Newer = nil, d.Commit
		}
		if f.By == "" || d.By == f.By {
			found.Deployments = append(found.Deployments, d)
		} else if i+1 == len(e.History) {
			found.Older = d.Commit
		}
	}
	return found, err
}

func (b *backend) InstanceLogs(ctx context.Context, a access.Identity, repository, environment string,
	q show.LogQuery) iter.Seq2[show.InstanceLine, error] {
	return func(yield func(show.InstanceLine, error) bool) {
		if _, err := b.Environment(ctx, a, repository, environment); err != nil {
			yield(show.InstanceLine{}, err)
			return
		}
		for _, l := range []show.InstanceLine{
			{At: today(11, 40), Service: "web", Instance: "web-1", Own: true,
				Text: "started web-1 of release 183 on port 40001"},
			{At: today(11, 42), Service: "web", Instance: "web-1", Text: "\x1b[31mcannot\x1b[0m read limits " + evil},
			{At: today(11, 43), Service: "web", Instance: "web-1", Text: "* headgate: exited with 0"},
			{At: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC), Service: "worker", Instance: "worker-2", Own: true,
				Text: "worker-2 exited with 7"},
		} {
			if environment == "production" && (q.Service == "" || q.Service == l.Service) && !l.At.Before(q.Since) &&
				!yield(l, nil) {
				return
			}
		}
	}
}

func (b *backend) Promotion(_ context.Context, _ access.Identity, name, environment string) (show.Promotion, error) {
	switch name + " " + environment {
	case "checkout production":
		p := *b.environment.Promotion
		p.Files = []show.FileDiff{{
			Path: "artifacts.yaml", State: show.FileChanged, Added: 1, Removed: 1,
			Lines: []show.DiffLine{{Kind: "-", Text: "app: a"}, {Kind: "+", Text: "app: b"}},
		}}
		return p, nil
	case "checkout staging":
		return show.Promotion{Repository: name, Environment: environment, From: 186, Removal: true, Stops: []string{"web"}},
			nil
	}
	return show.Promotion{}, missing("nothing waits for %s", environment)
}

func (b *backend) Why(ctx context.Context, a access.Identity, name, thing string) (show.Why, error) {
	if name == "checkout" && thing == "production" {
		return show.Why{
			Answer: "release 186 is not in production: it waits for 2 approvals and soak", State: show.Waits,
			Checks: []show.Check{
				{Title: "2 approvals from release", Detail: "1 given (jun 14:01)", UntilPerson: true, Who: []string{"ada", "sam"}},
				{Title: "soak 1 h healthy in staging", Detail: "4 min of 60", Until: today(15, 0)},
				{Title: "runs in staging first", Met: true, Detail: "same digest, since 14:00 UTC"},
			},
			Facts: []show.Fact{{Label: "policy", Text: "prod.manual at 5aa10e3"}},
			Next:  []string{"approve checkout production"},
		}, nil
	}
	if n, err := strconv.Atoi(thing); err == nil {
		c, err := b.Change(ctx, a, name, n)
		return show.Why{Answer: fmt.Sprintf("%d is %s.", n, c.State), State: c.State}, err
	}
	return show.Why{}, missing("%s has no change, environment or commit %q", name, thing)
}

func (b *backend) CreateRepository(_ context.Context, a access.Identity, name, description string) (show.Done, error) {
	if a.User != "ada" {
		return show.Done{}, &show.Error{Kind: show.Forbidden, What: "only administrators create repositories",
			Hint: "ask one of ada"}
	}
	return show.Done{What: fmt.Sprintf("created %s: %s", name, description),
		Next: "git clone ssh://git.tarn.example/" + name}, nil
}

func (b *backend) Set(_ context.Context, _ access.Identity, name string, what access.Switch,
	on bool) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("%s of %s: %v", what, name, on)}, nil
}

func (b *backend) Approve(_ context.Context, a access.Identity,
	name, environment, tree, reason string) (show.Done, error) {
	if a.User == "jun" {
		return show.Done{}, &show.Error{Kind: show.Denied, What: "you cannot approve your own change",
			Where: []string{"headgate.yaml:12: approvals: 1", "change 412 is by jun"}, Hint: "ask one of ada, sam"}
	}
	return show.Done{What: fmt.Sprintf("approved 183 -> 186 for %s of %s, tree %s, as %s%s", environment, name, "6f0a1e2",
		a.User, reason), Next: "now waits for  soak until 15:00 UTC", State: show.Waits}, nil
}

func (b *backend) Reject(_ context.Context, a access.Identity,
	name, environment, tree, reason string) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("rejected 186 for %s of %s, as %s: %s", environment, name, a.User, reason)}, nil
}

func (b *backend) Choose(_ context.Context, a access.Identity, name, environment string,
	release int) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("proposed release %d for %s of %s, as %s", release, environment, name, a.User),
		Next: "now waits for 1 approval"}, nil
}

func (b *backend) Paused(ctx context.Context, a access.Identity, repository string) ([]show.Pause, error) {
	r, err := b.Repository(ctx, a, repository)
	return r.Paused, err
}

func (b *backend) PauseLanding(_ context.Context, a access.Identity, _, branch, reason string) (show.Done, error) {
	return show.Done{What: "landing on " + branch + " is paused by " + a.User + ": " + reason}, nil
}

func (b *backend) ResumeLanding(_ context.Context, a access.Identity, _, branch, _ string) (show.Done, error) {
	return show.Done{What: "landing on " + branch + " is resumed, as " + a.User}, nil
}

func (b *backend) RenameEnvironment(_ context.Context, _ access.Identity,
	repository, environment, to string) (show.Done, error) {
	return show.Done{What: "proposed as change 31: " + environment + " of " + repository + " is called " + to,
		State: show.Queued}, nil
}

func (b *backend) Scale(_ context.Context, _ access.Identity, repository, environment, service string,
	count int) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("proposed as change 31: %s in %s of %s: %d", service, environment, repository,
		count), State: show.Queued}, nil
}

func (b *backend) Rollback(_ context.Context, _ access.Identity, name, environment string, release int,
	reason string) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("rolled back %s of %s 183 -> %d: %s", environment, name, release, reason),
		More: []string{"hold set: no automatic promotion until someone promotes forward"}}, nil
}

// testDiff has what others wrote, a rule, and all that is left out of a difference.
func testDiff() show.Comparison {
	return show.Comparison{
		Repository: "checkout",
		From:       "51aa0d3ffff",
		To:         "0c51e9dffff",
		Commits: []show.Commit{
			{ID: "0c51e9dffff", Subject: "Show fees before the last step " + evil, Author: "Ines"},
			{ID: "77e0c1fffff", Subject: "Log the key", Author: "Ada"},
		},
		MoreCommits: true,
		Files: []show.FileDiff{
			{
				Path: "fee.go", State: show.FileChanged, Added: 2, Removed: 1, Cut: true,
				Lines: []show.DiffLine{
					{Kind: "@", Text: "@@ -3,2 +3,3 @@ func fee()"},
					{Kind: " ", Text: "\treturn 1"},
					{Kind: "-", Text: "old " + evil},
					{Kind: "+", Text: "new"},
				},
			},
			{Path: "logo.png", From: "img/logo.png", State: show.FileRenamed, Binary: true, OldMode: "100644", Mode: "100755"},
			{
				Path: "headgate.yaml", State: show.FileChanged, Added: 1, Rule: true,
				Lines: []show.DiffLine{{Kind: "@", Text: "@@ -1,0 +2 @@"}, {Kind: "+", Text: "approvals: 0"}},
			},
		},
		Changed: 5,
		Added:   1203,
		Removed: 1,
		Artifacts: []show.ArtifactDiff{
			{Name: "same", State: show.FileSame},
			{Name: "app", State: show.FileChanged,
				Files: []show.ArtifactFile{{Path: "bin/app", State: show.FileChanged}}, Cut: true},
			{Name: "docs", State: show.FileAdded},
			{Name: "old", State: show.FileChanged, Why: "it has been cleared away"},
		},
		Git: []string{"git diff 51aa0d3 0c51e9d"},
	}
}

func (b *backend) ChangeDiff(ctx context.Context, a access.Identity, name string,
	number, from, revision int) (show.Comparison, error) {
	ch, err := b.Change(ctx, a, name, number)
	if err != nil {
		return show.Comparison{}, err
	}
	if revision > ch.Revision || from >= max(revision, ch.Revision) {
		return show.Comparison{}, missing("change %d of %s has no revision %d", number, name, max(revision, from))
	}
	d := testDiff()
	if from > 0 {
		d.Commits, d.MoreCommits, d.Artifacts, d.Files, d.Changed, d.Rebased = nil, false, nil, d.Files[2:], 1, true
	}
	return d, nil
}

func (b *backend) ReleaseDiff(_ context.Context, _ access.Identity, name string,
	from, to int) (show.Comparison, error) {
	if to == 0 {
		return show.Comparison{}, missing("there is no release %d in %s", to, name)
	}
	d := testDiff()
	d.FromRelease, d.ToRelease = from, to
	return d, nil
}

func (b *backend) Search(ctx context.Context, a access.Identity, query string) (show.Found, error) {
	found := show.Found{Query: query, Repositories: []show.Repository{}, Changes: []show.Change{},
		Commits: []show.FoundCommit{}, Lines: []show.FoundLine{}}
	if query == "before the last" || query == "fees" {
		found.Repositories = b.repositories[1:2]
		found.Changes = b.changes[1:2]
		found.Commits = []show.FoundCommit{{Repository: "checkout", Commit: testDiff().Commits[0]}}
		found.Cut = true
	}
	if query == "fees" {
		for l, err := range b.SearchLogs(ctx, a, show.LogSearch{Text: query}) {
			if err != nil {
				found.LinesCut = err.Error()
				break
			}
			found.Lines = append(found.Lines, l)
		}
	}
	return found, nil
}

func (b *backend) SetSecret(_ context.Context, _ access.Identity, id secret.ID, v secret.Value) (show.Done, error) {
	b.kept = id.String() + "=" + string(v.Reveal())
	return show.Done{What: "keeps the secret " + id.String()}, nil
}

func (b *backend) CreateToken(_ context.Context, a access.Identity, r show.TokenRequest) (show.NewToken, error) {
	if len(r.Repositories) > 0 && r.Repositories[0] == "vault" {
		return show.NewToken{}, missing("there is no repository %q", "vault")
	}
	t := show.Token{
		ID:           "5f1c2ab90e",
		Name:         r.Name,
		User:         a.User,
		Repositories: r.Repositories,
		Write:        r.Write,
		Created:      testNow,
		Expires:      testNow.Add(cmp.Or(r.Life, 90*24*time.Hour)),
	}
	return show.NewToken{Secret: "hg_secret", Token: t}, nil
}

func (b *backend) Tokens(_ context.Context, a access.Identity, all bool) ([]show.Token, error) {
	if a.User != "ada" {
		return nil, nil
	}
	return []show.Token{
		{
			ID:           "5f1c2ab90e",
			Name:         "ci",
			User:         "ada",
			Repositories: []string{"checkout", "catalogue"},
			Created:      today(9, 0),
			Expires:      today(9, 0).Add(30 * 24 * time.Hour),
			Used:         today(14, 3),
		},
		{
			ID:      "77e0c1ffff",
			Name:    "laptop",
			User:    "ada",
			Write:   true,
			Created: time.Date(2026, 8, 1, 9, 0, 0, 0, time.UTC),
			Expires: time.Date(2026, 10, 30, 9, 0, 0, 0, time.UTC),
			Expired: true,
		},
	}, nil
}

func (b *backend) RevokeToken(_ context.Context, a access.Identity, id string) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("revoked the token %s (ci) of %s", id, a.User)}, nil
}

func (b *backend) Withdraw(ctx context.Context, a access.Identity, name string, n int) (show.Done, error) {
	c, err := b.Change(ctx, a, name, n)
	if err == nil && c.By != a.User && a.User != "ada" {
		err = &show.Error{Kind: show.Forbidden, What: fmt.Sprintf("change %d is %s's to withdraw", n, c.By),
			Hint: "ask " + c.By + ", or an administrator"}
	}
	return show.Done{What: fmt.Sprintf("withdrew change %d of %s", n, name),
		Next: fmt.Sprintf("propose it once more: change retry %s %d", name, n)}, err
}

func (b *backend) Retry(ctx context.Context, a access.Identity, name string, n int) (show.Done, error) {
	_, err := b.Change(ctx, a, name, n)
	return show.Done{What: fmt.Sprintf("change %d of %s is proposed again as change 418", n, name), State: show.Queued},
		err
}

func (b *backend) Replace(ctx context.Context, a access.Identity, name string, n, by int) (show.Done, error) {
	_, err := b.Change(ctx, a, name, n)
	return show.Done{What: fmt.Sprintf("change %d of %s is revision 2 of change %d now", by, name, n), State: show.Queued},
		err
}

func (b *backend) Schedules(_ context.Context, _ access.Identity, repository string) ([]show.Schedule, error) {
	if repository != "checkout" {
		return nil, nil
	}
	failed := show.Run{
		Number: 7,
		At:     today(3, 0),
		Late:   true,
		Commit: "9f1c2abffff",
		Build: show.Build{
			State:    show.Failed,
			Started:  today(3, 0),
			Finished: today(3, 4),
			Phase:    "build",
			Command:  "make soak " + evil,
			Exit:     2,
			Reason:   `build: "make soak" exited 2`,
			LogLine:  90,
		},
	}
	return []show.Schedule{{
		Repository: "checkout",
		Name:       "nightly",
		Cron:       "0 3 * * *",
		Zone:       "Europe/Prague",
		Branch:     "main",
		Buildspec:  "nightly.yml",
		Notify:     "ops",
		State:      show.Failed,
		Next:       time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC),
		Last:       &failed,
	}}, nil
}

func (b *backend) Schedule(ctx context.Context, a access.Identity, repository, name string) (show.Schedule, error) {
	all, _ := b.Schedules(ctx, a, repository)
	for _, s := range all {
		if s.Name == name {
			s.Runs = []show.Run{*s.Last}
			return s, nil
		}
	}
	return show.Schedule{}, missing("%s has no schedule %q", repository, name)
}

func (b *backend) ScheduleLog(ctx context.Context, a access.Identity, _, _ string, _ int,
	follow bool) iter.Seq2[show.LogEvent, error] {
	return b.Log(ctx, a, "checkout", 411, follow)
}

func (b *backend) RunSchedule(_ context.Context, a access.Identity, repository, name string) (show.Done, error) {
	return show.Done{What: fmt.Sprintf("run 8 of %s is on its way: main at 9f1c2ab", name),
		Next: "schedule log -f " + repository + " " + name, State: show.Queued}, nil
}

func (b *backend) Decisions(_ context.Context, who access.Identity,
	repository, before string) ([]show.Decision, bool, error) {
	all := []show.Decision{}
	for _, d := range exampleDecisions {
		if d.Repository == repository {
			d.Document = ""
			all = append(all, d)
		}
	}
	return all, false, nil
}

func (b *backend) Decision(_ context.Context, who access.Identity, repository, id string) (show.Decision, error) {
	for _, d := range exampleDecisions {
		if d.Repository == repository && d.ID == id {
			return d, nil
		}
	}
	return show.Decision{}, &show.Error{Kind: show.NotFound,
		What: fmt.Sprintf("there is no decision %q in %s", id, repository)}
}

// exampleDecisions are the newest first.
var exampleDecisions = []show.Decision{
	{
		Repository: "checkout", ID: "d-3333333", Commit: strings.Repeat("3", 40), At: today(14, 6),
		Question: "promote", About: "release 186 to production by the rules of what is declared", Answer: "manual",
		Policy:   "sha256:aa",
		Document: "{\n \"question\": \"promote\",\n \"input\": {\n  \"environment\": {\"name\": \"production\"}\n },\n \"engine\": \"opa\"\n}",
	},
	{
		Repository: "checkout", ID: "d-2222222", Commit: strings.Repeat("2", 40), At: today(14, 5),
		Question: "converge", About: "drift in staging", Answer: "auto", Policy: "sha256:aa", Document: "{}",
	},
	{
		Repository: "checkout", ID: "d-1111111", Commit: strings.Repeat("1", 40), At: today(14, 4),
		Question: "land", About: "change 219 to refs/heads/main", Answer: "auto", Policy: "sha256:aa",
		Document: "{\n \"question\": \"land\",\n \"input\": {\"change\": {\"number\": 219}}\n}",
	},
}

func (b *backend) Pause(context.Context, access.Identity, string, string, string) (show.Done, error) {
	return show.Done{What: "paused"}, nil
}

func (b *backend) Continue(context.Context, access.Identity, string, string) (show.Done, error) {
	return show.Done{What: "goes on"}, nil
}

func (b *backend) StopDeployment(context.Context, access.Identity, string, string, string) (show.Done, error) {
	return show.Done{What: "stopped"}, nil
}

func (b *backend) RetryDeployment(_ context.Context, _ access.Identity, _, _, host string) (show.Done, error) {
	return show.Done{What: strings.TrimSpace("tried again " + host)}, nil
}

func (b *backend) SkipHost(_ context.Context, _ access.Identity, _, _, host string) (show.Done, error) {
	return show.Done{What: "left out " + host}, nil
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

func (b *backend) ChangeTests(_ context.Context, _ access.Identity, repository string,
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

func (b *backend) Tests(_ context.Context, _ access.Identity, repository string) (show.TestSummary, error) {
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

func (b *backend) Test(_ context.Context, _ access.Identity, repository, name string) (show.Test, error) {
	for _, t := range exampleTests() {
		if repository == "checkout" && t.Name == name {
			return t, nil
		}
	}
	return show.Test{}, &show.Error{Kind: show.NotFound, What: fmt.Sprintf("no build of %s that is kept has run a test %q",
		repository, name), Hint: "see them", Command: "test list " + repository}
}
