// Package headgateyaml reads headgate.yaml, the file at the root of a
// repository that says how a change is built, how it lands, and where its
// releases run. Most repositories need a few lines of it; a repository without
// the file has the Default.
//
// It checks everything that can be known from the file alone. What the names in
// it mean (is there such a group, is there a compose file at that path) is for
// the rooms that use them.
package headgateyaml

import (
	_ "embed"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Name is the file's name at the root of a repository.
const Name = "headgate.yaml"

//go:embed schema.json
var schema []byte

// Schema is the JSON Schema of headgate.yaml, for editors.
func Schema() []byte { return slices.Clone(schema) }

// File is one headgate.yaml, with every default filled in.
type File struct {
	Build        Build
	Land         Land
	Environments []Environment // in the order of the file
}

// Build says how a change is built and tested.
type Build struct {
	Buildspec string        // path in the tree
	Image     string        // "host"
	Timeout   time.Duration // of one build
	Network   bool          // whether commands may reach the network
}

// Land says which branches are gated and how a change lands on one.
type Land struct {
	Branches []string
	Strategy string // FastForward or Merge
}

// The strategies. Merge lands the pushed commit itself when the branch has not
// moved, and a merge commit otherwise.
const (
	FastForward = "fast-forward"
	Merge       = "merge"
)

// Services is the target of supervised processes behind a proxy.
const Services = "services"

// Targets are the names of all targets.
var Targets = []string{Services}

// Environment is somewhere releases run.
type Environment struct {
	Name      string
	Target    string // one of Targets
	Path      string // folder in the tree that declares it
	After     string // environment a release must be healthy in first; "" for none
	Soak      time.Duration
	Approvals Approvals
	Line      int // in the file, for messages
}

// Approvals says whose yes a promotion needs.
type Approvals struct {
	Count int
	From  string // group; "" means everybody who may write the repository
	Own   bool   // whether somebody may approve a promotion that carries their own change
}

// Default is what holds for a repository without headgate.yaml.
func Default() *File {
	return &File{
		Build: Build{Buildspec: "buildspec.yml", Image: "host", Timeout: 20 * time.Minute},
		Land:  Land{Branches: []string{"main", "master"}, Strategy: Merge},
	}
}

// Gates reports whether a branch ("main") is gated.
func (f *File) Gates(branch string) bool { return slices.Contains(f.Land.Branches, branch) }

// Environment finds an environment by name.
func (f *File) Environment(name string) (Environment, bool) {
	for _, e := range f.Environments {
		if e.Name == name {
			return e, true
		}
	}
	return Environment{}, false
}

// text is the file as it is written.
type text struct {
	Build struct {
		Buildspec *string `yaml:"buildspec"`
		Image     *string `yaml:"image"`
		Timeout   *string `yaml:"timeout"`
		Network   bool    `yaml:"network"`
	} `yaml:"build"`
	Land struct {
		Branches []string `yaml:"branches"`
		Strategy *string  `yaml:"strategy"`
	} `yaml:"land"`
	Environments yaml.Node `yaml:"environments"`
}

type environmentText struct {
	Target    *string   `yaml:"target"`
	Path      *string   `yaml:"path"`
	After     *string   `yaml:"after"`
	Soak      *string   `yaml:"soak"`
	Approvals yaml.Node `yaml:"approvals"`
}

type approvalsText struct {
	Count int    `yaml:"count"`
	From  string `yaml:"from"`
	Own   bool   `yaml:"own"`
}

var (
	environmentForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	groupForm       = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	branchForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)
)

// Limits of one file.
const (
	maxEnvironments = 50
	maxTimeout      = 36 * time.Hour // spec/codebuild.md: at most 2160 minutes
	maxSoak         = 90 * 24 * time.Hour
	maxApprovals    = 50
)

// Parse reads a headgate.yaml. The error is yamlfile.Problems: everything that
// is wrong, by line. A file with nothing but comments is the Default.
func Parse(file string, data []byte) (*File, error) {
	f := Default()
	if onlyComments(data) {
		return f, nil
	}
	top, err := yamlfile.Parse(file, data)
	if err != nil {
		return nil, err
	}
	if top.Kind != yaml.MappingNode {
		return nil, yamlfile.Problems{{File: file, Line: top.Line, What: "is no mapping of keys to values", Fix: `begin with a key, such as "environments:"`}}
	}
	var t text
	if err := yamlfile.DecodeNode(file, top, &t); err != nil {
		return nil, err
	}
	r := reader{file: file, top: top}
	r.build(t, f)
	r.land(t, f)
	r.environments(&t.Environments, f)
	return f, r.problems.Err()
}

func onlyComments(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

type reader struct {
	file     string
	top      *yaml.Node
	problems yamlfile.Problems
}

func (r *reader) problem(line int, fix, format string, args ...any) {
	r.problems = append(r.problems, yamlfile.Problem{File: r.file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix})
}

// line finds where a key stands, by its path from the top.
func (r *reader) line(keys ...string) int {
	at, line := r.top, 0
	for _, k := range keys {
		for key, value := range yamlfile.Pairs(at) {
			if key.Value == k {
				at, line = value, key.Line
				break
			}
		}
	}
	return line
}

func (r *reader) build(t text, f *File) {
	if t.Build.Buildspec != nil {
		f.Build.Buildspec = *t.Build.Buildspec
		r.path(f.Build.Buildspec, r.line("build", "buildspec"), "buildspec")
	}
	if t.Build.Image != nil && *t.Build.Image != "host" {
		r.problem(r.line("build", "image"), `use "host": builds run in a sandbox on the server`, "image %q is not in this version", *t.Build.Image)
	}
	if t.Build.Timeout != nil {
		f.Build.Timeout = r.duration(*t.Build.Timeout, r.line("build", "timeout"), "timeout", time.Second, maxTimeout)
	}
	f.Build.Network = t.Build.Network
}

func (r *reader) land(t text, f *File) {
	if t.Land.Branches != nil {
		f.Land.Branches = t.Land.Branches
		if len(f.Land.Branches) == 0 {
			r.problem(r.line("land", "branches"), "name at least one branch; an administrator can ungate the whole repository", "no branch would be gated")
		}
		for _, b := range f.Land.Branches {
			line := r.line("land", "branches")
			switch {
			case !branchForm.MatchString(b) || strings.Contains(b, "..") || strings.Contains(b, "//") || strings.HasSuffix(b, "/") || strings.HasSuffix(b, ".") || strings.Contains(b, "/.") || strings.Contains(b+"/", ".lock/"):
				r.problem(line, "", "%q is no branch name", b)
			case strings.HasPrefix(b, "env/") || strings.HasPrefix(b, "promote/"):
				r.problem(line, "", "branch %q belongs to the server", b)
			}
		}
	}
	if t.Land.Strategy != nil {
		f.Land.Strategy = *t.Land.Strategy
		if f.Land.Strategy != Merge && f.Land.Strategy != FastForward {
			fix := "use merge or fast-forward"
			if near, ok := yamlfile.Nearest(f.Land.Strategy, []string{Merge, FastForward}); ok {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			r.problem(r.line("land", "strategy"), fix, "unknown strategy %q", f.Land.Strategy)
		}
	}
}

func (r *reader) environments(n *yaml.Node, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, `write "staging: {target: services, path: deploy/staging}" below it`, "environments is no mapping of names to environments")
		return
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for key, value := range yamlfile.Pairs(n) {
		f.Environments = append(f.Environments, r.environment(key, value))
	}
	if len(f.Environments) > maxEnvironments {
		r.problem(n.Line, "", "holds %d environments, over the limit of %d", len(f.Environments), maxEnvironments)
		return
	}
	var names []string
	for _, e := range f.Environments {
		names = append(names, e.Name)
	}
	for _, e := range f.Environments {
		line := r.line("environments", e.Name, "after")
		if e.After == "" {
			continue
		}
		if !slices.Contains(names, e.After) {
			fix := "environments here: " + strings.Join(names, ", ")
			if near, ok := yamlfile.Nearest(e.After, names); ok {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			r.problem(line, fix, "environment %q comes after %q, which is not defined", e.Name, e.After)
			continue
		}
		way := []string{e.Name}
		for at := e; at.After != ""; {
			way = append(way, at.After)
			if at.After == e.Name {
				r.problem(line, "one of them must come first", "environments wait for each other: %s", strings.Join(way, " after "))
				break
			}
			next, ok := f.Environment(at.After)
			if !ok || len(way) > len(names) {
				break
			}
			at = next
		}
	}
}

func (r *reader) environment(key, value *yaml.Node) Environment {
	e := Environment{Name: key.Value, Path: path.Join("deploy", key.Value), Target: Services, Line: key.Line}
	if !environmentForm.MatchString(e.Name) {
		r.problem(key.Line, "use 1 to 31 small letters, digits and '-', beginning with a letter", "%q is no name for an environment", e.Name)
	}
	if value.Kind != yaml.MappingNode {
		r.problem(value.Line, "write {target: services, path: deploy/"+e.Name+"}", "environment %q is no mapping", e.Name)
		return e
	}
	var t environmentText
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		if ps, ok := yamlfile.ProblemsIn(err); ok {
			r.problems = append(r.problems, ps...)
		}
		return e
	}
	line := func(key string) int { return r.line("environments", e.Name, key) }
	switch {
	case t.Target == nil:
		r.problem(key.Line, "add target: services", "environment %q has no target", e.Name)
	case !slices.Contains(Targets, *t.Target):
		fix := "use " + strings.Join(Targets, " or ")
		if near, ok := yamlfile.Nearest(*t.Target, Targets); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		r.problem(line("target"), fix, "environment %q has the target %q, which this server does not have", e.Name, *t.Target)
	default:
		e.Target = *t.Target
	}
	if t.Path != nil {
		e.Path = *t.Path
		r.path(e.Path, line("path"), "path")
	}
	if t.After != nil {
		e.After = *t.After
	}
	if t.Soak != nil {
		e.Soak = r.duration(*t.Soak, line("soak"), "soak", 0, maxSoak)
		if e.After == "" {
			r.problem(line("soak"), "say after which environment, with after:", "environment %q soaks, but comes after none", e.Name)
		}
	}
	r.approvals(&t.Approvals, &e)
	return e
}

func (r *reader) approvals(n *yaml.Node, e *Environment) {
	if n.Kind == 0 {
		return
	}
	var t approvalsText
	if n.Kind == yaml.MappingNode {
		t.Count = 1
		if err := yamlfile.DecodeNode(r.file, n, &t); err != nil {
			ps, _ := yamlfile.ProblemsIn(err)
			r.problems = append(r.problems, ps...)
			return
		}
	} else if err := n.Decode(&t.Count); err != nil {
		r.problem(n.Line, "write approvals: 1, or approvals: {count: 1, from: release}", "approvals of %q is neither a number nor a mapping", e.Name)
		return
	}
	e.Approvals = Approvals(t)
	if t.Count < 0 || t.Count > maxApprovals {
		r.problem(n.Line, fmt.Sprintf("use 0 to %d", maxApprovals), "%d approvals cannot be asked for", t.Count)
	}
	if t.From != "" && !groupForm.MatchString(t.From) {
		r.problem(n.Line, "name a group of server.yaml", "%q is no group name", t.From)
	}
}

func (r *reader) path(p string, line int, what string) {
	if p == "" || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || p == "." || strings.ContainsAny(p, "\x00\n\\") || len(p) > 1000 {
		r.problem(line, "give a path from the top of the repository, such as deploy/staging", "%s %q is no path in the repository", what, p)
	}
}

func (r *reader) duration(s string, line int, what string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.problem(line, "write a number and a unit, such as 90s, 20m or 1h30m", "%s %q is no duration", what, s)
	case d < least || d > most:
		r.problem(line, fmt.Sprintf("use %s to %s", least, most), "%s %s is out of bounds", what, s)
	}
	return d
}
