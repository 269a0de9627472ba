package rollout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestProperties lets random groups be deployed to, with failures, hosts that come and
// go, and any order of ends.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom([]Config{
			AllAtOnce, HalfAtATime, OneAtATime,
			{Minimum: Minimum{Value: rapid.IntRange(0, 12).Draw(t, "count")}},
			{Minimum: Minimum{Percent: true, Value: rapid.IntRange(0, 99).Draw(t, "percent")}},
		}).Draw(t, "config")
		if rapid.Bool().Draw(t, "zonal") {
			c.Zonal = &Zonal{First: time.Hour, Each: time.Minute}
			if rapid.Bool().Draw(t, "of zone") {
				c.Zonal.Minimum = &Minimum{Value: rapid.IntRange(0, 3).Draw(t, "zone minimum")}
			}
		}
		var hosts []Host
		for i := range rapid.IntRange(1, 12).Draw(t, "hosts") {
			hosts = append(hosts, Host{
				Name:     fmt.Sprintf("h%02d", i),
				Zone:     rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone"),
				Health:   rapid.SampledFrom([]Health{Healthy, Healthy, Healthy, Unhealthy, Offline}).Draw(t, "health"),
				Revision: rapid.SampledFrom([]Revision{Unknown, Old, Current}).Draw(t, "revision"),
			})
		}
		s := Begin(c, hosts)
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		attempts := map[string]int{}
		for step := 0; ; step++ {
			if step > 200 {
				t.Fatalf("no end: %+v", s)
			}
			before := count(pointers(s), func(h *Host) bool { return h.Health == Healthy })
			p := s.Plan(now)
			check(t, s, p, before, attempts)
			for _, name := range p.Deploy {
				s.Started(name, now)
			}
			running := runningOf(s)
			if p.Status != InProgress {
				if len(running) > 0 {
					t.Fatalf("it ends as %s while hosts run: %v", p.Status, running)
				}
				finished(t, s, p)
				return
			}
			switch {
			case len(running) > 0:
				name := rapid.SampledFrom(running).Draw(t, "ends")
				s.Report(name, rapid.IntRange(0, 3).Draw(t, "result") > 0, now)
			case !p.Wake.IsZero():
				now = p.Wake
			default:
				t.Fatalf("it waits for nothing: %+v", p)
			}
			now = now.Add(time.Second)
		}
	})
}

func pointers(s *State) (all []*Host) {
	for i := range s.Hosts {
		all = append(all, &s.Hosts[i])
	}
	return all
}

func runningOf(s *State) (names []string) {
	for _, h := range s.Hosts {
		if h.Attempt == Running {
			names = append(names, h.Name)
		}
	}
	return names
}

// check holds one plan to the rules.
func check(t *rapid.T, s *State, p Plan, healthy int, attempts map[string]int) {
	busy, unhealthyLeft, healthyChosen := 0, false, false
	for _, h := range s.Hosts {
		chosen := slices.Contains(p.Deploy, h.Name)
		if chosen {
			if attempts[h.Name]++; attempts[h.Name] > 1 || h.Health == Offline || h.Attempt != None {
				t.Fatalf("%s is chosen: %+v", h.Name, h)
			}
		}
		if h.Health == Healthy && (h.Attempt == Running || chosen) {
			busy++
			healthyChosen = healthyChosen || chosen
		}
		if h.Health == Unhealthy && h.Attempt == None && s.Config.Zonal == nil {
			unhealthyLeft = true
		}
	}
	// Were all that are being deployed to fail, the minimum would still be kept.
	if healthyChosen && healthy-busy < s.Minimum {
		t.Fatalf("%d healthy, %d of them at work, and %d must stay: %+v", healthy, busy, s.Minimum, p)
	}
	if healthyChosen && unhealthyLeft {
		t.Fatalf("a healthy host comes before an unhealthy one: %+v", p)
	}
}

// finished holds the end to the rules.
func finished(t *rapid.T, s *State, p Plan) {
	c := s.Counts()
	switch p.Status {
	case Done:
		if c.Succeeded == 0 || c.Pending > 0 {
			t.Fatalf("succeeded with %+v", c)
		}
	case Broken:
		if p.Why == "" || p.Reason == "" {
			t.Fatalf("it does not say why: %+v", p)
		}
		if p.Reason == Invalid && c.Succeeded+c.Failed > 0 {
			t.Fatalf("invalid from the beginning, with %+v", c)
		}
	case Waiting:
		if c.Offline == 0 {
			t.Fatalf("it waits for nobody: %+v", c)
		}
	default:
		t.Fatalf("it ends as %s", p.Status)
	}
}

// TestPredefined: the examples of CodeDeploy's manual with nine hosts.
func TestPredefined(t *testing.T) {
	for _, c := range []struct {
		config  string
		hosts   int
		minimum int
	}{
		{"CodeDeployDefault.AllAtOnce", 9, 0},
		{"CodeDeployDefault.HalfAtATime", 9, 5},
		{"CodeDeployDefault.OneAtATime", 9, 8},
		{"", 1, 0},
		{"HOST_COUNT 3", 9, 3},
		{"HOST_COUNT=0", 9, 0},
		{"FLEET_PERCENT 95", 10, 10},
		{"FLEET_PERCENT 75", 9, 7},
		{"FLEET_PERCENT 0", 9, 0},
	} {
		got, err := ParseConfig(c.config)
		if err != nil || got.Minimum.Of(c.hosts) != c.minimum {
			t.Errorf("%s of %d: %d, %v", c.config, c.hosts, got.Minimum.Of(c.hosts), err)
		}
	}
	for _, bad := range []string{"TwoAtATime", "HOST_COUNT", "HOST_COUNT -1", "FLEET_PERCENT 100",
		"FLEET_PERCENT x", "PERCENT 3"} {
		if c, err := ParseConfig(bad); err == nil {
			t.Errorf("%q is %+v", bad, c)
		}
	}
}

// TestTags: OR in a group, AND across them.
func TestTags(t *testing.T) {
	web := map[string]string{"role": "web", "stage": "production", "": "bare"}
	groups := Groups{
		{{Key: "role", Value: "web"}, {Key: "role", Value: "api"}},
		{{Key: "stage", AnyValue: true}},
		{{Value: "production", AnyKey: true}, {Key: "canary", AnyValue: true}},
	}
	for _, c := range []struct {
		tags map[string]string
		want bool
	}{
		{web, true},
		{map[string]string{"role": "api", "stage": "production"}, true},
		{map[string]string{"role": "api", "stage": "test", "canary": ""}, true},
		{map[string]string{"role": "api", "stage": "test"}, false},
		{map[string]string{"role": "db", "stage": "production"}, false},
		{map[string]string{"role": "web"}, false},
		{nil, false},
	} {
		if got := groups.Matches(c.tags); got != c.want {
			t.Errorf("%v: %t", c.tags, got)
		}
	}
	if (Groups{}).Matches(web) || groups.Check() != nil {
		t.Error("no group matches, or good ones are refused")
	}
	for _, bad := range []Groups{
		{{}},
		{{{AnyKey: true, AnyValue: true}}},
		{make([]Filter, 11)},
		make(Groups, 4),
	} {
		if bad.Check() == nil {
			t.Errorf("taken: %v", bad)
		}
	}
}
