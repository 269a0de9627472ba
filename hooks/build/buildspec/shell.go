package buildspec

import (
	"strings"

	"go.yaml.in/yaml/v4"
	"mvdan.cc/sh/v3/syntax"
)

// parseShell reads a command as Bash does, which takes all that sh takes. nil when
// it is neither.
func parseShell(command string) *syntax.File {
	f, err := syntax.NewParser().Parse(strings.NewReader(command), "")
	if err != nil {
		return nil
	}
	return f
}

// Bashism is the first thing in a command that Bash alone knows: what sh fails on,
// or silently takes for something else. line counts from 1; what is "" when there is
// nothing of the kind.
func Bashism(command string) (what string, line int) {
	f := parseShell(command)
	if f == nil {
		return "", 0
	}
	found := func(n syntax.Node, text string) {
		if what == "" {
			what, line = text, int(n.Pos().Line())
		}
	}
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.TestClause:
			found(n, "[[ … ]]")
		case *syntax.ArrayExpr:
			found(n, "an array")
		case *syntax.ProcSubst:
			found(n, n.Op.String()+"…)")
		case *syntax.ArithmCmd:
			found(n, "((…))")
		case *syntax.LetClause:
			found(n, "let")
		case *syntax.ExtGlob:
			found(n, n.Op.String()+"…)")
		case *syntax.FuncDecl:
			if n.RsrvWord {
				found(n, "function "+name(n))
			}
		case *syntax.DeclClause:
			if v := n.Variant.Value; v == "declare" || v == "typeset" || v == "nameref" {
				found(n, v)
			}
		case *syntax.Redirect:
			switch n.Op {
			case syntax.WordHdoc:
				found(n, "<<<")
			case syntax.RdrAll, syntax.AppAll:
				found(n, n.Op.String())
			}
		case *syntax.SglQuoted:
			if n.Dollar {
				found(n, "$'…'")
			}
		case *syntax.ParamExp:
			switch {
			case n.Excl:
				found(n, "${!…}")
			case n.Index != nil:
				found(n, "${…[…]}")
			case n.Slice != nil:
				found(n, "${…:…:…}")
			case n.Repl != nil:
				found(n, "${…/…/…}")
			case n.Exp != nil && strings.ContainsAny(n.Exp.Op.String(), "^,@"):
				found(n, "${…"+n.Exp.Op.String()+"}")
			}
		case *syntax.CallExpr:
			call(n, found)
		}
		return what == ""
	})
	return what, line
}

func name(f *syntax.FuncDecl) string {
	if f.Name == nil {
		return ""
	}
	return f.Name.Value
}

// call looks at a simple command.
func call(n *syntax.CallExpr, found func(n syntax.Node, text string)) {
	if len(n.Args) == 0 {
		return
	}
	last := n.Args[len(n.Args)-1].Lit()
	switch program := n.Args[0].Lit(); program {
	case "source", "pushd", "popd", "shopt", "mapfile", "readarray", "dirs":
		found(n, program)
	case "[", "test":
		for _, arg := range n.Args {
			if arg.Lit() == "==" {
				found(arg, program+" … ==")
			}
		}
	case "set":
		if last == "pipefail" {
			found(n, "set -o pipefail")
		}
	case "echo":
		if len(n.Args) > 1 && n.Args[1].Lit() == "-e" {
			found(n, "echo -e")
		}
	}
	for _, arg := range n.Args[1:] {
		if lit := arg.Lit(); strings.HasPrefix(lit, "{") && strings.HasSuffix(lit, "}") && strings.Contains(lit, "..") {
			found(arg, "{…..…}")
		}
	}
}

// Variables are the names that a command reads without saying what holds when they
// are not set, and those that it sets. open reports that it runs text that is not
// in it, which may set any.
func Variables(command string) (reads, sets []string, open bool) {
	f := parseShell(command)
	if f == nil {
		return nil, nil, true
	}
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Assign:
			if n.Name != nil {
				sets = append(sets, n.Name.Value)
			}
		case *syntax.WordIter:
			sets = append(sets, n.Name.Value)
		case *syntax.ParamExp:
			if n.Param == nil || n.Exp != nil && n.Exp.Op != syntax.ErrorUnset && n.Exp.Op != syntax.ErrorUnsetOrNull &&
				strings.ContainsAny(n.Exp.Op.String(), "-=+") {
				return true
			}
			if variableForm.MatchString(n.Param.Value) {
				reads = append(reads, n.Param.Value)
			}
		case *syntax.CallExpr:
			if len(n.Args) == 0 {
				return true
			}
			switch n.Args[0].Lit() {
			case ".", "source", "eval":
				open = true
			case "read", "getopts", "mapfile", "readarray", "printf":
				for _, arg := range n.Args[1:] {
					sets = append(sets, arg.Lit())
				}
			}
		}
		return true
	})
	return reads, sets, open
}

// shells warns of what the file's shell does not know.
func (r *reader) shells() {
	if r.spec.Shell != "sh" {
		return
	}
	for _, n := range r.commands {
		what, line := Bashism(n.Value)
		if what == "" {
			continue
		}
		at := *n
		if n.Style == yaml.LiteralStyle { // its text begins on the next line
			at.Line, at.Column = n.Line+line, 0
		}
		p := r.problem(&at, what+" is Bash, and commands run in sh", "write env: {shell: bash}, or what sh knows")
		r.warnings = append(r.warnings, p)
	}
}

// unnoticed are the lines of a command whose failure does not make it fail, since it
// goes on after them: those that run a program before the last one, and no set -e.
// Each has what it runs.
func unnoticed(command string) (lines []int, programs []string) {
	f := parseShell(command)
	if f == nil {
		return nil, nil
	}
	for i, s := range f.Stmts {
		call, ok := s.Cmd.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			continue
		}
		program := call.Args[0].Lit()
		if program == "set" && setsErrexit(call) {
			return lines, programs
		}
		if i < len(f.Stmts)-1 && !s.Negated && !s.Background && program != "" && !harmless[program] {
			lines, programs = append(lines, int(s.Pos().Line())), append(programs, program)
		}
	}
	return lines, programs
}

// harmless are programs that nobody waits to see failing.
var harmless = map[string]bool{
	"echo": true, "printf": true, "export": true, "set": true, "unset": true, "trap": true, "true": true, ":": true,
	"exit": true, "return": true, "shift": true, "read": true, "umask": true, "ulimit": true, "alias": true, "local": true,
	"ls": true, "env": true, "date": true, "pwd": true, "sleep": true, "wait": true, "which": true, "eval": true,
}

func setsErrexit(call *syntax.CallExpr) bool {
	for i, arg := range call.Args[1:] {
		lit := arg.Lit()
		if strings.HasPrefix(lit, "-") && strings.Contains(lit, "e") || lit == "errexit" && i > 0 {
			return true
		}
	}
	return false
}

// blocks warns of the first command that would go on after a program that failed.
func (r *reader) blocks() {
	for _, n := range r.commands {
		lines, programs := unnoticed(n.Value)
		if len(lines) == 0 {
			continue
		}
		at := *n
		if n.Style == yaml.LiteralStyle { // its text begins on the next line
			at.Line, at.Column = n.Line+lines[0], 0
		}
		r.warnings = append(r.warnings, r.problem(&at,
			programs[0]+" may fail here and the build stays green: of several lines the last one's exit status counts",
			"begin the block with set -e, or give each line an entry of its own"))
		return
	}
}
