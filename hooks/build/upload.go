package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// upload packs the artifacts. It is not reached by a build whose install or
// pre_build failed (B18), and is by one whose build or post_build did (B20).
func (r *runner) upload(ctx context.Context) error {
	if r.result.Status != Succeeded && (r.result.Phase == "install" || r.result.Phase == "pre_build") ||
		len(r.spec.Artifacts) == 0 {
		return nil
	}
	r.log.Note("Entering phase UPLOAD_ARTIFACTS")
	r.phaseNow, r.commandNow = "upload_artifacts", ""
	names := map[string]string{}
	for _, a := range r.spec.Artifacts {
		packed, err := r.pack(ctx, a, names)
		var no *clientError
		switch {
		case errors.As(err, &no):
			r.log.Note("Phase complete: UPLOAD_ARTIFACTS State: FAILED")
			r.log.Note("Phase context status code: CLIENT_ERROR Message: %s", no)
			problem := yamlfile.Problem{File: r.file, Line: a.Line, What: no.what, Fix: no.fix}
			if no.fix != "" {
				r.log.Note("%s", problem)
			}
			r.fail("upload_artifacts", "CLIENT_ERROR", "", 0, problem.Error())
			return nil
		case err != nil:
			return err
		}
		r.log.Note("artifact %s: %d files, %s", packed.Name, packed.Files, packed.Digest)
		r.result.Artifacts = append(r.result.Artifacts, packed)
	}
	r.log.Note("Phase complete: UPLOAD_ARTIFACTS State: SUCCEEDED")
	return nil
}

// clientError is a fault of the buildspec or of what the build left behind: what
// is wrong, and what to do about it, which may be empty.
type clientError struct{ what, fix string }

func (e *clientError) Error() string { return e.what }

// pack makes one artifact. Names are those of the artifacts so far, with the
// identifier of each.
func (r *runner) pack(ctx context.Context, a buildspec.Artifact, names map[string]string) (artifact.Artifact, error) {
	name, err := r.expand(ctx, a.Name)
	if err != nil {
		return artifact.Artifact{}, err
	}
	base, err := r.expand(ctx, a.BaseDirectory)
	if err != nil {
		return artifact.Artifact{}, err
	}
	if name == "" {
		name = a.ID
	}
	if !fs.ValidPath(name) || name == "." || strings.ContainsFunc(name, unicode.IsControl) {
		return artifact.Artifact{}, &clientError{fmt.Sprintf("%q is not a name for an artifact", name),
			"write a path without '..' that does not begin with '/'"}
	}
	if r.log.Masked(name) != name {
		return artifact.Artifact{}, &clientError{fmt.Sprintf("the name of the artifact %s has a secret in it", a.ID),
			"name it by something else: a release is signed with that name, for ever"}
	}
	if other, twice := names[name]; twice {
		return artifact.Artifact{}, &clientError{fmt.Sprintf("the artifacts %s and %s are both called %q", other, a.ID, name),
			"give each a name of its own"}
	}
	names[name] = a.ID
	patterns := slices.Clone(a.Files)
	for i, p := range patterns {
		if patterns[i], err = r.expand(ctx, p); err != nil {
			return artifact.Artifact{}, err
		}
	}
	found, err := r.find(ctx, base, patterns, a)
	if err != nil {
		return artifact.Artifact{}, err
	}
	for _, p := range found.unmatched {
		r.log.Note("Skipping invalid file path %s", p)
	}
	for i, link := range found.links {
		if i == maxNoted {
			r.log.Note("Skipping %d links more", len(found.links)-i)
			break
		}
		r.log.Note("Skipping link %s: it leads to a directory, to nothing or out of the source", link)
	}
	source, err := r.session.Files(ctx, SourceDir)
	if err != nil {
		return artifact.Artifact{}, err
	}
	packed, err := r.store.Pack(ctx, source, name, found.files)
	var fault *artifact.FileError
	if errors.As(err, &fault) {
		return packed, &clientError{what: fault.Error()}
	}
	return packed, err
}

// maxNoted bounds how many links that are left out are named.
const maxNoted = 10

// inside makes a path or pattern of the buildspec relative to the source: "./x"
// and absolute paths into the source are accepted (B39).
func inside(p string) (rel string, ok bool) {
	if rest, ok := strings.CutPrefix(p, SourceDir); ok && (rest == "" || rest[0] == '/') {
		p = strings.TrimLeft(rest, "/")
	}
	rel = path.Clean(p)
	return rel, !path.IsAbs(rel) && rel != ".." && !strings.HasPrefix(rel, "../")
}

// outside takes an absolute path or pattern that does not lead into the source apart
// (B39): it is below the /tmp or the home of the build, within, and there at rel.
func outside(p string) (within, rel string, ok bool) {
	for _, within := range []string{"/tmp", HomeDir} {
		if clean := path.Clean(p); clean == within || strings.HasPrefix(clean, within+"/") {
			return within, cmp.Or(strings.TrimPrefix(strings.TrimPrefix(clean, within), "/"), "."), true
		}
	}
	return "", "", false
}

// find finds the files of an artifact, wherever its patterns lead. In an artifact
// a file from elsewhere than the source is called by its path there, without the
// slash it begins with, unless base-directory leads there.
func (r *runner) find(ctx context.Context, base string, files []string, a buildspec.Artifact) (m matched, err error) {
	if within, rel, ok := outside(base); ok {
		dir, err := r.session.Files(ctx, within)
		if err != nil {
			return m, err
		}
		m, err = match(ctx, dir, rel, files, a)
		for i := range m.files {
			m.files[i].Root = dir
		}
		return m, err
	}
	var here []string
	var there matched
	for _, p := range files {
		within, rel, ok := outside(p)
		if !ok {
			here = append(here, p)
			continue
		}
		dir, err := r.session.Files(ctx, within)
		if err != nil {
			return m, err
		}
		one, err := match(ctx, dir, ".", []string{rel}, a)
		var none *clientError
		switch {
		case errors.As(err, &none):
			there.unmatched = append(there.unmatched, p)
			continue
		case err != nil:
			return m, err
		}
		for _, f := range one.files {
			f.Root = dir
			if !a.DiscardPaths {
				f.Path = path.Join(strings.TrimPrefix(within, "/"), f.Path)
			}
			there.files = append(there.files, f)
		}
		there.links = append(there.links, one.links...)
	}
	if len(here) > 0 {
		var source string
		if source, err = r.session.Files(ctx, SourceDir); err != nil {
			return m, err
		}
		m, err = match(ctx, source, base, here, a)
	} else if len(there.files) == 0 {
		err = &clientError{what: nothingFound, fix: fmt.Sprintf("the build left nothing that matches %q", files[0])}
	}
	var none *clientError
	if len(there.files) > 0 && errors.As(err, &none) && none.what == nothingFound {
		err = nil
	}
	m.files = append(m.files, there.files...)
	m.unmatched = append(m.unmatched, there.unmatched...)
	m.links = append(m.links, there.links...)
	return m, err
}

const nothingFound = "no matching artifact paths found"

// reaches reports whether a pattern may match something below a directory.
func within(pattern, dir string) bool {
	if dir == "." || strings.Contains(pattern, "{") { // alternatives may hold slashes
		return true
	}
	for part := range strings.SplitSeq(dir, "/") {
		first, rest, more := strings.Cut(pattern, "/")
		if first == "**" {
			return true
		}
		if ok, err := doublestar.Match(first, part); err == nil && !ok || !more {
			return false
		}
		pattern = rest
	}
	return true
}

// matched is what the patterns of an artifact found.
type matched struct {
	files     []artifact.File
	unmatched []string // patterns that found nothing
	links     []string // that are left out
}

// match finds the files of an artifact (B39-B45, B48, B49). Symbolic links are
// not followed out of the source; directories that are links are not entered, nor are
// those in which no pattern can match.
func match(ctx context.Context, source, base string, files []string, a buildspec.Artifact) (m matched, err error) {
	root, err := os.OpenRoot(source)
	if err != nil {
		return m, err
	}
	defer root.Close()
	bases, err := baseDirectories(ctx, root, base)
	if err != nil {
		return m, err
	}
	patterns, err := patternsOf(files)
	if err != nil {
		return m, err
	}
	exclude, err := patternsOf(a.Exclude)
	if err != nil {
		return m, err
	}
	excluded := false
	seen, used := map[string]bool{}, make([]bool, len(patterns))
	for _, b := range bases {
		sub, err := fs.Sub(root.FS(), b)
		if err != nil {
			return m, err
		}
		err = fs.WalkDir(sub, ".", func(p string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return unreadableFolder(path.Join(b, p), err)
			}
			if d.IsDir() {
				if path.Join(b, p) == ".git" { // it differs between commits with the same tree
					return fs.SkipDir
				}
				if !slices.ContainsFunc(patterns, func(pattern string) bool { return within(pattern, p) }) {
					return fs.SkipDir
				}
				return nil
			}
			hit := false
			for i, pattern := range patterns {
				if doublestar.MatchUnvalidated(pattern, p) {
					hit, used[i] = true, true
				}
			}
			full := path.Join(b, p)
			if !hit || seen[full] {
				return nil
			}
			if slices.ContainsFunc(exclude, func(x string) bool { return doublestar.MatchUnvalidated(x, p) }) {
				excluded = true
				return nil
			}
			seen[full] = true
			if file, ok := fileOf(root, full, p, a); ok {
				m.files = append(m.files, file)
			} else {
				m.links = append(m.links, full)
			}
			return nil
		})
		if err != nil {
			return m, err
		}
	}
	for i := range patterns {
		if !used[i] {
			m.unmatched = append(m.unmatched, files[i])
		}
	}
	if len(m.files) == 0 {
		no := &clientError{what: nothingFound}
		switch {
		case excluded:
			no.fix = "all that files names is in exclude-paths"
		case len(m.links) > 0:
			no.fix = fmt.Sprintf("%s is a link to a directory, to nothing or out of the source", m.links[0])
		case len(m.unmatched) > 0:
			no.fix = whyNot(root, bases[0], m.unmatched[0])
		}
		return m, no
	}
	return m, nil
}

// whyNot says why a pattern found nothing.
func whyNot(root *os.Root, base, pattern string) string {
	p, ok := inside(pattern)
	if !ok {
		return fmt.Sprintf("%q is outside of the source: copy it into $CODEBUILD_SRC_DIR first", pattern)
	}
	if info, err := root.Stat(filepath.FromSlash(path.Join(base, p))); err == nil && info.IsDir() {
		return fmt.Sprintf("%q is a directory: write %q", pattern, path.Join(p, "**/*"))
	}
	return fmt.Sprintf("the build left nothing that matches %q", pattern)
}

// untilDone is a file system in which there is nothing any more once ctx is done: a
// search for a pattern with several ** goes through a deep tree in more ways than
// anybody can wait for, and heeds no deadline by itself.
type untilDone struct {
	fs.FS
	ctx context.Context
}

func (u untilDone) Open(name string) (fs.File, error) {
	if err := u.ctx.Err(); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return u.FS.Open(name)
}

func baseDirectories(ctx context.Context, root *os.Root, base string) ([]string, error) {
	rel, ok := inside(base)
	none := &clientError{what: "no matching base directory path found for " + base}
	if !ok {
		none.fix = "it is outside of the source: name a directory in $CODEBUILD_SRC_DIR"
		return nil, none
	}
	if rel == "." {
		return []string{"."}, nil
	}
	if choices(rel) > maxChoices {
		return nil, tooManyChoices(base)
	}
	bases, err := doublestar.Glob(untilDone{root.FS(), ctx}, rel, doublestar.WithNoFollow())
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &clientError{what: fmt.Sprintf("base-directory %q is not a pattern", base)}
	}
	bases = slices.DeleteFunc(bases, func(d string) bool {
		info, err := root.Stat(filepath.FromSlash(d))
		return err != nil || !info.IsDir()
	})
	if len(bases) == 0 {
		return nil, none
	}
	return bases, nil
}

// maxChoices bounds the ways in which one pattern can be matched against one path:
// matching tries them all, and cannot be interrupted.
const maxChoices = 1000

func tooManyChoices(pattern string) error {
	if len(pattern) > 100 {
		pattern = strings.ToValidUTF8(pattern[:100], "") + "..."
	}
	return &clientError{
		what: fmt.Sprintf("the pattern %q has more than %d alternatives", pattern, maxChoices),
		fix:  "write several patterns with fewer braces each",
	}
}

// choices is how many alternatives the braces of a pattern have together, as if
// they all were beside one another, which is the most that they can have. Beyond
// maxChoices it does not count on.
func choices(pattern string) int {
	all := 1
	var open []int // alternatives so far of the braces that are open
	for i := 0; i < len(pattern) && all <= maxChoices; i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '{':
			open = append(open, 1)
		case ',':
			if len(open) > 0 {
				open[len(open)-1]++
			}
		case '}':
			if n := len(open); n > 0 {
				all *= open[n-1]
				open = open[:n-1]
			}
		}
	}
	return all
}

// patternsOf checks patterns and makes them relative. One that leads out of the
// source stays as it is, and matches nothing.
func patternsOf(texts []string) ([]string, error) {
	patterns := make([]string, len(texts))
	for i, text := range texts {
		patterns[i], _ = inside(text)
		if choices(patterns[i]) > maxChoices {
			return nil, tooManyChoices(text)
		}
		if !doublestar.ValidatePattern(patterns[i]) {
			return nil, &clientError{what: fmt.Sprintf("%q is not a pattern", text),
				fix: "close its brackets, or put a '\\' before them"}
		}
	}
	return patterns, nil
}

// unreadableFolder is the fault of a directory in which a pattern may match. One
// that is gone by now holds nothing.
func unreadableFolder(name string, err error) error {
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !utf8.ValidString(name):
		return &clientError{what: fmt.Sprintf("the name of the directory %q is not UTF-8 text", name),
			fix: "rename it, or name others in files"}
	case errors.As(err, &pe):
		err = pe.Err
	}
	return &clientError{what: fmt.Sprintf("the directory %s cannot be read: %v", name, err),
		fix: "let the build make it readable, or name others in files"}
}

// fileOf makes the artifact's file of a path below the source; false for what is
// left out: links to directories or to nowhere.
func fileOf(root *os.Root, source, name string, a buildspec.Artifact) (artifact.File, bool) {
	if a.DiscardPaths {
		name = path.Base(name)
	}
	info, err := root.Lstat(filepath.FromSlash(source))
	if err != nil {
		return artifact.File{}, false
	}
	f := artifact.File{Source: source, Path: name}
	if info.Mode()&fs.ModeSymlink == 0 {
		return f, true
	}
	if a.Symlinks {
		to, err := root.Readlink(filepath.FromSlash(source))
		f.Link = to
		return f, err == nil
	}
	to, err := root.Stat(filepath.FromSlash(source)) // follows, within the source
	return f, err == nil && to.Mode().IsRegular()
}
