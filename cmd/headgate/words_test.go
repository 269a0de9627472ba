package main

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// replaced are names that nobody could predict, and what is written instead.
var replaced = map[string]string{
	"House": "Backend", "house": "backend or harness", "newHouse": "newHarness", "world": "harness", "tarn": "harness",
	"talker": "dropWriter", "lastWords": "drainTimeout", "narrator": "reporter",
	"door": "admission", "knock": "register", "Knocking": "Limits.Unauthenticated", "turnstile": "queue",
	"proven":  "authenticated",
	"judging": "validation", "judged": "accepted", "sight": "snapshot", "begun": "started", "beginning": "initial",
	"hear": "drain", "poke": "wake", "bell": "wake", "asks": "mailbox",
	"board": "progress", "track": "subscribers", "Book": "Store", "mend": "repair", "owing": "pending",
	"stands": "current", "concerned": "waitingFor", "postpone": "retryLater",
	"understand": "parse", "takeUp": "accept", "lookAtFolders": "checkDrift", "heir": "successor", "inherit": "handOver",
	"reaches": "stages", "sluice": "gate", "lintel": "header", "dock": "entry", "couple": "buildTrain",
	"visit": "request", "odd": "ambiguous", "tricky": "unsafeRune", "obeyed": "unsafeRune",
	"patience": "a name ending in Timeout", "overrun": "a name ending in Timeout", "silence": "a name ending in Timeout",
	"measured": "finite", "weigh": "combine", "orElse": "cmp.Or", "stranger": "other user",
}

// The names in the code are the trade's: none of those above is declared.
func TestWordsAreTheTrades(t *testing.T) {
	t.Parallel()
	for _, s := range goFiles(t) {
		declared := func(id *ast.Ident) {
			if instead, ok := replaced[id.Name]; ok {
				t.Errorf("%s: %s: write %s", s.at(id), id.Name, instead)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				declared(n.Name)
			case *ast.TypeSpec:
				declared(n.Name)
			case *ast.ValueSpec:
				for _, id := range n.Names {
					declared(id)
				}
			case *ast.Field:
				for _, id := range n.Names {
					declared(id)
				}
			case *ast.AssignStmt:
				if n.Tok == token.DEFINE {
					for _, lhs := range n.Lhs {
						if id, ok := lhs.(*ast.Ident); ok {
							declared(id)
						}
					}
				}
			}
			return true
		})
	}
}

// A command of the server that a hint names is whole: it stands in Command, from
// which whoever shows it makes "ssh … change list hello".
func TestHintsAreWholeCommands(t *testing.T) {
	t.Parallel()
	bare := regexp.MustCompile(
		`(^|[ :])((change|env|repo|release|token|forge|events|secret|schedule|user|group|decision) ` +
			`(list|show|log|create|set|cancel|retry|run|deliveries|revoke|diff|sbom)|(approve|promote|rollback|why) ($|%))`)
	hints := 0
	look := func(s goFile, e ast.Expr) {
		ast.Inspect(e, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if made, ok := call.Fun.(*ast.SelectorExpr); ok && (made.Sel.Name == "ssh" || made.Sel.Name == "Command") {
					return false
				}
			}
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			hints++
			if text, err := strconv.Unquote(lit.Value); err == nil && bare.MatchString(text) && !strings.Contains(text, "ssh ") {
				t.Errorf("%s: the hint %q names a command without ssh: give it as Command, or by Server.Command",
					s.at(lit), text)
			}
			return true
		})
	}
	for _, s := range goFiles(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if id, ok := n.Key.(*ast.Ident); ok && (id.Name == "Hint" || id.Name == "Next") {
					look(s, n.Value)
				}
			case *ast.AssignStmt:
				for i, l := range n.Lhs {
					if to, ok := l.(*ast.SelectorExpr); ok && (to.Sel.Name == "Hint" || to.Sel.Name == "Next") && i < len(n.Rhs) {
						look(s, n.Rhs[i])
					}
				}
			}
			return true
		})
	}
	if hints < 100 {
		t.Errorf("only %d hints were seen", hints)
	}
}

// The words of JSON that programs compare are single words: every constant of a named
// type of package show, and of the reports of targets.
func TestWordsOfJSONAreSingle(t *testing.T) {
	t.Parallel()
	word := regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
	words := 0
	of := []string{"gitd/show", "hooks/change", "hooks/verdict", "reconciler/target"}
	for _, s := range goFiles(t) {
		if s.test || !slices.Contains(of, path.Dir(s.name)) {
			continue
		}
		for _, d := range s.file.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				continue
			}
			for _, spec := range decl.Specs {
				named := spec.(*ast.ValueSpec)
				for _, v := range named.Values {
					lit, ok := v.(*ast.BasicLit)
					if !ok || lit.Kind != token.STRING || named.Type == nil {
						continue
					}
					words++
					if text, _ := strconv.Unquote(lit.Value); text != "" && !word.MatchString(text) {
						t.Errorf("%s: %q is not one word", s.at(lit), text)
					}
				}
			}
		}
	}
	if words < 40 {
		t.Errorf("only %d words were seen", words)
	}
}

// The sample says "change this line" of one that its own test leaves free.
func TestSampleMayBeChanged(t *testing.T) {
	t.Parallel()
	source, err := sample.ReadFile("sample/lib/Greeting.pm")
	if err != nil {
		t.Fatal(err)
	}
	_, free, found := strings.Cut(string(source), "# Change this line")
	_, free, _ = strings.Cut(free, "'")
	free, _, ended := strings.Cut(free, "'")
	if !found || !ended || free == "" {
		t.Fatalf("no line of the sample is to be changed:\n%s", source)
	}
	tests, err := sample.ReadFile("sample/t/greeting.t")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range strings.Fields(free) {
		if strings.Contains(string(tests), w) {
			t.Errorf("the sample's test wants %q, of the line that people are told to change", w)
		}
	}
}
