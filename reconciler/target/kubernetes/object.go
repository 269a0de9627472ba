package kubernetes

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Object is one object as it is declared.
type Object struct {
	Content map[string]any // as JSON has it: numbers are int64 or float64
	File    string         // it stands in; "" when it was made by kustomize
	Line    int
}

// ID names an object.
type ID struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String names an object as people do: "Deployment shop/web".
func (id ID) String() string {
	if id.Namespace == "" {
		return id.Kind + " " + id.Name
	}
	return id.Kind + " " + id.Namespace + "/" + id.Name
}

// ID is the object's.
func (o Object) ID() ID {
	group, _ := groupVersion(text(o.Content, "apiVersion"))
	return ID{
		Group:     group,
		Kind:      text(o.Content, "kind"),
		Namespace: text(o.Content, "metadata", "namespace"),
		Name:      text(o.Content, "metadata", "name"),
	}
}

func (o Object) place() string { return yamlfile.Problem{File: o.File, Line: o.Line}.Place() }

func groupVersion(apiVersion string) (group, version string) {
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return "", group
	}
	return group, version
}

// at finds what stands at a path of keys.
func at(content map[string]any, keys ...string) any {
	var value any = content
	for _, key := range keys {
		m, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = m[key]
	}
	return value
}

func text(content map[string]any, keys ...string) string {
	s, _ := at(content, keys...).(string)
	return s
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// manifest reads the objects of a file.
func (r *reader) manifest(name string) {
	file := path.Join(r.dir, name)
	if len(r.files[name]) > yamlfile.MaxBytes {
		r.problem(name, 0, fmt.Sprintf("is %d bytes, over the limit of %d", len(r.files[name]), yamlfile.MaxBytes),
			"give each object a file of its own")
		return
	}
	for _, doc := range documents(r.files[name]) {
		if len(r.objects) > maxObjects {
			r.problem(name, 1+doc.line, fmt.Sprintf("declares more than %d objects in one application", maxObjects),
				"give what it declares to several applications")
			return
		}
		top, err := yamlfile.ParseAliased(file, doc.text)
		if err != nil {
			problems, _ := yamlfile.ProblemsIn(err)
			for _, p := range problems {
				if p.Line > 0 || doc.line > 0 {
					p.Line += doc.line
				}
				r.problems = append(r.problems, p)
			}
			continue
		}
		// What is repeated counts each time.
		shift(top, doc.line, map[*yaml.Node]bool{})
		if problems := yamlfile.DuplicateKeys(file, top); len(problems) > 0 {
			r.problems = append(r.problems, problems...)
			continue
		}
		r.object(name, top)
	}
}

// document is one of several in a file.
type document struct {
	text []byte
	line int // lines before it
}

// documents are the documents of a file that say something.
func documents(data []byte) (all []document) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	begin, first, line := 0, 0, 0
	add := func(end int) {
		if part := data[begin:end]; !onlyComments(part) {
			all = append(all, document{part, first})
		}
	}
	for offset := 0; offset < len(data); line++ {
		next := len(data)
		if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
			next = offset + i + 1
		}
		if at := bytes.TrimRight(data[offset:next], " \t\r\n"); offset > 0 && bytes.Equal(at, []byte("---")) ||
			offset > 0 && (bytes.HasPrefix(at, []byte("--- ")) || bytes.HasPrefix(at, []byte("---\t"))) {
			add(offset)
			begin, first = offset, line
		}
		offset = next
	}
	add(len(data))
	return all
}

func onlyComments(data []byte) bool {
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) && !bytes.Equal(line, []byte("...")) {
			return false
		}
	}
	return true
}

// shift moves what was read of a part of a file to where it stands in it.
func shift(n *yaml.Node, lines int, done map[*yaml.Node]bool) {
	if done[n] {
		return
	}
	done[n] = true
	n.Line += lines
	for _, c := range n.Content {
		shift(c, lines, done)
	}
}

// object reads one object.
func (r *reader) object(name string, top *yaml.Node) {
	if top.Kind != yaml.MappingNode {
		r.problem(name, top.Line, "is not an object", "begin with apiVersion: and kind:")
		return
	}
	before := len(r.problems)
	content, _ := r.value(name, top).(map[string]any)
	o := Object{Content: content, File: path.Join(r.dir, name), Line: top.Line}
	for key := range yamlfile.Pairs(top) {
		o.Line = key.Line // not that of the --- before it
		break
	}
	if len(r.problems) > before {
		return
	}
	if problems := o.judge(lines(top)); len(problems) > 0 {
		r.problems = append(r.problems, problems...)
		return
	}
	r.objects = append(r.objects, o)
}

// lines finds where keys of an object stand.
func lines(top *yaml.Node) func(keys ...string) int {
	return func(keys ...string) int {
		line, n := top.Line, top
		for key := range yamlfile.Pairs(top) {
			line = key.Line
			break
		}
		for _, want := range keys {
			found := false
			for key, value := range yamlfile.Pairs(n) {
				if key.Value == want {
					line, n, found = key.Line, value, true
					break
				}
			}
			if !found {
				break
			}
		}
		return line
	}
}

// asBool are words that YAML 1.1, which kubectl reads, takes for true and false.
var asBool = map[string]string{
	"y": "true", "Y": "true", "yes": "true", "Yes": "true", "YES": "true", "on": "true", "On": "true", "ON": "true",
	"n": "false", "N": "false", "no": "false", "No": "false", "NO": "false", "off": "false", "Off": "false",
	"OFF": "false",
}

// value is what a node says, as JSON has it.
func (r *reader) value(name string, n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for key, value := range yamlfile.Pairs(n) {
			if key.Kind != yaml.ScalarNode {
				r.problem(name, key.Line, "has a key that is no word", "write a word before the colon")
				continue
			}
			m[key.Value] = r.value(name, value)
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			list = append(list, r.value(name, c))
		}
		return list
	}
	var v any
	if means, ambiguous := asBool[n.Value]; ambiguous && n.Style == 0 && n.Tag != "!!bool" && len(n.Value) > 1 {
		r.problem(name, n.Line, fmt.Sprintf("%s means %s to kubectl and %q to others", n.Value, means, n.Value),
			fmt.Sprintf("write %s, or %q", means, n.Value))
		return nil
	}
	if n.Tag == "!!timestamp" || n.Tag == "!!binary" || n.Tag == "!!str" {
		return n.Value
	}
	if err := n.Decode(&v); err != nil {
		r.problem(name, n.Line, yamlfile.Describe(n)+" cannot be read", "put quotes around it, or write it otherwise")
		return nil
	}
	switch v := v.(type) {
	case int:
		return int64(v)
	case uint64:
		return float64(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			r.problem(name, n.Line, n.Value+" is no number that Kubernetes has", "put quotes around it, or write a number")
			return nil
		}
	}
	return v
}

// Judge says what is wrong with an object that was made, rather than read.
func (o Object) Judge() yamlfile.Problems { return o.judge(func(...string) int { return o.Line }) }

// judge says what is wrong with an object, whatever there may be in a cluster.
func (o Object) judge(line func(keys ...string) int) (problems yamlfile.Problems) {
	problem := func(what, fix string, keys ...string) {
		problems = append(problems, yamlfile.Problem{File: o.File, Line: line(keys...), What: what, Fix: fix})
	}
	apiVersion, kind := text(o.Content, "apiVersion"), text(o.Content, "kind")
	group, version := groupVersion(apiVersion)
	switch {
	case apiVersion == "":
		problem("has no apiVersion",
			"write it, such as apiVersion: apps/v1; what is no manifest belongs elsewhere", "apiVersion")
		return problems
	case version == "" || strings.Count(apiVersion, "/") > 1 || strings.ContainsAny(apiVersion, " \t\n"):
		problem(fmt.Sprintf("%q is no apiVersion", apiVersion), "write group/version, such as apps/v1, or v1", "apiVersion")
		return problems
	case kind == "" || strings.ContainsAny(kind, " \t\n/"):
		problem("has no kind", "write it, such as kind: Deployment", "kind")
		return problems
	case strings.HasSuffix(kind, "List") && at(o.Content, "items") != nil:
		problem("is a list of objects", "write each as a document of its own, with --- between them", "kind")
		return problems
	}
	if name := text(o.Content, "metadata", "name"); name == "" {
		what := "has no metadata.name"
		if text(o.Content, "metadata", "generateName") != "" {
			what = "has a metadata.generateName and no name: it would be another object each time"
		}
		problem(what, "give it a name", "metadata", "name")
	} else if len(name) > 253 || strings.ContainsAny(name, "/ \t\n%") || name == "." || name == ".." {
		problem(fmt.Sprintf("%q is no name of an object", name), "use small letters, digits, '-' and '.'", "metadata", "name")
	}
	if at(o.Content, "status") != nil && kind != "CustomResourceDefinition" {
		problem("has a status, which the cluster writes", "remove it", "status")
	}
	namespace := at(o.Content, "metadata", "namespace")
	if s, ok := namespace.(string); namespace != nil && (!ok || !ValidNamespace(s)) {
		problem(fmt.Sprintf("%q is no name of a namespace", fmt.Sprint(namespace)),
			"use 1 to 63 small letters, digits and '-'", "metadata", "namespace")
	}
	if IsClusterScoped(group, kind) {
		if !MayDeclare(group, kind) {
			problem(kind+" is an object of the whole cluster, which an application may not declare",
				"leave it to whoever runs the cluster; Namespace and CustomResourceDefinition are the only ones taken", "kind")
		} else if namespace != nil {
			problem(kind+" is in no namespace", "remove metadata.namespace", "metadata", "namespace")
		}
	}
	for _, key := range []string{"labels", "annotations"} {
		for _, name := range sortedKeys(mapAt(o.Content, "metadata", key)) {
			if strings.HasPrefix(name, "headgate.dev/") && name != PruneAnnotation && name != HookAnnotation {
				problem(name+" is written by Headgate", "remove it", "metadata", key, name)
			}
		}
	}
	if v, ok := mapAt(o.Content, "metadata", "annotations")[PruneAnnotation]; ok && v != PruneDisabled &&
		v != PruneEnabled {
		problem(fmt.Sprintf("%s is %q", PruneAnnotation, fmt.Sprint(v)), "write disabled, or enabled", "metadata",
			"annotations", PruneAnnotation)
	}
	o.judgeHook(problem)
	return problems
}

func mapAt(content map[string]any, keys ...string) map[string]any {
	m, _ := at(content, keys...).(map[string]any)
	return m
}

// warnings are what may well be meant, and often is not.
func (o Object) warnings() (warnings yamlfile.Problems) {
	if id := o.ID(); id.Group == "" && id.Kind == "Secret" &&
		(at(o.Content, "data") != nil || at(o.Content, "stringData") != nil) {
		warnings = append(warnings, yamlfile.Problem{
			File: o.File,
			Line: o.Line,
			What: id.String() + " stands in Git, for everybody who reads the repository",
			Fix:  "declare where it comes from instead, for example with an ExternalSecret or a SealedSecret",
		})
	}
	return warnings
}

// What an object says about being pruned, by an annotation.
const (
	PruneAnnotation = "headgate.dev/prune"
	PruneDisabled   = "disabled" // it stays when it is declared no more
	PruneEnabled    = "enabled"  // it goes, although it is of a kind that stays otherwise
)

// Pruned reports whether an object that is declared no more is to be deleted. What holds data, or what is other people's,
// stays unless it says that it is to go.
func Pruned(group, kind string, annotations map[string]string) bool {
	switch annotations[PruneAnnotation] {
	case PruneDisabled:
		return false
	case PruneEnabled:
		return true
	}
	return !(group == "" && (kind == "Namespace" || kind == "PersistentVolumeClaim") ||
		group == extensions && kind == "CustomResourceDefinition")
}
