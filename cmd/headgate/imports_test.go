package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/headgate-cd/headgate/"

// allowed says which rooms a room may import, by the longest path that fits.
// ARCHITECTURE.md has the same as a picture.
var allowed = map[string][]string{
	"policies":           {},
	"gitd":               {"gitd"},
	"hooks":              {"gitd", "hooks", "policies"},
	"hooks/build":        {"gitd/crash", "gitd/yamlfile", "hooks/build"},
	"hooks/receive/wire": {},
	"reconciler":         {"gitd", "policies", "reconciler"},
	"cmd/headgate-hook":  {"hooks/receive/wire"},
	"cmd/headgate":       {"gitd", "hooks", "policies", "reconciler"},
	"e2e":                {},
}

// leaves of gitd are for everybody; the front door itself (SSH daemon, console)
// is for cmd alone.
var frontDoor = []string{"gitd", "gitd/web"}

func within(path string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(room string) bool { return path == room || strings.HasPrefix(path, room+"/") })
}

// TestImportsRunOneWay keeps the house as it was drawn: policies knows nobody,
// the front door is handed what it shows, e2e sees programs only.
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
		room := ""
		for r := range allowed {
			if within(name, []string{r}) && len(r) > len(room) {
				room = r
			}
		}
		if room == "" {
			t.Errorf("%s is in no room", name)
		}
		imports := p.Imports
		if room == "e2e" {
			imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		}
		for _, i := range imports {
			i, ours := strings.CutPrefix(i, module)
			switch {
			case !ours:
			case !within(i, allowed[room]):
				t.Errorf("%s imports %s", name, i)
			case slices.Contains(frontDoor, i) && room != "cmd/headgate" && room != "gitd":
				t.Errorf("%s imports the front door, %s", name, i)
			}
		}
	}
	if packages < 20 {
		t.Errorf("saw only %d packages", packages)
	}
}
