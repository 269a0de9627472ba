// Package kubernetes reads what an environment of target: kubernetes declares, and judges what a cluster has. It is
// pure, and knows neither a client of Kubernetes nor kustomize: the server checks pushes with it, and headgate-kube,
// the agent of a cluster, which is a module of its own, converges with it.
//
//   - Read and Check read an application's directory: plain manifests, or a kustomization.
//   - ReadSettings reads kubernetes.yaml, the file beside them that says where they go.
//   - Images writes the release's own images as digests, Order says what comes before what.
//   - HealthOf says of an object of a cluster whether it is what it was declared to be.
package kubernetes

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// FileName is the file in an environment's directory that says which clusters it is for, and which namespace.
const FileName = "kubernetes.yaml"

// Tag is the tag of agents that are of clusters: target=kubernetes.
const (
	Tag      = "target"
	TagValue = "kubernetes"
)

// Reads are the files that Check wants of an application's directory: all.
var Reads = []string{"."}

// Keys of kubernetes.yaml that are read here; the others say which clusters are meant, and are package fleet's.
var Keys = []string{"namespace", "timeout"}

// Settings are what a kubernetes.yaml says besides which clusters are meant.
type Settings struct {
	Namespace string        // of objects that name none
	Timeout   time.Duration // in which all must have become healthy
}

const (
	defaultTimeout = 10 * time.Minute
	minTimeout     = 10 * time.Second
	maxTimeout     = 24 * time.Hour
)

var namespaceForm = sync.OnceValue(
	func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) })

// ValidNamespace reports whether a namespace may have this name.
func ValidNamespace(name string) bool { return namespaceForm().MatchString(name) }

// ReadSettings reads a kubernetes.yaml.
func ReadSettings(dir string, files map[string][]byte) (Settings, yamlfile.Problems) {
	s := Settings{Timeout: defaultTimeout}
	file := path.Join(dir, FileName)
	data, ok := files[FileName]
	if !ok {
		return s, yamlfile.Problems{{
			File: file,
			What: "is not there",
			Fix:  `add it, with the tags of the cluster's agent and a namespace: "tags: {cluster: staging}" and "namespace: hello"`,
		}}
	}
	top, err := yamlfile.Parse(file, data)
	if err != nil {
		problems, _ := yamlfile.ProblemsIn(err)
		return s, problems
	}
	var problems yamlfile.Problems
	problem := func(n *yaml.Node, what, fix string) {
		problems = append(problems, yamlfile.Problem{File: file, Line: n.Line, What: what, Fix: fix})
	}
	for key, value := range yamlfile.Pairs(top) {
		switch key.Value {
		case "namespace":
			if s.Namespace = value.Value; value.Kind != yaml.ScalarNode || !ValidNamespace(s.Namespace) {
				problem(value, fmt.Sprintf("%q is no name of a namespace", value.Value),
					"use 1 to 63 small letters, digits and '-'")
			}
		case "timeout":
			s.Timeout, err = time.ParseDuration(value.Value)
			if value.Kind != yaml.ScalarNode || err != nil || s.Timeout < minTimeout || s.Timeout > maxTimeout {
				problem(value, fmt.Sprintf("%q is no time in which all becomes healthy", value.Value),
					"write 10s to 24h, such as 10m")
			}
		}
	}
	if s.Namespace == "" && len(problems) == 0 {
		problem(top, "does not say in which namespace objects are that name none", "write namespace: hello")
	}
	return s, problems
}

// Check says what is wrong with the files of an application's directory, but for which clusters are meant.
func Check(dir string, files map[string][]byte) (problems, warnings yamlfile.Problems) {
	_, problems = ReadSettings(dir, files)
	read, more := Read(dir, files)
	problems = append(problems, more...)
	for _, o := range read.Objects {
		warnings = append(warnings, o.warnings()...)
	}
	return problems, warnings
}

// Source is what an application's directory declares.
type Source struct {
	// Kustomized says that kustomize makes the objects, from the directory's kustomization. Objects are then what its
	// resources hold, before anything is made of them.
	Kustomized bool
	Objects    []Object
}

// Bounds of an application.
const (
	maxBytes   = 4 << 20
	maxObjects = 1000
)

// Read reads the manifests of an application's directory. What it says of them holds for what kustomize reads, too;
// what kustomize makes of them has to be judged by Judge again.
func Read(dir string, files map[string][]byte) (Source, yamlfile.Problems) {
	size := 0
	for _, data := range files {
		size += len(data)
	}
	if size > maxBytes {
		return Source{}, yamlfile.Problems{{
			File: cmpDir(dir),
			What: "holds more than 4 MiB of manifests",
			Fix:  "give what it declares to several applications, or take out what is no manifest",
		}}
	}
	r := &reader{dir: dir, files: files}
	var s Source
	if name := kustomization("", files); name != "" {
		s.Kustomized = true
		r.kustomization(name, nil)
	} else {
		for _, name := range sortedKeys(files) {
			if name != FileName && slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)) {
				r.manifest(name)
			}
		}
	}
	if len(r.objects) == 0 && len(r.problems) == 0 && !s.Kustomized {
		r.problems = append(r.problems, yamlfile.Problem{
			File: cmpDir(dir),
			What: "has no manifests",
			Fix:  "add them as .yaml files, or a kustomization.yaml",
		})
	}
	s.Objects = r.objects
	if !s.Kustomized { // which may give them other names
		r.problems = append(r.problems, unique(r.objects)...)
	}
	slices.SortStableFunc(r.problems, func(a, b yamlfile.Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return s, r.problems
}

func cmpDir(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

// unique says which objects are declared twice.
func unique(objects []Object) (problems yamlfile.Problems) {
	seen := map[ID]Object{}
	for _, o := range objects {
		id := o.ID()
		if first, twice := seen[id]; twice {
			problems = append(problems, yamlfile.Problem{
				File: o.File,
				Line: o.Line,
				What: id.String() + " is declared in " + first.place() + ", too",
				Fix:  "keep one of them",
			})
		}
		seen[id] = o
	}
	return problems
}

// reader reads the files of one directory.
type reader struct {
	dir      string
	files    map[string][]byte
	objects  []Object
	problems yamlfile.Problems
	read     map[string]bool // what was, of a kustomization
	refs     int             // that were followed
}

func (r *reader) problem(name string, line int, what, fix string) {
	r.problems = append(r.problems, yamlfile.Problem{File: path.Join(r.dir, name), Line: line, What: what, Fix: fix})
}
