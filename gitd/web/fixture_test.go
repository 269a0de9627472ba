package web

import (
	"fmt"
	"slices"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// emptyBackend is a server that was started a minute ago.
func emptyBackend() *backend {
	return &backend{
		changes: map[string][]show.Change{}, releases: map[string][]show.Release{}, logs: map[string][]show.LogEvent{},
		grow:     make(chan struct{}),
		watchers: map[chan struct{}]string{}, promos: map[string]show.Promotion{},
		repos: []show.Repository{{Name: "headgate", Description: "Users, keys, policies of this server", Gated: true,
			Branch: "main", Tip: commit("5aa10e3"), State: show.Green, LandedAt: noon.AddDate(0, 0, -4)}},
		server: show.Server{Name: "git.tarn.example", SSH: "git.tarn.example:22", HTTP: "http://127.0.0.1",
			HostKey: "SHA256:uZk9Qx0b6gJm1yXo5V1T3WqL0cJd2aY7rN8hS4eP3Q0",
			Signers: "headgate ssh-ed25519 AAAA\n", Workers: 4, WorkersBusy: 4, Containers: 2, ContainersBusy: 1,
			Started: noon.Add(-time.Hour)},
	}
}

// The longest name a user may have, and one of a repository that no phone can show.
const (
	longUser       = "wilhelmina-featherstonehaugh-iii"
	longRepository = "a-repository-name-that-is-sixty-characters-long-and-says-so-"
)

// longPages are pages of longBackend.
var longPages = []string{"/", "/" + longRepository, "/" + longRepository + "/queue",
	"/" + longRepository + "/changes/1"}

// longBackend has long names where hostile text cannot be: in addresses.
func longBackend() *backend {
	h := emptyBackend()
	c := changeOf(longRepository, 1, "Say hello", longUser, show.Landed, at("13:00:00"), at("13:01:00"))
	h.changes[longRepository] = []show.Change{c}
	h.repos = append(h.repos, show.Repository{Name: longRepository, Clone: "ssh://git.tarn.example:22/" + longRepository,
		Gated: true, Branch: "main", Tip: c.Candidate, State: show.Green, LandedAt: c.EndedAt})
	return h
}

func changeOf(repo string, n int, subject, by string, state show.State, pushed, ended time.Time) show.Change {
	c := show.Change{Repository: repo, Number: n, Revision: 1, Branch: "main", Subject: subject, By: by, Author: by,
		Commit: commit(fmt.Sprintf("c%d", n)), State: state, PushedAt: pushed, EndedAt: ended}
	if state == show.Landed {
		c.Candidate = commit(fmt.Sprintf("d%d", n))
		c.Build = &show.Build{ID: fmt.Sprintf("b%d", n), Tree: commit(fmt.Sprintf("e%d", n)), State: show.Green,
			Log: fmt.Sprintf("b%d", n), Started: pushed, Finished: ended, Reused: n%4 == 0}
	}
	return c
}

// fullBackend is the server of the design's pictures.
func fullBackend() *backend {
	h := emptyBackend()
	queue := []show.Change{
		changeOf("checkout", 410, "Retry card authorisation once on 502", "mirek", show.Running, at("13:58:30"), time.Time{}),
		changeOf("checkout", 412, "Show fees before the last step", "ines", show.Running, at("14:01:40"), time.Time{}),
		changeOf("checkout", 413, "Bump chi to 5.3", "priya", show.Green, at("14:01:50"), time.Time{}),
		changeOf("checkout", 414, "Log the idempotency key", "jun", show.Running, at("14:02:00"), time.Time{}),
		changeOf("checkout", 415, "Translate receipt, nl", "ines", show.Waits, at("14:02:00"), time.Time{}),
		changeOf("checkout", 416, "Cap basket at 200 lines", "priya", show.Queued, at("14:02:10"), time.Time{}),
		changeOf("checkout", 417, "Move vouchers to their own schema", "sam", show.Queued, at("14:02:20"), time.Time{}),
	}
	running := func(i int, started time.Time, tested, phase string) {
		q := &queue[i]
		q.TestedWith, q.Expected = tested, show.Duration(4*time.Minute+30*time.Second)
		q.Build = &show.Build{ID: fmt.Sprintf("b%d", q.Number), Tree: commit("4be1a77"), State: show.Running,
			Log: fmt.Sprintf("b%d", q.Number), Started: started, Phase: phase}
	}
	running(0, at("14:00:39"), "main + 410", "build")
	running(1, at("14:03:35"), "main + 410 + 412", "install")
	running(3, at("14:01:00"), "main + 410 + 412 + 413 + 414", "build")
	queue[2].TestedWith, queue[2].Build = "main + 410 + 412 + 413", &show.Build{ID: "b413", Tree: commit("aaa"),
		State: show.Green, Log: "b413"}
	queue[4].Reason, queue[4].Behind = "1 approval from owners of i18n/ (jun)", 414
	queue[5].Reason, queue[5].Expected = "for a worker, all 4 are busy", show.Duration(4*time.Minute)
	queue[6].Reason, queue[6].TestedWith = "conflicts with 412 in db/schema.sql as it is now", "main + 410 + 412 + 417"
	for i, lands := range []string{"14:05:09", "14:08:05", "14:08:05", "14:08:05", "", "14:12:05", ""} {
		if lands != "" {
			queue[i].LandsAt = at(lands)
		}
	}
	for i := range queue {
		queue[i].Place = i + 1
		queue[i].Revisions = []string{queue[i].Commit}
		queue[i].Story = []show.Event{{At: queue[i].PushedAt, Kind: "pushed", What: "pushed revision 1 to main",
			By: queue[i].By}, {At: queue[i].PushedAt, What: fmt.Sprintf("queued at place %d", i+1)}}
	}
	refused := changeOf("checkout", 411, "Drop the legacy voucher table", "ada", show.Refused, at("13:59:12"),
		at("14:03:40"))
	refused.Revision, refused.Revisions, refused.Commit = 3, []string{commit("4d1f6b8"), commit("90aa3f2"),
		commit("e71b0d4")}, commit("e71b0d4")
	refused.Tip = commit("9f1c2ab")
	refused.Reason, refused.TestedWith = "1 command failed, and passes without it", "main + 410 + 411"
	refused.Details = []string{"voucher/voucher_test.go:88: pq: relation \"voucher_legacy\" does not exist",
		"with 411: failed 2 of 2; on main + 410 without it: passed"}
	refused.Tip = commit("9f1c2ab")
	refused.Hint = "see it on your machine with headgate run, amend, and git push origin main: it becomes revision 4"
	refused.Build = &show.Build{ID: "b411", Tree: commit("3c0ffee"), State: show.Failed, Log: "b411",
		Started: at("13:59:58"), Finished: at("14:03:22"), Phase: "build", Command: "go test ./...", Exit: 1, LogLine: 1086}
	refused.Story = []show.Event{
		{At: at("13:59:12"), Kind: "pushed", What: "revision 3 pushed", By: "ada"},
		{At: at("13:59:12"), What: "queued at place 2"},
		{At: at("14:03:22"), What: "build red: main + 410 + 411", More: "3:24"},
		{At: at("14:03:40"), Kind: "refused", What: "refused", More: "fails with, passes without"},
	}
	past := []show.Change{refused}
	for i, s := range []struct {
		subject, by   string
		state         show.State
		pushed, ended string
	}{
		{"Round tax per line, not per basket", "jun", show.Landed, "13:49:00", "13:58:02"},
		{"Cache exchange rates for a minute", "priya", show.Landed, "13:41:10", "13:41:11"},
		{"Receipts: one font, not three", "mirek", show.Landed, "13:17:00", "13:29:30"},
		{"Rename Basket to Cart", "sam", show.Conflict, "12:50:00", "13:02:00"},
		{"Try the new tax table", "ines", show.Withdrawn, "12:30:00", "12:40:00"},
	} {
		c := changeOf("checkout", 409-i, s.subject, s.by, s.state, at(s.pushed), at(s.ended))
		if s.state == show.Landed {
			c.Release, c.RunsIn = 186-i, []string{"staging"}
		}
		if s.state == show.Conflict {
			c.Files, c.Reason = []string{"basket/cart.go:14",
				"basket/cart_test.go:9"}, "conflicts with 407, which landed at 13:29 UTC"
			c.Hint = "git pull --rebase origin main, resolve, git push origin main"
		}
		c.Story = []show.Event{{At: c.PushedAt, Kind: "pushed", What: "pushed revision 1 to main", By: s.by},
			{At: c.EndedAt, Kind: string(s.state), What: string(s.state)}}
		c.Revisions = []string{c.Commit}
		past = append(past, c)
	}
	for i := range 60 {
		ended := noon.Add(-time.Duration(i*9+5) * time.Hour)
		past = append(past, changeOf("checkout", 404-i, fmt.Sprintf("Older change %d", 404-i), "jun", show.Landed,
			ended.Add(-time.Duration(6+i%9)*time.Minute), ended))
	}
	all := slices.Concat(queue, past)
	slices.SortFunc(all, func(a, b show.Change) int { return b.Number - a.Number })
	h.changes["checkout"] = all
	h.logs["checkout/411"] = failingLog()
	h.logs["checkout/410"] = runningLog()
	h.logs["checkout/409"] = []show.LogEvent{{Kind: "step", Step: 1, Phase: "build", Command: "go test ./..."},
		{Kind: "out", Step: 1, Line: 1, Text: "ok"}, {Kind: "end", Step: 1, Took: show.Duration(3 * time.Second),
			At: show.Duration(3 * time.Second)}, {Kind: "done"}}

	bill := &show.Artifact{Name: "sbom.cdx.json", Digest: "sha256:1b", Size: 48_000}
	artifact := []show.Artifact{{Name: "app",
		Digest: "sha256:8c41b0d2f5a97e3c1b6a4d8e0f2c5b7a9d1e3f5c7b9a0d2e4f6c8b0a2d4ea2d7", Size: 8_412_300}}
	for i, c := range past[1:4] {
		h.releases["checkout"] = append(h.releases["checkout"], show.Release{Repository: "checkout", Number: 186 - i,
			Commit: c.Candidate, Subject: c.Subject, Change: c.Number, By: c.By, At: c.EndedAt, Artifacts: artifact, SBOM: bill})
	}
	for i := range 4 {
		h.releases["checkout"] = append(h.releases["checkout"],
			show.Release{Repository: "checkout", Number: 183 - i, Commit: commit(fmt.Sprintf("51aa0d%d", i)),
				Subject: fmt.Sprintf("Older change %d", 404-i), Change: 404 - i, By: "jun", At: noon.AddDate(0, 0,
					-1-i), Artifacts: artifact})
	}
	h.releases["checkout"][0].RunsIn, h.releases["checkout"][3].RunsIn = []string{"staging"}, []string{"production"}
	promotion := show.Promotion{
		Repository: "checkout", Environment: "production", From: 183, To: 186, Proposal: commit("d18f3c2"),
		Tree: commit("6f0a1e2"), Source: commit("9f1c2ab"), ProposedAt: at("14:00:31"),
		Decision: "manual", Summary: "waits for 1 approval and soak", NotBefore: at("15:00:00"),
		Policy: "sha256:5aa10e3b7c1d9e2f4a6b8c0d1e3f5a7b9c2d4e6f8a0b1c3d5e7f9a2b4c6d8e0f", MayApprove: true,
		Checks: []show.Check{
			{Rule: "approvals", Title: "2 approvals from release", Detail: "jun approved at 14:01 UTC", UntilPerson: true,
				Who: []string{"ada", "sam", "priya"}},
			{Rule: "soak", Title: "Soak 1 h healthy in staging", Detail: "4 min of 60; an unhealthy minute starts it again",
				Until: at("15:00:00"), Progress: 0.06},
			{Rule: "after", Title: "Runs in staging first", Met: true, Detail: "186, same digest, healthy",
				Until: at("14:00:00")},
			{Rule: "provenance", Title: "Provenance verifies", Met: true, Detail: "1 artifact"},
			{Rule: "freeze", Title: "Outside every freeze", Met: true},
			{Rule: "hold", Title: "No hold on production", Met: true},
		},
		Approvals: []show.Approval{{By: "jun", At: at("14:01:10"), Via: "ssh", Tree: commit("6f0a1e2")},
			{By: "sam", At: at("13:20:00"), Via: "push", Tree: commit("11c9d04"), Stale: true}},
		Files: []show.FileDiff{
			{Path: "apps/checkout/compose.yaml", State: "changed",
				Lines: []show.DiffLine{{Kind: " ", Text: "services:"}, {Kind: " ", Text: "  web:"},
					{Kind: "+", Text: "    environment: {RATE_CACHE: 60s}"}, {Kind: " ", Text: "    deploy: {replicas: 4}"}}},
			{Path: "apps/checkout/release.json", State: "changed",
				Lines: []show.DiffLine{{Kind: "-", Text: `  "release": 183, "commit": "51aa0d3",`},
					{Kind: "-", Text: `  "artifact": "sha256:02fe61…c819",`}, {Kind: "+",
						Text: `  "release": 186, "commit": "9f1c2ab",`}, {Kind: "+", Text: `  "artifact": "sha256:8c41b0…a2d7",`}}},
			{Path: "apps/checkout/limits.yaml", State: "added",
				Lines: []show.DiffLine{{Kind: "+", Text: "max_lines: 200"}, {Kind: "+", Text: "warn_lines: 150"}}, Cut: true},
		},
		Carries: h.releases["checkout"][:3], Commands: []string{"git push origin origin/promote/production:env/production",
			"ssh git.tarn.example approve checkout production"},
	}
	promotion.Rules = []show.RuleChange{
		{Rule: "approvals", Was: "2", Is: "0"},
		{Rule: "approval of one's own change", Was: "not allowed", Is: "allowed"},
	}
	h.promos["checkout/production"] = promotion

	// What a yes would not help, and what went wrong before.
	stuck := promotion
	stuck.Repository, stuck.Stuck, stuck.MayApprove, stuck.NotBefore = "ledger", true, false, time.Time{}
	stuck.WayOut = "an administrator can add users or groups in headgate.git"
	stuck.Summary, stuck.WhyNot = "waits for 1 approval that nobody is there to give", "ada is not in the group auditors"
	stuck.Checks = []show.Check{{Rule: "approvals", Title: "1 approval from auditors",
		Detail: "1 approval missing, and nobody may give it", UntilPerson: true}}
	h.promos["ledger/production"] = stuck
	failed := promotion
	failed.Repository, failed.FailedAt, failed.Failure = "catalogue", at("13:59:00"), "web exited 7"
	h.promos["catalogue/production"] = failed
	instances := func(release, n int, state show.State) []show.Instance {
		var all []show.Instance
		for i := range n {
			all = append(all, show.Instance{ID: fmt.Sprintf("web-%d", i+1), Release: release, State: state,
				Message: fmt.Sprintf("200 in %d ms", 9+i), Since: at("10:08:14")})
		}
		return all
	}
	production := show.Environment{
		Repository: "checkout", Name: "production", After: "staging", Target: "services", State: show.Drift,
		Reason: "1 of 4 instances runs something else", Since: at("11:42:07"), Release: 183, Commit: commit("51aa0d3"),
		Declared: commit("2aa9c07"), DeclaredAt: noon.AddDate(0, 0, -1).Add(-4 * time.Hour), Behind: 3, MayRollback: true, RollbackTo: 182,
		URLs: []string{"https://shop.tarn.example"}, Promotion: &promotion,
		Services: []show.Service{{Name: "web", URL: "https://shop.tarn.example", State: show.Drift,
			Instances: instances(183, 4, show.Healthy)}},
	}
	production.Strays = []show.Stray{{Service: "web", Container: "extra"}, {PID: 4711}}
	production.Services[0].Instances[2].State, production.Services[0].Instances[2].Release, production.Services[0].Instances[2].Message, production.Services[0].Instances[2].Restarts = show.Drift, 182, "runs release 182 since 11:42:07 UTC", 3
	for i, d := range []show.Deployed{
		{Commit: commit("2aa9c07"), Release: 183, By: "policy", Outcome: show.Healthy, Message: "4 of 4 in 6:12",
			Approvals: []show.Approval{{By: "jun"}}, WhyNot: "declared now"},
		{Commit: commit("77e03b1"), Release: 182, By: "policy", Outcome: show.Healthy, Message: "4 of 4 in 6:40",
			Approvals: []show.Approval{{By: "ada"}}, MayRollback: true},
		{Commit: commit("b90d55e"), Release: 180, By: "sam", Outcome: show.Healthy, Message: "1 of 4 in 1:58", Rollback: true,
			MayRollback: true},
		{Commit: commit("8c3d0fa"), Release: 181, By: "policy", Outcome: show.Failed,
			Message: "stopped at the first instance", WhyNot: "never healthy"},
		{Commit: commit("410ce92"), Release: 180, By: "policy", Outcome: show.Healthy, Message: "4 of 4 in 6:21",
			MayRollback: true},
	} {
		d.Subject, d.At, d.Source = fmt.Sprintf("promote checkout to production: release %d", d.Release), noon.AddDate(0, 0,
			-1-i).Add(-4*time.Hour), commit("51aa0d")
		if d.Rollback {
			d.Subject = "rollback checkout in production to release 180"
		}
		production.History = append(production.History, d)
	}
	staging := show.Environment{
		Repository: "checkout", Name: "staging", Target: "services", State: show.Healthy, Since: at("14:00:00"), Release: 186,
		Commit: commit("9f1c2ab"), Declared: commit("81b20aa"), DeclaredAt: at("13:58:10"),
		URLs: []string{"http://127.0.0.1:8081"},
		Services: []show.Service{{Name: "web", URL: "http://127.0.0.1:8081", State: show.Healthy,
			Instances: instances(186, 1, show.Healthy)}}, MayRollback: true,
		History: []show.Deployed{{Commit: commit("81b20aa"), Release: 186, By: "policy", Outcome: show.Healthy,
			Subject: "promote checkout to staging: release 186", At: at("13:58:10")}},
	}
	level := func(e show.Environment, repo string, release, behind int) show.Environment {
		e.Repository, e.Release, e.Behind, e.Promotion, e.State, e.Reason, e.History = repo, release, behind, nil, show.Healthy, "", nil
		e.RollbackTo = 0
		return e
	}
	repo := func(name, about, tip string, release int, landed time.Time) show.Repository {
		return show.Repository{Name: name, Description: about, Clone: "ssh://git.tarn.example:22/" + name, Gated: true,
			Branch: "main", Tip: commit(tip), Tree: commit(
				"5b1de09"), State: show.Green, LandedAt: landed, Release: release, MayWrite: true}
	}
	checkout := repo("checkout", "Baskets, payment, receipts", "9f1c2ab", 186, at("13:58:02"))
	checkout.Queue, checkout.Environments = queue, []show.Environment{staging, production}
	catalogue := repo("catalogue", "Products and search", "c40e7d1", 92, at("13:51:00"))
	one := changeOf("catalogue", 93, "Sort by price", "sam", show.Running, at("14:01:00"), time.Time{})
	one.Build, one.Expected, one.TestedWith = &show.Build{ID: "x", State: show.Running,
		Started: at("14:02:00")}, show.Duration(5*time.Minute), "main + 93"
	one.LandsAt = at("14:07:00")
	catalogue.Queue, catalogue.Environments = []show.Change{one}, []show.Environment{level(staging, "catalogue", 92, 0),
		level(production, "catalogue", 92, 0)}
	broken := &catalogue.Environments[1]
	broken.State, broken.Reason, broken.Since = show.Failed, "web: exited 7 again and again; the release before it serves", at("13:59:40")
	broken.Services = []show.Service{{Name: "web", State: show.Failed, Release: 91, Canary: 92, Weight: 10,
		Instances: []show.Instance{
			{ID: "web-4", Release: 92, State: show.Failed, Message: "exited with 7: cannot read limits.yaml",
				Since: at("14:03:20"), Restarts: 5},
			{ID: "web-2", Release: 91, State: show.Healthy, Since: at("13:59:40"), Restarts: 1,
				LastExit: "was ended by SIGKILL", PID: 4102,
				Usage: &show.Used{CPU: 1.254, Memory: 67 << 20, MemoryLimit: 512 << 20}},
		}, Events: []show.ServiceEvent{
			{At: at("14:03:21"), What: "web-4 exited 7: cannot read <limits.yaml>", Times: 5},
			{At: at("13:59:40"), What: "release 92 gets 10% of the traffic"},
		}}, {Name: "worker", State: show.Healthy, Instances: []show.Instance{{ID: "worker-1", Release: 91,
		State: show.Healthy, Since: at("13:10:00"), PID: 4103, Usage: &show.Used{Memory: 3 << 20}}}}, {
		Name: "reindex", State: show.Healthy, Release: 91, Times: &show.Times{
			Cron: "30 * * * *",
			Zone: "Europe/Prague",
			Next: at("14:30:00"),
			Runs: []show.TimesRun{
				{At: at("13:30:00"), State: show.Failed, Release: 91, Late: true, Took: show.Duration(12 * time.Second), Exit: new(3),
					Message: "exited 3: no space left"},
				{At: at("12:30:00"), State: show.Skipped, Skipped: 2, Release: 91},
				{At: at("10:30:00"), State: show.Green, Release: 90, Took: show.Duration(2 * time.Hour), Exit: new(0),
					Message: "exited 0"},
			},
		}}}
	h.printed = map[string][]show.InstanceLine{"catalogue/production": {
		{At: at("13:10:00"), Service: "worker", Instance: "worker-1", Own: true,
			Text: "started worker-1 of release 91 on port 40002 (restart 0)"},
		{At: at("13:10:01"), Service: "worker", Instance: "worker-1", Text: "polling every 30s"},
		{At: at("14:03:20"), Service: "web", Instance: "web-4", Own: true,
			Text: "started web-4 of release 92 on port 40001 (restart 5)"},
		{At: at("14:03:21"), Service: "web", Instance: "web-4",
			Text: "\x1b[31mcannot read limits.yaml\x1b[0m: <no such file> at a/path/that/is/long/enough/to/need/a/second/line/on/every/phone/limits.yaml"},
		{At: at("14:03:21"), Service: "web", Instance: "web-4", Own: true, Text: "web-4 exited with 7"},
	}}
	ledger := repo("ledger", "Double entry, exports", "0b77aa9", 311, at("12:20:00"))
	held := level(production, "ledger", 309, 2)
	held.Held = &show.HoldNote{By: "sam", At: noon.AddDate(0, 0, -5), Reason: "audit until Friday"}
	ledger.Environments = []show.Environment{level(staging, "ledger", 311, 0), held}
	ledger.Paused = []show.Pause{{Branch: "main", By: "sam", At: at("12:31:00"), Via: "console",
		Reason: "the <books> are being closed"}}
	webshop := repo("web", "The shop itself", "e81d204", 1204, at("11:47:00"))
	conv := level(staging, "web", 1204, 0)
	conv.State, conv.Reason = show.Converging, "1 of 2 instances started"
	removal := show.Promotion{
		Repository:  "web",
		Environment: "production",
		From:        1203,
		Removal:     true,
		Stops:       []string{"web", "worker"},
		Proposal:    commit("e18f3c2"),
		Tree:        commit("4b825dc"),
		Source:      commit("e81d204"),
		ProposedAt:  at("13:50:31"),
		Decision:    "manual",
		Summary:     "waits for 1 approval",
		Policy:      promotion.Policy,
		MayApprove:  true,
		Checks:      promotion.Checks[:1],
		Files: []show.FileDiff{{Path: "apps/web/release.json", State: "removed",
			Lines: []show.DiffLine{{Kind: "-", Text: `{"release": 1203}`}}}},
		Commands: []string{"ssh git.tarn.example approve web production"},
	}
	h.promos["web/production"] = removal
	leaving := level(production, "web", 1203, 1)
	leaving.Application, leaving.Promotion = "front", &removal
	leaving.State, leaving.Unhealed = show.Drift, true
	leaving.Reason = "headgate.yaml does not name it any more; it goes on until its removal is promoted"
	webshop.Environments = []show.Environment{conv, leaving}
	agent := repo("terminal-agent", "Host agent for kiosks", "d3c9014", 17, noon.AddDate(0, 0, -1))
	kiosks := level(staging, "terminal-agent", 17, 0)
	kiosks.Name, kiosks.State, kiosks.Reason, kiosks.MayRollback = "kiosks", show.Unknown, "2 of 140 silent", false
	agent.Environments = []show.Environment{kiosks}
	scratch := show.Repository{Name: "scratch", Description: "Anything goes", Clone: "ssh://git.tarn.example:22/scratch",
		Branch: "main", State: show.NotGated, UngatedBy: "sam on 2026-11-03", MayWrite: true}
	fresh := show.Repository{Name: "hello", Clone: "ssh://git.tarn.example:22/hello", Gated: true, Branch: "main",
		State: show.Empty, MayWrite: true}
	h.repos = append([]show.Repository{scratch, checkout, catalogue, ledger, webshop, agent, fresh}, h.repos...)
	return h
}

// damagedBackend is the full one with a repository that cannot be read.
func damagedBackend() *backend {
	h := fullBackend()
	h.repos = append(h.repos, show.Repository{
		Name:        "archive",
		Description: "What was sold until 2019",
		Clone:       "ssh://git.tarn.example:22/archive",
		Gated:       true,
		Branch:      "main",
		State:       show.Damaged,
		Reason:      "the repository archive is damaged: refs/heads/main is empty; it is read-only until that is repaired",
	})
	return h
}

func failingLog() []show.LogEvent {
	var l []show.LogEvent
	line, t := 0, time.Duration(0)
	step := func(n int, phase, command string) {
		l = append(l, show.LogEvent{Kind: "step", Step: n, At: show.Duration(t), Phase: phase, Command: command})
	}
	out := func(n int, text string) {
		line++
		l = append(l, show.LogEvent{Kind: "out", Step: n, Line: line, At: show.Duration(t), Text: text})
	}
	end := func(n, exit int, took time.Duration) {
		l = append(l, show.LogEvent{Kind: "end", Step: n, Exit: exit, Took: show.Duration(took), At: show.Duration(t)})
	}
	step(1, "install", "go mod download")
	out(1, "go: downloading github.com/go-chi/chi v5.2.1")
	t += 11 * time.Second
	end(1, 0, 11*time.Second)
	step(2, "pre_build", "go vet ./...")
	t += 38 * time.Second
	end(2, 0, 38*time.Second)
	step(3, "build", "go test ./...")
	for line < 1079 {
		t += 100 * time.Millisecond
		out(3, fmt.Sprintf("\x1b[32mok\x1b[0m      tarn.example/checkout/package%d   0.4s", line))
	}
	out(3, "=== RUN   TestVoucherRoundTrip")
	out(3, "=== RUN   TestVoucherRoundTrip/percent")
	out(3, "=== RUN   TestVoucherRoundTrip/legacy_code")
	for line < 1085 {
		out(3, "    load")
	}
	out(3, "    voucher_test.go:88: load \"SUMMER-19\": \x1b[31mpq: relation \"voucher_legacy\" does not exist\x1b[0m")
	out(3, "\x1b[1;31m--- FAIL: TestVoucherRoundTrip (0.41s)\x1b[0m")
	out(3, "\x1b[31m    --- FAIL: TestVoucherRoundTrip/legacy_code (0.22s)\x1b[0m")
	out(3, "    --- PASS: TestVoucherRoundTrip/percent (0.02s)")
	t += 20 * time.Second
	end(3, 1, t-49*time.Second)
	step(4, "post_build", "./ci/report.sh")
	out(4, "report written")
	t += 5 * time.Second
	end(4, 0, 5*time.Second)
	return append(l, show.LogEvent{Kind: "done", At: show.Duration(t)})
}

func runningLog() []show.LogEvent {
	l := []show.LogEvent{
		{Kind: "step", Step: 1, Phase: "install", Command: "go mod download"},
		{Kind: "out", Step: 1, Line: 1, Text: "go: downloading github.com/go-chi/chi v5.2.1",
			At: show.Duration(3 * time.Second)},
		{Kind: "end", Step: 1, Took: show.Duration(9 * time.Second), At: show.Duration(9 * time.Second)},
		{Kind: "step", Step: 2, Phase: "build", Command: "go test ./...", At: show.Duration(9 * time.Second)},
	}
	for i := range 20 {
		l = append(l, show.LogEvent{Kind: "out", Step: 2, Line: i + 2, At: show.Duration(time.Duration(20+i) * time.Second),
			Text: fmt.Sprintf("\x1b[32mok\x1b[0m      tarn.example/checkout/package%d   0.%ds", i, i)})
	}
	return append(l, show.LogEvent{Kind: "out", Step: 2, Line: 22, At: show.Duration(100 * time.Second),
		Text: "    retry_test.go:41: gateway answers \x1b[33m502\x1b[0m, attempt 1 of 2"})
}
