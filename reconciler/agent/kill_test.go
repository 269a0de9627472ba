package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// gate is asked by instances whether they are healthy, and holds requests.
type gate struct {
	*httptest.Server
	sick  atomic.Int64 // the release that is not healthy; 0: all are
	asked atomic.Int64 // how many checks wait

	mu      sync.Mutex
	holding chan struct{} // checks wait for it; nil: they do not
	slow    chan struct{} // slow requests wait for it
}

func newGate(t *testing.T) *gate {
	g := &gate{slow: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/check", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		holding := g.holding
		g.mu.Unlock()
		if holding != nil {
			g.asked.Add(1)
			select {
			case <-holding:
			case <-r.Context().Done():
			}
		}
		if r.FormValue("release") == fmt.Sprint(g.sick.Load()) {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		slow := g.slow
		g.mu.Unlock()
		select {
		case <-slow:
		case <-r.Context().Done():
		}
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		g.hold(false)
		g.CloseClientConnections()
		g.Close()
	})
	return g
}

// hold has checks wait, or lets them go.
func (g *gate) hold(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case on:
		g.asked.Store(0)
		g.holding = make(chan struct{})
	case g.holding != nil:
		close(g.holding)
		g.holding = nil
	}
}

// finish lets slow requests end.
func (g *gate) finish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.slow)
	g.slow = make(chan struct{})
}

// gated is two instances that are as healthy as the gate says.
func (g *gate) gated(sequence, release int) target.Declared {
	d := declared(sequence, release)
	text := strings.Replace(web, `BE_WEB: "1"`, `BE_WEB: "1", GATE: "`+g.URL+`"`, 1)
	text = strings.Replace(text, "health: /", "health: /check, drain: 10m", 1)
	d.Files = target.Files{"compose.yaml": []byte(text + "    deploy: {replicas: 2}\n")}
	return d
}

// beGated is what an instance answers because of a gate.
func beGated(mux *http.ServeMux, gate, release string) {
	ask := func(path string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if path == "/slow" {
				_, _ = w.Write([]byte("begun"))
				w.(http.Flusher).Flush()
			}
			req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, gate+path+"?release="+release, nil)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				http.Error(w, resp.Status, resp.StatusCode)
			}
		}
	}
	mux.HandleFunc("/check", ask("/check"))
	mux.HandleFunc("/slow", ask("/slow"))
}

// running are the processes of a release, by instance.
func running(o target.Observed, release int) map[string]int {
	all := map[string]int{}
	for _, u := range o.Units {
		for _, in := range u.Instances {
			if in.Release == release && in.PID > 0 {
				all[in.ID] = in.PID
			}
		}
	}
	return all
}

// restarted is how often each instance was started again.
func restarted(o target.Observed) map[string]int {
	all := map[string]int{}
	for _, u := range o.Units {
		for _, in := range u.Instances {
			all[in.ID] = in.Restarts
		}
	}
	return all
}

// state is what goes on when something is killed. enter begins it from release n, and says
// of which release no process must be another afterwards: of what has not been healthy yet
// nobody says which process it is. leave lets it come to its end.
type state struct {
	enter func(p *process, g *gate, n int) (spared int)
	leave func(p *process, g *gate, n int)
}

var states = map[string]state{
	"rollout": { // release n+1 is not healthy yet
		enter: func(p *process, g *gate, n int) int {
			g.sick.Store(int64(n + 1))
			p.Target.Converge(g.gated(n+1, n+1))
			p.await("two instances start", func(o target.Observed) bool { return len(running(o, n+1)) == 2 })
			return n
		},
		leave: func(_ *process, g *gate, _ int) { g.sick.Store(0) },
	},
	"drain": { // release n+1 serves, and release n has a request in flight
		enter: func(p *process, g *gate, n int) int {
			slow(p.t, p.healthy(n).Units[0].URL)
			p.Target.Converge(g.gated(n+1, n+1))
			p.await("an instance drains", func(o target.Observed) bool {
				for _, in := range o.Units[0].Instances {
					if in.Release == n && in.Phase == target.PhaseDraining {
						return len(running(o, n+1)) == 2
					}
				}
				return false
			})
			return n + 1
		},
		leave: func(_ *process, g *gate, _ int) { g.finish() },
	},
	"check": { // both instances of release n are being asked
		enter: func(p *process, g *gate, n int) int {
			g.hold(true)
			for deadline := time.Now().Add(2 * time.Minute); g.asked.Load() < 2; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					p.t.Fatal("nobody asks")
				}
			}
			return n
		},
		leave: func(p *process, g *gate, n int) {
			g.hold(false)
			p.Target.Converge(g.gated(n+1, n+1))
		},
	},
}

// slow makes a request that is in flight until the test has ended, or who carries it.
func slow(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Get(url + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if n, err := resp.Body.Read(make([]byte, 5)); n == 0 {
		t.Fatal(err)
	}
}

// TestKilledUnderLoad: in the middle of a rollout, a drain and a check, with requests coming
// in all the while, the worker is killed, then an instance, and in the same state again all
// of the agent and an instance at once. Nothing is lost but what the dead one had in flight,
// and no other instance is started anew.
func TestKilledUnderLoad(t *testing.T) {
	for name, s := range states {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			p := newProcess(t)
			p.run()
			p.Target.Converge(g.gated(1, 1))
			url := p.healthy(1).Units[0].URL
			n := 1

			// The worker.
			sent, end := load(url)
			more(t, sent, 50)
			spared := s.enter(p, g, n)
			before, restarts := running(p.Target.Observe(hello), spared), restarted(p.Target.Observe(hello))
			h := p.hello("")
			if err := syscall.Kill(h.Worker, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			p.hello(fmt.Sprint(h.Worker))
			more(t, sent, 100)
			p.unnoticed(spared, before, restarts, "")
			s.leave(p, g, n)
			n++
			p.settled(n)
			if lost, why := end(); lost > sides {
				t.Errorf("the worker: %d requests were lost, of which %d can have been in flight: %s", lost, sides, why)
			}

			// An instance.
			sent, end = load(url)
			more(t, sent, 50)
			spared = s.enter(p, g, n)
			before, restarts = running(p.Target.Observe(hello), spared), restarted(p.Target.Observe(hello))
			killed := killOne(t, before)
			more(t, sent, 100)
			p.await("it is started again", func(o target.Observed) bool {
				now := running(o, spared)
				return now[killed] != 0 && now[killed] != before[killed]
			})
			p.unnoticed(spared, before, restarts, killed)
			s.leave(p, g, n)
			n++
			p.settled(n)
			if lost, why := end(); lost > sides {
				t.Errorf("an instance: %d requests were lost, of which %d can have been in flight: %s", lost, sides, why)
			}

			// All of them: the addresses are closed until there is another agent.
			spared = s.enter(p, g, n)
			before, restarts = running(p.Target.Observe(hello), spared), restarted(p.Target.Observe(hello))
			h = p.hello("")
			for _, pid := range []int{h.PID, h.Worker} {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			killed = killOne(t, before)
			_ = p.cmd.Wait() // it was killed
			p.start()
			p.await("what is missing is started", func(o target.Observed) bool {
				now := running(o, spared)
				return now[killed] != 0 && now[killed] != before[killed]
			})
			p.unnoticed(spared, before, restarts, killed)
			s.leave(p, g, n)
			n++
			p.settled(n)
			sent, end = load(url)
			more(t, sent, 50)
			if lost, why := end(); lost > 0 {
				t.Errorf("afterwards %d requests were lost: %s", lost, why)
			}
		})
	}
}

// killOne kills one of the processes, and says of which instance.
func killOne(t *testing.T, of map[string]int) string {
	t.Helper()
	for id, pid := range of {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return id
	}
	t.Fatal("nothing runs")
	return ""
}

// unnoticed fails the test unless the processes of a release run that ran before, and no
// instance was started anew, but for one that was killed.
func (p *process) unnoticed(release int, before, restarts map[string]int, killed string) {
	p.t.Helper()
	o := p.await("what ran is found", func(o target.Observed) bool {
		return len(running(o, release)) >= len(before)
	})
	now := running(o, release)
	for id, pid := range before {
		if now[id] != pid && id != killed {
			p.t.Errorf("%s was process %d, and now there run %v", id, pid, now)
		}
	}
	for id, n := range restarted(o) {
		if id != killed && n > restarts[id] {
			p.t.Errorf("%s was started again: %+v", id, o)
		}
	}
}

// settled waits until a release runs, and no other.
func (p *process) settled(n int) {
	p.t.Helper()
	p.await("as declared", func(o target.Observed) bool {
		return o.State == target.Healthy && o.Sequence == n && len(running(o, n)) == 2 &&
			len(o.Units[0].Instances) == 2
	})
}
