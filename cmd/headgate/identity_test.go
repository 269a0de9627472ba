package main

import (
	"go/ast"
	"strings"
	"testing"
)

// TestIdentitiesAreProven: only gitd/access makes an access.Identity of a name,
// out of a proven key or a session; and what lets people in asks for nobody by
// what a record says.
func TestIdentitiesAreProven(t *testing.T) {
	for _, s := range goFiles(t) {
		if s.test || strings.HasPrefix(s.name, "gitd/access/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if isSelector(n.Type, "access", "Identity") && len(n.Elts) > 0 {
					t.Errorf("%s makes an identity that nothing proves", s.at(n))
				}
			case *ast.AssignStmt:
				for _, to := range n.Lhs {
					if to, ok := to.(*ast.SelectorExpr); ok && to.Sel.Name == "Scope" {
						t.Errorf("%s changes the scope of an identity", s.at(n))
					}
				}
			case *ast.CallExpr:
				if isSelector(n.Fun, "access", "Recorded") && strings.HasPrefix(s.name, "gitd/") {
					t.Errorf("%s takes a record for a proof", s.at(n))
				}
			}
			return true
		})
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
