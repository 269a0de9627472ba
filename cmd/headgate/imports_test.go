package main

import (
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/headgate-cd/headgate/"

// allowed says which packages those below a path may import, by the longest path
// that fits. ARCHITECTURE.md has the same as a picture.
var allowed = map[string][]string{
	"policies": {},
	"gitd":     {"gitd"},
	"hooks":    {"gitd", "hooks", "policies"},
	"hooks/build": {"gitd/buildsettings", "gitd/crash", "gitd/engine", "gitd/sandbox", "gitd/signal", "gitd/terminal",
		"gitd/tty", "gitd/yamlfile", "hooks/build"},
	"hooks/build/report":  {"gitd/repo"},
	"hooks/receive/wire":  {},
	"reconciler":          {"gitd", "policies", "reconciler"},
	"cmd/internal/backup": {"gitd/repo", "hooks/build/artifact", "reconciler/record"},
	"cmd/internal/proof":  {"gitd", "hooks", "reconciler"},
	"cmd/internal/server": {"cmd/internal/proof", "gitd", "hooks", "policies", "reconciler"},
	"cmd/headgate-hook":   {"hooks/receive/wire"},
	"cmd/headgate": {"cmd/internal/backup", "cmd/internal/proof", "cmd/internal/server", "gitd", "hooks",
		"policies", "reconciler"},
	"e2e":                {"e2e/forges", "e2e/power", "gitd/engine/enginetest"}, // which knows nobody
	"e2e/bench/landings": {"gitd", "hooks"},
	"e2e/bench/agents":   {"reconciler/agent", "reconciler/target"},
}

// serving are the SSH daemon and the console. What else is below gitd is for
// everybody; these are for the one package that joins all.
var serving = []string{"gitd", "gitd/web"}

func within(path string, tops []string) bool {
	return slices.ContainsFunc(tops, func(top string) bool { return path == top || strings.HasPrefix(path, top+"/") })
}

// TestPoliciesAreEvaluatedElsewhere: whatever somebody pushed is compiled and
// evaluated in processes of a policies.Pool, never in the server's.
func TestPoliciesAreEvaluatedElsewhere(t *testing.T) {
	out, err := exec.Command("git", "grep", "-n", "policies[.]New(", "--", "../../*.go", ":!../../*_test.go").Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 { // 1: there is none
		t.Errorf("%v %s", err, out)
	}
}

// TestImportsRunOneWay: policies knows nobody, hooks and reconciler do not know
// each other, the SSH daemon and the console are handed what they show, only
// cmd/internal/server knows all, and e2e sees programs only.
func TestImportsRunOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Doc", "../../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p struct {
			ImportPath, Doc                    string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		packages++
		name := strings.TrimPrefix(p.ImportPath, module)
		if p.Doc == "" && !strings.HasPrefix(name, "e2e") {
			t.Errorf("%s has no package comment", name)
		}
		top := ""
		for a := range allowed {
			if within(name, []string{a}) && len(a) > len(top) {
				top = a
			}
		}
		if top == "" {
			t.Errorf("nothing says what %s may import", name)
		}
		imports := p.Imports
		if top == "e2e" {
			imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		}
		for _, i := range imports {
			i, ours := strings.CutPrefix(i, module)
			switch {
			case !ours:
			case !within(i, allowed[top]):
				t.Errorf("%s imports %s", name, i)
			case slices.Contains(serving, i) && top != "cmd/internal/server" && top != "gitd":
				t.Errorf("%s imports %s, which cmd/internal/server alone starts", name, i)
			}
		}
	}
	if packages < 20 {
		t.Errorf("saw only %d packages", packages)
	}
}
