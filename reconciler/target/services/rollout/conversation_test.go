package rollout

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

var update = flag.Bool("update", false, "rewrite the golden conversations")

// TestConversations plays testdata/*.txt: what happens stands on lines of its
// own, and below "----" what is done about it, with the state and the next wake.
//
//	declare 3 web=v2*2 db=v1@127.0.0.1:5432 fallback=web=v1*2   a commit, its services
//	ok web-1 web-2 / fail web-1 why / exit web-1 why / drained web-1 / listened web 127.0.0.1:80 [! why]
//	hopeless web-1 why                                           it could not be started, and was tried often enough
//	wait 2s                                                      time passes
//	exclusive                                                    services named db… have a volume of their own
//	needs web db healthy                                         what web declared from here on waits for
//	cron job */5 * * * *                                         what job declared from here on runs at; cron job: no more
//	prepared job v1 [! why]                                      what v1 of job runs from is there, or not
//	found job-run=v1 …                                           the agent was away, and these run
//	passes 2 / lasts 10s / restart no / restart on-failure 2      what is declared from here on must show
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

func play(t *testing.T, text string) string {
	var out strings.Builder
	o, d, now := &Observed{}, Declared{}, epoch
	declaredCheck, declaredRestart, declaredDeployment = testCheck, Restart{}, Deployment{}
	declaredPercent, declaredNeeds, declaredExclusive = [2]int{100, 200}, map[string][]Need{}, false
	declaredCron = map[string]*cron.Spec{}
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		out.WriteString(input + "\n")
		said := false
		var wake time.Time
		for line := range strings.SplitSeq(input, "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if err := tell(o, &d, &now, line); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if !said {
				out.WriteString("----\n")
				said = true
			}
			for round := 0; ; round++ {
				if round > 5 {
					t.Fatalf("no end of actions after %q", line)
				}
				var actions []Action
				if actions, wake = Plan(d, o, now); len(actions) == 0 {
					break
				}
				for _, a := range actions {
					o.Did(a, now)
					out.WriteString(a.String() + "\n")
				}
			}
		}
		if !said {
			out.WriteString("\n")
			continue
		}
		state, message := Status(d, o, now)
		out.WriteString("= " + state.String())
		if message != "" {
			out.WriteString(": " + message)
		}
		if !wake.IsZero() {
			fmt.Fprintf(&out, " (again in %s)", wake.Sub(now))
		}
		out.WriteString("\n\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// What services declared from here on have.
var (
	declaredCheck   = testCheck
	declaredRestart Restart

	declaredDeployment Deployment
	declaredPercent    = [2]int{100, 200} // minimum and maximum of rolling ones
	declaredNeeds      map[string][]Need
	declaredExclusive  bool // of services whose names begin with "db"
	declaredCron       map[string]*cron.Spec
)

var testCheck = Check{StartPeriod: 10 * time.Second, Interval: 2 * time.Second, Timeout: time.Second, Retries: 3}

func tell(o *Observed, d *Declared, now *time.Time, line string) error {
	words := strings.Fields(line)
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	rest := func(i int) string { return strings.Join(words[min(i, len(words)):], " ") }
	switch words[0] {
	case "declare":
		seq, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		*d = Declared{Commit: "c" + arg(1), Sequence: seq, Deployment: declaredDeployment}
		for _, w := range words[2:] {
			if w == "report" {
				d.Report = true
				continue
			}
			if spec, ok := strings.CutPrefix(w, "fallback="); ok {
				s := service(spec)
				d.Services[len(d.Services)-1].Fallback = &s
				continue
			}
			d.Services = append(d.Services, service(w))
		}
		o.Declare(*d)
	case "exclusive":
		declaredExclusive = true
	case "cron":
		if declaredCron[arg(1)] = nil; len(words) > 2 {
			spec, err := cron.Parse(rest(2), "")
			if err != nil {
				return err
			}
			declaredCron[arg(1)] = &spec
		}
	case "prepared":
		_, why, _ := strings.Cut(rest(3), "! ")
		o.Saw(Prepared{Service: arg(1), Version: arg(2), Err: why}, *now)
	case "found":
		var all []Found
		for _, w := range words[1:] {
			id, version, _ := strings.Cut(w, "=")
			all = append(all, Found{ID: id, Version: version, Service: id[:strings.LastIndex(id, "-")]})
		}
		o.Adopt(all, *now)
		o.Declare(*d)
	case "needs":
		declaredNeeds[arg(1)] = append(declaredNeeds[arg(1)], Need{arg(2), Condition(arg(3))})
	case "strategy", "bake", "breaker", "hook", "alarm":
		return deployment(&declaredDeployment, words)
	case "pause":
		d.Paused = true
	case "continue":
		d.Paused, d.Continued = false, append(d.Continued, words[1:]...)
	case "hooked":
		e := Hooked{Name: arg(1), Result: HookResult(arg(2)), Message: rest(3)}
		if e.Result == InProgress {
			again, err := time.ParseDuration(arg(3))
			if err != nil {
				return err
			}
			e.Again, e.Message = again, rest(4)
		}
		o.Saw(e, *now)
	case "measured":
		value, err := strconv.ParseFloat(arg(2), 64)
		e := Measured{alarm.Measured{Name: arg(1), Value: value}}
		switch {
		case arg(2) == "none":
			e.None = true
		case err != nil:
			e.Err = rest(2)
		}
		o.Saw(e, *now)
	case "ok":
		for _, id := range words[1:] {
			o.Saw(Checked{ID: id, OK: true}, *now)
		}
	case "fail":
		o.Saw(Checked{ID: arg(1), Message: rest(2)}, *now)
	case "exit":
		o.Saw(Exited{ID: arg(1), Well: rest(2) == "exited 0", How: rest(2)}, *now)
	case "hopeless":
		o.Saw(Exited{ID: arg(1), Code: -1, How: rest(2), Hopeless: true}, *now)
	case "restart":
		switch arg(1) {
		case "no":
			declaredRestart = Restart{Never: true}
		case "on-failure":
			most, err := strconv.Atoi(arg(2))
			if err != nil {
				return err
			}
			declaredRestart = Restart{OnFailure: true, Most: most}
		}
	case "drained":
		o.Saw(Drained{ID: arg(1)}, *now)
	case "listened":
		bound, why, _ := strings.Cut(rest(2), "!")
		o.Saw(Listened{Service: arg(1), Bound: strings.Fields(bound), Err: strings.TrimSpace(why)}, *now)
	case "passes":
		n, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		declaredCheck.Passes = n
	case "lasts":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			return err
		}
		declaredCheck.HealthyFor = d
	case "wait":
		by, err := time.ParseDuration(arg(1))
		if err != nil {
			return err
		}
		*now = now.Add(by)
	default:
		return fmt.Errorf("unknown word %q", words[0])
	}
	return nil
}

// service reads "web=v2*3@127.0.0.1:80,127.0.0.1:81".
func service(w string) Service {
	w, listen, _ := strings.Cut(w, "@")
	name, version, _ := strings.Cut(w, "=")
	version, times, counted := strings.Cut(version, "*")
	s := Service{Name: name, Version: version, Label: "release " + strings.TrimPrefix(version, "v"), Replicas: 1,
		Check: declaredCheck, Restart: declaredRestart, Drain: 5 * time.Second}
	if counted {
		s.Replicas, _ = strconv.Atoi(times)
	}
	s.Needs = declaredNeeds[name]
	if s.Schedule = declaredCron[name]; s.Schedule != nil {
		s.Replicas = 0
	}
	if listen != "" {
		s.Listen = strings.Split(listen, ",")
	}
	s.Minimum, s.Maximum = Bounds(s.Replicas, declaredPercent[0], declaredPercent[1])
	if s.Exclusive = strings.HasPrefix(name, "db"); s.Exclusive && declaredExclusive {
		s.Minimum, s.Maximum = 0, s.Replicas
	}
	s.Exclusive = s.Exclusive && declaredExclusive
	return s
}

// deployment reads one line about how what is declared from then on is deployed.
func deployment(d *Deployment, words []string) (err error) {
	duration := func(text string) time.Duration {
		v, e := time.ParseDuration(text)
		if e != nil {
			err = e
		}
		return v
	}
	number := func(text string) int {
		v, e := strconv.Atoi(text)
		if e != nil {
			err = e
		}
		return v
	}
	switch words[0] {
	case "strategy":
		d.Strategy = Strategy(words[1])
		switch d.Strategy {
		case Rolling:
			declaredPercent = [2]int{number(words[2]), number(words[3])}
		case Canary, Linear:
			d.Percent, d.Interval = number(words[2]), duration(words[3])
		case "all-at-once":
			d.Strategy = AllAtOnce
		}
	case "bake":
		d.Bake = duration(words[1])
	case "breaker":
		d.Breaker = Breaker{}
		for _, w := range words[1:] {
			switch w {
			case "off":
				d.Breaker.Off = true
			case "keeps":
				d.Breaker.Keeps = true
			case "cumulative":
				d.Breaker.Cumulative = true
			default:
				d.Breaker.Kind, d.Breaker.Value = Count, number(w)
			}
		}
	case "hook": // name stage [timeout], or name stage pause timeout
		h := Hook{Name: words[1], Stage: Stage(words[2]), Timeout: time.Minute}
		if len(words) > 3 && words[3] == "pause" {
			h.Pause, words = true, slices.Delete(words, 3, 4)
		}
		if len(words) > 3 {
			h.Timeout = duration(words[3])
		}
		d.Hooks = append(slices.Clone(d.Hooks), h)
	case "alarm": // name above|below bound [for]
		a := alarm.Alarm{Name: words[1], Above: words[2] == "above", Interval: 10 * time.Second}
		if a.Bound, err = strconv.ParseFloat(words[3], 64); len(words) > 4 {
			a.For = duration(words[4])
		}
		d.Alarms = append(slices.Clone(d.Alarms), a)
	}
	return err
}
