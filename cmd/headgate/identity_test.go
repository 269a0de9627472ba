package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestIdentitiesAreProven: only gitd/access makes an access.Identity of a name,
// out of a proven key or a session; and what lets people in asks for nobody by
// what a record says.
func TestIdentitiesAreProven(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, "../../"))
		if strings.HasPrefix(name, "gitd/access/") {
			return nil
		}
		files++
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if isSelector(n.Type, "access", "Identity") && len(n.Elts) > 0 {
					t.Errorf("%s:%d makes an identity that nothing proves", name, set.Position(n.Pos()).Line)
				}
			case *ast.AssignStmt:
				for _, to := range n.Lhs {
					if s, ok := to.(*ast.SelectorExpr); ok && s.Sel.Name == "Scope" {
						t.Errorf("%s:%d changes the scope of an identity", name, set.Position(n.Pos()).Line)
					}
				}
			case *ast.CallExpr:
				if isSelector(n.Fun, "access", "Recorded") && strings.HasPrefix(name, "gitd/") {
					t.Errorf("%s:%d takes a record for a proof", name, set.Position(n.Pos()).Line)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("saw only %d files", files)
	}
}

func isSelector(e ast.Expr, of, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == of && s.Sel.Name == name
}
