package fleet

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/agent"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
	"github.com/headgate-cd/headgate/reconciler/target/hosts/rollout"
)

// TestTwoServers: hosts follow the newest commit that any server has told them, for ever; a
// server that was restored from an old backup has nothing of it go back.
func TestTwoServers(t *testing.T) {
	f, m := fleetOf(t, "a", "b")
	run(t, f)
	f.Converge(declared(1, "AllAtOnce"))
	await(t, f, "healthy", is(1, target.Healthy))
	other := &Target{Here: hosts.New(t.TempDir(), revision), Log: slog.New(slog.DiscardHandler)}
	var theirs []Host
	ctx, cancel := context.WithCancel(context.Background())
	var links sync.WaitGroup
	defer links.Wait()
	defer cancel()
	for _, h := range f.Hosts("") {
		at := &net.UnixAddr{Name: filepath.Join(m[h.Name].dir, "s"), Net: "unix"}
		link := &agent.Target{Dial: m[h.Name].dial(at), Heard: other.Changed}
		links.Go(func() { _ = link.Run(ctx) })
		h.Agent = link
		theirs = append(theirs, h)
	}
	other.Hosts = func(string) []Host { return theirs }
	run(t, other)
	other.Converge(declared(3, "AllAtOnce"))
	await(t, other, "healthy", is(3, target.Healthy))

	// The older one goes on to its own next, which is older than what was acted on.
	f.Converge(declared(2, "AllAtOnce"))
	o := await(t, f, "refused", is(2, target.Failed))
	if !strings.Contains(o.Message, "has acted on a newer commit of this environment") {
		t.Errorf("%+v", o)
	}
	await(t, other, "as it was", is(3, target.Healthy))
	for name, host := range m {
		if ran := host.ran(t); ran != "r1 r3" {
			t.Errorf("%s ran %s", name, ran)
		}
	}
	f.Converge(declared(4, "AllAtOnce"))
	await(t, f, "healthy", is(4, target.Healthy))
}

// TestClockJumps: whatever time the clock says, no more hosts are deployed to at once, none
// twice, and it comes to an end.
func TestClockJumps(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, jump := range []time.Duration{-100 * time.Hour, -time.Second, 0, time.Hour, 1000 * time.Hour} {
		c := rollout.OneAtATime
		c.Zonal = &rollout.Zonal{First: time.Hour, Each: time.Hour}
		c.Alarms = []alarm.Alarm{{Name: "errors", Above: true, Bound: 5, For: time.Minute, Interval: 10 * time.Second}}
		var hosts []rollout.Host
		for _, name := range strings.Fields("a b c") {
			hosts = append(hosts, rollout.Host{Name: name, Zone: "zone " + name, Health: rollout.Healthy})
		}
		s := rollout.Begin(c, hosts)
		at, deployed := now, map[string]int{}
		s.Since = at
		for step := 0; ; step++ {
			if step == 3 {
				at = at.Add(jump)
			}
			p := s.Plan(at)
			for _, name := range p.Ask {
				s.Asked(name, at)
				s.Answered(alarm.Measured{Name: name}, at)
			}
			if len(p.Deploy) > 1 {
				t.Fatalf("jump %s: %v at once", jump, p.Deploy)
			}
			for _, name := range p.Deploy {
				s.Started(name, at)
				s.Report(name, true, at)
				deployed[name]++
			}
			if p.Status == rollout.Done {
				break
			}
			if step > 5000 || p.Status != rollout.InProgress {
				t.Fatalf("jump %s: %+v after %d steps", jump, p, step)
			}
			// A timer fires when so long has passed, whatever the clock says.
			at = at.Add(max(time.Second, min(p.Wake.Sub(at), time.Hour)))
		}
		for _, h := range hosts {
			if deployed[h.Name] != 1 {
				t.Errorf("jump %s: %s was deployed to %d times", jump, h.Name, deployed[h.Name])
			}
		}
	}
}
