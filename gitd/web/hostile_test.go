package web

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
)

// Texts that somebody can put into a commit, a file name or a log.
const (
	script   = `<script>document.title="owned"</script><img src=x onerror="document.title='owned'">`
	breakout = `"><svg onload=alert(1)>' onmouseover='alert(1)` + "`${alert(1)}`" + `{{.}}</title></style><!--`
	override = "user\u202Etxt.exe\u2066"
	escapes  = "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \x1b[2J\x1b[31mred\x1b[0m \x1b[38;5;196mpalette \x9b31mc1 \x00nul"
	jsURL    = "javascript:alert(1)"
)

// hostilePages are the pages of hostileBackend that show its texts.
var hostilePages = []string{"/", "/checkout", "/checkout/queue", "/checkout/changes", "/checkout/changes/7",
	"/checkout/env", "/checkout/env/production", "/checkout/promote/production", "/checkout/releases",
	"/checkout/releases/3",
	"/checkout/changes/7/diff", "/checkout/commits", "/checkout/commits/abc", "/checkout/compare/a/b",
	"/checkout/tree/abc", "/checkout/tree/abc?path=basket/tax.go", "/checkout/env/production/history",
	"/checkout/decisions", "/checkout/decisions/d-5aa10e3", "/search?q=x"}

// hostileBackend has the texts above everywhere a person can put text, and names
// that are too long for any page.
func hostileBackend() *backend {
	h := emptyBackend()
	long := strings.Repeat("long", 80)
	evil := script + breakout + override + long
	h.text = evil
	c := changeOf("checkout", 7, evil, "mallory", show.Refused, at("13:00:00"), at("14:00:00"))
	c.Author, c.Reason, c.Hint, c.TestedWith = evil, evil, evil, evil
	c.Details, c.Files, c.RunsIn, c.Branch = []string{evil}, []string{evil + ":1"}, []string{evil}, "main"
	c.Revisions = []string{c.Commit}
	c.Story = []show.Event{{At: noon, What: evil, By: evil, More: evil}}
	c.Build = &show.Build{ID: "b\n7", Tree: evil, State: show.Failed, Log: "b7", Started: at("13:00:00"), Phase: evil,
		Command: evil, Reason: evil, Exit: 1, LogLine: 2}
	h.logs["checkout/7"] = []show.LogEvent{
		{Kind: "step", Step: 1, Phase: evil, Command: evil}, {Kind: "out", Step: 1, Line: 1, Text: escapes + script},
		{Kind: "out", Step: 1, Line: 2, Text: evil},
		{Kind: "out", Step: 1, Line: 3, Text: strings.Repeat("\x1b[31m.\x1b[32m,", 100_000)},
		{Kind: "out", Step: 1, Line: 4, Text: strings.Repeat("w", 100_000)},
		{Kind: "note", Step: 1, Line: 5, Text: evil}, {Kind: "end", Step: 1, Exit: 1}, {Kind: "done"},
	}
	waiting := changeOf("checkout", 8, evil, "mallory", show.Waits, at("13:00:00"), time.Time{})
	waiting.Reason, waiting.TestedWith = evil, evil
	h.changes["checkout"] = []show.Change{waiting, c}
	h.releases["checkout"] = []show.Release{{Repository: "checkout", Number: 3, Commit: commit("abc"), Subject: evil,
		Change: 7, By: evil, At: noon, Artifacts: []show.Artifact{{Name: evil,
			Digest: "sha256:" + evil}}, RunsIn: []string{evil}}}
	p := show.Promotion{Repository: "checkout", Environment: "production", To: 3, Proposal: commit("d"), Tree: commit("e"),
		Decision: "manual", Summary: evil, Policy: evil, MayApprove: true,
		Checks:    []show.Check{{Title: evil, Detail: evil, Who: []string{evil}, UntilPerson: true}},
		Approvals: []show.Approval{{By: evil, Via: evil, Tree: evil, Why: evil, At: noon}},
		Files: []show.FileDiff{{Path: evil, State: show.FileState(evil), Lines: []show.DiffLine{{Kind: "+", Text: evil},
			{Kind: evil, Text: evil}}}}, Carries: h.releases["checkout"], Commands: []string{evil}}
	h.promos["checkout/production"] = p
	env := show.Environment{Repository: "checkout", Name: "production", Target: evil, After: evil, State: show.State(evil),
		Reason: evil, Since: noon, Release: 3, Commit: evil, Declared: evil,
		URLs: []string{jsURL, "http://ok.example/" + long}, Promotion: &p,
		Held: &show.HoldNote{By: evil, At: noon, Reason: evil},
		Services: []show.Service{{Name: evil, URL: jsURL, State: show.Failed,
			Instances: []show.Instance{{ID: evil, State: show.State(evil), Message: evil}}}},
		History: []show.Deployed{{Commit: evil, Release: 2, Subject: evil, By: evil, At: noon, Outcome: show.State(evil),
			Message: evil, WhyNot: evil, Approvals: []show.Approval{{By: evil}}}}}
	h.repos = append(h.repos, show.Repository{Name: "checkout", Description: evil, Clone: evil, Gated: true,
		Branch: "main", Tip: evil, Tree: evil, State: show.Green, LandedAt: noon, Release: 3, Queue: []show.Change{waiting}, Environments: []show.Environment{env, env}})
	return h
}

func TestHostileTextIsText(t *testing.T) {
	b := signedIn(t, console(hostileBackend()), "ada")
	for _, path := range hostilePages {
		a := b.get(path)
		if a.StatusCode != 200 {
			t.Fatalf("%s: %s\n%s", path, a.Status, a.body)
		}
		for _, bad := range []string{"<script>doc", "<img", "onerror=\"", "<svg onload", "' onmouseover='", "\u202e",
			"\u2066", "\x1b", "\x00", "\u009b", `href="javascript`, "<!--"} {
			if strings.Contains(a.body, bad) {
				at := strings.Index(a.body, bad)
				t.Errorf("%s: has %q: …%q…", path, bad, a.body[max(0, at-80):min(len(a.body), at+80)])
			}
		}
		if n := strings.Count(a.body, "<script"); n != 1 {
			t.Errorf("%s: %d script elements, want the one of the layout", path, n)
		}
	}
	log := b.get("/checkout/changes/7")
	if n := strings.Count(log.body, `<span class="c-r"`); n > maxColours+10 {
		t.Errorf("a line with %d changes of colour was believed", n)
	}
	if !strings.Contains(log.body, "cut here, the raw log has the whole line") {
		t.Error("a line of 100,000 letters was not cut")
	}
	raw := b.get("/checkout/changes/7/log.txt")
	if strings.ContainsAny(raw.body, "\x1b\x00\u202e") || !strings.Contains(raw.body, strings.Repeat("w", 100_000)) {
		t.Error("the raw log has escapes, or not all of the text")
	}
	if kind := raw.Header.Get("Content-Type"); kind != "text/plain; charset=utf-8" {
		t.Errorf("the raw log is %q", kind)
	}
}
