package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// harness is a gate in memory: branches whose tips are the lists of what has
// landed, builds that say what is true, and everything that can go wrong.
type harness struct {
	t *rapid.T

	// What a kill does not take.
	tips     map[string]string
	changes  []*simulated
	verdicts map[string]Verdict // by key, which is the content

	// What it does.
	made     map[string]Made
	content  map[string]string // by candidate
	running  map[string]Build
	failures map[string]int
	workers  int

	builds map[string]int // verdicts given, by key and by whom it was asked for
	ended  []int          // in order
}

type simulated struct {
	Change
	behavior string // good, red, conflict, broken
	waits    bool   // a policy will say manual once
	asked    bool
	end      string
	landed   string
}

func newSimulation(t *rapid.T) *harness {
	return &harness{
		t: t, tips: map[string]string{}, verdicts: map[string]Verdict{}, made: map[string]Made{},
		content: map[string]string{},
		running: map[string]Build{}, failures: map[string]int{}, builds: map[string]int{},
		workers: rapid.IntRange(1, 3).Draw(t, "workers"),
	}
}

func (w *harness) state() State {
	s := State{Tips: map[string]Tip{}, Made: w.made, Verdicts: w.verdicts, Failures: w.failures, Workers: w.workers,
		Expected: time.Minute}
	for _, c := range w.changes {
		if c.end == "" {
			s.Queue = append(s.Queue, c.Change)
			tip := w.tips[c.Branch]
			s.Tips[c.Branch] = Tip{Commit: tip, Green: tip == "" || w.verdicts[tip].Green}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.running)) {
		s.Running = append(s.Running, w.running[key])
	}
	return s
}

func (w *harness) of(r Ref) *simulated { return w.changes[r.Change-1] }

// step does what the planner says, and reports whether anything is to be done.
func (w *harness) step() bool {
	d := Plan(w.state())
	if same := Plan(w.state()); fmt.Sprint(same) != fmt.Sprint(d) {
		w.t.Fatalf("two plans for one state:\n%v\n%v", d, same)
	}
	for _, c := range d.Make {
		x := w.of(c.Changes[0])
		// The content is the key: what has landed, and the change. A revert gives a
		// content that was there before.
		content := c.Base + "/" + x.behavior + fmt.Sprint(c.Changes[0])
		if x.behavior == "same" {
			content = c.Branch + "/same"
		}
		m := Made{Key: content}
		if x.behavior == "conflict" && c.Base != "" {
			m = Made{Problem: "conflict"}
		}
		w.made[c.ID()], w.content[c.ID()] = m, content
	}
	for _, key := range d.Cancel {
		if _, ok := w.running[key]; !ok {
			w.t.Fatalf("cancel %s, which does not run", key)
		}
		delete(w.running, key)
	}
	if len(d.Build) > w.workers {
		w.t.Fatalf("%d builds for %d workers", len(d.Build), w.workers)
	}
	for _, b := range d.Build {
		if w.verdicts[b.Key].Green {
			w.t.Fatalf("%s is green and is built again", b.Key)
		}
		if _, ok := w.running[b.Key]; !ok {
			w.running[b.Key] = b
		}
	}
	for _, r := range d.Refuse {
		w.refuse(r)
	}
	branches := map[string]bool{}
	for _, c := range d.Land {
		if branches[c.Branch] {
			w.t.Fatalf("two landings on %s", c.Branch)
		}
		branches[c.Branch] = true
		w.land(c)
	}
	return len(d.Make)+len(d.Cancel)+len(d.Refuse)+len(d.Land) > 0
}

func (w *harness) refuse(r Refusal) {
	x := w.of(r.Change)
	if x.end != "" || x.Ref != r.Change {
		w.t.Fatalf("refused %v, which is %+v", r, x)
	}
	switch {
	case r.Why == Red && r.With.Result != "red",
		r.Why == Red && !strings.Contains(r.With.Key, "red"),
		r.Why == Problem && x.behavior != "conflict",
		r.Why == Broken && x.behavior != "broken":
		w.t.Fatalf("%+v was refused without cause: %+v", x, r)
	}
	x.end = string(r.Why)
	w.finish(x)
}

func (w *harness) land(c Candidate) {
	x := w.of(c.Changes[0])
	content := w.content[c.ID()]
	switch {
	case x.end != "" || x.Ref != c.Changes[0]:
		w.t.Fatalf("%s lands, and is %+v", c.ID(), x)
	case c.Base != w.tips[c.Branch]:
		w.t.Fatalf("%s lands on %q", c.ID(), w.tips[c.Branch])
	case !w.verdicts[content].Green:
		w.t.Fatalf("%s lands without a green verdict for what it holds", c.ID())
	case strings.Contains(content, "red"):
		w.t.Fatalf("%s is red and lands", c.ID())
	}
	if x.waits && !x.asked { // the policy
		x.Waits, x.asked = true, true
		return
	}
	w.tips[c.Branch] = content
	x.end, x.landed = "landed", content
	w.finish(x)
}

// finish checks that nobody ended before a change that came earlier and was
// ready as well.
func (w *harness) finish(x *simulated) {
	for _, y := range w.changes {
		if y.end == "" && y.Branch == x.Branch && y.Change.Change < x.Change.Change && y.Priority >= x.Priority && !y.Waits &&
			!y.asked && !x.asked {
			w.t.Fatalf("%v ended before %v, which came earlier", x.Ref, y.Ref)
		}
	}
	w.ended = append(w.ended, x.Change.Change)
}

// answer ends a build with the truth.
func (w *harness) answer(key string) {
	b := w.running[key]
	delete(w.running, key)
	x := w.of(b.Candidate.Changes[0])
	switch {
	case x.behavior == "broken":
		w.failures[key]++
		return
	case strings.Contains(key, "red"):
		v := w.verdicts[key]
		v.Red = append(v.Red, b.Candidate.Changes[0])
		w.verdicts[key] = v
	default:
		w.verdicts[key] = Verdict{Green: true}
	}
	delete(w.failures, key)
	by := key
	if x.Rebuild {
		by += " for " + b.Candidate.Changes[0].String()
	}
	if w.builds[by]++; w.builds[by] > 1 {
		w.t.Fatalf("%s gave its verdict %d times", by, w.builds[by])
	}
}

// restart is what a kill does.
func (w *harness) restart() {
	w.made, w.content, w.running, w.failures = map[string]Made{}, map[string]string{}, map[string]Build{}, map[string]int{}
	for _, x := range w.changes {
		x.Waits = false
	}
}

// TestHistories lets random things happen at random moments, then lets
// everything come to rest, and wants every change to have come to its end.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSimulation(t)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				if len(w.changes) > 12 {
					t.Skip("enough")
				}
				x := &simulated{
					behavior: rapid.SampledFrom([]string{"good", "good", "same", "red", "conflict", "broken"}).Draw(t, "behavior"),
					waits:    rapid.IntRange(0, 4).Draw(t, "policy") == 0,
				}
				x.Ref = Ref{len(w.changes) + 1, 1}
				x.Branch = rapid.SampledFrom([]string{"main", "next"}).Draw(t, "branch")
				x.Priority = rapid.SampledFrom([]int{0, 0, 0, 1, -1}).Draw(t, "priority")
				x.Rebuild = rapid.IntRange(0, 5).Draw(t, "rebuild") == 0
				w.changes = append(w.changes, x)
			},
			"revise": func(t *rapid.T) {
				if x := w.any(t); x != nil {
					x.Revision++
				}
			},
			"withdraw": func(t *rapid.T) {
				if x := w.any(t); x != nil && rapid.Bool().Draw(t, "really") {
					x.end = "withdrawn"
				}
			},
			"plan":    func(*rapid.T) { w.step() },
			"restart": func(*rapid.T) { w.restart() },
			"time passes": func(*rapid.T) {
				for key, b := range w.running {
					b.Elapsed += 30 * time.Second
					w.running[key] = b
				}
			},
			"answer": func(t *rapid.T) {
				if key := w.anyBuild(t); key != "" {
					w.answer(key)
				}
			},
			"lost build": func(t *rapid.T) {
				if key := w.anyBuild(t); key != "" {
					delete(w.running, key)
				}
			},
			"woken": func(*rapid.T) {
				for _, x := range w.changes {
					x.Waits = false
				}
			},
			"tip moves": func(t *rapid.T) { // another writer: not the gate's doing
				b := rapid.SampledFrom([]string{"main", "next"}).Draw(t, "branch")
				w.tips[b] += "!"
			},
		})
		for rounds := 0; ; rounds++ {
			if rounds > 2000 {
				t.Fatalf("it does not come to rest: %+v", Plan(w.state()))
			}
			if w.step() {
				continue
			}
			if len(w.running) > 0 {
				w.answer(slices.Sorted(maps.Keys(w.running))[0])
				continue
			}
			woken := false
			for _, x := range w.changes {
				if x.end == "" && x.Waits {
					x.Waits, woken = false, true
				}
			}
			if !woken {
				break
			}
		}
		for _, x := range w.changes {
			if x.end == "" {
				t.Fatalf("%+v does not end; the plan is %+v", x, Plan(w.state()))
			}
			if x.end == "landed" && (x.behavior == "red" || x.behavior == "broken") {
				t.Fatalf("%+v landed", x)
			}
		}
	})
}

func (w *harness) any(t *rapid.T) *simulated {
	var open []*simulated
	for _, x := range w.changes {
		if x.end == "" {
			open = append(open, x)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return rapid.SampledFrom(open).Draw(t, "change")
}

func (w *harness) anyBuild(t *rapid.T) string {
	if len(w.running) == 0 {
		return ""
	}
	return rapid.SampledFrom(slices.Sorted(maps.Keys(w.running))).Draw(t, "build")
}
