package fleet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/hosts"
)

// halves is a fleet of two blue and two green machines, which note the events that they go
// through, and fail where a file says so.
func halves(t *testing.T) (*Target, map[string]*machine) {
	f, m := fleetOf(t, "b1", "b2", "g1", "g2")
	all := f.Hosts("")
	for i := range all {
		all[i].Tags = map[string]string{"half": map[byte]string{'b': "blue", 'g': "green"}[all[i].Name[0]]}
		m[all[i].Name].target.Unpack = func(_ context.Context, digest, dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "note.sh"), []byte("#!/bin/sh\nroot=${0%/*}/../../..\n"+
				"echo "+digest+":$LIFECYCLE_EVENT >>$root/ran\n[ ! -e \"$root/fails-"+digest+"-$LIFECYCLE_EVENT\" ]\n"), 0o755))
		}
	}
	return f, m
}

// half is what is declared for them.
func half(sequence, release int) target.Declared {
	d := declared(sequence, "OneAtATime")
	d.Release = declared(release, "").Release
	d.Files[FileName] = []byte("tags: {half: blue}\nblue_green: {half: green}\n")
	spec := "version: 0.0\nos: linux\nhooks:\n"
	for _, event := range []string{"BeforeBlockTraffic", "ApplicationStart", "AfterAllowTraffic"} {
		spec += "  " + event + ": [{location: note.sh}]\n"
	}
	d.Files["appspec.yml"] = []byte(spec)
	return d
}

// serving are the hosts that get traffic, by what is reported.
func serving(o target.Observed) (names []string) {
	for _, u := range o.Units {
		if slices.ContainsFunc(u.Instances, func(in target.Instance) bool { return in.Serving }) {
			names = append(names, u.Name)
		}
	}
	return names
}

// TestBlueGreen: the half without traffic is installed on, gets the traffic, and then the
// other one is taken out of it and keeps what it has; back is without installing.
func TestBlueGreen(t *testing.T) {
	f, m := halves(t)
	end := run(t, f)
	ran := func(want map[string]string) {
		t.Helper()
		for name, events := range want {
			if got := m[name].ran(t); got != events {
				t.Errorf("%s ran %s, want %s", name, got, events)
			}
		}
	}
	f.Converge(half(1, 1))
	o := await(t, f, "healthy", is(1, target.Healthy))
	if got := serving(o); !slices.Equal(got, []string{"b1", "b2"}) || len(o.Units) != 4 || o.Message != "" {
		t.Errorf("%v serve: %+v", got, o)
	}
	first := "r1:ApplicationStart r1:AfterAllowTraffic"
	ran(map[string]string{"b1": first, "b2": first, "g1": "", "g2": ""})

	f.Converge(half(2, 2))
	o = await(t, f, "healthy", is(2, target.Healthy))
	if got := serving(o); !slices.Equal(got, []string{"g1", "g2"}) || o.Units[0].Release != 1 || o.Units[2].Release != 2 {
		t.Errorf("%v serve: %+v", got, o)
	}
	second := "r2:ApplicationStart r2:AfterAllowTraffic"
	ran(map[string]string{"b1": first + " r1:BeforeBlockTraffic", "g1": second, "g2": second})
	end()

	// Another server knows which half serves, and does nothing.
	next := &Target{Here: hosts.New(t.TempDir(), revision), Hosts: f.Hosts, Log: f.Log}
	run(t, next)
	next.Converge(half(2, 2))
	await(t, next, "healthy", is(2, target.Healthy))
	ran(map[string]string{"b1": first + " r1:BeforeBlockTraffic", "g1": second})

	// Back to what the first half has: only the traffic moves.
	next.Converge(half(3, 1))
	o = await(t, next, "healthy", is(3, target.Healthy))
	if got := serving(o); !slices.Equal(got, []string{"b1", "b2"}) {
		t.Errorf("%v serve: %+v", got, o)
	}
	ran(map[string]string{"b1": first + " r1:BeforeBlockTraffic r1:AfterAllowTraffic",
		"g2": second + " r2:BeforeBlockTraffic"})
}

// TestBlueGreenFails: what fails before the traffic moves is never seen by visitors; what fails
// while it does goes back, by the next commit.
func TestBlueGreenFails(t *testing.T) {
	f, m := halves(t)
	run(t, f)
	f.Converge(half(1, 1))
	await(t, f, "healthy", is(1, target.Healthy))
	m["g1"].fails(t, "r2-ApplicationStart")
	f.Converge(half(2, 2))
	o := await(t, f, "failed", is(2, target.Failed))
	if got := serving(o); !slices.Equal(got, []string{"b1", "b2"}) || !o.RollBack ||
		!strings.Contains(o.Message, "g1: ApplicationStart") || m["g2"].ran(t) != "" || strings.Contains(m["b1"].ran(t), "Block") {
		t.Errorf("%v serve: %+v", got, o)
	}
	m["g1"].fails(t, "")
	m["g2"].fails(t, "r3-AfterAllowTraffic")
	m["g1"].fails(t, "r3-AfterAllowTraffic")
	f.Converge(half(3, 3))
	o = await(t, f, "failed", is(3, target.Failed))
	if got := serving(o); !slices.Equal(got, []string{"b1", "b2"}) || !o.RollBack ||
		!strings.Contains(o.Message, "g1: AfterAllowTraffic") || strings.Contains(m["b1"].ran(t), "Block") {
		t.Errorf("%v serve: %+v", got, o)
	}
	// Tried again it goes on where it was.
	m["g1"].fails(t, "")
	m["g2"].fails(t, "")
	d := half(3, 3)
	d.Retried = map[string]int{"": 1, "g1": 1}
	f.Converge(d)
	o = await(t, f, "healthy", is(3, target.Healthy))
	if got := serving(o); !slices.Equal(got, []string{"g1", "g2"}) {
		t.Errorf("%v serve: %+v", got, o)
	}
	if got := strings.Count(m["g1"].ran(t), "r3:ApplicationStart"); got != 1 {
		t.Errorf("g1 ran %s", m["g1"].ran(t))
	}
}

// TestBlueGreenBegins: without anything the first half is deployed to, unless somebody is away
// who could have the traffic; and no host may be of both.
func TestBlueGreenBegins(t *testing.T) {
	c, _ := File{}.read("", half(1, 1).Files)
	host := func(name, color string, live bool, o target.Observed) (Host, target.Observed) {
		return Host{Name: name, Tags: map[string]string{"half": color}, Agent: lone{live: live}}, o
	}
	serves := target.Observed{Units: []target.Unit{{Instances: []target.Instance{{Serving: true}}}}}
	of := func(part target.Part) target.Observed {
		d := half(1, 1)
		return target.Observed{Commit: d.Commit, Sequence: d.Sequence, Part: part}
	}
	for _, test := range []struct {
		what        string
		blue, green target.Observed
		away        bool // green
		want        string
	}{
		{what: "nothing anywhere", want: "blue"},
		{what: "blue serves", blue: serves, want: "green"},
		{what: "green serves", green: serves, want: "blue"},
		{what: "both do, as after a deployment in place", blue: serves, green: serves, want: "green"},
		{what: "green is away, and blue serves", blue: serves, away: true, want: "green"},
		{what: "green is away, and nothing serves", away: true, want: "which half of the hosts gets the traffic is not known: g cannot be reached"},
		{what: "it had begun on blue", blue: of(target.Replacement), want: "blue"},
		{what: "it had come far on green", blue: of(target.Blocked), green: of(target.Allowed), want: "green"},
		{what: "it had begun with the end", blue: of(target.Blocked), want: "green"},
	} {
		b, blue := host("b", "blue", true, test.blue)
		g, green := host("g", "green", !test.away, test.green)
		d := half(1, 1)
		stages, got := blueGreen(&d, c, []Host{b, g}, map[string]target.Observed{"b": blue, "g": green})
		if got == "" {
			got = stages[0].groups[0][0].Value
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

// TestBlueGreenOverlaps: halves that share hosts are refused, at the push where the file alone
// says so, and with a host that has the tags of both nothing is done, before and after.
func TestBlueGreenOverlaps(t *testing.T) {
	d := half(1, 1)
	for text, meet := range map[string]bool{
		`tags: {half: blue} blue_green: {half: green}`:                       false,
		`tags: {half: blue} blue_green: {half: "*"}`:                         true,
		`tags: {half: [blue, red]} blue_green: {half: [green, red]}`:         true,
		`tags: {role: web} blue_green: {role: web}`:                          true,
		`tags: {role: web} blue_green: {role: web, half: green}`:             true,
		`tags: {role: web, half: blue} blue_green: {role: web, half: green}`: false,
		`tags: {role: web, half: blue} blue_green: {role: api, half: blue}`:  false,
		`tags: {blue: "*"} blue_green: {green: "*"}`:                         false, // no host need have both
	} {
		d.Files[FileName] = []byte(strings.Replace(text, " blue_green", "\nblue_green", 1) + "\n")
		problems, _ := Check("", d.Files)
		if said := len(problems) == 1 && strings.Contains(problems[0].Error(),
			"hosts.yaml:2: blue_green means hosts that tags means, too"); said != meet || !meet && len(problems) > 0 {
			t.Errorf("%s: %v", text, problems)
		}
	}

	f, m := halves(t)
	var list atomic.Pointer[[]Host]
	tag := func(g1 map[string]string) {
		all := slices.Clone(f.Hosts(""))
		for i := range all {
			if all[i].Name[0] == 'g' {
				all[i].Tags = map[string]string{"standby": "yes"}
			}
			if all[i].Name == "g1" {
				all[i].Tags = g1
			}
		}
		list.Store(&all)
	}
	own, both := map[string]string{"standby": "yes"}, map[string]string{"standby": "yes", "half": "blue"}
	tag(own)
	f.Hosts = func(string) []Host { return *list.Load() }
	run(t, f)
	converge := func(n int, s target.State) target.Observed {
		t.Helper()
		d := half(n, n)
		d.Files[FileName] = []byte("tags: {half: blue}\nblue_green: {standby: \"yes\"}\n")
		f.Converge(d)
		return await(t, f, string(s), is(n, s))
	}
	converge(1, target.Healthy)
	converge(2, target.Healthy)
	before := m["g1"].ran(t)
	tag(both)
	f.Changed()
	o := await(t, f, "failed", is(2, target.Failed))
	if !strings.Contains(o.Message, "g1 has the tags of both halves") || o.RollBack || !slices.Equal(serving(o), []string{"g1", "g2"}) {
		t.Errorf("%+v", o)
	}
	o = converge(3, target.Failed)
	if !strings.Contains(o.Message, "g1 has the tags of both halves") || o.RollBack || len(o.Units) != 4 {
		t.Errorf("%+v", o)
	}
	tag(own)
	f.Changed()
	o = await(t, f, "healthy", is(3, target.Healthy))
	if got := m["g1"].ran(t); got != before+" r2:BeforeBlockTraffic" || !slices.Equal(serving(o), []string{"b1", "b2"}) {
		t.Errorf("g1 ran %s: %+v", got, o)
	}
}

// TestBlueGreenOldAgent: an agent that knows no parts is told none, since it would install
// under its visitors; once it is another one the deployment goes on.
func TestBlueGreenOldAgent(t *testing.T) {
	f, m := halves(t)
	run(t, f)
	g2 := m["g2"]
	again := func(old bool) {
		g2.leave()
		await(t, f, "without g2", func(target.Observed) bool { return !g2.link.Live() })
		g2.mu.Lock()
		g2.old = old
		g2.mu.Unlock()
		g2.come()
	}
	f.Converge(half(1, 1))
	await(t, f, "healthy", is(1, target.Healthy))
	again(true)
	await(t, f, "refused", is(1, target.Failed))
	f.Converge(half(2, 2))
	o := await(t, f, "refused", is(2, target.Failed))
	if !strings.Contains(o.Message, "the agent of g2 is too old") || !strings.Contains(o.Message, "agent upgrade g2") ||
		o.RollBack || len(o.Units) != 4 || !slices.Equal(serving(o), []string{"b1", "b2"}) {
		t.Errorf("%+v", o)
	}
	// Also by itself: whoever tells it a part is refused.
	d := half(2, 2)
	d.Part = target.Replacement
	g2.link.Converge(d)
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(g2.link.Observe(key).Message, "agent upgrade"); {
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatalf("%+v", g2.link.Observe(key))
		}
	}
	if m["g1"].ran(t) != "" || g2.ran(t) != "" {
		t.Errorf("g1 ran %s, g2 %s", m["g1"].ran(t), g2.ran(t))
	}
	again(false)
	o = await(t, f, "healthy", is(2, target.Healthy))
	if !slices.Equal(serving(o), []string{"g1", "g2"}) {
		t.Errorf("%+v", o)
	}
}

// lone is an agent of which only that is of interest.
type lone struct {
	Agent
	live bool
}

func (l lone) Live() bool       { return l.live }
func (l lone) TakesParts() bool { return true }
