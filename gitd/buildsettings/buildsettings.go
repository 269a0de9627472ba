// Package buildsettings is what a project, and the server above it, says of the
// environment of its builds: variables, limits, and whether they reach the network.
// headgate.yaml and server.yaml read it alike.
package buildsettings

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Settings is one layer of them.
type Settings struct {
	Variables map[string]string // literal values, which logs show
	Network   *bool             // nil: it says nothing
	Limits    Limits
}

// Limits bound one build. Zero is what the machine gives.
type Limits struct {
	Memory    int64   // bytes, swap included
	Disk      int64   // bytes that it may write
	CPU       float64 // cores
	Processes int     // and threads, at a time
}

// Within is l held to the limits of somebody above.
func (l Limits) Within(above Limits) Limits {
	return Limits{
		Memory:    smaller(l.Memory, above.Memory),
		Disk:      smaller(l.Disk, above.Disk),
		CPU:       smaller(l.CPU, above.CPU),
		Processes: smaller(l.Processes, above.Processes),
	}
}

func smaller[T int | int64 | float64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Merge is variables over others.
func Merge(layers ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, l := range layers {
		maps.Copy(all, l)
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// Keys are those that Read takes.
var Keys = []string{"variables", "network", "limits"}

// Bounds of a file.
const (
	maxVariables = 200
	maxValue     = 16 << 10 // bytes
)

var (
	variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	bytesForm    = regexp.MustCompile(`^([1-9][0-9]{0,5}) ?(KiB|MiB|GiB|TiB)$`)
	sizes        = []string{"KiB", "MiB", "GiB", "TiB"}
)

// Bytes reads a size such as "2 GiB".
func Bytes(s string) (int64, bool) {
	m := bytesForm.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return n << (10 * (1 + slices.Index(sizes, m[2]))), err == nil
}

// Read reads the mapping n of a file, at the dotted path under. Keys that are not
// Keys are the caller's.
func Read(file string, n *yaml.Node, under string) (s Settings, ps yamlfile.Problems) {
	r := reader{file: file, under: under}
	for key, value := range yamlfile.Pairs(n) {
		switch key.Value {
		case "variables":
			s.Variables = r.variables(value)
		case "network":
			var yes bool
			if err := value.Decode(&yes); err != nil || value.Kind != yaml.ScalarNode {
				r.problem(value, "write true or false", "%s.network is %q", under, value.Value)
				continue
			}
			s.Network = &yes
		case "limits":
			s.Limits = r.limits(value)
		}
	}
	return s, r.problems
}

type reader struct {
	file, under string
	problems    yamlfile.Problems
}

func (r *reader) problem(at *yaml.Node, fix, format string, args ...any) {
	r.problems = append(r.problems,
		yamlfile.Problem{File: r.file, Line: at.Line, What: fmt.Sprintf(format, args...), Fix: fix})
}

// mapping reports whether n is a mapping; nothing is an empty one.
func (r *reader) mapping(n *yaml.Node, key, example string) bool {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return false
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n, "write "+example, "%s.%s is not a mapping", r.under, key)
		return false
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	return true
}

func (r *reader) variables(n *yaml.Node) map[string]string {
	if !r.mapping(n, "variables", "variables: {NAME: value}") {
		return nil
	}
	all := map[string]string{}
	for key, value := range yamlfile.Pairs(n) {
		name := key.Value
		switch {
		case !variableForm.MatchString(name):
			r.problem(key, "use letters, digits and '_'", "%q is not a name for a variable", name)
		case strings.HasPrefix(name, "CODEBUILD_") && !strings.HasPrefix(name, "CODEBUILD_CONFIG_"):
			r.problem(key, "choose another name", "%s: names beginning with CODEBUILD_ are CodeBuild's own", name)
		case strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "BASH_") || name == "ENV" || name == "IFS" ||
			name == "HOME":
			r.problem(key, "set it in the commands that need it", "%s would change how every command is run", name)
		case value.Kind != yaml.ScalarNode:
			r.problem(value, "write its value as text", "variable %s is not text", name)
		case len(value.Value) > maxValue || strings.ContainsRune(value.Value, 0):
			r.problem(value, "write it into a file", "variable %s is over %d bytes, or holds a zero byte", name, maxValue)
		case value.Tag == "!!null":
			all[name] = ""
		default:
			all[name] = value.Value
		}
	}
	if len(all) > maxVariables {
		r.problem(n, "write them into a file", "%s.variables has %d variables, over %d", r.under, len(all), maxVariables)
	}
	return all
}

func (r *reader) limits(n *yaml.Node) (l Limits) {
	if !r.mapping(n, "limits", "limits: {memory: 4 GiB, cpu: 2}") {
		return l
	}
	for key, value := range yamlfile.Pairs(n) {
		switch key.Value {
		case "memory", "disk":
			size, ok := Bytes(value.Value)
			if !ok || size < 16<<20 {
				r.problem(value, "write a number of MiB or GiB, such as 500 MiB or 2 GiB",
					"%s.limits.%s is %q, which is not a size of at least 16 MiB", r.under, key.Value, value.Value)
			}
			if key.Value == "memory" {
				l.Memory = size
			} else {
				l.Disk = size
			}
		case "cpu":
			cores, err := strconv.ParseFloat(value.Value, 64)
			if err != nil || !(cores >= 0.1 && cores <= 1024) {
				r.problem(value, "write a number such as 2 or 0.5",
					"%s.limits.cpu is %q, which is not a number of cores from 0.1 to 1024", r.under, value.Value)
				continue
			}
			l.CPU = cores
		case "processes":
			count, err := strconv.Atoi(value.Value)
			if err != nil || count < 16 || count > 1<<20 {
				r.problem(value, "write a number such as 500", "%s.limits.processes is %q, which is not a number from 16 to %d",
					r.under, value.Value, 1<<20)
				continue
			}
			l.Processes = count
		default:
			r.problems = append(r.problems,
				yamlfile.UnknownKey(r.file, key, r.under+".limits", []string{"memory", "disk", "cpu", "processes"}))
		}
	}
	return l
}
