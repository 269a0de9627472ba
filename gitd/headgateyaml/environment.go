package headgateyaml

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Application is one of several in a repository, with environments of its own.
type Application struct {
	Name      string
	Path      string   // directory that paths of its environments begin at
	Artifacts []string // those of a release that are its own; nil: all
	Line      int      // in the file, for messages

	lines map[string]int // of its keys
}

// LineOf is where a key of the application stands, its own line for one that was left
// out.
func (a Application) LineOf(key string) int { return cmp.Or(a.lines[key], a.Line) }

// Environment is somewhere releases run.
type Environment struct {
	Name        string // no two of a repository have the same
	Application string // that runs there; "" is the one that bears the repository's name
	Was         string // its name before it got this one: what runs there and its history are its own; "" for none
	Target      string // name of the kind of target; whether there is such a one is for package check
	Path        string // directory in the tree that declares it
	After       string // environment a release must be healthy in first; "" for none
	Soak        time.Duration
	Approvals   Approvals
	Line        int // in the file, for messages

	lines map[string]int // of its keys
}

// LineOf is where a key of the environment stands, its own line for one that was
// left out.
func (e Environment) LineOf(key string) int { return cmp.Or(e.lines[key], e.Line) }

// Approvals says whose yes a promotion needs.
type Approvals struct {
	Count int
	From  string // group; "" means everybody who may write the repository
	Own   bool   // whether somebody may approve a promotion that carries their own change
}

// Environment finds an environment by name.
func (f *File) Environment(name string) (Environment, bool) {
	for _, e := range f.Environments {
		if e.Name == name {
			return e, true
		}
	}
	return Environment{}, false
}

// RenamedTo finds the environment that had another name before.
func (f *File) RenamedTo(was string) (Environment, bool) {
	i := slices.IndexFunc(f.Environments, func(e Environment) bool { return was != "" && e.Was == was })
	if i < 0 {
		return Environment{}, false
	}
	return f.Environments[i], true
}

// Application finds an application by name.
func (f *File) Application(name string) (Application, bool) {
	for _, a := range f.Applications {
		if a.Name == name {
			return a, true
		}
	}
	return Application{}, false
}

type applicationText struct {
	Path         *string   `yaml:"path"`
	Artifacts    []string  `yaml:"artifacts"`
	Environments yaml.Node `yaml:"environments"`
}

type environmentText struct {
	Target    *string   `yaml:"target"`
	Path      *string   `yaml:"path"`
	Was       *string   `yaml:"was"`
	After     *string   `yaml:"after"`
	Soak      *string   `yaml:"soak"`
	Approvals yaml.Node `yaml:"approvals"`
}

type approvalsText struct {
	Count int    `yaml:"count"`
	From  string `yaml:"from"`
	Own   bool   `yaml:"own"`
}

func (r *reader) applications(n *yaml.Node, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, `write "web: {environments: {web-staging: {target: services}}}" below it`,
			"applications is not a mapping of names to applications")
		return
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for key, value := range yamlfile.Pairs(n) {
		if len(f.Applications) == maxApplications {
			r.problem(key.Line, "split the repository", "holds more than %d applications", maxApplications)
			return
		}
		r.application(key, value, f)
	}
}

func (r *reader) application(key, value *yaml.Node, f *File) {
	a := Application{Name: key.Value, Path: key.Value, Line: key.Line, lines: map[string]int{}}
	if !applicationForm().MatchString(a.Name) {
		r.problem(key.Line, "use 1 to 31 small letters, digits and '-', beginning with a letter",
			"invalid application name %q", a.Name)
	}
	if value.Kind != yaml.MappingNode {
		r.problem(value.Line, "write {environments: {"+a.Name+"-staging: {target: services}}}",
			"application %q is not a mapping", a.Name)
		return
	}
	var t applicationText
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		r.problems = append(r.problems, ps...)
		return
	}
	for key := range yamlfile.Pairs(value) {
		a.lines[key.Value] = key.Line
	}
	if t.Path != nil {
		a.Path = *t.Path
		r.path(a.Path, a.LineOf("path"), "path")
	}
	a.Artifacts = t.Artifacts
	if t.Artifacts != nil && (len(a.Artifacts) == 0 || len(a.Artifacts) > maxArtifacts) {
		r.problem(a.LineOf("artifacts"), fmt.Sprintf("name 1 to %d, or leave it out for all", maxArtifacts),
			"application %q has %d artifacts", a.Name, len(a.Artifacts))
	}
	for _, name := range a.Artifacts {
		if !artifactForm().MatchString(name) {
			r.problem(a.LineOf("artifacts"), "name it as buildspec.yml does", "invalid artifact name %q", name)
		}
	}
	f.Applications = append(f.Applications, a)
	r.environments(&t.Environments, a, f)
}

func (r *reader) environments(n *yaml.Node, of Application, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, `write "staging: {target: services, path: deploy/staging}" below it`,
			"environments is not a mapping of names to environments")
		return
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for key, value := range yamlfile.Pairs(n) {
		if len(f.Environments) == maxEnvironments {
			r.problem(key.Line, "", "holds more than %d environments", maxEnvironments)
			return
		}
		f.Environments = append(f.Environments, r.environment(key, value, of))
	}
}

// unique says which environments have the name of an earlier one of another
// application: the branch env/<name> has one history.
func (r *reader) unique(f *File) {
	first := map[string]Environment{}
	for _, e := range f.Environments {
		if by, taken := first[e.Name]; taken && by.Application != e.Application {
			r.problem(e.Line, fmt.Sprintf("give it a name of its own, such as %q", cmp.Or(e.Application, "main")+"-"+e.Name),
				"environment %q is already defined on line %d", e.Name, by.Line)
			continue
		}
		first[e.Name] = e
	}
}

// renamed checks that a former name is nobody's name now, and one environment's only.
func (r *reader) renamed(f *File) {
	first := map[string]Environment{}
	for _, e := range f.Environments {
		if e.Was == "" {
			continue
		}
		other, there := f.Environment(e.Was)
		switch {
		case there && other.Name == e.Name:
			r.problem(e.LineOf("was"), "leave was out", "environment %q was called so before", e.Name)
		case there:
			r.problem(e.LineOf("was"), "an environment that is renamed is not declared under its old name any more",
				"environment %q was %q, which is defined on line %d", e.Name, e.Was, other.Line)
		case first[e.Was].Name != "":
			r.problem(e.LineOf("was"), "only one of them has its history", "environments %q and %q both were %q",
				first[e.Was].Name, e.Name, e.Was)
		default:
			first[e.Was] = e
		}
	}
}

// order checks that environments come after others of their application, and
// not in a circle.
func (r *reader) order(f *File) {
	for _, e := range f.Environments {
		if e.After == "" {
			continue
		}
		var names []string
		for _, other := range f.Environments {
			if other.Application == e.Application {
				names = append(names, other.Name)
			}
		}
		if !slices.Contains(names, e.After) {
			fix := "environments here: " + strings.Join(names, ", ")
			if near, ok := yamlfile.Nearest(e.After, names); ok {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			what := "is not defined"
			if other, ok := f.Environment(e.After); ok {
				what = "is of another application"
				if other.Application != "" {
					what = "is of application " + other.Application
				}
			}
			r.problem(e.LineOf("after"), fix, "environment %q comes after %q, which %s", e.Name, e.After, what)
			continue
		}
		chain := []string{e.Name}
		for at := e; at.After != ""; {
			chain = append(chain, at.After)
			if at.After == e.Name {
				r.problem(e.LineOf("after"), "one of them must come first", "environments wait for each other: %s",
					strings.Join(chain, " after "))
				break
			}
			next, ok := f.Environment(at.After)
			if !ok || len(chain) > len(names) {
				break
			}
			at = next
		}
	}
}

func (r *reader) environment(key, value *yaml.Node, of Application) Environment {
	e := Environment{
		Name:        key.Value,
		Application: of.Name,
		Target:      Services,
		Path:        path.Join(of.Path, "deploy", key.Value),
		Line:        key.Line,
		lines:       map[string]int{},
	}
	if !environmentForm().MatchString(e.Name) {
		r.problem(key.Line, "use 1 to 31 small letters, digits and '-', beginning with a letter",
			"invalid environment name %q", e.Name)
	}
	if value.Kind != yaml.MappingNode {
		r.problem(value.Line, "write {target: services, path: deploy/"+e.Name+"}", "environment %q is not a mapping", e.Name)
		return e
	}
	var t environmentText
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		if ps, ok := yamlfile.ProblemsIn(err); ok {
			r.problems = append(r.problems, ps...)
		}
		return e
	}
	for key := range yamlfile.Pairs(value) {
		e.lines[key.Value] = key.Line
	}
	switch {
	case t.Target == nil:
		r.problem(key.Line, "add target: services", "environment %q has no target", e.Name)
	default:
		e.Target = *t.Target
	}
	if t.Path != nil {
		r.path(*t.Path, e.LineOf("path"), "path")
		e.Path = path.Join(of.Path, *t.Path)
	}
	if t.Was != nil {
		e.Was = *t.Was
		if !environmentForm().MatchString(e.Was) {
			r.problem(e.LineOf("was"), "give the name that the environment had before", "invalid environment name %q", e.Was)
		}
	}
	if t.After != nil {
		e.After = *t.After
	}
	if t.Soak != nil {
		e.Soak = r.duration(*t.Soak, e.LineOf("soak"), "soak", 0, maxSoak)
		if e.After == "" {
			r.problem(e.LineOf("soak"), "say after which environment, with after:",
				"environment %q soaks, but comes after none", e.Name)
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
		r.problem(n.Line, "write approvals: 1, or approvals: {count: 1, from: release}",
			"approvals of %q is neither a number nor a mapping", e.Name)
		return
	}
	e.Approvals = Approvals(t)
	if t.Count < 0 || t.Count > maxApprovals {
		r.problem(n.Line, fmt.Sprintf("use 0 to %d", maxApprovals), "%d approvals cannot be asked for", t.Count)
	}
	if t.From != "" && !groupForm().MatchString(t.From) {
		r.problem(n.Line, "name a group of server.yaml", "invalid group name %q", t.From)
	}
}
