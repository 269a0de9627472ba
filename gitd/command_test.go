package gitd

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

var update = flag.Bool("update", false, "rewrite golden files")

// The transcripts in testdata are what people see. A line "$ user: command"
// asks; -t after the user asks for a terminal of 80 columns.
func TestTranscripts(t *testing.T) {
	h := start(t, nil)
	clients := map[string]*gossh.Client{"ada": h.login("ada"), "jun": h.login("jun"), "sam": h.login("sam")}
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
				r := h.run(clients[user], command, func(s *gossh.Session) {
					if tty {
						s.Setenv("LANG", "en_GB.UTF-8")
						if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
							t.Fatal(err)
						}
					}
				})
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
	s = strings.NewReplacer("\x1b", `\e`, "\r\n", "\\r\n").Replace(s)
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
	h := start(t, nil)
	ada := h.login("ada")
	for _, line := range []string{
		"repo list", "repo list --json", "change list checkout", "change list checkout --json", "change show 412", "change log 412", "change log 412 --json",
		"env list", "why checkout \u202eproduction", "nonsense\u200b", "repo create hello --description a\u2066b",
	} {
		r := h.run(ada, line)
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
	if r := h.run(ada, "repo list --json"); !strings.Contains(r.stdout, `\u202e`) {
		t.Error("JSON lost a character instead of escaping it")
	}
}

// Every command has help with an example that the parser itself understands.
func TestHelp(t *testing.T) {
	h := start(t, nil)
	ada := h.login("ada")
	for _, cmd := range commands() {
		for _, line := range []string{cmd.name + " --help", cmd.name + " -h", "help " + cmd.name} {
			r := h.run(ada, line)
			if r.status != 0 || !strings.HasPrefix(r.stdout, "example: ssh git.tarn.example "+cmd.name) {
				t.Errorf("%s: exit %d\n%s%s", line, r.status, r.stdout, r.stderr)
			}
		}
		words, err := split(strings.Split(cmd.example, " > ")[0])
		if err != nil {
			t.Fatal(err)
		}
		found, rest, err := find(commands(), words)
		if err != nil || found.name != cmd.name {
			t.Errorf("example %q is for %v: %v", cmd.example, found, err)
			continue
		}
		c := call{command: found, options: map[string]string{}, out: &text{}}
		if err := c.parse(rest); err != nil {
			t.Errorf("example %q: %v", cmd.example, err)
		}
	}
}
