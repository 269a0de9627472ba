package services

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// ErrNoScale is that a file does not say the count of a service in a way that a program
// can change.
var ErrNoScale = errors.New("the count of the service is not written in a way that can be edited by a program")

// NoService is that the files declare no such service, but those.
type NoService []string

func (n NoService) Error() string { return "there is " + strings.Join(n, ", ") }

// Scale has a service of an application's files have another count of instances: it
// returns the one file that changes, "" when it has that count already. Everything else in its text stays as it is. A fault
// of the files, such as a count that a deployment cannot work with, is yamlfile.Problems.
func Scale(files target.Files, service string, count int) (name string, edited []byte, err error) {
	was, _, err := Read("", files)
	if err != nil {
		return "", nil, err
	}
	i := slices.IndexFunc(was.Services, func(s Service) bool { return s.Name == service })
	if i < 0 {
		var names NoService
		for _, s := range was.Services {
			names = append(names, s.Name)
		}
		return "", nil, names
	}
	if was.Services[i].Replicas == count {
		return "", nil, nil
	}
	var faults yamlfile.Problems
	for i, edit := range scalings(files, service, strconv.Itoa(count)) {
		changed := target.Files{}
		for n, data := range files {
			changed[n] = data
		}
		text, ok := edit.edits.Apply(files[edit.file])
		if !ok {
			continue
		}
		changed[edit.file] = text
		is, _, err := Read("", changed)
		if err != nil {
			// What is said of another way than the likeliest is about what it adds.
			if ps, ok := yamlfile.ProblemsIn(err); ok && i == 0 {
				faults = ps
			}
			continue
		}
		if scaled(was, is, service, count) {
			return edit.file, text, nil
		}
	}
	if len(faults) > 0 {
		return "", nil, faults
	}
	return "", nil, ErrNoScale
}

// scaled reports whether nothing but the count of a service differs.
func scaled(was, is *Compose, service string, count int) bool {
	return slices.EqualFunc(was.Services, is.Services, func(a, b Service) bool {
		if a.Name != b.Name || a.Name == service && b.Replicas != count || a.Name != service && a.Replicas != b.Replicas {
			return false
		}
		return (&version{Service: a}).id(0) == (&version{Service: b}).id(0)
	})
}

// scaling is one way in which a file may say another count.
type scaling struct {
	file  string
	edits yamlfile.Edits
}

// scalings are the ways to say another count, the likeliest first: which one counts is
// for Read to say.
func scalings(files target.Files, service, count string) (all []scaling) {
	var added []scaling
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	replace := func(file string, n *yaml.Node) {
		if n == nil || n.Kind != yaml.ScalarNode {
			return
		}
		s := scaling{file: file}
		s.edits.Scalar(n, count)
		all = append(all, s)
	}
	for _, name := range names {
		switch ext := path.Ext(name); {
		case name == serviceFile:
		case ext != ".yaml" && ext != ".yml":
			continue
		}
		top, err := yamlfile.ParseAliased(name, files[name])
		if err != nil {
			continue // another file's, or none that counts
		}
		if name == serviceFile {
			replace(name, yamlfile.ValueOf(top, "desiredCount"))
			replace(name, yamlfile.ValueOf(yamlfile.ValueOf(top, "service"), "desiredCount"))
			continue
		}
		list := yamlfile.ValueOf(top, "services")
		if list == nil || list.Kind != yaml.MappingNode {
			continue
		}
		for key, value := range yamlfile.Pairs(list) {
			if key.Value != service {
				continue
			}
			replace(name, yamlfile.ValueOf(yamlfile.ValueOf(value, "deploy"), "replicas"))
			replace(name, yamlfile.ValueOf(value, "scale"))
			s := scaling{file: name}
			s.edits.Entries(key, value, []string{fmt.Sprintf("scale: %s", count)})
			added = append(added, s)
		}
	}
	return append(all, added...)
}
