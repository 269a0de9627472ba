package policies

import "github.com/open-policy-agent/opa/v1/ast"

// Limits of how rules may build on one another.
const (
	maxGrowth = 100_000   // parts of the largest value that the rules spell out
	maxSteps  = 1_000_000 // of finding that out
)

// compiler is the language of policies, with one stage of our own: before types
// are inferred it is found out how large the values are that rules spell out,
// since x1 := [x0, x0], x2 := [x1, x1] and so on keep the type checker, the
// comparison of two such values and the text of an error busy for ever.
func compiler(caps *ast.Capabilities) *ast.Compiler {
	c := ast.NewCompiler().WithCapabilities(caps).WithDefaultRegoVersion(ast.RegoV1)
	return c.WithStageAfterID(ast.StageCheckRecursion, ast.CompilerStageDefinition{Name: "CheckGrowth", MetricName: "check_growth", Stage: checkGrowth})
}

func checkGrowth(c *ast.Compiler) *ast.Error {
	g := growth{compiler: c, rules: map[*ast.Rule]int{}}
	for _, path := range sortedKeys(c.Modules) {
		for _, rule := range c.Modules[path].Rules {
			for r := rule; r != nil; r = r.Else {
				if g.rule(r) > maxGrowth || g.steps > maxSteps {
					return ast.NewError(ast.CompileErr, r.Location, "the rules up to here build a value of more than %d parts", maxGrowth)
				}
			}
		}
	}
	return nil
}

// growth knows how many parts a value has at most that a rule spells out. What
// comes from the input or a built-in counts as one: no rule can make its type
// larger by repeating it.
type growth struct {
	compiler *ast.Compiler
	rules    map[*ast.Rule]int
	steps    int
}

func (g *growth) rule(r *ast.Rule) int {
	if size, ok := g.rules[r]; ok {
		return size
	}
	s := scope{g: g, sizes: map[ast.Var]int{}, largest: 1}
	for _, arg := range r.Head.Args {
		s.bind(arg, 1)
	}
	s.body(r.Body)
	for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if t != nil {
			s.closures(t)
			s.term(t)
		}
	}
	size := s.largest
	if r.Else != nil {
		size = max(size, g.rule(r.Else))
	}
	g.rules[r] = size
	return size
}

func (g *growth) ref(r ast.Ref) int {
	size := 0
	for _, rule := range g.compiler.GetRules(r.GroundPrefix()) {
		size = plus(size, g.rule(rule))
	}
	return max(size, 1)
}

// scope is one rule with its variables, nested bodies included: the compiler has
// given them names of their own, and has put expressions in an order in which
// each finds its variables bound or binds them.
type scope struct {
	g       *growth
	sizes   map[ast.Var]int // of the variables that are bound so far
	largest int             // of anything in the rule: it may be compared there
}

func (s *scope) body(b ast.Body) {
	for _, x := range b {
		switch terms := x.Terms.(type) {
		case *ast.Every:
			s.closures(terms.Domain)
			size := s.term(terms.Domain)
			if terms.Key != nil {
				s.bind(terms.Key, size)
			}
			s.bind(terms.Value, size)
			s.body(terms.Body)
		case *ast.Term:
			s.closures(terms)
			s.term(terms)
		case []*ast.Term:
			for _, t := range terms[1:] {
				s.closures(t)
			}
			if x.IsEquality() {
				left, right := s.term(terms[1]), s.term(terms[2])
				s.bind(terms[1], right)
				s.bind(terms[2], left)
				continue
			}
			size := s.g.ref(x.Operator())
			for _, t := range terms[1:] {
				s.bind(t, size) // all but the result are bound
			}
		}
		for _, w := range x.With {
			s.closures(w.Value)
			s.term(w.Value)
		}
	}
}

// closures reads the bodies within a term, and binds what its references find:
// the members of a set are its keys.
func (s *scope) closures(t *ast.Term) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension:
			s.body(x.Body)
		case *ast.SetComprehension:
			s.body(x.Body)
		case *ast.ObjectComprehension:
			s.body(x.Body)
		case ast.Body:
			return true // read above
		case ast.Ref:
			size := s.term(&ast.Term{Value: x})
			for _, key := range x[1:] {
				s.bind(key, size)
			}
		}
		return false
	}).Walk(t)
}

// bind sets the variables of a term that are not bound yet: each may be all of
// the value, or a part of it.
func (s *scope) bind(t *ast.Term, size int) {
	switch v := t.Value.(type) {
	case ast.Var:
		if _, bound := s.sizes[v]; !bound {
			s.sizes[v] = size
		}
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { s.bind(t, size) })
	case ast.Object:
		v.Foreach(func(_, t *ast.Term) { s.bind(t, size) })
	}
}

func (s *scope) term(t *ast.Term) int {
	size := s.sizeOf(t)
	s.largest = max(s.largest, size)
	return size
}

func (s *scope) sizeOf(t *ast.Term) int {
	if s.g.steps++; s.g.steps > maxSteps {
		return maxGrowth + 1
	}
	size := 1
	add := func(t *ast.Term) { size = plus(size, s.sizeOf(t)) }
	switch v := t.Value.(type) {
	case ast.Var:
		return max(s.sizes[v], 1)
	case ast.Ref:
		if head, ok := v[0].Value.(ast.Var); ok && !head.Equal(ast.DefaultRootDocument.Value) && !head.Equal(ast.InputRootDocument.Value) {
			return max(s.sizes[head], 1)
		}
		return s.g.ref(v)
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) { add(k); add(t) })
	case *ast.ArrayComprehension:
		add(v.Term)
	case *ast.SetComprehension:
		add(v.Term)
	case *ast.ObjectComprehension:
		add(v.Key)
		add(v.Value)
	}
	return size
}

func plus(a, b int) int { return min(a+b, maxGrowth+1) }
