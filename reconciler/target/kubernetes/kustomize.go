package kubernetes

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// The names of a kustomization.
var kustomizations = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// kustomization is the path of a directory's kustomization, "" when it has none.
func kustomization(dir string, files map[string][]byte) string {
	for _, name := range kustomizations {
		if _, ok := files[path.Join(dir, name)]; ok {
			return path.Join(dir, name)
		}
	}
	return ""
}

// Bounds of a kustomization.
const (
	maxNesting = 16
	maxRefs    = 2000
)

// unusable are fields that would run programs, or reach out of the directory.
var unusable = map[string]string{
	"helmCharts":                  "have the build render the chart (helm template) into the directory",
	"helmGlobals":                 "have the build render the chart (helm template) into the directory",
	"helmChartInflationGenerator": "have the build render the chart (helm template) into the directory",
	"generators":                  "have the build render what they make into the directory",
	"transformers":                "use patches, or have the build render what they make into the directory",
	"validators":                  "let the build validate what it renders",
	"configurations":              "use replacements or patches",
	"openapi":                     "use patches of the JSON form (op, path, value)",
	"imageTags":                   "use images",
	"inventory":                   "remove it; Headgate keeps its own",
	"vars":                        "use replacements",
	"patchesStrategicMerge":       "use patches",
	"patchesJson6902":             "use patches",
	"bases":                       "use resources",
	"commonLabels":                "use labels, which leaves selectors as they are",
}

// known are the fields that are taken.
var known = []string{
	"apiVersion", "kind", "metadata", "resources", "components", "crds", "namespace", "namePrefix", "nameSuffix",
	"labels", "commonAnnotations", "images", "replicas", "patches", "replacements", "configMapGenerator",
	"secretGenerator", "generatorOptions", "buildMetadata", "sortOptions",
}

// kustomization reads one, and all that it names. above are those that name it.
func (r *reader) kustomization(name string, above []string) {
	if slices.Contains(above, name) {
		r.problem(above[len(above)-1], 0,
			"comes back to itself: "+strings.Join(append(above[slices.Index(above, name):], name), " → "), "let it not")
		return
	}
	if len(above) == maxNesting {
		r.problem(name, 0, fmt.Sprintf("is named by %d kustomizations above each other", maxNesting), "nest them less")
		return
	}
	file := path.Join(r.dir, name)
	top, err := yamlfile.Parse(file, r.files[name])
	if err != nil {
		problems, _ := yamlfile.ProblemsIn(err)
		r.problems = append(r.problems, problems...)
		return
	}
	if problems := yamlfile.DuplicateKeys(file, top); len(problems) > 0 {
		r.problems = append(r.problems, problems...)
		return
	}
	if top.Kind != yaml.MappingNode {
		r.problem(name, top.Line, "is not a mapping of keys to values", "begin with resources:")
		return
	}
	above = append(slices.Clone(above), name)
	for key, value := range yamlfile.Pairs(top) {
		if fix, no := unusable[key.Value]; no {
			r.problem(name, key.Line, key.Value+" is not taken of a kustomization", fix)
			continue
		}
		if !slices.Contains(known, key.Value) {
			fix := "use " + strings.Join(known[3:8], ", ") + " or another field of kustomize"
			if near, ok := yamlfile.Nearest(key.Value, known); ok {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			r.problem(name, key.Line, fmt.Sprintf("unknown field %q", key.Value), fix)
			continue
		}
		r.field(name, key.Value, value, above)
	}
}

// field follows what one field of a kustomization names.
func (r *reader) field(name, field string, value *yaml.Node, above []string) {
	switch field {
	case "resources", "components":
		for _, n := range value.Content {
			at, ok := r.follow(name, n, n.Value, true)
			if !ok {
				continue
			}
			if _, file := r.files[at]; !file {
				r.kustomization(kustomization(at, r.files), above)
			} else if !r.read[at] {
				if r.read == nil {
					r.read = map[string]bool{}
				}
				r.read[at] = true
				r.manifest(at)
			}
		}
	case "crds":
		for _, n := range value.Content {
			r.follow(name, n, n.Value, false)
		}
	case "patches", "replacements":
		for _, one := range value.Content {
			for key, n := range yamlfile.Pairs(one) {
				if key.Value == "path" {
					r.follow(name, n, n.Value, false)
				}
			}
		}
	case "configMapGenerator", "secretGenerator":
		for _, one := range value.Content {
			for key, n := range yamlfile.Pairs(one) {
				switch key.Value {
				case "env":
					r.follow(name, n, n.Value, false)
				case "envs", "files":
					for _, f := range n.Content {
						where := f.Value
						if _, after, ok := strings.Cut(where, "="); ok && key.Value == "files" {
							where = after
						}
						r.follow(name, f, where, false)
					}
				}
			}
		}
	}
}

// follow finds the file that a kustomization names, or with orDir the directory of another one.
func (r *reader) follow(name string, n *yaml.Node, where string, orDir bool) (at string, ok bool) {
	fail := func(what, fix string) (string, bool) {
		r.problem(name, n.Line, what, fix)
		return "", false
	}
	if r.refs++; r.refs > maxRefs {
		if r.refs > maxRefs+1 {
			return "", false // that was said
		}
		return fail(fmt.Sprintf("names more than %d files", maxRefs), "name less")
	}
	at = path.Join(path.Dir(name), where)
	_, file := r.files[at]
	switch {
	case n.Kind != yaml.ScalarNode || where == "":
		return fail(yamlfile.Describe(n)+" is no path of a file", "write a path from here")
	case path.IsAbs(where), at == "..", strings.HasPrefix(at, "../"):
		return fail(fmt.Sprintf("%q leads out of the environment's directory", where),
			"have it in the directory: what is promoted is the directory, and nothing else")
	case file:
		return at, true
	case orDir && kustomization(at, r.files) != "":
		return at, true
	case strings.Contains(where, "://"), strings.Contains(where, "?"), strings.HasPrefix(where, "git@"),
		strings.HasPrefix(where, "github.com/"), strings.Contains(where, "//"):
		return fail(fmt.Sprintf("%q is elsewhere", where), "have a copy of it in the directory: what it is there may change")
	case orDir && slices.ContainsFunc(sortedKeys(r.files), func(f string) bool { return strings.HasPrefix(f, at+"/") }):
		return fail(fmt.Sprintf("%q has no kustomization.yaml", where), "add one, or name its files")
	}
	return fail(fmt.Sprintf("%q is not there", where), "add it, or name another")
}
