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
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
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
	Applications []Application // in the order of the file; none: the repository is one
	Environments []Environment // of all applications, in the order of the file
	Schedules    []Schedule    // in the order of the file
	Images       []Image       // in the order of the file
}

// Build says how a change is built and tested.
type Build struct {
	Buildspec string        // path in the tree
	Image     string        // "host"
	Timeout   time.Duration // of one build
	Network   bool          // whether commands may reach the network
	Variables map[string]string
	Limits    buildsettings.Limits
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

// The targets.
const (
	Services = "services" // supervised processes behind a proxy
	Hosts    = "hosts"    // files, permissions and scripts of an appspec.yml
)

// Application is one of several in a repository, with environments of its own.
type Application struct {
	Name      string
	Path      string   // directory that paths of its environments begin at
	Artifacts []string // those of a release that are its own; nil: all
	Line      int      // in the file, for messages
}

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

// Schedule is a build that time starts.
type Schedule struct {
	Name      string // no two of a repository have the same
	Cron      string // an expression that package schedule reads
	Zone      string // of the IANA database; "" is UTC
	Buildspec string // path in the tree; Build's by default
	On        string // branch whose tip is built; "" is the one whose landings become releases
	Notify    string // user or group that is told of failures; "" for nobody
	Line      int    // in the file, for messages

	lines map[string]int // of its keys
}

// LineOf is where a key of the schedule stands, its own line for one that was
// left out.
func (s Schedule) LineOf(key string) int { return cmp.Or(s.lines[key], s.Line) }

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

// RenamedTo finds the environment that had another name before.
func (f *File) RenamedTo(was string) (Environment, bool) {
	i := slices.IndexFunc(f.Environments, func(e Environment) bool { return was != "" && e.Was == was })
	if i < 0 {
		return Environment{}, false
	}
	return f.Environments[i], true
}

// Schedule finds a schedule by name.
func (f *File) Schedule(name string) (Schedule, bool) {
	for _, s := range f.Schedules {
		if s.Name == name {
			return s, true
		}
	}
	return Schedule{}, false
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

// text is the file as it is written.
type text struct {
	Build struct {
		Buildspec *string   `yaml:"buildspec"`
		Image     *string   `yaml:"image"`
		Timeout   *string   `yaml:"timeout"`
		Network   yaml.Node `yaml:"network"`
		Variables yaml.Node `yaml:"variables"`
		Limits    yaml.Node `yaml:"limits"`
	} `yaml:"build"`
	Land struct {
		Branches []string `yaml:"branches"`
		Strategy *string  `yaml:"strategy"`
	} `yaml:"land"`
	Environments yaml.Node `yaml:"environments"`
	Applications yaml.Node `yaml:"applications"`
	Schedules    yaml.Node `yaml:"schedules"`
	Images       yaml.Node `yaml:"images"`
}

type scheduleText struct {
	Name      string  `yaml:"name"`
	Cron      string  `yaml:"cron"`
	Zone      string  `yaml:"zone"`
	Buildspec *string `yaml:"buildspec"`
	On        *string `yaml:"on"`
	Notify    *string `yaml:"notify"`
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

var (
	environmentForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`) })
	applicationForm = environmentForm
	scheduleForm    = environmentForm
	artifactForm    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`) })
	groupForm       = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`) })
	branchForm      = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`) })
)

// ValidEnvironment reports whether an environment may have this name.
func ValidEnvironment(name string) bool { return environmentForm().MatchString(name) }

// Limits of one file.
const (
	maxEnvironments = 50
	maxApplications = 50
	maxArtifacts    = 100
	maxTimeout      = 36 * time.Hour // what CodeBuild allows: 2160 minutes
	maxSoak         = 90 * 24 * time.Hour
	maxApprovals    = 50
	maxSchedules    = 50
	maxCron         = 200
)

// In is the headgate.yaml of some files, or the Default when they have none.
// read reads a regular file; its error wraps fs.ErrNotExist when it is not there.
func In(read func(name string) ([]byte, error)) (*File, error) {
	data, err := read(Name)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, err)
	}
	return Parse(Name, data)
}

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
		return nil, yamlfile.Problems{{File: file, Line: top.Line, What: "is not a mapping of keys to values", Fix: `begin with a key, such as "environments:"`}}
	}
	var t text
	if err := yamlfile.DecodeNode(file, top, &t); err != nil {
		return nil, err
	}
	r := reader{file: file, top: top}
	r.build(t, f)
	r.land(t, f)
	r.environments(&t.Environments, Application{}, f)
	r.applications(&t.Applications, f)
	r.schedules(&t.Schedules, f)
	r.images(&t.Images, f)
	r.unique(f)
	r.renamed(f)
	r.order(f)
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
	line, _ := r.find(keys...)
	return line
}

// find finds a key's line and value.
func (r *reader) find(keys ...string) (line int, at *yaml.Node) {
	at = r.top
	for _, k := range keys {
		for key, value := range yamlfile.Pairs(at) {
			if key.Value == k {
				at, line = value, key.Line
				break
			}
		}
	}
	return line, at
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
	_, build := r.find("build")
	more, problems := buildsettings.Read(r.file, build, "build")
	r.problems = append(r.problems, problems...)
	f.Build.Variables, f.Build.Limits = more.Variables, more.Limits
	f.Build.Network = more.Network != nil && *more.Network
}

func (r *reader) land(t text, f *File) {
	if t.Land.Branches != nil {
		f.Land.Branches = t.Land.Branches
		if len(f.Land.Branches) == 0 {
			r.problem(r.line("land", "branches"), "name at least one branch; an administrator can ungate the whole repository", "no branch would be gated")
		}
		for _, b := range f.Land.Branches {
			r.branch(b, r.line("land", "branches"))
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

func (r *reader) branch(name string, line int) {
	switch {
	case !branchForm().MatchString(name) ||
		strings.Contains(name, "..") || strings.Contains(name, "//") || strings.Contains(name, "/.") ||
		strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".") || strings.Contains(name+"/", ".lock/"):
		r.problem(line, "", "invalid branch name %q", name)
	case strings.HasPrefix(name, "env/") || strings.HasPrefix(name, "promote/"):
		r.problem(line, "", "branch %q belongs to the server", name)
	}
}

func (r *reader) schedules(n *yaml.Node, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.problem(n.Line, `write - {name: nightly, cron: "0 3 * * *"} below it`, "schedules is not a list")
		return
	}
	for _, value := range n.Content {
		if len(f.Schedules) == maxSchedules {
			r.problem(value.Line, "", "holds more than %d schedules", maxSchedules)
			return
		}
		s, ok := r.schedule(value, f)
		if !ok {
			continue
		}
		if other, taken := f.Schedule(s.Name); taken {
			r.problem(s.LineOf("name"), "give it a name of its own", "schedule %q is already defined on line %d", s.Name, other.Line)
			continue
		}
		f.Schedules = append(f.Schedules, s)
	}
}

func (r *reader) schedule(value *yaml.Node, f *File) (Schedule, bool) {
	var t scheduleText
	if value.Kind != yaml.MappingNode {
		r.problem(value.Line, `write {name: nightly, cron: "0 3 * * *"}`, "this schedule is not a mapping")
		return Schedule{}, false
	}
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		r.problems = append(r.problems, ps...)
		return Schedule{}, false
	}
	s := Schedule{
		Name:      t.Name,
		Cron:      t.Cron,
		Zone:      t.Zone,
		Buildspec: f.Build.Buildspec,
		Line:      value.Line,
		lines:     map[string]int{},
	}
	for key := range yamlfile.Pairs(value) {
		s.lines[key.Value] = key.Line
	}

	switch {
	case s.Name == "":
		r.problem(s.LineOf("name"), "add name: nightly", "this schedule has no name")
		return s, false
	case !scheduleForm().MatchString(s.Name):
		r.problem(s.LineOf("name"), "use 1 to 31 small letters, digits and '-', beginning with a letter", "invalid schedule name %q", s.Name)
	}
	if s.Cron == "" || len(s.Cron) > maxCron {
		r.problem(s.LineOf("cron"), `say when: cron: "0 3 * * *"`, "schedule %q has no cron expression of at most %d bytes", s.Name, maxCron)
	}
	if t.Buildspec != nil {
		s.Buildspec = *t.Buildspec
		r.path(s.Buildspec, s.LineOf("buildspec"), "buildspec")
	}
	if t.On != nil {
		s.On = *t.On
		r.branch(s.On, s.LineOf("on"))
	}
	if t.Notify != nil {
		s.Notify = *t.Notify
		if !groupForm().MatchString(s.Notify) {
			r.problem(s.LineOf("notify"), "name a user or a group of server.yaml", "invalid user or group name %q", s.Notify)
		}
	}
	return s, true
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
	a := Application{Name: key.Value, Path: key.Value, Line: key.Line}
	if !applicationForm().MatchString(a.Name) {
		r.problem(key.Line, "use 1 to 31 small letters, digits and '-', beginning with a letter", "invalid application name %q", a.Name)
	}
	if value.Kind != yaml.MappingNode {
		r.problem(value.Line, "write {environments: {"+a.Name+"-staging: {target: services}}}", "application %q is not a mapping", a.Name)
		return
	}
	var t applicationText
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		r.problems = append(r.problems, ps...)
		return
	}
	if t.Path != nil {
		a.Path = *t.Path
		r.path(a.Path, lineOf(value, "path"), "path")
	}
	a.Artifacts = t.Artifacts
	if t.Artifacts != nil && (len(a.Artifacts) == 0 || len(a.Artifacts) > maxArtifacts) {
		r.problem(lineOf(value, "artifacts"), fmt.Sprintf("name 1 to %d, or leave it out for all", maxArtifacts),
			"application %q has %d artifacts", a.Name, len(a.Artifacts))
	}
	for _, name := range a.Artifacts {
		if !artifactForm().MatchString(name) {
			r.problem(lineOf(value, "artifacts"), "name it as buildspec.yml does", "invalid artifact name %q", name)
		}
	}
	f.Applications = append(f.Applications, a)
	r.environments(&t.Environments, a, f)
}

// lineOf is the line of a key of a mapping.
func lineOf(n *yaml.Node, name string) int {
	for key := range yamlfile.Pairs(n) {
		if key.Value == name {
			return key.Line
		}
	}
	return n.Line
}

func (r *reader) environments(n *yaml.Node, of Application, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, `write "staging: {target: services, path: deploy/staging}" below it`, "environments is not a mapping of names to environments")
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
			r.problem(e.LineOf("was"), "only one of them has its history", "environments %q and %q both were %q", first[e.Was].Name, e.Name, e.Was)
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
				r.problem(e.LineOf("after"), "one of them must come first", "environments wait for each other: %s", strings.Join(chain, " after "))
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
		r.problem(key.Line, "use 1 to 31 small letters, digits and '-', beginning with a letter", "invalid environment name %q", e.Name)
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
			r.problem(e.LineOf("soak"), "say after which environment, with after:", "environment %q soaks, but comes after none", e.Name)
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
	if t.From != "" && !groupForm().MatchString(t.From) {
		r.problem(n.Line, "name a group of server.yaml", "invalid group name %q", t.From)
	}
}

func (r *reader) path(p string, line int, what string) {
	if p == "" || p == "." || p == ".." || strings.HasPrefix(p, "../") || path.IsAbs(p) || path.Clean(p) != p ||
		strings.ContainsAny(p, "\x00\n\\") || len(p) > 1000 {
		r.problem(line, "give a path from the top of the repository, such as deploy/staging", "invalid %s %q", what, p)
	}
}

func (r *reader) duration(s string, line int, what string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.problem(line, "write a number and a unit, such as 90s, 20m or 1h30m", "invalid %s %q", what, s)
	case d < least || d > most:
		r.problem(line, fmt.Sprintf("use %s to %s", least, most), "%s %s is out of bounds", what, s)
	}
	return d
}
