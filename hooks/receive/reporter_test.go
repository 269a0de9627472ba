package receive

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/gitd/repo"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
	"github.com/headgate-cd/headgate/hooks/check"
	"github.com/headgate-cd/headgate/hooks/gate"
)

var exampleServer = show.Server{Name: "git.tarn.example", SSH: "git.tarn.example:22", HTTP: "https://git.tarn.example"}

func at(clock string) time.Time {
	t, err := time.Parse(time.DateTime, "2026-11-24 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func hash(short string) repo.Hash {
	h, _ := repo.ParseHash(short + strings.Repeat("0", 40-len(short)))
	return h
}

// cases are those of design/terminal/push.txt, by its numbers. Case 7 is git's
// own refusal, before it asks us.
var cases = map[string]func() []string{
	"01-landed": func() (lines []string) {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412, revision: 1,
			subject: "Show fees before the last step"}
		add := func(l []string) { lines = append(lines, l...) }
		add(n.greeting(at("14:03:41")))
		add(n.progress(gate.Progress{Kind: gate.Queued, At: at("14:03:41"), Place: 1,
			Estimate: show.Estimate{LandsAt: at("14:08:02"), LandsBy: at("14:11:00")}}))
		add(n.progress(gate.Progress{Kind: gate.Building, At: at("14:03:44"), With: "main + 412",
			Tree: hash("71d0c3e"), Log: "b1"}))
		for _, e := range []show.LogEvent{
			{Kind: "step", Step: 1, Phase: "install", Command: "go mod download"},
			{Kind: "end", Step: 1, Took: show.Duration(9 * time.Second)},
			{Kind: "step", Step: 2, Phase: "pre_build", Command: "go vet ./..."},
			{Kind: "end", Step: 2, Took: show.Duration(33 * time.Second)},
			{Kind: "step", Step: 3, Phase: "build", Command: "go test ./..."},
			{Kind: "out", Step: 3, Line: 1, Text: "ok    tarn.example/checkout/basket    0.4s"},
			{Kind: "out", Step: 3, Line: 2, Text: "ok    tarn.example/checkout/fees      1.5s"},
			{Kind: "end", Step: 3, Took: show.Duration(178 * time.Second)},
			{Kind: "done"},
		} {
			add(n.log(e))
		}
		add(n.progress(gate.Progress{Kind: gate.Verdict, At: at("14:07:50"), Tree: hash("71d0c3e")}))
		add(n.progress(gate.Progress{Kind: gate.Landed, At: at("14:07:53"), Landed: hash("0c51e9d"), FastForward: true,
			Took: 252 * time.Second, Tree: hash("71d0c3e"),
			Release: 188, Details: []string{"green: tree 71d0c3e, 1,851 tests, 1 flaky (TestWebhookRetry)"}}))
		add(
			n.released(188, []show.Next{{Environment: "staging", Going: true, URLs: []string{"http://git.tarn.example:8001"}}}))
		return lines
	},
	"02-merged": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412, greeted: true}
		return append(
			n.progress(gate.Progress{Kind: gate.Queued, At: at("14:05:51"), Place: 1, Reason: "410 landed; 412 is next"}),
			n.progress(gate.Progress{Kind: gate.Landed, Landed: hash("45f8aed"), Took: 262 * time.Second, Tree: hash("8d11f02"),
				Details: []string{"green: tree 8d11f02, 1,851 tests"},
				Hint:    "main had moved, so a merge landed; git pull fast-forwards"})...)
	},
	"03-identical-tree": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 408, revision: 1,
			subject: "Cache exchange rates for a minute"}
		lines := n.greeting(at("13:40:00"))
		lines = append(lines, n.progress(gate.Progress{Kind: gate.Verdict, Reused: true, GreenSince: at("13:32:10"),
			From: "branch rates", Tree: hash("1")})...)
		return append(lines, n.progress(gate.Progress{Kind: gate.Landed, Landed: hash("b3c7712"), FastForward: true,
			Took: 400 * time.Millisecond, Tree: hash("1")})...)
	},
	"04-refused": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 411, greeted: true}
		n.log(show.LogEvent{Kind: "step", Step: 3, Phase: "build", Command: "go test ./..."})
		n.step.opened = true
		lines := n.log(show.LogEvent{Kind: "out", Line: 1086,
			Text: `voucher_test.go:88: load "SUMMER-19": pq: relation "voucher_legacy" does not exist`})
		lines = append(lines, n.log(show.LogEvent{Kind: "end", Exit: 1, Took: show.Duration(146 * time.Second)})...)
		lines = append(lines, n.progress(gate.Progress{Kind: gate.Queued, At: at("14:03:22"),
			Reason: "red; running 1 failed test again, with 411 and without it"})...)
		p := gate.Progress{Kind: gate.Refused, At: at("14:03:30"), Tip: hash("9f1c2ab"), Log: "b2",
			Reason: "1 test fails with it and passes without it", Short: "1 test failed",
			Details: []string{"TestVoucherRoundTrip/legacy_code, voucher/voucher_test.go:88",
				"with 411: failed 2 of 2; on main + 410 without it: passed"},
			Hint: "see it here with: headgate run --failed 411"}
		return append(append(lines, n.progress(p)...), "! ("+n.reason(p)+")")
	},
	"05-not-yours": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412, greeted: true}
		return append(
			n.progress(gate.Progress{Kind: gate.Queued, At: at("14:03:22"),
				Reason:  "red; TestClockSkew fails without 412 too: not yours",
				Details: []string{"recorded as broken on main since 9f1c2ab, owner jun"}}),
			n.progress(gate.Progress{Kind: gate.Queued, At: at("14:03:40"), Place: 2,
				Reason: "412 stays at 2 and is tested again behind 410"})...)
	},
	"06-conflict": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 406, greeted: true}
		p := gate.Progress{Kind: gate.Conflict, Tip: hash("b3c7712"), Reason: "conflicts with 407, which landed at 13:29 UTC",
			Short: "conflict with 407 in 7 files",
			Files: []string{"basket/cart.go",
				"basket/cart_test.go"}, MoreFiles: 5, Hint: "git pull --rebase origin main, resolve, git push origin main"}
		return append(n.progress(p), "! ("+n.reason(p)+")")
	},
	"08-attached": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412, revision: 1,
			attached: true, pushed: at("14:03:41")}
		return append(n.greeting(at("14:05:51")),
			n.progress(gate.Progress{Kind: gate.Building, At: at("14:03:51"), With: "main + 410 + 412",
				Estimate: show.Estimate{LandsAt: at("14:08:00")}})...)
	},
	"09-nowait": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412}
		return n.nowait(gate.Progress{Kind: gate.Queued, Place: 2, Estimate: show.Estimate{LandsAt: at("14:08:00")}})
	},
	"10-waits-for-a-person": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 415}
		return n.progress(gate.Progress{Kind: gate.Queued, Place: 2, Waits: true,
			Reason:  "1 approval from owners of db/ (ines, jun)",
			Details: []string{"builds now, lands once approved; nothing to do for you"}, Hint: "they can: ssh git.tarn.example approve change 415"})
	},
	"10-waits-for-the-server": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 415, greeted: true}
		return n.progress(gate.Progress{Kind: gate.Queued, Place: 1, Waits: true,
			Reason: "the server could not land it, and tries again"})
	},
	"11-no-buildspec": func() []string {
		return noBuildspec(check.Missing{File: "buildspec.yml"}, "hello", exampleServer).lines()
	},
	"12-restarting": func() []string {
		n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412, greeted: true}
		p := gate.Progress{Kind: gate.Restarting, At: at("14:04:10")}
		return append(n.progress(p), "! ("+n.reason(p)+")")
	},
}

func TestPushLines(t *testing.T) {
	for name, tell := range cases {
		t.Run(name, func(t *testing.T) {
			lines := tell()
			want, err := os.ReadFile(filepath.Join("testdata", "push", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(lines, "\n") + "\n"; got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestStepOutputIsBounded(t *testing.T) {
	n := &reporter{server: exampleServer, repository: "checkout", change: 9}
	n.log(show.LogEvent{Kind: "step", Step: 1, Phase: "build", Command: "make\nmake check"})
	var lines []string
	for i := range 1000 {
		lines = append(lines, n.log(show.LogEvent{Kind: "out", Step: 1, Line: i + 1, Text: fmt.Sprintf("line %d", i+1)})...)
	}
	if lines[0] != "  > build: make ..." || len(lines) != 1+maxStepLines+1 {
		t.Fatalf("%d lines, first %q", len(lines), lines[0])
	}
	if got := lines[len(lines)-1]; got != "  | ... more: https://git.tarn.example/checkout/changes/9#L201" {
		t.Fatalf("%q", got)
	}
	end := n.log(show.LogEvent{Kind: "end", Step: 1, Exit: 2, Took: show.Duration(time.Second)})
	if end[0] != "  | ... 780 lines left out" || end[1] != "  | line 981" || end[20] != "  | line 1000" ||
		!strings.HasPrefix(end[21], "  x build: make ...") {
		t.Fatalf("%q", end)
	}
}

// What a pusher reads is UTF-8 on one line, whatever it was made of.
// A line that is not ended is told when it stands, and its rest when it comes.
func TestUnfinishedLineIsToldOnce(t *testing.T) {
	n := &reporter{server: show.Server{HTTP: "http://h"}, repository: "hello", change: 7}
	n.log(show.LogEvent{Kind: show.LogStep, Step: 1, Phase: "build", Command: "ask"})
	for _, test := range []struct {
		kind show.LogKind
		text string
		want []string
	}{
		{show.LogPart, "sure? ", []string{"  > build: ask", "  | sure? "}},
		{show.LogPart, "sure? y", []string{"  | ... y"}},
		{show.LogOut, "sure? yes", []string{"  | ... es"}},
		{show.LogPart, "whole", []string{"  | whole"}},
		{show.LogOut, "whole", nil},
		{show.LogPart, "10%", []string{"  | 10%"}},
		{show.LogOut, "done", []string{"  | done"}},
		{show.LogOut, "done", []string{"  | done"}},
	} {
		if got := n.log(show.LogEvent{Kind: test.kind, Step: 1, Text: test.text}); !slices.Equal(got, test.want) {
			t.Errorf("%s %q: %q, and not %q", test.kind, test.text, got, test.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~\x00-\x1f€žü\x{202e}\x{2028}]{0,300}`).Draw(t, "text")
		lines := oneLine("error: ", text)
		if len(lines) != 1 || !strings.HasPrefix(lines[0], "error: ") || !utf8.ValidString(lines[0]) {
			t.Fatalf("%q became %q", text, lines)
		}
		for _, r := range strings.ReplaceAll(lines[0], "\t", "") {
			if terminal.Unsafe(r) {
				t.Fatalf("%q became %q, which holds %U", text, lines, r)
			}
		}
	})
	if got := oneLine("", "žluť ✓ done…")[0]; got != "žluť ✓ done…" {
		t.Errorf("UTF-8 became %q", got)
	}
}

// What the gate says today of a red build: the verdict and the refusal in the
// same words.
func TestRedVerdictIsToldOnce(t *testing.T) {
	n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 9, greeted: true}
	red := gate.Progress{Kind: gate.Verdict, At: at("14:03:22"), Reason: `build: "make test" exited 2`}
	if lines := n.progress(red); len(lines) > 0 {
		t.Fatalf("%q", lines)
	}
	lines := n.progress(gate.Progress{Kind: gate.Refused, Reason: red.Reason, Short: red.Reason, Tip: hash("9f1c2ab"),
		Hint: "fix it"})
	want := []string{`error: 9 refused: build: "make test" exited 2`, "  main stays at 9f1c2ab", "hint: fix it"}
	if !slices.Equal(lines, want) {
		t.Fatalf("%q", lines)
	}
	n.progress(red)
	lines = n.progress(gate.Progress{Kind: gate.Building, At: at("14:03:30"), With: "main + 9",
		Tree: hash("1234567"), Log: "b"})
	want = []string{`14:03:22 red: build: "make test" exited 2`, "14:03:30 building main + 9, tree 1234567"}
	if !slices.Equal(lines, want) {
		t.Fatalf("%q", lines)
	}
}

// A step that says nothing is named after a while, and then not again.
func TestSilentStepIsNamedOnce(t *testing.T) {
	n := &reporter{server: exampleServer, repository: "checkout", branch: "main", change: 412}
	if lines := n.open(); lines != nil {
		t.Errorf("without a step: %q", lines)
	}
	n.log(show.LogEvent{Kind: "step", Step: 1, Phase: "install", Command: "go mod download"})
	var lines []string
	for range 2 {
		lines = append(lines, n.open()...)
	}
	lines = append(lines, n.log(show.LogEvent{Kind: "out", Step: 1, Line: 2, Text: "done"})...)
	lines = append(lines, n.log(show.LogEvent{Kind: "end", Step: 1, Took: show.Duration(9 * time.Second)})...)
	lines = append(lines, n.open()...)
	want := []string{"  > install: go mod download", "  | done",
		"  + install: go mod download" + strings.Repeat(" ", 32) + "0:09"}
	if !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}
