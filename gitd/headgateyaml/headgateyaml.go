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
	Buildspec  string        // path in the tree
	Image      string        // that it runs in a container of; HostImage: on the machine itself
	Timeout    time.Duration // of one build
	Network    bool          // whether commands may reach the network
	Variables  map[string]string
	Limits     buildsettings.Limits
	Services   []buildsettings.Service // in the order of the file
	Registries map[string]string       // names of the secrets by which they are entered
	Forks      Forks
}

// images are those that a build is run in and beside.
func (b Build) images() (all []string) {
	if b.Image != HostImage {
		all = append(all, b.Image)
	}
	for _, s := range b.Services {
		all = append(all, s.Image)
	}
	return all
}

// Forks is what a branch lets builds of requests from forks have, before somebody who
// may write has asked for them to land.
type Forks struct {
	Network bool `yaml:"network"`
}

// Land says which branches are gated and how a change lands on one.
type Land struct {
	Branches []string
	Strategy string // FastForward or Merge
}

// HostImage is the image of a build that runs on the machine itself.
const HostImage = "host"

// The strategies. Merge lands the pushed commit itself when the branch has not
// moved, and a merge commit otherwise.
const (
	FastForward = "fast-forward"
	Merge       = "merge"
)

// The targets.
const (
	Services   = "services"   // supervised processes behind a proxy
	Hosts      = "hosts"      // files, permissions and scripts of an appspec.yml
	Function   = "function"   // versions and aliases of AWS Lambda's
	Kubernetes = "kubernetes" // manifests, or a kustomization, for the agent of a cluster
)

// Default is what holds for a repository without headgate.yaml.
func Default() *File {
	return &File{
		Build: Build{Buildspec: "buildspec.yml", Image: HostImage, Timeout: 20 * time.Minute},
		Land:  Land{Branches: []string{"main", "master"}, Strategy: Merge},
	}
}

// Gates reports whether a branch ("main") is gated.
func (f *File) Gates(branch string) bool { return slices.Contains(f.Land.Branches, branch) }

// text is the file as it is written.
type text struct {
	Build struct {
		Buildspec  *string   `yaml:"buildspec"`
		Image      *string   `yaml:"image"`
		Timeout    *string   `yaml:"timeout"`
		Network    yaml.Node `yaml:"network"`
		Variables  yaml.Node `yaml:"variables"`
		Limits     yaml.Node `yaml:"limits"`
		Services   yaml.Node `yaml:"services"`
		Registries yaml.Node `yaml:"registries"`
		Forks      Forks     `yaml:"forks"`
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

var (
	environmentForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`) })
	applicationForm = environmentForm
	scheduleForm    = environmentForm
	artifactForm    = sync.OnceValue(
		func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`) })
	groupForm  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`) })
	branchForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`) })
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
		return nil, yamlfile.Problems{{File: file, Line: top.Line, What: "is not a mapping of keys to values",
			Fix: `begin with a key, such as "environments:"`}}
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
	r.problems = append(r.problems,
		yamlfile.Problem{File: r.file, Line: line, What: fmt.Sprintf(format, args...), Fix: fix})
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
	if t.Build.Image != nil {
		f.Build.Image = *t.Build.Image
		if !buildsettings.ValidImage(f.Build.Image) {
			r.problem(r.line("build", "image"), `write a name such as golang:1.26, or host: on the server itself`,
				"%q is not the name of an image", f.Build.Image)
		}
	}
	if t.Build.Timeout != nil {
		f.Build.Timeout = r.duration(*t.Build.Timeout, r.line("build", "timeout"), "timeout", time.Second, maxTimeout)
	}
	_, build := r.find("build")
	more, problems := buildsettings.Read(r.file, build, "build")
	r.problems = append(r.problems, problems...)
	f.Build.Variables, f.Build.Limits = more.Variables, more.Limits
	f.Build.Network = more.Network != nil && *more.Network
	f.Build.Forks = t.Build.Forks

	f.Build.Services, problems = buildsettings.ReadServices(r.file, &t.Build.Services, "build")
	r.problems = append(r.problems, problems...)
	if len(f.Build.Services) > 0 && f.Build.Image == HostImage {
		r.problem(r.line("build", "services"), "name the image that the build itself runs in: build: {image: golang:1.26}",
			"services run beside a build in a container, and this one runs on the server itself")
	}
	f.Build.Registries, problems = buildsettings.ReadRegistries(r.file, &t.Build.Registries, "build", f.Build.images())
	r.problems = append(r.problems, problems...)
}

func (r *reader) land(t text, f *File) {
	if t.Land.Branches != nil {
		f.Land.Branches = t.Land.Branches
		if len(f.Land.Branches) == 0 {
			r.problem(r.line("land", "branches"), "name at least one branch; an administrator can ungate the whole repository",
				"no branch would be gated")
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

// lineOf is the line of a key of a mapping.
func lineOf(n *yaml.Node, name string) int {
	for key := range yamlfile.Pairs(n) {
		if key.Value == name {
			return key.Line
		}
	}
	return n.Line
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
