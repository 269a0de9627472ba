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
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
	"github.com/headgate-cd/headgate/hooks/schedule"
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
		result: Result{Settings: headgateyaml.Default()},
	}
}

// reader reads one tree. Once err is set its methods do nothing.
type reader struct {
	ctx    context.Context
	files  Files
	dirs   map[string][]fs.DirEntry // that were listed; nil for one that is not there
	result Result

	addressed []addressed // of environments before

	entries, total int
	err            error
}

// addressed is an address and the environment that asks for it.
type addressed struct {
	Address
	environment string
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

// list lists a directory, once; nil when there is none.
func (r *reader) list(dir string) []fs.DirEntry {
	if entries, ok := r.dirs[dir]; ok || r.err != nil {
		return entries
	}
	if err := r.ctx.Err(); err != nil {
		r.err = err
		return nil
	}
	if r.kind(dir) != Directory {
		r.dirs[dir] = nil
		return nil
	}
	entries, err := r.files.ReadDir(dir)
	if err != nil {
		r.err = err
		return nil
	}
	if r.entries += len(entries); r.entries > maxEntries {
		r.bound(dir, fmt.Sprintf("more than %d files stand beside those that are checked", maxEntries),
			"move them to another directory")
		return nil
	}
	r.dirs[dir] = entries
	return entries
}

// kind is what stands at a path. Links are not followed, in its directories
// neither.
func (r *reader) kind(name string) Kind {
	if name == "." {
		return Directory
	}
	for _, e := range r.list(path.Dir(name)) {
		if e.Name() == path.Base(name) {
			return kindOf(e.Type())
		}
	}
	return Absent
}

func kindOf(t fs.FileMode) Kind {
	switch {
	case t.IsRegular():
		return Regular
	case t.IsDir():
		return Directory
	case t&fs.ModeSymlink != 0:
		return Symlink
	}
	return Submodule
}

// read reads a regular file; nil when there is none, or it cannot be used.
func (r *reader) read(name string) []byte {
	if r.err != nil || r.kind(name) != Regular {
		return nil
	}
	if len(r.result.Read) == maxFiles {
		r.bound(name, fmt.Sprintf("more than %d files are to be checked", maxFiles),
			"keep fewer in the directories that are checked")
		return nil
	}
	data, err := r.files.ReadFile(name)
	switch {
	case err != nil:
		r.problem(name, 0, "cannot be read: "+reason(err), "")
		return nil
	case len(data) > maxFile:
		r.problem(name, 0, fmt.Sprintf("is %d bytes, over the limit of %d", len(data), maxFile), "keep it small")
		return nil
	}
	if r.total += len(data); r.total > maxTotal {
		r.bound(name, fmt.Sprintf("the files that are checked are more than %d MiB", maxTotal>>20),
			"keep other files elsewhere")
		return nil
	}
	r.result.Read = append(r.result.Read, name)
	if data == nil {
		data = []byte{}
	}
	return data
}

// reason is what an error says without the path, which stands before it.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}

// required reads a file that must be there. Nil when it is not, which is a
// problem.
func (r *reader) required(name, fix string) []byte {
	kind := r.kind(name)
	if kind != Regular && r.err == nil {
		m := Missing{File: name, Is: kind}
		r.result.Missing = &m
		r.problem(name, 0, m.What(), fix)
	}
	return r.read(name)
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
	if err != nil || spec.Batch == nil {
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
		if _, err := schedule.Parse(s.Cron, s.Zone); err != nil {
			key := "cron"
			if errors.Is(err, schedule.ErrZone) {
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

func (r *reader) environments(targets map[string]Target, on *Server) {
	for _, e := range r.result.Settings.Environments {
		target, ok := targets[e.Target]
		if !ok {
			known := slices.Sorted(maps.Keys(targets))
			fix := "use " + strings.Join(known, " or ")
			if near, ok := yamlfile.Nearest(e.Target, known); ok {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			r.problem(headgateyaml.Name, e.LineOf("target"),
				fmt.Sprintf("environment %q has the target %q, which this server does not have", e.Name, e.Target), fix)
			continue
		}
		if on != nil && on.Refuses != nil {
			if what, fix := on.Refuses(e.Target); what != "" {
				r.problem(headgateyaml.Name, e.LineOf("target"), fmt.Sprintf("environment %q: %s", e.Name, what), fix)
				continue
			}
		}
		dir := path.Clean(e.Path)
		if kind := r.kind(dir); kind != Directory && r.err == nil {
			r.problem(headgateyaml.Name, e.Line,
				fmt.Sprintf("environment %q is declared in %s, which is %s", e.Name, dir, kind),
				"add the directory, or name another with path:")
			continue
		}
		files := r.declares(dir, target)
		if r.err != nil {
			return
		}
		problems, warnings := target.Check(dir, files)
		r.result.Problems = append(r.result.Problems, problems...)
		r.result.Warnings = append(r.result.Warnings, warnings...)
		if target.Addresses != nil && len(problems) == 0 {
			for _, a := range target.Addresses(dir, files) {
				r.address(a, e.Name, on)
			}
		}
		if target.Secrets != nil && on != nil && on.SecretMissing != nil && len(problems) == 0 {
			r.secrets(target.Secrets(dir, files), on.SecretMissing)
		}
	}
}

// secrets are problems where one is wanted that is not set.
func (r *reader) secrets(wanted []Secret, missing func(name string) (what, fix string, err error)) {
	for _, s := range wanted {
		what, fix, err := missing(s.Name)
		switch {
		case err != nil:
			r.err = errors.Join(r.err, err)
			return
		case what != "":
			r.result.Problems = append(r.result.Problems, yamlfile.Problem{
				File: s.File,
				Line: s.Line,
				What: s.For + ": " + what,
				Fix:  fix,
			})
		}
	}
}

// declares are the files of a directory that a target wants.
func (r *reader) declares(dir string, target Target) map[string][]byte {
	files := map[string][]byte{}
	tried := map[string]bool{}
	read := func(name string) {
		if data := r.read(name); data != nil {
			files[strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")] = data
		}
	}
	for wanted := target.Reads; len(wanted) > 0 && r.err == nil; {
		for _, name := range wanted {
			tried[name] = true
			switch name = path.Join(dir, name); r.kind(name) {
			case Regular:
				read(name)
			case Directory:
				r.walk(name, read)
			}
		}
		wanted = nil
		if target.Wants != nil {
			wanted = slices.DeleteFunc(target.Wants(files), func(name string) bool { return tried[name] })
		}
	}
	return files
}

// address keeps an address that an environment asks for. Where Compose listens
// everywhere and this server on loopback alone, the difference is told.
func (r *reader) address(a Address, environment string, on *Server) {
	var config *access.Config // a laptop's knows of no address
	if on != nil {
		config = on.Access
	}
	if !a.Addr().IsValid() && config.Address().IsLoopback() {
		what := fmt.Sprintf("port %d", a.Port())
		if a.Port() == 0 {
			what = "any free port"
		}
		where := "the server's machine"
		if on == nil {
			where += " (unless its server.yaml says address:)"
		}
		r.result.Warnings = append(r.result.Warnings, yamlfile.Problem{
			File: a.File,
			Line: a.Line,
			What: fmt.Sprintf("%s is reached from %s only, where Compose would listen everywhere", what, where),
			Fix: fmt.Sprintf(`write "0.0.0.0:%d:…" for everywhere, or "%s:%[1]d:…" to say that it is meant`, a.Port(),
				config.Address()),
		})
	}
	if a.Port() == 0 {
		return
	}
	a.AddrPort = config.Resolve(a.AddrPort)
	r.addressed = append(r.addressed, addressed{a, environment})
}

// addresses checks that nobody else has what the environments ask for: another of
// the tree, or of the server.
func (r *reader) addresses(on *Server) {
	for i, a := range r.addressed {
		if at := slices.IndexFunc(r.addressed[:i],
			func(b addressed) bool { return access.Overlap(a.AddrPort, b.AddrPort) }); at >= 0 {
			b := r.addressed[at]
			if a.environment == b.environment {
				r.problem(a.File, a.Line,
					fmt.Sprintf("environment %q asks for %s twice (%s:%d: %s)", a.environment, a.AddrPort, b.File, b.Line, b.AddrPort),
					"give one of its services another port; 0 is any free one")
				continue
			}
			r.problem(a.File, a.Line,
				fmt.Sprintf("%s of environment %q is that of environment %q too (%s:%d: %s)",
					a.AddrPort, a.environment, b.environment, b.File, b.Line, b.AddrPort),
				"give one of them another port; 0 is any free one")
			continue
		}
		if on == nil || on.Holder == nil || r.err != nil {
			continue
		}
		by, err := on.Holder(a.AddrPort)
		if err != nil {
			r.err = err
			return
		}
		if by != "" {
			r.problem(a.File, a.Line, fmt.Sprintf("%s of environment %q is held by %s", a.AddrPort, a.environment, by),
				"declare another port; 0 is any free one")
		}
	}
}

// names checks that the users and groups that are named are some of the server.
func (r *reader) names(on *Server) {
	if on == nil || on.Access == nil {
		return
	}
	groups, users := on.Access.AllGroups(), []string{}
	for _, u := range on.Access.Users() {
		users = append(users, u.Name)
	}
	unknown := func(line int, what, name string, known []string) {
		if name == "" || slices.Contains(known, name) {
			return
		}
		fix := "name one of server.yaml: " + strings.Join(known, ", ")
		if near, ok := yamlfile.Nearest(name, known); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		r.problem(headgateyaml.Name, line, what, fix)
	}
	for _, e := range r.result.Settings.Environments {
		unknown(e.LineOf("approvals"),
			fmt.Sprintf("approvals of environment %q are asked of %q, which is not a group of this server", e.Name,
				e.Approvals.From),
			e.Approvals.From, groups)
	}
	for _, s := range r.result.Settings.Schedules {
		unknown(s.LineOf("notify"),
			fmt.Sprintf("schedule %q notifies %q, which is not a user or group of this server", s.Name, s.Notify),
			s.Notify, append(slices.Clone(groups), users...))
	}
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

// walk calls f for all regular files below dir.
func (r *reader) walk(dir string, f func(name string)) { r.walkLevel(dir, 0, f) }

func (r *reader) walkLevel(dir string, level int, f func(name string)) {
	if level == maxLevels || len(dir) > maxPathBytes {
		r.bound(dir, fmt.Sprintf("nests deeper than %d directories", maxLevels), "")
	}
	for _, e := range r.list(dir) {
		if r.err != nil {
			return
		}
		name := path.Join(dir, e.Name())
		switch kindOf(e.Type()) {
		case Directory:
			r.walkLevel(name, level+1, f)
		case Regular:
			f(name)
		}
	}
}
