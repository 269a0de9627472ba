package reconciler

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/reconciler/record"
	"github.com/headgate-cd/headgate/reconciler/target"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata/plan")

// TestConversations plays testdata/plan/*.txt: lines that begin with ">" are
// said to a model, the lines after it are the answer.
func TestConversations(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plan/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			m := newModel()
			for line := range strings.Lines(string(text)) {
				switch {
				case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
					got.WriteString(line)
				case strings.HasPrefix(line, ">"):
					got.WriteString(line)
					m.say(&got, strings.Fields(line[1:]))
				}
			}
			for _, v := range m.violated {
				t.Error(v)
			}
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(text) {
				t.Errorf("%s: got\n%s", file, got.String())
			}
		})
	}
}

// say understands one line:
//
//	env <name> [after=<name>] [approvals=<n>] [soak=<duration>]
//	release <n> [same] [unproven]
//	run | once <env> | plan <env> | show
//	report <env> <state> | approve <env> <user> | rollback <env> <release>
//	choose <env> <release> | reject <env>
//	tick <duration> | restart | drift <env> heal|report
func (m *model) say(out *bytes.Buffer, words []string) {
	switch words[0] {
	case "env":
		p := &place{name: words[1]}
		for _, opt := range words[2:] {
			key, value, _ := strings.Cut(opt, "=")
			switch key {
			case "after":
				p.after = value
			case "approvals":
				p.approvals = number(value)
			case "soak":
				p.soak, _ = time.ParseDuration(value)
			}
		}
		m.envs = append(m.envs, p)
	case "release":
		n := number(words[1])
		m.content[n] = "content " + words[1]
		for _, opt := range words[2:] {
			switch opt {
			case "same":
				m.content[n] = m.content[n-1]
			case "unproven":
				m.unproven[n] = true
			}
		}
		m.releases = append(m.releases, n)
	case "run":
		if err := m.settle(func(p *place, a Action) { fmt.Fprintf(out, "%s: %s\n", p.name, a) }); err != nil {
			fmt.Fprintln(out, err)
		}
		for _, p := range m.envs {
			for _, a := range Plan(m.view(p)) {
				fmt.Fprintf(out, "%s: %s\n", p.name, a)
			}
		}
	case "once":
		if a, ok := m.once(m.place(words[1])); ok {
			fmt.Fprintln(out, a)
		} else {
			fmt.Fprintln(out, "nothing")
		}
	case "plan":
		for _, a := range Plan(m.view(m.place(words[1]))) {
			fmt.Fprintln(out, a)
		}
	case "show":
		for _, p := range m.envs {
			fmt.Fprintln(out, p)
		}
	case "report":
		m.report(m.place(words[1]), target.State(words[2]))
	case "approve":
		if s := m.approve(m.place(words[1]), words[2]); s != "" {
			fmt.Fprintln(out, s)
		}
	case "choose":
		if s := m.choose(m.place(words[1]), number(words[2])); s != "" {
			fmt.Fprintln(out, s)
		}
	case "reject":
		if s := m.reject(m.place(words[1])); s != "" {
			fmt.Fprintln(out, s)
		}
	case "rollback":
		if s := m.rollback(m.place(words[1]), number(words[2])); s != "" {
			fmt.Fprintln(out, s)
		}
	case "tick":
		d, _ := time.ParseDuration(words[1])
		m.now = m.now.Add(d)
	case "restart":
		m.restart()
	case "drift":
		m.place(words[1]).drift = map[string]target.Drift{"heal": target.Heal, "report": target.Report}[words[2]]
	default:
		fmt.Fprintf(out, "not understood: %s\n", strings.Join(words, " "))
	}
}

func demoModel() *model {
	m := newModel()
	m.envs = []*place{{name: "staging"}, {name: "production", after: "staging", approvals: 1, soak: time.Minute},
		{name: "attic", after: "production"}}
	return m
}

// happens lets one random thing happen in a model.
func (m *model) happens(t *rapid.T) {
	p := rapid.SampledFrom(m.envs).Draw(t, "env")
	switch rapid.SampledFrom([]string{"release", "report", "report", "report", "approve", "rollback", "choose", "reject",
		"tick", "restart", "drift", "act", "act"}).Draw(t, "event") {
	case "release":
		n := len(m.releases) + 1
		m.content[n] = fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "content"))
		m.unproven[n] = rapid.IntRange(0, 9).Draw(t, "unproven") == 0
		m.releases = append(m.releases, n)
	case "report":
		m.report(p, rapid.SampledFrom([]target.State{target.Healthy, target.Healthy, target.Converging, target.Degraded,
			target.Failed, target.Unknown}).Draw(t, "state"))
	case "approve":
		m.approve(p, rapid.SampledFrom([]string{"ada", "jun"}).Draw(t, "user"))
	case "rollback":
		if len(m.releases) > 0 {
			m.rollback(p, rapid.SampledFrom(m.releases).Draw(t, "to"))
		}
	case "choose":
		if len(m.releases) > 0 {
			m.choose(p, rapid.SampledFrom(m.releases).Draw(t, "chosen"))
		}
	case "reject":
		m.reject(p)
	case "tick":
		m.now = m.now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(t, "pass"))
	case "restart":
		m.restart()
	case "drift":
		p.drift = rapid.SampledFrom([]target.Drift{target.Heal, target.Report}).Draw(t, "drift")
	case "act":
		m.once(p)
	}
}

func (m *model) check(t *rapid.T) {
	for _, v := range m.violated {
		t.Fatal(v)
	}
	for _, p := range m.envs {
		for i, r := range p.branch {
			if i > 0 && r.Parent != p.branch[i-1].Hash {
				t.Fatalf("%s is not one line at %d", p.name, i+1)
			}
		}
	}
}

// TestNothingForbiddenEverHappens lets anything happen in any order, with kills
// between any two actions, and settles at random times. What must never be is
// checked in model.act and model.check.
func TestNothingForbiddenEverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := demoModel()
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			m.happens(t)
			if rapid.IntRange(0, 2).Draw(t, "settle") == 0 {
				if err := m.settle(func(*place, Action) {}); err != nil {
					t.Fatal(err)
				}
			}
			m.check(t)
		}
		if err := m.settle(func(*place, Action) {}); err != nil {
			t.Fatal(err)
		}
		m.check(t)
		for _, p := range m.envs {
			for _, a := range Plan(m.view(p)) {
				if a.Kind != Wake {
					t.Fatalf("%s: at rest, but %s", p.name, a)
				}
			}
		}
	})
}

// TestNothingStarves: newer releases come all the time, more often than the soak,
// and some of them fail. What has met every condition is not kept waiting by them:
// at rest no release is left behind that could be promoted, and in the long run
// production moves on, with people who approve what is proposed as without.
func TestNothingStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		soak := 10 * time.Minute
		staging := &place{name: "staging"}
		production := &place{name: "production", after: "staging", soak: soak,
			approvals: rapid.IntRange(0, 2).Draw(t, "approvals")}
		m.envs = []*place{staging, production}

		var well time.Duration // in which staging was healthy since production moved last
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "lands") > 0 {
				n := len(m.releases) + 1
				m.content[n] = fmt.Sprint(n)
				m.unproven[n] = rapid.IntRange(0, 9).Draw(t, "unproven") == 0
				m.releases = append(m.releases, n)
			}
			settle := func() {
				t.Helper()
				if err := m.settle(func(*place, Action) {}); err != nil {
					t.Fatal(err)
				}
				m.check(t)
			}
			settle()
			// What is healthy goes on, and what comes may fail.
			if up := staging.tip(); up != nil && up.Outcome.State != target.Healthy {
				if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
					m.report(staging, target.Failed)
				} else {
					m.report(staging, target.Healthy)
				}
			}
			settle()
			if rapid.Bool().Draw(t, "approves") {
				m.approve(production, []string{"ada", "jun"}[step%2])
			}
			before := production.covers()
			pass := rapid.SampledFrom([]time.Duration{time.Minute, 3 * time.Minute, 7 * time.Minute}).Draw(t, "pass")
			if up := staging.tip(); up != nil && up.Outcome.State == target.Healthy {
				well += pass
			}
			m.now = m.now.Add(pass)
			settle()
			m.report(production, target.Healthy)
			settle()
			v := m.view(production)
			if production.covers() > before || len(Wants(v)) == 0 {
				well = 0
			}
			for _, r := range m.releases {
				if r <= production.covers() || m.unproven[r] || v.Upstream == nil || v.Upstream.Declared == nil {
					continue
				}
				if s := v.Upstream.Standing(r); production.approvals == 0 && s.Healthy && s.After(m.now) >= soak {
					t.Fatalf("release %d stood staging for %s, and production is at %d", r, s.After(m.now), production.covers())
				}
			}
			if q := production.proposal; q != nil && q.Release > production.covers() &&
				len(q.Approvals) >= production.approvals &&
				v.Upstream.Standing(q.Release).After(m.now) >= soak && !m.unproven[q.Release] {
				t.Fatalf("release %d has everything, and production is at %d", q.Release, production.covers())
			}
			if production.approvals == 0 && well > 2*soak && len(Wants(v)) > 0 {
				t.Fatalf("staging was healthy for %s, production stays at %d and could take %v", well,
					production.covers(), Wants(v))
			}
		}
	})
}

// TestKilledAtEveryAction runs the same history twice, once with a restart after
// every single action, and expects the same end.
func TestKilledAtEveryAction(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		calm, killed := demoModel(), demoModel()
		// The target as it is: it reports healthy what it was told to run.
		live := func(m *model, kill bool) {
			for range 1000 {
				acted := false
				for _, p := range m.envs {
					a, ok := m.once(p)
					acted = acted || ok
					if ok && kill && a.Kind != Converge {
						m.restart()
					}
					if tip := p.tip(); tip != nil && p.given.Commit == tip.Hash && p.observed.State != target.Healthy {
						p.observed = record.Report{Commit: tip.Hash.String(), State: target.Healthy, Since: m.now}
						acted = true
					}
				}
				if !acted {
					return
				}
			}
			t.Fatal("did not come to rest")
		}
		for range rapid.IntRange(1, 20).Draw(t, "events") {
			event := rapid.SampledFrom([]string{"release", "approve", "rollback"}).Draw(t, "event")
			env := rapid.IntRange(0, 2).Draw(t, "env")
			n := rapid.IntRange(0, 3).Draw(t, "n")
			for i, m := range []*model{calm, killed} {
				p := m.envs[env]
				switch event {
				case "release":
					m.content[len(m.releases)+1] = fmt.Sprint(n)
					m.releases = append(m.releases, len(m.releases)+1)
				case "approve":
					m.approve(p, []string{"ada", "jun", "sam", "ines"}[n])
				case "rollback":
					m.rollback(p, n+1)
				}
				// A restart begins the soak again, so both get time for it.
				for range 6 {
					live(m, i == 1)
					m.now = m.now.Add(2 * time.Minute)
				}
				m.check(t)
			}
			for i := range calm.envs {
				if a, b := calm.envs[i].String(), killed.envs[i].String(); a != b {
					t.Fatalf("without kills: %s\nwith kills: %s", a, b)
				}
			}
		}
	})
}
