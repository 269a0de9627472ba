package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

// model is a naive machine that carries actions out. It knows by itself what runs,
// what is healthy and what gets traffic, and complains about actions that cannot be.
type model struct {
	t        *rapid.T
	d        Declared
	o        Observed
	now      time.Time
	running  map[string]string // instance → version
	healthy  map[string]bool   // passed a check since it was started, and was not seen to fail since
	fails    map[string]int
	leaving  map[string]bool // draining or stopping
	draining []string
	stopping []string
	routed   map[string][]string // service → instances
	bound    map[string][]string
	broken   map[string]bool // versions that never become healthy
	minimum  map[string]int  // service → fewest instances that may have traffic; checked when present
	wake     time.Time

	deployment Deployment // of what is declared from then on

	called, asked map[string]bool // hooks and alarms that owe an answer
}

// declared is the version that is declared of a service.
func (w *model) declared(service string) string {
	for _, s := range w.d.Services {
		if s.Name == service {
			return s.Version
		}
	}
	return ""
}

// answer answers all that was called and asked.
func (w *model) answer(result HookResult, value float64) {
	for _, name := range slices.Sorted(maps.Keys(w.called)) {
		delete(w.called, name)
		w.o.Saw(Hooked{Name: name, Result: result, Again: time.Second}, w.now)
	}
	for _, name := range slices.Sorted(maps.Keys(w.asked)) {
		delete(w.asked, name)
		w.o.Saw(Measured{alarm.Measured{Name: name, Value: value}}, w.now)
	}
	w.plan()
}

func newWorld(t *rapid.T) *model {
	return &model{t: t, now: epoch, running: map[string]string{}, healthy: map[string]bool{}, fails: map[string]int{},
		leaving: map[string]bool{},
		routed:  map[string][]string{}, bound: map[string][]string{}, broken: map[string]bool{}, minimum: map[string]int{},
		called: map[string]bool{}, asked: map[string]bool{}}
}

func (w *model) declare(services ...Service) {
	seq := w.d.Sequence + 1
	w.d = Declared{Commit: fmt.Sprint("c", seq), Sequence: seq, Services: services, Deployment: w.deployment}
	w.o.Declare(w.d)
	w.plan()
}

// plan carries out what is planned until nothing is.
func (w *model) plan() {
	for round := 0; ; round++ {
		if round == 8 {
			w.t.Fatalf("there is no end of actions")
		}
		before := w.o.Clone()
		actions, wake := Plan(w.d, &w.o, w.now)
		again, _ := Plan(w.d, before, w.now)
		if fmt.Sprint(actions) != fmt.Sprint(again) {
			w.t.Fatalf("the same facts gave %v and %v", actions, again)
		}
		w.wake = wake
		if len(actions) == 0 {
			break
		}
		for _, a := range actions {
			w.o.Did(a, w.now)
			w.act(a)
		}
	}
	for service, least := range w.minimum {
		if n := len(w.routed[service]); n < least {
			w.t.Fatalf("%d instances of %s have traffic, of at least %d", n, service, least)
		}
	}
}

func (w *model) act(a Action) {
	if a.Fence != w.d.Sequence {
		w.t.Fatalf("%s has fence %d of %d", a, a.Fence, w.d.Sequence)
	}
	switch a.Kind {
	case Listen:
		w.bound[a.Service] = a.Listen
		w.o.Saw(Listened{Service: a.Service, Bound: a.Listen}, w.now)
	case Start:
		if _, runs := w.running[a.Instance]; runs {
			w.t.Fatalf("%s: it runs", a)
		}
		if s := w.service(a.Service); s != nil && s.Exclusive {
			for id, version := range w.running {
				if strings.HasPrefix(id, a.Service+"-") && version != a.Version {
					w.t.Fatalf("%s: %s of %s runs", a, id, version)
				}
			}
		}
		w.running[a.Instance] = a.Version
		w.fails[a.Instance] = 0
	case Route:
		rolls := w.d.Deployment.Strategy == Rolling
		if s := w.service(a.Service); s != nil && s.Exclusive {
			rolls = true
		}
		for _, id := range a.Routed {
			if !w.healthy[id] || w.leaving[id] || w.running[id] != a.Version && !rolls {
				w.t.Fatalf("%s: %s is not fit for traffic", a, id)
			}
		}
		for _, id := range a.Canaries {
			if !w.healthy[id] || w.leaving[id] || w.running[id] != a.Canary || a.Canary != w.declared(a.Service) {
				w.t.Fatalf("%s: canary %s is not fit for traffic", a, id)
			}
		}
		w.routed[a.Service] = slices.Concat(a.Routed, a.Canaries)
	case Drain, Stop:
		if _, runs := w.running[a.Instance]; !runs {
			w.t.Fatalf("%s: it does not run", a)
		}
		for _, ids := range w.routed {
			if slices.Contains(ids, a.Instance) {
				w.t.Fatalf("%s: it has traffic", a)
			}
		}
		w.leaving[a.Instance] = true
		if a.Kind == Drain {
			w.draining = append(w.draining, a.Instance)
		} else {
			w.stopping = append(w.stopping, a.Instance)
		}
	case Call:
		w.called[a.Name] = true
	case Query:
		w.asked[a.Name] = true
	case Close:
		for id := range w.running {
			if f, _ := w.o.Find(id); f == nil {
				w.t.Fatalf("%s: %s still runs", a, id)
			}
		}
		delete(w.bound, a.Service)
	}
}

// service is what is declared of a service, nil when nothing is.
func (w *model) service(name string) *Service {
	i := slices.IndexFunc(w.d.Services, func(s Service) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &w.d.Services[i]
}

func (w *model) exit(id, how string) {
	delete(w.running, id)
	delete(w.healthy, id)
	delete(w.leaving, id)
	w.draining = slices.DeleteFunc(w.draining, func(d string) bool { return d == id })
	w.stopping = slices.DeleteFunc(w.stopping, func(d string) bool { return d == id })
	w.o.Saw(Exited{ID: id, How: how}, w.now)
	for service, ids := range w.routed {
		w.routed[service] = slices.DeleteFunc(slices.Clone(ids), func(d string) bool { return d == id })
	}
	w.plan()
}

func (w *model) check(id string, ok bool) {
	if _, runs := w.running[id]; !runs || w.leaving[id] {
		return
	}
	if ok {
		w.healthy[id], w.fails[id] = true, 0
	} else if w.fails[id]++; w.fails[id] >= testCheck.Retries {
		delete(w.healthy, id)
	}
	w.o.Saw(Checked{ID: id, OK: ok, Message: "no"}, w.now)
	w.plan()
}

// settle lets time pass without faults: what can become healthy does, what drains
// has drained, what is told to stop stops.
func (w *model) settle(rounds int) {
	for range rounds {
		w.answer(Succeeded, 0)
		for _, id := range slices.Clone(w.draining) {
			w.draining = slices.DeleteFunc(w.draining, func(d string) bool { return d == id })
			w.o.Saw(Drained{ID: id}, w.now)
			w.plan()
		}
		for _, id := range slices.Clone(w.stopping) {
			w.exit(id, "exited 0")
		}
		for _, id := range slices.Sorted(maps.Keys(w.running)) {
			if w.broken[w.running[id]] {
				w.exit(id, "exited 1")
			} else {
				w.check(id, true)
			}
		}
		w.now = w.now.Add(time.Second)
		if w.wake.After(w.now) && len(w.draining)+len(w.stopping)+len(w.called)+len(w.asked) == 0 {
			// Nothing else will happen before the plan wants to be asked again, but checks.
			for _, id := range slices.Sorted(maps.Keys(w.running)) {
				if !w.broken[w.running[id]] {
					w.check(id, true)
				}
			}
			if len(w.called)+len(w.asked) == 0 { // or one of the checks had a hook be called
				w.now = w.wake
			}
		}
		w.plan()
	}
}

// TestWhateverHappensItEndsConverged plays random commits and faults. At any time
// only healthy instances have traffic and every action carries the newest fence;
// when the faults stop and a working version is declared, exactly that runs.
func TestWhateverHappensItEndsConverged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		version := 0
		services := func(broken bool) (all []Service) {
			for _, name := range []string{"db", "web"} {
				if !rapid.Bool().Draw(t, "declared") {
					continue
				}
				version++
				s := service(fmt.Sprintf("%s=v%d*%d", name, rapid.IntRange(max(1, version-2), version).Draw(t, "version"),
					rapid.IntRange(0, 4).Draw(t, "replicas")))
				s.Version = name + s.Version
				if rapid.Bool().Draw(t, "listens") {
					s.Listen = []string{fmt.Sprint("127.0.0.1:8", rapid.IntRange(0, 1).Draw(t, "port"), name)}
				}
				if s.Exclusive = rapid.IntRange(0, 2).Draw(t, "exclusive") == 0; s.Exclusive {
					s.Minimum, s.Maximum = 0, s.Replicas
				}
				if broken && rapid.Bool().Draw(t, "broken") {
					w.broken[s.Version] = true
				}
				if rapid.IntRange(0, 3).Draw(t, "fallback") == 0 {
					back := s
					back.Version, back.Fallback = name+"v0", nil
					s.Fallback = &back
				}
				all = append(all, s)
			}
			if len(all) == 2 && rapid.Bool().Draw(t, "needs") {
				all[1].Needs = []Need{{"db", rapid.SampledFrom([]Condition{UntilStarted, UntilHealthy}).Draw(t, "until")}}
				if back := all[1].Fallback; back != nil {
					back.Needs = all[1].Needs
				}
			}
			return all
		}
		any := func() string {
			ids := slices.Sorted(maps.Keys(w.running))
			if len(ids) == 0 {
				return ""
			}
			return rapid.SampledFrom(ids).Draw(t, "instance")
		}
		deployments := func() {
			w.deployment = Deployment{Strategy: rapid.SampledFrom([]Strategy{AllAtOnce, AllAtOnce, Rolling, Canary,
				Linear}).Draw(t, "strategy")}
			w.deployment.Percent, w.deployment.Interval = rapid.IntRange(20, 100).Draw(t, "percent"), time.Minute
			if rapid.Bool().Draw(t, "bakes") {
				w.deployment.Bake = time.Minute
			}
			if rapid.Bool().Draw(t, "hooks") {
				stage := rapid.SampledFrom(HookStages).Draw(t, "stage")
				w.deployment.Hooks = []Hook{{Name: "hook", Stage: stage, Timeout: 5 * time.Minute}}
			}
			if rapid.Bool().Draw(t, "alarms") {
				w.deployment.Alarms = []alarm.Alarm{{Name: "alarm", Above: true, Bound: 1, Interval: 10 * time.Second}}
			}
		}
		w.declare(services(true)...)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				deployments()
				w.declare(services(true)...)
			case 1:
				if id := any(); id != "" {
					w.exit(id, "killed")
				}
			case 2, 3:
				if id := any(); id != "" && !w.broken[w.running[id]] {
					w.check(id, true)
				}
			case 4:
				if id := any(); id != "" {
					w.check(id, false)
				}
			case 5:
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 20000).Draw(t, "ms")) * time.Millisecond)
				w.plan()
			case 6:
				w.settle(1)
			case 8:
				w.answer(rapid.SampledFrom([]HookResult{Succeeded, InProgress, Failed}).Draw(t, "result"),
					rapid.Float64Range(0, 2).Draw(t, "value"))
			case 9:
				w.d.Paused = rapid.Bool().Draw(t, "paused")
				w.plan()
			case 7:
				// Events about what is gone change nothing.
				before := fmt.Sprint(w.o.Names())
				w.o.Saw(Exited{ID: "gone-1", How: "late"}, w.now)
				w.o.Saw(Checked{ID: "gone-1", OK: true}, w.now)
				if after := fmt.Sprint(w.o.Names()); before != after {
					t.Fatalf("a late event changed %s to %s", before, after)
				}
				w.plan()
			}
		}
		w.broken = map[string]bool{}
		deployments()
		w.declare(services(false)...)
		for range 40 {
			w.settle(10)
			if state, _ := Status(w.d, &w.o, w.now); state == target.Healthy {
				w.settle(10)
				break
			}
		}
		want := map[string]int{}
		for _, s := range w.d.Services {
			if s.Replicas > 0 {
				want[s.Version] = s.Replicas
			}
			if !slices.Equal(w.bound[s.Name], s.Listen) {
				t.Fatalf("%s listens on %v, not %v", s.Name, w.bound[s.Name], s.Listen)
			}
			if len(w.routed[s.Name]) != s.Replicas {
				t.Fatalf("%v of %s have traffic, not %d", w.routed[s.Name], s.Name, s.Replicas)
			}
		}
		got := map[string]int{}
		for _, v := range w.running {
			got[v]++
		}
		if !maps.Equal(want, got) {
			t.Fatalf("%v runs, not %v", got, want)
		}
		if state, why := Status(w.d, &w.o, w.now); state != target.Healthy && len(w.d.Services) > 0 {
			t.Fatalf("%s: %s", state, why)
		}
		if len(w.d.Services) == 0 && len(w.o.Services) > 0 {
			t.Fatalf("%v is still known", w.o.Names())
		}
	})
}

// TestServingNeverDropsBelow: from one working version to the next, in any order of
// events, at least the smaller of both numbers of instances has traffic.
func TestServingNeverDropsBelow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		replicas := rapid.IntRange(1, 5).Draw(t, "replicas")
		w.declare(service(fmt.Sprintf("web=v1*%d", replicas)))
		w.settle(3)
		for v := range rapid.IntRange(1, 5).Draw(t, "rollouts") {
			next := rapid.IntRange(1, 5).Draw(t, "replicas")
			w.minimum["web"] = min(replicas, next, len(w.routed["web"]))
			replicas = next
			w.declare(service(fmt.Sprintf("web=v%d*%d", v+2, next)))
			for range rapid.IntRange(0, 20).Draw(t, "steps") {
				ids := slices.Sorted(maps.Keys(w.running))
				id := rapid.SampledFrom(ids).Draw(t, "instance")
				switch {
				case slices.Contains(w.draining, id):
					w.draining = slices.DeleteFunc(w.draining, func(d string) bool { return d == id })
					w.o.Saw(Drained{ID: id}, w.now)
					w.plan()
				case slices.Contains(w.stopping, id):
					w.exit(id, "exited 0")
				default:
					w.check(id, true)
				}
			}
			if rapid.Bool().Draw(t, "settle") {
				w.settle(10)
			}
		}
	})
}

// TestBadVersionsGetNothing: whatever is tried, a version that never becomes healthy
// has no traffic and the old one goes on.
func TestBadVersionsGetNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		replicas := rapid.IntRange(1, 5).Draw(t, "replicas")
		w.declare(service(fmt.Sprintf("web=v1*%d", replicas)))
		w.settle(3)
		w.minimum["web"] = replicas
		w.broken["v2"] = true
		next := rapid.IntRange(1, 6).Draw(t, "replicas of the next")
		w.declare(service(fmt.Sprintf("web=v2*%d", next)))
		w.settle(40)
		if state, why := Status(w.d, &w.o, w.now); state != target.Failed {
			t.Fatalf("%s: %s", state, why)
		}
		for id, v := range w.running {
			if v != "v1" {
				t.Fatalf("%s of %s still runs", id, v)
			}
		}
		if f := w.o.Services["web"].Versions["v2"].Failures; f > max(3, next)+next {
			t.Fatalf("tried %d times", f)
		}
	})
}

// TestRollingKeepsItsBounds: whatever happens on the way from one working version to
// the next, no fewer instances than the minimum are healthy and no more than the
// maximum run, and it comes to its end.
func TestRollingKeepsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		replicas := rapid.IntRange(1, 8).Draw(t, "replicas")
		low, high := rapid.IntRange(0, 100).Draw(t, "minimum"), rapid.IntRange(100, 250).Draw(t, "maximum")
		minimum, maximum := Bounds(replicas, low, high)
		if Stalls(replicas, minimum, maximum) {
			t.Skip("refused at the push")
		}
		w.deployment.Strategy = Rolling
		declare := func(version int) {
			s := service(fmt.Sprintf("web=v%d*%d", version, replicas))
			s.Minimum, s.Maximum = minimum, maximum
			w.declare(s)
		}
		declare(1)
		w.settle(30)
		w.minimum["web"] = minimum
		for v := range rapid.IntRange(1, 3).Draw(t, "rollouts") {
			declare(v + 2)
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(w.running))).Draw(t, "instance")
				switch {
				case slices.Contains(w.draining, id):
					w.draining = slices.DeleteFunc(w.draining, func(d string) bool { return d == id })
					w.o.Saw(Drained{ID: id}, w.now)
					w.plan()
				case slices.Contains(w.stopping, id):
					w.exit(id, "exited 0")
				default:
					w.check(id, true)
				}
				if n := len(w.running); n > maximum {
					t.Fatalf("%d instances run, of at most %d", n, maximum)
				}
			}
			if rapid.Bool().Draw(t, "settle") {
				w.settle(60)
				if state, why := Status(w.d, &w.o, w.now); state != target.Healthy {
					t.Fatalf("%s: %s", state, why)
				}
			}
		}
	})
}

// TestWhatIsGivenUpGetsNothing: once a staged deployment is given up, whatever its
// stage, the version before has all the traffic and nothing else runs.
func TestWhatIsGivenUpGetsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		replicas := rapid.IntRange(1, 4).Draw(t, "replicas")
		w.declare(service(fmt.Sprintf("web=v1*%d", replicas)), service("api=a1"))
		w.settle(5)
		w.minimum["web"], w.minimum["api"] = replicas, 1
		stage := rapid.SampledFrom(HookStages).Draw(t, "stage")
		w.deployment = Deployment{
			Strategy: rapid.SampledFrom([]Strategy{AllAtOnce, Canary, Linear}).Draw(t, "strategy"),
			Percent:  rapid.IntRange(3, 99).Draw(t, "percent"),
			Interval: time.Minute,
			Bake:     time.Minute,
			Hooks:    []Hook{{Name: "hook", Stage: stage, Timeout: time.Hour}},
		}
		w.declare(service(fmt.Sprintf("web=v2*%d", replicas)), service("api=a2"))
		for range 200 {
			if w.called["hook"] {
				w.answer(Failed, 0)
				break
			}
			w.settle(1)
		}
		w.settle(10)
		if state, why := Status(w.d, &w.o, w.now); state != target.Failed || !RollBack(w.d, &w.o) {
			t.Fatalf("%s: %s", state, why)
		}
		for id, v := range w.running {
			if v != "v1" && v != "a1" {
				t.Fatalf("%s of %s still runs", id, v)
			}
		}
	})
}
