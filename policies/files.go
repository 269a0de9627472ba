package policies

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Dir is the directory of a repository's own policies.
const Dir = "policies"

// root is the first name of every package that is evaluated. Other packages, which
// are there for other programs, count when one of these refers to them.
const root = "headgate"

// Limits of a repository's policies.
const (
	maxFiles    = 100
	maxFileSize = 256 << 10
)

// Reads reports whether a file of a repository, by its path, is one that New and
// Check may look at: Rego anywhere below Dir, data in Dir itself.
func Reads(name string) bool {
	return strings.HasPrefix(name, Dir+"/") && strings.HasSuffix(name, ".rego") || isData(name)
}

func isData(name string) bool {
	return path.Dir(name) == Dir && slices.Contains([]string{".json", ".yaml", ".yml"}, path.Ext(name))
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// module is one Rego file.
type module struct {
	path   string
	name   string // its package: "headgate.push"
	parsed *ast.Module
}

// sources are Rego files that are not parsed yet, by path. What is nobody's
// business here may be of another dialect, so a file is parsed when it counts.
type sources struct {
	files    map[string][]byte
	packages map[string]string // by path
	parsed   map[string]module
	problems Problems
}

// readSources finds out which package each Rego file belongs to.
func readSources(files map[string][]byte) *sources {
	s := &sources{files: files, packages: map[string]string{}, parsed: map[string]module{}}
	for _, name := range sortedKeys(files) {
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		pkg, line := packageOf(string(files[name]))
		first, rest, _ := strings.Cut(pkg, ".")
		switch {
		case pkg == "" && line == 0:
			s.problem(name, 0, "is empty", "write it, or remove it")
		case pkg == "":
			s.problem(name, line, "does not begin with a package", "write: package "+root+".<query>, or move it out of "+Dir+"/")
		case first == root:
			s.packages[name] = pkg
		case misspelt(first), first == "policy" && slices.Contains(queries, rest):
			s.problem(name, line, fmt.Sprintf("package %s is never evaluated", pkg), "name it "+root+"."+cmp.Or(rest, "<query>"))
		default:
			s.packages[name] = pkg
		}
	}
	return s
}

func (s *sources) problem(file string, line int, what, fix string) {
	p := Problem{File: file, Line: line, What: what, Fix: fix}
	if !slices.Contains(s.problems, p) {
		s.problems = append(s.problems, p)
	}
}

// packageOf reads the package clause that a Rego file begins with, and its line;
// line 0 is that of a file without one.
func packageOf(text string) (pkg string, line int) {
	for i, l := range strings.Split(text, "\n") {
		l, _, _ = strings.Cut(strings.TrimPrefix(l, "\ufeff"), "#")
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		words := strings.FieldsFunc(l, func(r rune) bool { return r == ' ' || r == '\t' || r == ';' })
		if len(words) < 2 || words[0] != "package" {
			return "", i + 1
		}
		return strings.NewReplacer(`["`, ".", `"]`, "").Replace(words[1]), i + 1
	}
	return "", 0
}

// misspelt reports whether a name was probably meant to be root.
func misspelt(name string) bool {
	if name == root || len(name) < len(root)-1 || len(name) > len(root)+1 {
		return false
	}
	if strings.EqualFold(name, root) {
		return true
	}

	// One letter more, less, other, or two that changed places.
	from := 0
	for from < min(len(name), len(root)) && name[from] == root[from] {
		from++
	}
	a, b := name[from:], root[from:]
	switch len(a) - len(b) {
	case 1:
		return a[1:] == b
	case -1:
		return a == b[1:]
	}
	return a[1:] == b[1:] || len(a) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:]
}

// parse parses a file; false, with a problem, when it cannot be.
func (s *sources) parse(name string) (module, bool) {
	if m, ok := s.parsed[name]; ok {
		return m, m.parsed != nil
	}
	m := module{path: name}
	if n := len(s.files[name]); n > maxFileSize {
		s.problem(name, 0, fmt.Sprintf("is %d bytes, over the limit of %d", n, maxFileSize), "")
	} else if len(s.parsed) == maxFiles {
		s.problem(Dir, 0, fmt.Sprintf("more than %d Rego files count", maxFiles), "join some of them")
	} else {
		parsed, err := ast.ParseModuleWithOpts(name, string(s.files[name]), ast.ParserOptions{
			RegoVersion:  ast.RegoV1,
			Capabilities: capabilities(),
		})
		if err != nil {
			s.problems = append(s.problems, problemsOf(name, err)...)
		} else {
			m.name, m.parsed = strings.TrimPrefix(parsed.Package.Path.String(), "data."), parsed
		}
	}
	s.parsed[name] = m
	return m, m.parsed != nil
}

// evaluated are the modules whose packages are headgate.*, in order of path.
func (s *sources) evaluated() []module {
	return s.modules(func(name string) bool {
		pkg := s.packages[name]
		return !isTest(name) && (pkg == root || strings.HasPrefix(pkg, root+"."))
	})
}

// tests are those of modules.
func (s *sources) tests(modules []module) []module {
	return s.modules(func(name string) bool {
		pkg := strings.TrimSuffix(s.packages[name], "_test")
		return isTest(name) && (pkg == root || strings.HasPrefix(pkg, root+".") ||
			slices.ContainsFunc(modules, func(m module) bool { return m.name == pkg }))
	})
}

func (s *sources) modules(which func(name string) bool) (found []module) {
	for _, name := range sortedKeys(s.packages) {
		if which(name) {
			if m, ok := s.parse(name); ok {
				found = append(found, m)
			}
		}
	}
	return found
}

// needed are the modules that others refer to, and those that these refer to.
func (s *sources) needed(by []module) []module {
	var found []module
	taken := map[string]bool{}
	for _, m := range by {
		taken[m.path] = true
	}
	paths := slices.DeleteFunc(sortedKeys(s.packages), isTest)
	looked := map[string]bool{}
	for next := slices.Clone(by); len(next) > 0; {
		m := next[0]
		next = next[1:]
		ast.WalkRefs(m.parsed, func(r ast.Ref) bool {
			name := strings.TrimPrefix(r.String(), "data.")
			if looked[name] {
				return false
			}
			looked[name] = true
			for _, file := range paths {
				pkg := s.packages[file]
				if taken[file] || !sameOrBelow(name, pkg) && !sameOrBelow(pkg, name) {
					continue
				}
				taken[file] = true
				if l, ok := s.parse(file); ok {
					found = append(found, l)
					next = append(next, l)
				}
			}
			return false
		})
	}
	return found
}

// sameOrBelow reports whether a dotted name is another, or below it.
func sameOrBelow(name, other string) bool { return name == other || strings.HasPrefix(name, other+".") }
