package plan

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what the planner says into testdata")

// TestConversations replays testdata: lines that say what happened, "----",
// and what the planner then wants.
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
			got := converse(t, data)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, data) && !*update {
				t.Errorf("%s: the planner says (go test -update rewrites it):\n%s", file, got)
			}
		})
	}
}

// TestContainersHaveWorkersOfTheirOwn: builds on the machine keep none in containers from
// being built, nor the other way round.
func TestContainersHaveWorkersOfTheirOwn(t *testing.T) {
	s := State{
		Tips:       map[string]Tip{},
		Made:       map[string]Made{},
		Verdicts:   map[string]Verdict{},
		Failures:   map[string]int{},
		Workers:    1,
		Containers: 2,
	}
	for i, contained := range []bool{false, false, true, true, true} {
		c := Change{Ref: Ref{Change: i + 1, Revision: 1}, Branch: fmt.Sprint("b", i+1)}
		s.Queue = append(s.Queue, c)
		s.Made[s.alone(c).ID()] = Made{Key: fmt.Sprint(i + 1), Contained: contained}
	}
	var keys []string
	for _, b := range Plan(s).Build {
		keys = append(keys, b.Key)
	}
	if got := strings.Join(keys, " "); got != "1 3 4" {
		t.Errorf("builds %s, not 1, 3 and 4", got)
	}
}

// converse returns the conversation with the planner's part as it is today.
func converse(t *testing.T, data []byte) []byte {
	s := State{Tips: map[string]Tip{}, Made: map[string]Made{}, Verdicts: map[string]Verdict{},
		Failures: map[string]int{}, Workers: 2}
	var out bytes.Buffer
	saying := false
	in := bufio.NewScanner(bytes.NewReader(data))
	for in.Scan() {
		line := in.Text()
		switch {
		case line == "----":
			out.WriteString("----\n")
			out.WriteString(words(Plan(s)))
			saying = true
		case line == "":
			out.WriteString("\n")
			saying = false
		case saying: // the old answer
		default:
			out.WriteString(line + "\n")
			if !strings.HasPrefix(line, "#") {
				happen(t, &s, strings.Fields(line))
			}
		}
	}
	return out.Bytes()
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func reference(t *testing.T, s string) Ref {
	c, r, _ := strings.Cut(s, ".")
	return Ref{number(t, c), number(t, r)}
}

func happen(t *testing.T, s *State, f []string) {
	t.Helper()
	switch f[0] {
	case "workers":
		s.Workers = number(t, f[1])
	case "expected":
		s.Expected = time.Duration(number(t, f[1])) * time.Second
	case "tip": // tip main a [green]
		s.Tips[f[1]] = Tip{Commit: f[2], Green: len(f) > 3}
	case "push": // push 1.1 main [priority=1] [rebuild] [waits]
		c := Change{Ref: reference(t, f[1]), Branch: f[2]}
		for _, o := range f[3:] {
			name, value, _ := strings.Cut(o, "=")
			switch name {
			case "priority":
				c.Priority = number(t, value)
			case "rebuild":
				c.Rebuild = true
			case "waits":
				c.Waits = true
			}
		}
		forget(s, c.Change)
		s.Queue = append(s.Queue, c)
	case "gone":
		forget(s, number(t, f[1]))
	case "made": // made main@a+1.1 key | problem words
		if f[2] == "problem" {
			s.Made[f[1]] = Made{Problem: strings.Join(f[3:], " ")}
		} else {
			s.Made[f[1]] = Made{Key: f[2]}
		}
	case "running": // running key 30 main@a+1.1
		branch, rest, _ := strings.Cut(f[3], "@")
		parts := strings.Split(rest, "+")
		b := Build{Key: f[1], Elapsed: time.Duration(number(t, f[2])) * time.Second,
			Candidate: Candidate{Branch: branch, Base: parts[0]}}
		for _, p := range parts[1:] {
			b.Candidate.Changes = append(b.Candidate.Changes, reference(t, p))
		}
		stop(s, b.Key)
		s.Running = append(s.Running, b)
	case "stopped":
		stop(s, f[1])
	case "green":
		s.Verdicts[f[1]] = Verdict{Green: true}
		stop(s, f[1])
	case "red": // red key 1.1
		v := s.Verdicts[f[1]]
		v.Red = append(v.Red, reference(t, f[2]))
		s.Verdicts[f[1]] = v
		stop(s, f[1])
	case "failed":
		s.Failures[f[1]]++
		stop(s, f[1])
	default:
		t.Fatalf("what is %q?", f[0])
	}
}

func forget(s *State, change int) {
	var queue []Change
	for _, c := range s.Queue {
		if c.Change != change {
			queue = append(queue, c)
		}
	}
	s.Queue = queue
}

func stop(s *State, key string) {
	var running []Build
	for _, b := range s.Running {
		if b.Key != key {
			running = append(running, b)
		}
	}
	s.Running = running
}

func words(d Decisions) string {
	var b strings.Builder
	for _, c := range d.Make {
		fmt.Fprintf(&b, "make %s\n", c.ID())
	}
	for _, w := range d.Build {
		fmt.Fprintf(&b, "build %s for %s\n", w.Key, w.Candidate.ID())
	}
	for _, k := range d.Cancel {
		fmt.Fprintf(&b, "cancel %s\n", k)
	}
	for _, c := range d.Land {
		fmt.Fprintf(&b, "land %s\n", c.ID())
	}
	for _, r := range d.Refuse {
		fmt.Fprintf(&b, "refuse %s: %s", r.Change, r.Why)
		if r.Problem != "" {
			fmt.Fprintf(&b, ": %s", r.Problem)
		}
		fmt.Fprintf(&b, "; with %s", r.With.Candidate.ID())
		if r.With.Result != "" {
			fmt.Fprintf(&b, " %s", r.With.Result)
		}
		fmt.Fprintf(&b, "; without %s", r.Without.Candidate.ID())
		if r.Without.Result != "" {
			fmt.Fprintf(&b, " %s", r.Without.Result)
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}
