package shell

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
	"github.com/headgate-cd/headgate/gitd/terminal"
)

var update = flag.Bool("update", false, "rewrite golden files")

// serverYAML has two who may read nothing: "new" administers a server on which
// there is nothing yet, and "guest" has not been let in.
const serverYAML = `users: {ada: {keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIAaU4pYEWGd/yv4FbWBRCersPHrGngbEzqibRLlmbNX]}, jun: {}, sam: {}, new: {}, guest: {}}
groups: {administrators: [ada, new], release: [ada]}
repositories: {checkout: {}, catalogue: {}}
`

func newShell() *Shell {
	config, err := access.Parse("server.yaml", []byte(serverYAML))
	if err != nil {
		panic(err)
	}
	return &Shell{
		Backend: newBackend(),
		Access:  func() *access.Config { return config },
		Login:   func(string) (string, time.Duration) { return "ABCDE-12345", 2 * time.Minute },
		Log:     slog.New(slog.DiscardHandler),
		Now:     func() time.Time { return testNow },
	}
}

type result struct {
	stdout, stderr string
	status         int
}

// run runs a command line as a user, on a terminal of 80 columns or on none.
func run(t *testing.T, s *Shell, user, line string, tty bool) result {
	t.Helper()
	words, err := Split(line)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	in := Invocation{Actor: access.Identity{User: user, Via: access.ViaSSH}, Words: words, Out: &stdout, Err: &stderr}
	if tty {
		in.Err = in.Out
		in.Terminal = Terminal{Width: 80, Colour: true, Unicode: true}
	}
	status := s.Run(t.Context(), in)
	return result{stdout.String(), stderr.String(), status}
}

// The transcripts in testdata are what people see. A line "$ user: command"
// asks; -t after the user asks for a terminal of 80 columns.
func TestTranscripts(t *testing.T) {
	shell := newShell()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, line := range strings.Split(string(want), "\n") {
				if strings.HasPrefix(line, "# ") {
					got.WriteString(line + "\n\n")
				}
				asked, ok := strings.CutPrefix(line, "$ ")
				if !ok {
					continue
				}
				who, command, _ := strings.Cut(asked, ": ")
				user, tty := strings.CutSuffix(who, " -t")
				r := run(t, shell, user, command, tty)
				got.WriteString(line + "\n" + visible(r.stdout))
				for _, l := range strings.SplitAfter(r.stderr, "\n") {
					if l != "" {
						got.WriteString("2> " + visible(l))
					}
				}
				if r.status != 0 {
					got.WriteString("exit " + jsonText(r.status) + "\n")
				}
				got.WriteString("\n")
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != string(want) {
				t.Errorf("transcript differs (go test -update rewrites it):\n%s", got.String())
			}
		})
	}
}

var code = regexp.MustCompile(`[0-9A-Z]{5}-[0-9A-Z]{5}|as [0-9A-Z]{8}\b`)

// visible writes escapes so that a golden file can be read, and what is random as X.
func visible(s string) string {
	s = strings.ReplaceAll(s, "\x1b", `\e`)
	return code.ReplaceAllStringFunc(s, func(m string) string {
		if strings.HasPrefix(m, "as ") {
			return "as XXXXXXXX"
		}
		return "XXXXX-XXXXX"
	})
}

func jsonText(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// No answer carries anything but text: what a terminal obeys comes from us only.
func TestOutputIsClean(t *testing.T) {
	shell := newShell()
	for _, line := range []string{
		"repo list", "repo list --json", "change list checkout", "change list checkout --json", "change show 412",
		"change log 412", "change log 412 --json",
		"change diff 412", "change diff 412 --json", "promotion diff production", "search fees", "search fees --json",
		"env list", "why checkout \u202eproduction", "nonsense\u200b", "repo create hello --description a\u2066b",
	} {
		r := run(t, shell, "ada", line, false)
		for _, c := range r.stdout + r.stderr {
			if c != '\n' && c != '\t' && terminal.Unsafe(c) {
				t.Errorf("%s: sends %U:\n%q", line, c, r.stdout+r.stderr)
				break
			}
		}
		if strings.HasSuffix(line, "--json") {
			for _, l := range bytes.Split(bytes.TrimSpace([]byte(r.stdout)), []byte("\n")) {
				if !json.Valid(l) {
					t.Errorf("%s: no JSON: %s", line, l)
				}
			}
		}
	}
	if r := run(t, shell, "ada", "repo list --json", false); !strings.Contains(r.stdout, `\u202e`) {
		t.Error("JSON lost a character instead of escaping it")
	}
}

// Every command has help with an example that the parser itself understands.
func TestHelp(t *testing.T) {
	shell := newShell()
	for _, cmd := range commands() {
		for _, line := range []string{cmd.name + " --help", cmd.name + " -h", "help " + cmd.name} {
			r := run(t, shell, "ada", line, false)
			if r.status != 0 || !strings.HasPrefix(r.stdout, "example: ssh git.tarn.example "+cmd.name) {
				t.Errorf("%s: exit %d\n%s%s", line, r.status, r.stdout, r.stderr)
			}
		}
		words, err := Split(strings.Split(cmd.example, " > ")[0])
		if err != nil {
			t.Fatal(err)
		}
		c := call{shell: shell, options: map[string]string{}, args: map[string]string{}, out: &text{}}
		found, rest, err := c.find(commands(), words)
		if err != nil || found.name != cmd.name {
			t.Errorf("example %q is for %v: %v", cmd.example, found, err)
			continue
		}
		c.command = found
		if err := c.parse(rest); err != nil {
			t.Errorf("example %q: %v", cmd.example, err)
		}
	}
}

// What a command is parsed by says the same as its help.
func TestUsage(t *testing.T) {
	for _, cmd := range commands() {
		u := usageOf(cmd.args)
		var said, used []string
		for _, o := range cmd.options {
			said = append(said, o.name)
		}
		for _, o := range u.options {
			used = append(used, o.name)
		}
		if !slices.Equal(said, used) {
			t.Errorf("%s: takes the options %q, and its help tells of %q", cmd.name, used, said)
		}
	}

	u := usageOf("[-f] [repo] <change> <more...> [--line <n>] [--reason <text>...] [--to <who>,...]")
	want := usage{
		arguments: []argument{{"repo", true, false}, {"change", false, false}, {"more", false, true}},
		options: []optionUsage{{name: "-f"}, {name: "--line", value: "n"}, {name: "--reason", value: "text", rest: true},
			{name: "--to", value: "who", many: true}},
	}
	if !reflect.DeepEqual(u, want) {
		t.Errorf("usage is %+v, want %+v", u, want)
	}
}

// Help is never cut: on a narrow terminal it goes on in the next line.
func TestHelpIsWrapped(t *testing.T) {
	var narrow, wide strings.Builder
	for width, out := range map[int]*strings.Builder{60: &narrow, 0: &wide} {
		in := Invocation{Actor: access.Identity{User: "ada"}, Words: []string{"help"}, Out: out, Err: out,
			Terminal: Terminal{Width: width, Unicode: true}}
		if status := newShell().Run(t.Context(), in); status != 0 {
			t.Fatalf("exit %d", status)
		}
	}
	if strings.Contains(narrow.String(), "…") {
		t.Errorf("cut:\n%s", narrow.String())
	}
	if got, want := strings.Fields(narrow.String()), strings.Fields(wide.String()); !slices.Equal(got, want) {
		t.Errorf("words were lost:\n%s", narrow.String())
	}
}

func FuzzShell(f *testing.F) {
	for _, line := range []string{"change log -f checkout 412 --line 3", "approve production --reason a b --tree c",
		"help change log", "rollback", "--version --json", "search a --json b", "change diff 412 --from 1"} {
		f.Add(line)
	}
	shell := newShell()
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		var out strings.Builder
		shell.Run(t.Context(), Invocation{Actor: access.Identity{User: "ada"}, Words: words, Out: &out, Err: &out})
		for _, r := range out.String() {
			if terminal.Unsafe(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q: sends %U:\n%q", line, r, out.String())
			}
		}
	})
}

// TestFollowingEndsAsItWasEnded: what is followed has no end of its own. Whoever ended it
// says why, however quietly it ends.
func TestFollowingEndsAsItWasEnded(t *testing.T) {
	shell := newShell()
	for _, command := range []string{"env logs -f checkout production", "change log -f checkout 411"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(&show.Error{Kind: show.Forbidden, What: "your key is not known here any more"})
		var out, errs strings.Builder
		status := shell.Run(ctx, Invocation{
			Actor: access.Identity{User: "ada", Via: access.ViaSSH},
			Words: strings.Fields(command),
			Out:   &out,
			Err:   &errs,
		})
		if status != 1 || !strings.Contains(errs.String(), "your key is not known here any more") {
			t.Errorf("%s ends with %d and says %q", command, status, errs.String())
		}
	}
}
