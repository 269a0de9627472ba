package shell

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestHintsNameCommandsThereAre: what an error tells people to type, the shell knows.
func TestHintsNameCommandsThereAre(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, cmd := range commands() {
		known[cmd.name] = true
	}
	hints := 0
	look := func(files *token.FileSet, e ast.Expr) {
		text, ok := leftmost(e)
		if !ok {
			return
		}
		hints++
		words := append(strings.Fields(text), "", "")
		if !known[words[0]] && !known[words[0]+" "+words[1]] && words[0] != "" && !strings.HasPrefix(words[0], "%") &&
			(words[1] != "" || len(family(commands(), words[0])) == 0) {
			t.Errorf("%s: no command is called as in %q", files.Position(e.Pos()), text)
		}
	}

	for _, dir := range []string{"cmd", "gitd", "hooks", "reconciler", "policies"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			f, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CompositeLit: // show.Error{Command: …}
					if of, ok := n.Type.(*ast.SelectorExpr); !ok || of.Sel.Name != "Error" {
						break
					}
					for _, field := range n.Elts {
						if kv, ok := field.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "Command" {
							look(files, kv.Value)
						}
					}
				case *ast.CallExpr: // c.ssh(…)
					if of, ok := n.Fun.(*ast.SelectorExpr); ok && of.Sel.Name == "ssh" && len(n.Args) == 1 {
						look(files, n.Args[0])
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if hints < 50 {
		t.Errorf("only %d hints were looked at: does this test still find them?", hints)
	}
}

// leftmost is the text that an expression begins with, if it is written there.
func leftmost(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		return leftmost(e.X)
	case *ast.CallExpr: // fmt.Sprintf
		if of, ok := e.Fun.(*ast.SelectorExpr); ok && of.Sel.Name == "Sprintf" {
			return leftmost(e.Args[0])
		}
	}
	return "", false
}
