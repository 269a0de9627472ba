package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// Bounds of a revision.
const (
	maxFiles = 200_000
	maxDepth = 100
)

// plan is what Install is going to do. Its paths have no links in them.
type plan struct {
	Dirs  []string // to be made, parents first
	Puts  []put    // files and links to be placed
	Drops []string // that the previous install made and nobody wants any more, children first
	Kept  []string // directories that the previous install made and that stay
	Bytes int64    // of Puts

	Grants map[string]*appspec.Permission // for Dirs and Puts

	problems []problem
	warnings []string
}

// put is a file or link of the revision and its place.
type put struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// problem is why Install would fail. What a script of BeforeInstall might yet mend is
// curable: a file in the way, a user who is not there.
type problem struct {
	Failure
	curable bool
}

func (p *plan) problem(curable bool, fix, format string, args ...any) {
	p.problems = append(p.problems, problem{Failure{What: fmt.Sprintf(format, args...), Fix: fix}, curable})
}

// planner makes a plan.
type planner struct {
	plan
	spec    *appspec.Spec
	archive string // without links in it
	exists  appspec.FileExists
	owned   map[string]bool   // by the previous install of the group
	others  map[string]string // path → group of this host that installed it
	wanted  map[string]string // place of a put → its source
	dirs    map[string]bool   // that must be there
	retain  map[string]bool   // files that stay as they are
	count   int
	writes  map[string]bool // directories that were found to be writable
}

// planInstall plans the install of what an archive holds. It changes nothing.
func planInstall(spec *appspec.Spec, archive string, exists appspec.FileExists, owned []string,
	others map[string]string) (*plan, error) {
	real, err := filepath.EvalSymlinks(archive)
	if err != nil {
		return nil, err
	}
	p := &planner{
		spec:    spec,
		archive: real,
		exists:  exists,
		owned:   map[string]bool{},
		others:  others,
		wanted:  map[string]string{},
		dirs:    map[string]bool{},
		retain:  map[string]bool{},
		writes:  map[string]bool{},
	}
	p.Grants = map[string]*appspec.Permission{}
	for _, o := range owned {
		p.owned[o] = true
	}
	for _, f := range spec.Files {
		p.file(f)
	}
	p.drops(owned)
	p.obstacles()
	p.permissions()
	return &p.plan, nil
}

func (p *planner) place(at appspec.Position) string {
	return fmt.Sprintf("%s:%d:%d", p.spec.File, at.Line, at.Column)
}

// file plans one entry of "files".
func (p *planner) file(f appspec.File) {
	source := filepath.Join(p.archive, filepath.FromSlash(f.Source))
	real, info, ok := p.source(source, p.place(f.At)+": source ")
	if !ok {
		return
	}
	base, ok := p.resolve(f.Destination, p.place(f.At)+": destination ")
	if !ok {
		return
	}
	p.parents(base)
	if info.IsDir() {
		p.directory(real, base, 0)
		return
	}
	p.needDir(base)
	p.put(source, filepath.Join(base, filepath.Base(source)))
}

// source finds what lies at a path of the archive: where it really is, links
// followed, which must be in the archive too.
func (p *planner) source(name, what string) (real string, info fs.FileInfo, ok bool) {
	shown := p.shown(name)
	real, err := filepath.EvalSymlinks(name)
	if errors.Is(err, fs.ErrNotExist) {
		if l, lerr := os.Lstat(name); lerr == nil && l.Mode()&fs.ModeSymlink != 0 {
			return name, l, p.inside(name) // a link to nothing stays one
		}
		p.problem(false, "add it to the revision's artifact, or correct the source",
			"%s%q is not in the revision", what, shown)
		return "", nil, false
	}
	if err != nil {
		p.problem(false, "", "%s%q: %v", what, shown, err)
		return "", nil, false
	}
	if real != p.archive && !strings.HasPrefix(real, p.archive+"/") {
		p.problem(false, "put into the revision what it links to, or make the link in a script of AfterInstall",
			"%s%q is a link that leads out of the revision", what, shown)
		return "", nil, false
	}
	if info, err = os.Lstat(real); err != nil {
		p.problem(false, "", "%s%q: %v", what, shown, err)
		return "", nil, false
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		p.problem(false, "leave it out of the artifact", "%s%q is neither a file, a directory nor a link", what, shown)
		return "", nil, false
	}
	return real, info, true
}

func (p *planner) shown(name string) string {
	rel, err := filepath.Rel(p.archive, name)
	if err != nil {
		return name
	}
	return rel
}

// inside checks that the text of a link does not lead out of the archive.
func (p *planner) inside(link string) bool {
	text, err := os.Readlink(link)
	to := filepath.Join(filepath.Dir(link), text)
	if err != nil || filepath.IsAbs(text) || to != p.archive && !strings.HasPrefix(to, p.archive+"/") {
		p.problem(false, "put into the revision what it links to, or make the link in a script of AfterInstall",
			"%q is a link that leads out of the revision, to %q", p.shown(link), text)
		return false
	}
	return true
}

// directory plans the contents of one, at any depth. A link to a directory is
// followed, one to a file copied as a link.
func (p *planner) directory(from, to string, depth int) {
	if depth > maxDepth {
		p.problem(false, "look for a link that leads to its own parent", "%q nests deeper than %d directories",
			p.shown(from), maxDepth)
		return
	}
	if !p.needDir(to) {
		return
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		p.problem(false, "", "read %q: %v", p.shown(from), err)
		return
	}
	for _, e := range entries {
		if p.count++; p.count > maxFiles {
			if p.count == maxFiles+1 {
				p.problem(false, "pack what belongs together", "the revision has over %d files to copy", maxFiles)
			}
			return
		}
		name := filepath.Join(from, e.Name())
		if strings.ContainsAny(e.Name(), "\n\x00") {
			p.problem(false, "rename it", "%q has a newline in its name", p.shown(name))
			continue
		}
		real, info, ok := p.source(name, "")
		switch {
		case !ok:
		case info.IsDir():
			p.directory(real, filepath.Join(to, e.Name()), depth+1)
		default:
			p.put(name, filepath.Join(to, e.Name()))
		}
	}
}

// put plans one file or link.
func (p *planner) put(from, to string) {
	info, err := os.Lstat(from)
	if err != nil {
		p.problem(false, "", "%v", err)
		return
	}
	if info.Mode()&fs.ModeSymlink != 0 && !p.inside(from) {
		return
	}
	if other, twice := p.wanted[to]; twice {
		p.problem(false, "remove one of them from files", "two sources, %q and %q, have the same destination %s",
			p.shown(other), p.shown(from), to)
		return
	}
	if p.dirs[to] {
		p.problem(false, "remove one of them from files", "the file %q is to be where a directory is made: %s",
			p.shown(from), to)
		return
	}
	if group := p.others[to]; group != "" {
		p.problem(false, "deploy to another directory, or remove what the other group has deployed",
			"%s was installed by the deployment group %q of this host", to, group)
		return
	}
	p.wanted[to] = from
	there, err := os.Lstat(to)
	if err == nil && !there.IsDir() && !p.owned[to] {
		switch p.exists {
		case appspec.Retain:
			p.retain[to] = true
			return
		case appspec.Overwrite:
		default:
			p.problem(true, "remove it, or write file_exists_behavior: OVERWRITE (or RETAIN) in "+p.spec.File,
				"a specified file already exists at this location: %s", to)
			return
		}
	}
	p.Puts = append(p.Puts, put{from, to})
	if info.Mode().IsRegular() {
		p.Bytes += info.Size()
	}
	p.writable(filepath.Dir(to))
}

// resolve follows the links in a path that an appspec.yml names, which is allowed to
// be behind links because somebody wrote it down so.
func (p *planner) resolve(name, what string) (string, bool) {
	rest := ""
	for at := name; ; at = filepath.Dir(at) {
		real, err := filepath.EvalSymlinks(at)
		if err == nil {
			return filepath.Join(real, rest), true
		}
		if !errors.Is(err, fs.ErrNotExist) {
			p.problem(true, "remove what is in the way, or deploy elsewhere", "%s%q: %v", what, name, err)
			return "", false
		}
		if _, lerr := os.Lstat(at); lerr == nil {
			p.problem(true, "remove it, or make what it links to", "%s%q: %s is a link to nothing", what, name, at)
			return "", false
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

// parents plans the directories above one that are missing.
func (p *planner) parents(dir string) {
	var missing []string
	for d := filepath.Dir(dir); d != "/"; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); err == nil && !p.owned[d] {
			break
		}
		missing = append(missing, d)
	}
	slices.Reverse(missing)
	for _, d := range missing {
		if !p.needDir(d) {
			return
		}
	}
}

// needDir plans a directory.
func (p *planner) needDir(dir string) bool {
	if p.dirs[dir] {
		return true
	}
	if from, clash := p.wanted[dir]; clash {
		p.problem(false, "remove one of them from files", "the file %q is to be where a directory is made: %s",
			p.shown(from), dir)
		return false
	}
	p.dirs[dir] = true
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Dirs = append(p.Dirs, dir)
		p.writable(filepath.Dir(dir))
	case err != nil:
		p.problem(true, "remove what is in the way, or deploy elsewhere", "%v", err)
		return false
	case info.IsDir():
		if p.owned[dir] {
			p.Kept = append(p.Kept, dir)
		}
	case info.Mode()&fs.ModeSymlink != 0 && !p.owned[dir]:
		p.problem(true, "name it as a destination of its own if what is copied shall go there, or remove it",
			"%s is a link, where the revision has a directory", dir)
		return false
	case p.owned[dir]:
		p.Dirs = append(p.Dirs, dir) // the file there is dropped before
	default:
		p.problem(true, "remove it, or deploy elsewhere", "%s is a file, where a directory is needed", dir)
		return false
	}
	return true
}

// writable checks that files can be placed in a directory, or in the nearest above it
// that is there.
func (p *planner) writable(dir string) {
	for !isDir(dir) {
		dir = filepath.Dir(dir)
	}
	if p.writes[dir] {
		return
	}
	p.writes[dir] = true
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		p.problem(true, "deploy as a user who may write it, as root for one, or elsewhere",
			"%s cannot be written by the user with the id %d: %v", dir, os.Getuid(), err)
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// drops plans what the previous install made and this one does not: removed in the
// reverse order, directories only once they are empty. What RETAIN leaves alone is
// never among it, for it is not recorded.
func (p *planner) drops(owned []string) {
	seen := map[string]bool{}
	for _, path := range slices.Backward(owned) {
		if seen[path] || p.retain[path] || p.others[path] != "" {
			continue
		}
		seen[path] = true
		info, err := os.Lstat(path)
		switch {
		case err != nil: // gone already
		case info.IsDir() && p.dirs[path]:
		case !info.IsDir() && p.wanted[path] != "": // replaced
		default:
			p.Drops = append(p.Drops, path)
		}
	}
}

// obstacles finds directories where files are to be: one that the previous install
// made may go if nothing else is in it.
func (p *planner) obstacles() {
	dropped := map[string]bool{}
	for _, d := range p.Drops {
		dropped[d] = true
	}
	for _, put := range p.Puts {
		info, err := os.Lstat(put.To)
		if err != nil || !info.IsDir() {
			continue
		}
		foreign := ""
		_ = filepath.WalkDir(put.To, func(name string, _ fs.DirEntry, err error) error {
			if err == nil && !dropped[name] {
				foreign = name
				return fs.SkipAll
			}
			return nil
		})
		if foreign != "" {
			p.problem(true, "remove it, or deploy elsewhere", "%s is a directory, where the file %q is to be", put.To,
				p.shown(put.From))
		}
	}
}

// permissions finds what each permission is for: files copied and directories made by
// this deployment.
func (p *planner) permissions() {
	made := append(slices.Clone(p.Dirs), p.Kept...)
	for i := range p.spec.Permissions {
		grant := &p.spec.Permissions[i]
		where := p.place(grant.At)
		object, ok := p.resolve(grant.Object, where+": object ")
		if !ok {
			continue
		}
		p.accounts(grant, where)
		_, file := p.wanted[object]
		if file && grant.Files {
			if grant.Patterned && (grant.Pattern != appspec.Everything || len(grant.Except) > 0) {
				p.problem(false, "remove pattern and except, or name the directory",
					"%s: object %s is a file, to which no pattern applies", where, grant.Object)
				continue
			}
			if !p.retain[object] {
				p.grant(object, grant, where, false)
			}
			continue
		}
		matched := 0
		match := func(path string, dir bool) {
			rel, below := strings.CutPrefix(path, strings.TrimSuffix(object, "/")+"/")
			if below && grant.Matches(rel) {
				matched++
				p.grant(path, grant, where, dir)
			}
		}
		if grant.Files {
			for _, put := range p.Puts {
				match(put.To, false)
			}
		}
		if grant.Dirs {
			for _, d := range made {
				match(d, true)
			}
		}
		if matched == 0 {
			p.warnings = append(p.warnings,
				fmt.Sprintf(
					"%s: nothing that this deployment installs is at %s with the pattern %q, so the permission has no effect",
					where, grant.Object, grant.Pattern))
		}
	}
}

// grant gives a path its permission.
func (p *planner) grant(path string, grant *appspec.Permission, where string, dir bool) {
	if first := p.Grants[path]; first != nil {
		p.problem(false, "let only one entry match it, with pattern and except",
			"%s: the permissions of %s are given twice, first at %s", where, path, p.place(first.At))
		return
	}
	p.Grants[path] = grant
	if dir {
		return
	}
	if slices.ContainsFunc(grant.ACLs, func(a appspec.ACL) bool { return a.Default }) {
		p.problem(false, "write type: [directory], or leave out the acls with d:",
			"%s: a default acl is for a file, %s", where, path)
	}
}

// accounts checks that the users and groups of a permission are there, and that we may
// give files to them.
func (p *planner) accounts(grant *appspec.Permission, where string) {
	for _, need := range accountsOf(grant) {
		id, err := need.lookup()
		if err != nil {
			p.problem(true, "make it, in a script of BeforeInstall for one, or correct the name", "%s: %v", where, err)
			continue
		}
		if os.Getuid() != 0 && need.given && !need.ours(id) {
			p.problem(false, "deploy as root, or leave it out", "%s: only root can give files to the %s %q", where,
				need.what, need.name)
		}
	}
}
