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

	"github.com/headgate-cd/headgate/reconciler/target"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata/plan")

// TestConversations plays testdata/plan/*.txt: lines that begin with ">" are
// said to a world, the lines after it are the answer.
func TestConversations(t *testing.T) {
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
			w := newWorld()
			for line := range strings.Lines(string(text)) {
				switch {
				case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
					got.WriteString(line)
				case strings.HasPrefix(line, ">"):
					got.WriteString(line)
					w.hear(&got, strings.Fields(line[1:]))
				}
			}
			for _, v := range w.violated {
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

// hear understands one line:
//
//	env <name> [after=<name>] [approvals=<n>] [soak=<duration>]
//	release <n> [same] [unproven]
//	run | once <env> | plan <env> | show
//	report <env> <state> | approve <env> <user> | rollback <env> <release>
//	tick <duration> | restart
func (w *world) hear(out *bytes.Buffer, words []string) {
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
		w.envs = append(w.envs, p)
	case "release":
		n := number(words[1])
		w.content[n] = "content " + words[1]
		for _, opt := range words[2:] {
			switch opt {
			case "same":
				w.content[n] = w.content[n-1]
			case "unproven":
				w.unproven[n] = true
			}
		}
		w.releases = append(w.releases, n)
	case "run":
		if err := w.settle(func(p *place, a Action) { fmt.Fprintf(out, "%s: %s\n", p.name, a) }); err != nil {
			fmt.Fprintln(out, err)
		}
		for _, p := range w.envs {
			for _, a := range Plan(w.view(p)) {
				fmt.Fprintf(out, "%s: %s\n", p.name, a)
			}
		}
	case "once":
		if a, ok := w.once(w.place(words[1])); ok {
			fmt.Fprintln(out, a)
		} else {
			fmt.Fprintln(out, "nothing")
		}
	case "plan":
		for _, a := range Plan(w.view(w.place(words[1]))) {
			fmt.Fprintln(out, a)
		}
	case "show":
		for _, p := range w.envs {
			fmt.Fprintln(out, p)
		}
	case "report":
		w.report(w.place(words[1]), target.State(words[2]))
	case "approve":
		if s := w.approve(w.place(words[1]), words[2]); s != "" {
			fmt.Fprintln(out, s)
		}
	case "rollback":
		if s := w.rollback(w.place(words[1]), number(words[2])); s != "" {
			fmt.Fprintln(out, s)
		}
	case "tick":
		d, _ := time.ParseDuration(words[1])
		w.now = w.now.Add(d)
	case "restart":
		w.restart()
	default:
		fmt.Fprintf(out, "not understood: %s\n", strings.Join(words, " "))
	}
}

func demoWorld() *world {
	w := newWorld()
	w.envs = []*place{{name: "staging"}, {name: "production", after: "staging", approvals: 1, soak: time.Minute}, {name: "attic", after: "production"}}
	return w
}

// happens lets one random thing happen in a world.
func (w *world) happens(t *rapid.T) {
	p := rapid.SampledFrom(w.envs).Draw(t, "env")
	switch rapid.SampledFrom([]string{"release", "report", "report", "report", "approve", "rollback", "tick", "restart", "act", "act"}).Draw(t, "event") {
	case "release":
		n := len(w.releases) + 1
		w.content[n] = fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "content"))
		w.unproven[n] = rapid.IntRange(0, 9).Draw(t, "unproven") == 0
		w.releases = append(w.releases, n)
	case "report":
		w.report(p, rapid.SampledFrom([]target.State{target.Healthy, target.Healthy, target.Converging, target.Degraded, target.Failed, target.Unknown}).Draw(t, "state"))
	case "approve":
		w.approve(p, rapid.SampledFrom([]string{"ada", "jun"}).Draw(t, "user"))
	case "rollback":
		if len(w.releases) > 0 {
			w.rollback(p, rapid.SampledFrom(w.releases).Draw(t, "to"))
		}
	case "tick":
		w.now = w.now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(t, "pass"))
	case "restart":
		w.restart()
	case "act":
		w.once(p)
	}
}

func (w *world) check(t *rapid.T) {
	for _, v := range w.violated {
		t.Fatal(v)
	}
	for _, p := range w.envs {
		for i, r := range p.branch {
			if i > 0 && r.parent != p.branch[i-1].commit {
				t.Fatalf("%s is not one line at %d", p.name, i+1)
			}
		}
	}
}

// TestNothingForbiddenEverHappens lets anything happen in any order, with kills
// between any two actions, and settles at random times. What must never be is
// checked in world.act and world.check.
func TestNothingForbiddenEverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := demoWorld()
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			w.happens(t)
			if rapid.IntRange(0, 2).Draw(t, "settle") == 0 {
				if err := w.settle(func(*place, Action) {}); err != nil {
					t.Fatal(err)
				}
			}
			w.check(t)
		}
		if err := w.settle(func(*place, Action) {}); err != nil {
			t.Fatal(err)
		}
		w.check(t)
		for _, p := range w.envs {
			for _, a := range Plan(w.view(p)) {
				if a.Kind != Wake {
					t.Fatalf("%s: at rest, but %s", p.name, a)
				}
			}
		}
	})
}

// TestKilledAtEveryAction runs the same history twice, once with a restart after
// every single action, and expects the same end.
func TestKilledAtEveryAction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		calm, killed := demoWorld(), demoWorld()
		// The target as it is: it reports healthy what it was told to run.
		live := func(w *world, kill bool) {
			for range 1000 {
				acted := false
				for _, p := range w.envs {
					a, ok := w.once(p)
					acted = acted || ok
					if ok && kill && a.Kind != Converge {
						w.restart()
					}
					if tip := p.tip(); tip != nil && p.told == tip.commit && p.report.State != target.Healthy {
						p.report = Observed{Commit: tip.commit.String(), State: target.Healthy, Since: w.now}
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
			for i, w := range []*world{calm, killed} {
				p := w.envs[env]
				switch event {
				case "release":
					w.content[len(w.releases)+1] = fmt.Sprint(n)
					w.releases = append(w.releases, len(w.releases)+1)
				case "approve":
					w.approve(p, []string{"ada", "jun", "sam", "ines"}[n])
				case "rollback":
					w.rollback(p, n+1)
				}
				// A restart begins the soak again, so both get time for it.
				for range 6 {
					live(w, i == 1)
					w.now = w.now.Add(2 * time.Minute)
				}
				w.check(t)
			}
			for i := range calm.envs {
				if a, b := calm.envs[i].String(), killed.envs[i].String(); a != b {
					t.Fatalf("without kills: %s\nwith kills: %s", a, b)
				}
			}
		}
	})
}
