package rollout

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

var update = flag.Bool("update", false, "rewrite the golden conversations")

// TestConversations plays testdata/*.txt: what happens stands on lines of its own, and
// below "----" what is done about it.
//
//	begin OneAtATime a b c        a deployment; a:unhealthy, b:offline, c:current, z1/d say more of a host
//	zonal 5m 1m HOST_COUNT 1      before begin: zones, how long the first and each other is watched, minimum of each
//	ok a b / fail a / stop why    how hosts have ended; a person or an alarm
//	seen a offline                what is known of a host; one that is new joins
//	alarm errors 5 1m 10s 5m      before begin: above 5 for a minute, asked every 10 seconds, baked for 5 minutes
//	measured errors 7             what an alarm has answered; "trouble errors why": or not
//	skip a / unskip a / retry / wait 1m
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(data))
			if got == string(data) {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := strings.Split(string(data), "\n")
			for i, line := range strings.Split(got, "\n") {
				if i >= len(want) || line != want[i] {
					t.Fatalf("%s:%d: got %q; see all of it with -update and git diff", file, i+1, line)
				}
			}
			t.Fatalf("%s: the conversation ends earlier than the file", file)
		})
	}
}

// conversation is one file's.
type conversation struct {
	state *State
	zonal *Zonal
	alarm *alarm.Alarm
	bake  time.Duration
	now   time.Time
}

func play(t *testing.T, text string) string {
	c := &conversation{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		out.WriteString(input + "\n")
		told := false
		for line := range strings.SplitSeq(input, "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if err := c.tell(strings.Fields(line)); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			told = true
		}
		if told && c.state != nil {
			out.WriteString("----\n" + c.answer())
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// answer carries the plan out and tells it.
func (c *conversation) answer() string {
	p := c.state.Plan(c.now)
	var out strings.Builder
	if len(p.Deploy) > 0 {
		fmt.Fprintf(&out, "deploy %s\n", strings.Join(p.Deploy, " "))
	}
	for _, name := range p.Deploy {
		c.state.Started(name, c.now)
	}
	for _, name := range p.Ask {
		c.state.Asked(name, c.now)
		fmt.Fprintf(&out, "ask %s\n", name)
	}
	if len(p.Follow) > 0 {
		fmt.Fprintf(&out, "follow %s\n", strings.Join(p.Follow, " "))
	}
	fmt.Fprintf(&out, "= %s", p.Status)
	if p.Reason != "" {
		fmt.Fprintf(&out, " %s", p.Reason)
	}
	if p.Why != "" {
		fmt.Fprintf(&out, ": %s", p.Why)
	}
	if !p.Wake.IsZero() {
		fmt.Fprintf(&out, " (again in %s)", p.Wake.Sub(c.now))
	}
	n := c.state.Counts()
	fmt.Fprintf(&out, " [%d of %d", n.Succeeded, n.Hosts)
	for _, more := range []struct {
		n    int
		what string
	}{{n.Failed, "failed"}, {n.Running, "running"}, {n.Pending, "to come"}, {n.Offline,
		"offline"}, {n.Skipped, "skipped"}} {
		if more.n > 0 {
			fmt.Fprintf(&out, ", %d %s", more.n, more.what)
		}
	}
	if eta := c.state.ETA(time.Minute); eta > 0 && p.Status == InProgress {
		fmt.Fprintf(&out, ", %s left", eta)
	}
	out.WriteString("]\n")
	return out.String()
}

func (c *conversation) tell(words []string) (err error) {
	switch words[0] {
	case "zonal":
		c.zonal = &Zonal{}
		if c.zonal.First, err = time.ParseDuration(words[1]); err != nil {
			return err
		}
		if c.zonal.Each, err = time.ParseDuration(words[2]); err != nil {
			return err
		}
		if len(words) > 3 {
			each, err := ParseConfig(strings.Join(words[3:], " "))
			if err != nil {
				return err
			}
			c.zonal.Minimum = &each.Minimum
		}
	case "alarm":
		c.alarm = &alarm.Alarm{Name: words[1], Above: true}
		if c.alarm.Bound, err = strconv.ParseFloat(words[2], 64); err != nil {
			return err
		}
		for i, to := range []*time.Duration{&c.alarm.For, &c.alarm.Interval, &c.bake} {
			if *to, err = time.ParseDuration(words[3+i]); err != nil {
				return err
			}
		}
	case "resumed":
		c.state.Resumed = true
	case "measured":
		value, err := strconv.ParseFloat(words[2], 64)
		c.state.Answered(alarm.Measured{Name: words[1], Value: value}, c.now)
		return err
	case "trouble":
		c.state.Answered(alarm.Measured{Name: words[1], Err: strings.Join(words[2:], " ")}, c.now)
	case "begin":
		config, err := ParseConfig(words[1])
		if err != nil {
			return err
		}
		config.Zonal = c.zonal
		var hosts []Host
		for _, w := range words[2:] {
			hosts = append(hosts, hostsOf(w)...)
		}
		if c.alarm != nil {
			config.Alarms, config.Bake = []alarm.Alarm{*c.alarm}, c.bake
		}
		c.state = Begin(config, hosts)
		c.state.Since = c.now
	case "ok", "fail":
		for _, name := range words[1:] {
			c.state.Report(name, words[0] == "ok", c.now)
		}
	case "stop":
		c.state.Stop = strings.Join(words[1:], " ")
	case "seen":
		zone, name, ok := strings.Cut(words[1], "/")
		if !ok {
			zone, name = "", words[1]
		}
		c.state.Seen(name, zone, Health(words[2]))
	case "skip":
		c.state.Skip(words[1])
	case "unskip":
		c.state.Unskip(words[1])
	case "left":
		for _, name := range words[1:] {
			c.state.Left(name)
		}
	case "retry":
		c.state.Retry()
	case "wait":
		d, err := time.ParseDuration(words[1])
		c.now = c.now.Add(d)
		return err
	default:
		return fmt.Errorf("unknown word %q", words[0])
	}
	return nil
}

// hostsOf reads "a", "z1/a:unhealthy", or "9" for h1 to h9.
func hostsOf(word string) (all []Host) {
	if n, err := strconv.Atoi(word); err == nil {
		for i := range n {
			all = append(all, Host{Name: fmt.Sprintf("h%02d", i+1), Health: Healthy, Revision: Old})
		}
		return all
	}
	word, more, _ := strings.Cut(word, ":")
	h := Host{Name: word, Health: Healthy, Revision: Old}
	if zone, name, ok := strings.Cut(word, "/"); ok {
		h.Zone, h.Name = zone, name
	}
	switch more {
	case "unhealthy", "offline":
		h.Health = Health(more)
	case "unknown", "current":
		h.Revision = Revision(more)
	}
	return []Host{h}
}
