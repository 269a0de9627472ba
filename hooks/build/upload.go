package build

import (
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

	"github.com/bmatcuk/doublestar/v4"

	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// upload packs the artifacts. It is not reached by a build whose install or
// pre_build failed (B18), and is by one whose build or post_build did (B20).
func (r *runner) upload(ctx context.Context) error {
	if r.result.Status != Succeeded && (r.result.Phase == "install" || r.result.Phase == "pre_build") || len(r.spec.Artifacts) == 0 {
		return nil
	}
	r.log.Note("Entering phase UPLOAD_ARTIFACTS")
	for _, a := range r.spec.Artifacts {
		packed, err := r.pack(ctx, a)
		var no *clientError
		switch {
		case errors.As(err, &no):
			r.log.Note("Phase complete: UPLOAD_ARTIFACTS State: FAILED")
			r.log.Note("Phase context status code: CLIENT_ERROR Message: %s", no)
			r.fail("upload_artifacts", "CLIENT_ERROR", "", 0, "artifacts: "+no.Error())
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

// clientError is a fault of the buildspec or of what the build left behind.
type clientError struct{ what string }

func (e *clientError) Error() string { return e.what }

func (r *runner) pack(ctx context.Context, a buildspec.Artifact) (artifact.Artifact, error) {
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
		return artifact.Artifact{}, &clientError{fmt.Sprintf("%q is no name for an artifact: write a path without '..' that does not begin with '/'", name)}
	}
	patterns := slices.Clone(a.Files)
	for i, p := range patterns {
		if patterns[i], err = r.expand(ctx, p); err != nil {
			return artifact.Artifact{}, err
		}
	}
	files, skipped, err := match(r.req.Source, base, patterns, a)
	for _, s := range skipped {
		r.log.Note("Skipping invalid file path %s", s)
	}
	if err != nil {
		return artifact.Artifact{}, err
	}
	packed, err := r.store.Pack(ctx, r.req.Source, name, files)
	if err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrPermission) {
		// What cannot be packed is what the build left behind: a fifo, a clash of
		// names, too much of it. Trouble with the store itself is the server's.
		var pathErr *os.PathError
		if !errors.As(err, &pathErr) || errors.Is(err, fs.ErrNotExist) {
			return packed, &clientError{err.Error()}
		}
	}
	return packed, err
}

// inside makes a path or pattern of the buildspec relative to the source: "./x"
// and absolute paths into the source are accepted (B39).
func inside(p string) string {
	if rest, ok := strings.CutPrefix(p, SourceDir+"/"); ok {
		p = rest
	} else if p == SourceDir {
		p = "."
	}
	return path.Clean(strings.TrimPrefix(p, "/"))
}

// match finds the files of an artifact (B39-B45, B48, B49). Symbolic links are
// not followed out of the source; folders that are links are not entered.
func match(source, base string, patterns []string, a buildspec.Artifact) (files []artifact.File, skipped []string, err error) {
	root, err := os.OpenRoot(source)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	tree := root.FS()
	bases := []string{"."}
	if base = inside(base); base != "." {
		if bases, err = doublestar.Glob(tree, base, doublestar.WithNoFollow()); err != nil {
			return nil, nil, &clientError{fmt.Sprintf("base-directory %q is no pattern", base)}
		}
		bases = slices.DeleteFunc(bases, func(d string) bool {
			info, err := root.Stat(filepath.FromSlash(d))
			return err != nil || !info.IsDir()
		})
		if len(bases) == 0 {
			return nil, nil, &clientError{"no matching base directory path found for " + base}
		}
	}
	for i, p := range patterns {
		patterns[i] = inside(p)
		if !doublestar.ValidatePattern(patterns[i]) {
			return nil, nil, &clientError{fmt.Sprintf("%q is no pattern", p)}
		}
	}
	seen, used := map[string]bool{}, make([]bool, len(patterns))
	for _, b := range bases {
		sub, err := fs.Sub(tree, b)
		if err != nil {
			return nil, nil, err
		}
		err = fs.WalkDir(sub, ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return nil
			}
			hit := false
			for i, pattern := range patterns {
				if doublestar.MatchUnvalidated(pattern, p) {
					hit, used[i] = true, true
				}
			}
			if !hit || seen[path.Join(b, p)] {
				return nil
			}
			for _, x := range a.Exclude {
				if ok, err := doublestar.Match(inside(x), p); err != nil || ok {
					return nil
				}
			}
			file, ok := fileOf(root, path.Join(b, p), p, a)
			if ok {
				seen[path.Join(b, p)] = true
				files = append(files, file)
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if len(files) == 0 {
		return nil, nil, &clientError{"no matching artifact paths found"}
	}
	for i, p := range patterns {
		if !used[i] {
			skipped = append(skipped, p)
		}
	}
	return files, skipped, nil
}

// fileOf makes the artifact's file of a path below the source; false for what is
// left out: links to folders or to nowhere.
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
