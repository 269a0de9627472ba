// Package check is the one reader of a tree's own files: headgate.yaml, the
// buildspec, policies, what declares each environment, and in the repository
// headgate server.yaml. A push in quarantine, a merge that the gate made and a
// work tree on a laptop are read by the same Tree, so that what is good for one
// is good for all.
//
// It judges form. What the files ask for comes into force when they have landed,
// and is for others.
package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/cron"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/policies"
)

// Files are the files of a tree by slash-separated path, "." being its root:
// repo.TreeFiles of a push or of what landed, os.Root.FS of a work tree. Errors
// wrap fs.ErrNotExist for what is not there.
type Files interface {
	ReadDir(name string) ([]fs.DirEntry, error)
	ReadFile(name string) ([]byte, error)
}

// Target is what a kind of environment knows of the directory that declares one.
type Target struct {
	Reads []string // names of files in the directory that Check wants, if they are there
	// Wants are the paths of further files and directories in it, which those that were
	// read name and that are not among them; nil: there are none.
	Wants func(files map[string][]byte) []string
	// Check says what is wrong with them; dir is the directory's path, for messages.
	Check func(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems)
	// Addresses are those of the server's machine that they ask for, as
	// target.Addresser has them; nil: none.
	Addresses func(dir string, files map[string][]byte) []Address
	// Secrets are those that what they declare is given; nil: none.
	Secrets func(dir string, files map[string][]byte) []Secret
	// Parts are those of a release that they name; nil: none.
	Parts func(dir string, files map[string][]byte) []Part
}

// Part is an artifact or an image of a release, named by what is made of it.
type Part struct {
	Name  string
	Image bool
	For   string // what is made of it, for people
	File  string
	Line  int
}

// Secret is one that an environment wants.
type Secret struct {
	Name string
	For  string // what is given it, for people
	File string
	Line int
}

// Address is one that an environment asks for.
type Address struct {
	netip.AddrPort
	File string
	Line int
}

// Policies judges the files of a tree that policies.Reads; see policies.Pool.Check.
type Policies func(ctx context.Context, files map[string][]byte) ([]policies.Problem, error)

// Checker checks trees. It is safe for concurrent use.
type Checker struct {
	Policies Policies
	Targets  map[string]Target // by the name that headgate.yaml uses
	Server   *Server           // that the tree is to land on; nil: a laptop knows of none
}

// Server is what a tree is judged by besides its own files.
type Server struct {
	Access *access.Config
	// Holder names who else has an address, in words for whoever reads the problems;
	// "" for nobody. nil: it is not asked.
	Holder func(netip.AddrPort) (string, error)
	// Refuses says why the repository may not use a target, and what to do; "" when it
	// may. nil: it may use all.
	Refuses func(target string) (what, fix string)
	// SecretMissing says that a secret is not set, and what to do; "" when it is. nil: it
	// is not asked.
	SecretMissing func(name string) (what, fix string, err error)
}

// Result is what a tree says, and what is wrong with it.
type Result struct {
	Settings *headgateyaml.File // of its headgate.yaml; the Default when that is missing or wrong
	Read     []string           // files that were read, sorted
	Problems yamlfile.Problems  // by file and line
	Warnings yamlfile.Problems
	Access   *access.Config // of its server.yaml: ServerTree's, when that is good
	// Missing is the file that says how the tree is built, when that is not there.
	// It is among Problems too.
	Missing *Missing
}

// Missing is a file that must be there and is not.
type Missing struct {
	File string
	Is   Kind   // what is there instead
	Near string // a file of nearly that name, if there is one: "buildspec.yaml"
}

// Kind is what stands at a path.
type Kind int

const (
	Absent Kind = iota
	Regular
	Directory
	Symlink
	Submodule
)

func (k Kind) String() string {
	switch k {
	case Regular:
		return "a file"
	case Directory:
		return "a directory"
	case Symlink:
		return "a symbolic link"
	case Submodule:
		return "a submodule"
	}
	return "not there"
}

// What says in words what is wrong.
func (m Missing) What() string {
	if m.Is != Absent {
		return fmt.Sprintf("is %s, not a file", m.Is)
	}
	return "is not there"
}

// Fix says what to do about it.
func (m Missing) Fix() string {
	switch {
	case m.Near != "":
		return fmt.Sprintf("rename %s to %s, or name it in %s with build: {buildspec: %s}", m.Near, m.File,
			headgateyaml.Name, m.Near)
	case m.Is == Symlink:
		return "put the file itself there: links are not followed"
	}
	return "run `headgate init`, or write one: " + `version: 0.2, phases: {build: {commands: ["make test"]}}`
}

// Bounds of what is read of one tree. What is checked is written by people:
// none of them is met by honest files.
const (
	maxFile      = yamlfile.MaxBytes
	maxTotal     = 16 << 20
	maxEntries   = 20_000 // of directories that are listed
	maxFiles     = 2_000
	maxLevels    = 16 // below policies/
	maxPathBytes = 1_000
)

// Tree reads the files of a repository's tree. Faults of the files are in the
// Result; the error means that they could not be read.
func (c *Checker) Tree(ctx context.Context, files Files) (Result, error) {
	r := c.reader(ctx, files)
	r.settings()
	r.buildspec()
	r.schedules()
	r.parts()
	r.environments(c.Targets, c.Server)
	r.addresses(c.Server)
	r.names(c.Server)
	r.policies(c.Policies)
	return r.finish()
}

// ServerTree reads the files of the repository headgate: server.yaml is all that
// counts in it.
func (c *Checker) ServerTree(ctx context.Context, files Files) (Result, error) {
	r := c.reader(ctx, files)
	if data := r.required(access.FileName, "restore it: it says who may do what"); data != nil {
		config, err := access.Parse(access.FileName, data)
		r.result.Access = config
		r.fault(access.FileName, err)
	}
	return r.finish()
}

func (c *Checker) reader(ctx context.Context, files Files) *reader {
	return &reader{
		ctx:    ctx,
		files:  files,
		dirs:   map[string][]fs.DirEntry{},
		specs:  map[string]*buildspec.Spec{},
		result: Result{Settings: headgateyaml.Default()},
	}
}

// reader reads one tree. Once err is set its methods do nothing.
type reader struct {
	ctx    context.Context
	files  Files
	dirs   map[string][]fs.DirEntry // that were listed; nil for one that is not there
	result Result
	specs  map[string]*buildspec.Spec // by file, of those that are right

	addressed []addressed // of environments before

	entries, total int
	err            error
}

// errBound ends the reading; the problem says why.
var errBound = errors.New("over a bound")

func (r *reader) finish() (Result, error) {
	if errors.Is(r.err, errBound) {
		r.err = nil
	}
	if r.err != nil {
		return r.result, fmt.Errorf("check tree: %w", r.err)
	}
	slices.Sort(r.result.Read)
	sortProblems(r.result.Problems)
	sortProblems(r.result.Warnings)
	return r.result, nil
}

func sortProblems(ps yamlfile.Problems) {
	slices.SortStableFunc(ps, func(a, b yamlfile.Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
}

func (r *reader) problem(file string, line int, what, fix string) {
	r.result.Problems = append(r.result.Problems, yamlfile.Problem{File: file, Line: line, What: what, Fix: fix})
}

// bound is a problem that ends the reading.
func (r *reader) bound(file, what, fix string) {
	r.problem(file, 0, what, fix)
	r.err = errBound
}

// fault takes the problems in err, an error about file.
func (r *reader) fault(file string, err error) {
	if ps, ok := yamlfile.ProblemsIn(err); ok {
		r.result.Problems = append(r.result.Problems, ps...)
	} else if err != nil {
		r.problem(file, 0, err.Error(), "")
	}
}

func (r *reader) settings() {
	switch kind := r.kind(headgateyaml.Name); kind {
	case Absent:
		return
	case Regular:
	default:
		r.problem(headgateyaml.Name, 0, fmt.Sprintf("is %s, not a file", kind), "put the file itself there")
		return
	}
	data := r.read(headgateyaml.Name)
	if data == nil {
		return
	}
	f, err := headgateyaml.Parse(headgateyaml.Name, data)
	if err != nil {
		r.fault(headgateyaml.Name, err)
		return
	}
	r.result.Settings = f
}

func (r *reader) buildspec() {
	name := r.result.Settings.Build.Buildspec
	if kind := r.kind(name); kind != Regular {
		m := Missing{File: name, Is: kind, Near: r.near(name)}
		r.result.Missing = &m
		r.problem(name, 0, m.What()+": nothing says how to test this tree", m.Fix())
		return
	}
	r.parseBuildspec(name)
}

func (r *reader) parseBuildspec(name string) {
	data := r.read(name)
	if data == nil {
		return
	}
	spec, warnings, err := buildspec.Parse(name, data)
	r.fault(name, err)
	r.result.Warnings = append(r.result.Warnings, warnings...)
	if err != nil {
		return
	}
	r.specs[name] = spec
	if spec.Batch == nil {
		return
	}
	for _, task := range spec.Batch.Tasks {
		file := path.Clean(task.Buildspec)
		if task.Buildspec == "" || file == name || slices.Contains(r.result.Read, file) {
			continue
		}
		if kind := r.kind(file); kind != Regular && r.err == nil {
			r.problem(name, task.Line, fmt.Sprintf("task %s of the batch builds by %s, which is %s", task.ID, file, kind),
				"add it, or name another")
			continue
		}
		r.parseBuildspec(file)
	}
}

// schedules checks when they are due, and what they build.
func (r *reader) schedules() {
	for _, s := range r.result.Settings.Schedules {
		if _, err := cron.Parse(s.Cron, s.Zone); err != nil {
			key := "cron"
			if errors.Is(err, cron.ErrZone) {
				key = "zone"
			}
			r.problem(headgateyaml.Name, s.LineOf(key), fmt.Sprintf("schedule %q: %v", s.Name, err), "")
		}
		if slices.Contains(r.result.Read, s.Buildspec) || s.Buildspec == r.result.Settings.Build.Buildspec {
			continue
		}
		if kind := r.kind(s.Buildspec); kind != Regular && r.err == nil {
			fix := "add it, or name another with buildspec:"
			if near := r.near(s.Buildspec); near != "" {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			r.problem(headgateyaml.Name, s.LineOf("buildspec"),
				fmt.Sprintf("schedule %q builds by %s, which is %s", s.Name, s.Buildspec, kind), fix)
			continue
		}
		r.parseBuildspec(s.Buildspec)
	}
}

// near is a file beside name that was probably meant.
func (r *reader) near(name string) string {
	stem := strings.TrimSuffix(name, path.Ext(name))
	for _, other := range []string{stem + ".yml", stem + ".yaml", "." + path.Base(stem) + ".yml"} {
		if other != name && r.kind(other) == Regular {
			return other
		}
	}
	for _, e := range r.list(path.Dir(name)) { // Buildspec.yml
		other := path.Join(path.Dir(name), e.Name())
		if other != name && strings.EqualFold(e.Name(), path.Base(name)) && r.kind(other) == Regular {
			return other
		}
	}
	return ""
}

func (r *reader) policies(judge Policies) {
	files := map[string][]byte{}
	r.walk(policies.Dir, func(name string) {
		if !policies.Reads(name) {
			return
		}
		if data := r.read(name); data != nil {
			files[name] = data
		}
	})
	if r.err != nil || len(files) == 0 {
		return
	}
	problems, err := judge(r.ctx, files)
	if err != nil {
		r.err = err
		return
	}
	for _, p := range problems {
		r.problem(p.File, p.Line, p.What, p.Fix)
	}
}
