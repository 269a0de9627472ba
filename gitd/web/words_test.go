package web

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

func TestANSI(t *testing.T) {
	for _, c := range []struct{ name, in, html, text string }{
		{"text", "a < b & c", "a &lt; b &amp; c", "a < b & c"},
		{"colour", "\x1b[31mred\x1b[0m", `<span class="c-r">red</span>`, "red"},
		{"bright", "\x1b[92mok", `<span class="c-g">ok</span>`, "ok"},
		{"bold and colour", "\x1b[1;33mhm\x1b[22m.\x1b[39m.",
			`<span class="c-y b">hm</span><span class="c-y">.</span>.`, "hm.."},
		{"empty is reset", "\x1b[34ma\x1b[mb", `<span class="c-b">a</span>b`, "ab"},
		{"black and white are ink", "\x1b[30mk\x1b[37mw", "kw", "kw"},
		{"palette", "\x1b[38;5;31mx\x1b[48;2;31;32;33my", "xy", "xy"},
		{"cursor", "a\x1b[2Jb\x1b[10;10Hc\x1b[?25l", "abc", "abc"},
		{"hyperlink", "\x1b]8;;http://e.example\x1b\\l\x1b]8;;\x07", "l", "l"},
		{"unfinished", "a\x1b[31", "a^[[31", "a^[[31"},
		{"alone", "a\x1b", "a^[", "a^["},
		{"unended string", "a\x1b]0;title", "a^[]0;title", "a^[]0;title"},
		{"markup in a colour", "\x1b[31m</span><b>", `<span class="c-r">&lt;/span&gt;&lt;b&gt;</span>`, "</span><b>"},
		{"overrides", "a\u202eb", "a&lt;U+202E&gt;b", "a<U+202E>b"},
	} {
		if got := string(ansi(c.in)); got != c.html {
			t.Errorf("%s: %s, want %s", c.name, got, c.html)
		}
		if got := terminal.Plain(c.in); got != c.text {
			t.Errorf("%s as text: %q, want %q", c.name, got, c.text)
		}
	}
}

func FuzzANSI(f *testing.F) {
	f.Add("\x1b[31mred\x1b]8;;x\x07\x1b[0m<script>")
	f.Fuzz(func(t *testing.T, line string) {
		html := string(terminal.Page([]byte(ansi(line))))
		if strings.Count(html, "<span") != strings.Count(html, "</span>") {
			t.Errorf("unbalanced: %q", html)
		}
		for _, tag := range strings.SplitAfter(html, "<")[1:] {
			if !strings.HasPrefix(tag, "span class=\"") && !strings.HasPrefix(tag, "/span>") {
				t.Errorf("another element: %q", html)
			}
		}
		if text := terminal.Plain(line); strings.ContainsAny(text, "\x1b\x00\r\n\u202e") {
			t.Errorf("controls: %q", text)
		}
	})
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0:00", -time.Second: "0:00",
		9*time.Second + 900*time.Millisecond: "0:09", 3*time.Minute + 12*time.Second: "3:12", 59*time.Minute +
			59*time.Second: "59:59", 4*time.Hour + 2*time.Minute: "4 h 02 m", 76 * time.Hour: "3 d 4 h"} {
		if got := show.Elapsed(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	zurich := time.FixedZone("CET", 3600)
	now := noon.In(zurich)
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{noon.Add(-time.Minute), "15:02:51 CET"}, {noon.AddDate(0, 0, -1), "Mon 23 Nov 15:03 CET"},
		{noon.AddDate(-1, 0, 0), "24 Nov 2025 15:03 CET"},
		{time.Date(2026, 11, 23, 23, 30, 0, 0, time.UTC), "00:30:00 CET"},
	} {
		if got := clock(c.at, now, true, true); got != c.want {
			t.Errorf("%v is %q, want %q", c.at, got, c.want)
		}
	}
	if got := string(timeElement(noon, "at",
		"x<y")); got != `<time datetime="2026-11-24T14:03:51Z" title="Tue 24 Nov 2026 14:03:51 UTC" data-as="at">x&lt;y</time>` {
		t.Errorf("time element %s", got)
	}
	for in, want := range map[string]string{"": "", "9f1c2ab000000000": "9f1c2ab", "env/production": "env/production",
		"sha256:8c41b0d2f5a97e3c1b6aa2d7": "sha256:8c41b0…a2d7", "sha256:12": "sha256:12"} {
		if got := show.Short(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1061: "1,061", 1234567: "1,234,567", -1234: "-1,234",
		-123: "-123"} {
		if got := show.Thousands(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
	for _, s := range []show.State{show.Queued, show.Running, show.Green, show.Healthy, show.Landed, show.Refused,
		show.Failed, show.Conflict, show.Withdrawn, show.NotGated, show.Waits, show.Open, show.Drift, show.Hold, show.Unknown, show.Converging, show.Empty} {
		if m := markOf(s); m.Word == "" || m.Shape == "" {
			t.Errorf("%s has no mark", s)
		}
	}
	for _, s := range []show.State{"", "new state"} {
		if m := markOf(s); m.Shape != "unknown" || m.Colour != "amber" || m.Word == "" {
			t.Errorf("%q is drawn as %v: what is not known must not look well", s, m)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"checkout", "catalogue", "ledger", "web"}
	for in, want := range map[string]string{"chekout": "checkout", "Checkout": "checkout", "catalog": "catalogue",
		"legder": "ledger", "wob": "web", "zzzzzzzz": "", strings.Repeat("x", 5000): ""} {
		if got := nearest(in, names); got != want {
			t.Errorf("%.20q is nearest to %q, want %q", in, got, want)
		}
	}
}

// TestTrainSaysWhenItLands: the console shows what the gate foresees, and nothing
// of its own.
func TestTrainSaysWhenItLands(t *testing.T) {
	queued := func(e show.Estimate) show.Change { return show.Change{State: show.Queued, Estimate: e} }
	soon, later := show.Estimate{LandsSoon: true}, show.Estimate{LandsAt: at("14:15:00"), LandsBy: at("14:20:00")}
	for name, c := range map[string]struct {
		queue []show.Change
		want  string
	}{
		"unknown": {[]show.Change{queued(show.Estimate{})}, "1 change ahead of main; when the next one lands is not known."},
		"one":     {[]show.Change{queued(later)}, "1 change ahead of main. Next landing ~14:15 UTC."},
		"late": {[]show.Change{queued(soon), queued(later)},
			"2 changes ahead of main. Next landing any moment, the last ~14:15 UTC."},
		"first waits": {
			[]show.Change{{State: show.Waits}, queued(soon)}, "2 changes ahead of main. Next landing any moment.",
		},
	} {
		r := &show.Repository{Name: "checkout", Branch: "main", Gated: true, Queue: c.queue}
		if got := buildTrain(r, nil, noon, 0).Next; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestQueuedSaysWhatFor: nothing is ever just pending.
func TestQueuedSaysWhatFor(t *testing.T) {
	first := changeOf("checkout", 5, "first", "ada", show.Running, noon, time.Time{})
	second := changeOf("checkout", 6, "second", "ada", show.Queued, noon, time.Time{})
	second.Behind = 5
	k := buildTrain(&show.Repository{Name: "checkout", Branch: "main", Gated: true, Queue: []show.Change{first, second}},
		nil, noon, 0).Entries[1]
	if k.Reason != "behind 5" || k.Lands != "end not known" {
		t.Errorf("a queued entry says %q, %q", k.Reason, k.Lands)
	}
	if more := rowOf(second).More; more != k.Reason {
		t.Errorf("the list of changes says %q", more)
	}
}

func TestFigures(t *testing.T) {
	landed := func(pushed, ended time.Time, reused bool) show.Change {
		return show.Change{State: show.Landed, PushedAt: pushed, EndedAt: ended, Build: &show.Build{Reused: reused}}
	}
	f := figuresOf([]show.Change{
		landed(at("13:00:00"), at("13:10:00"), false), landed(at("00:00:00"), at("00:00:30"), true),
		landed(at("13:00:00"), at("13:20:00"), false),
		landed(noon.AddDate(0, 0, -13), noon.AddDate(0, 0, -13), false), landed(noon.AddDate(0, 0, -14),
			noon.AddDate(0, 0, -14), false), landed(noon.AddDate(0, 0, -31), noon.AddDate(0, 0, -31), false),
		{State: show.Refused, EndedAt: at("12:00:00")}, {State: show.Running, PushedAt: at("14:00:00")},
		{State: show.Withdrawn, EndedAt: at("12:00:00")},
	}, noon)
	if f.Today != 3 || f.Days[0] != 1 || f.Landed != 5 || f.Ended != 6 || f.Failed != 1 || f.Saved != 1 ||
		f.Median != 30*time.Second || f.P95 != 20*time.Minute {
		t.Errorf("%+v", f)
	}
}

// A sentence begins with a capital; what is written as it is stays as it is.
func TestSentence(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"waits for soak":                     "Waits for soak",
		"élan":                               "Élan",
		"denied: no":                         "Denied: no",
		"headgate.yaml:12: approvals: 1":     "headgate.yaml:12: approvals: 1",
		"buildspec.yml is not there":         "buildspec.yml is not there",
		"env/production has not moved":       "env/production has not moved",
		"own: true under approvals is wrong": "Own: true under approvals is wrong",
		"1 approval":                         "1 approval",
	} {
		if got := sentence(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// All deployments of a month count, not only those of the first part that the
// backend tells.
func TestDeploymentsAreAllCounted(t *testing.T) {
	h := fullBackend()
	i := slices.IndexFunc(h.repos, func(r show.Repository) bool { return r.Name == "checkout" })
	last := &h.repos[i].Environments[len(h.repos[i].Environments)-1]
	last.History = nil
	for n := range 203 {
		d := show.Deployed{Commit: commit(fmt.Sprintf("%07x", n)), Release: n + 1,
			At: noon.Add(-time.Duration(n) * time.Hour), Outcome: show.Healthy}
		if n%100 == 0 {
			d.Outcome = show.Failed
		}
		last.History = append(last.History, d)
	}
	last.History = append(last.History,
		show.Deployed{Commit: commit("f00"), At: noon.AddDate(0, 0, -31), Outcome: show.Failed})
	text := textOf(signedIn(t, console(h), "ada").get("/checkout").body)
	for _, want := range []string{"Deploys\n203", "Failed\n3 of 203"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
}

// A refusal of mine that a later push has mended waits for nobody.
func TestMendedRefusalsNeedNobody(t *testing.T) {
	h := fullBackend()
	shown := func() bool {
		t.Helper()
		return strings.Contains(textOf(signedIn(t, console(h), "ada").get("/").body), ", yours, ")
	}
	mine := 0
	for _, changes := range h.changes {
		for i := range changes {
			if c := &changes[i]; c.By == "ada" && (c.State == show.Refused || c.State == show.Conflict) {
				c.EndedAt = noon
				mine++
			}
		}
	}
	if mine == 0 || !shown() {
		t.Fatalf("of %d refusals none is shown", mine)
	}
	for _, changes := range h.changes {
		for i := range changes {
			changes[i].Mended = true
		}
	}
	if shown() {
		t.Error("what was mended is still shown")
	}
}

// Who is asked for a yes is told on the first page that the release failed there before.
func TestApprovalsOfWhatFailedSaySo(t *testing.T) {
	h := fullBackend()
	const said = "it was there before and failed; waits for 1 approval"
	home := func() string { return textOf(signedIn(t, console(h), "ada").get("/").body) }
	if strings.Contains(home(), said) {
		t.Fatal("it is said of what never failed")
	}
	for i := range h.repos {
		for _, e := range h.repos[i].Environments {
			if e.Promotion != nil && h.repos[i].Name == "checkout" {
				e.Promotion.FailedAt = noon
			}
		}
	}
	if text := home(); !strings.Contains(text, said) {
		t.Errorf("the page does not say %q:\n%s", said, text)
	}
}
