package check

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// artifacts are those that the build packs; known is false when only the build can tell
// how they are called.
func (r *reader) artifacts() (names []string, known bool) {
	pack := func(file, prefix string) bool {
		spec := r.specs[file]
		if spec == nil {
			return false
		}
		for _, a := range spec.Artifacts {
			name := cmp.Or(a.Name, a.ID)
			if strings.ContainsAny(name, "$`\\'\"") { // the shell's to expand
				return false
			}
			names = append(names, prefix+name)
		}
		return true
	}
	main := r.result.Settings.Build.Buildspec
	spec := r.specs[main]
	if spec == nil || spec.Batch == nil {
		return names, pack(main, "")
	}
	for _, t := range spec.Batch.Tasks {
		file := main
		if t.Buildspec != "" {
			file = path.Clean(t.Buildspec)
		}
		if !pack(file, t.ID+"/") {
			return nil, false
		}
	}
	return names, true
}

// images are those that headgate.yaml makes.
func (r *reader) images() (names []string) {
	for _, i := range r.result.Settings.Images {
		names = append(names, i.Name)
	}
	return names
}

// parts checks the artifacts that headgate.yaml names.
func (r *reader) parts() {
	names, known := r.artifacts()
	if !known || r.err != nil {
		return
	}
	for _, i := range r.result.Settings.Images {
		if i.Archive == "" && !slices.Contains(names, i.Artifact) {
			r.problem(headgateyaml.Name, i.Line,
				fmt.Sprintf("image %q is made of artifact %q, which the build does not have", i.Name, i.Artifact),
				instead(i.Artifact, names))
		}
	}
	names = append(names, r.images()...)
	for _, a := range r.result.Settings.Applications {
		for _, name := range a.Artifacts {
			if !slices.Contains(names, name) {
				r.problem(headgateyaml.Name, a.LineOf("artifacts"),
					fmt.Sprintf("application %q has artifact %q, which the build does not have", a.Name, name),
					instead(name, names))
			}
		}
	}
}

// part checks one that what declares an environment names.
func (r *reader) part(p Part, e headgateyaml.Environment) {
	kind, has := "artifact", "which the build does not have"
	names, known := r.artifacts()
	if p.Image {
		kind, has = "image", "which "+headgateyaml.Name+" does not make"
		names, known = r.images(), true
	}
	if !known || slices.Contains(names, p.Name) {
		app, _ := r.result.Settings.Application(e.Application)
		if app.Artifacts == nil || slices.Contains(app.Artifacts, p.Name) {
			return
		}
		has = fmt.Sprintf("which is none of application %q", app.Name)
		names = app.Artifacts
	}
	r.problem(p.File, p.Line, fmt.Sprintf("%s: %s %q, %s", p.For, kind, p.Name, has), instead(p.Name, names))
}

// instead says what to do about a name that is none of these.
func instead(name string, names []string) string {
	if near, ok := yamlfile.Nearest(name, names); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(names) > 0 {
		return "name one of: " + strings.Join(names, ", ")
	}
	return "list its files under artifacts in the buildspec"
}
