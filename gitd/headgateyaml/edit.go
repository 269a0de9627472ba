package headgateyaml

import (
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// ErrNoEdit is a file that only its authors can edit: its text is not of the usual form.
var ErrNoEdit = errors.New("the file is not written in a way that can be edited by a program")

// Rename gives an environment another name: in its key, in the `after` of others, and
// with `was`, so that it goes on from what it was. It declares what it declared: a
// path that was the default for the old name is written down. Everything else in the
// text stays as it is.
func Rename(data []byte, environment, to string) ([]byte, error) {
	file, err := Parse(Name, data)
	if err != nil {
		return nil, err
	}
	e, ok := file.Environment(environment)
	if !ok {
		return nil, fmt.Errorf("there is no environment %q in %s", environment, Name)
	}
	top, err := yamlfile.Parse(Name, data)
	if err != nil {
		return nil, err
	}
	var key, value *yaml.Node
	var afters []*yaml.Node // scalars that name it
	for k, v := range environmentNodes(top) {
		if k.Value == environment {
			key, value = k, v
		}
		if n := yamlfile.ValueOf(v, "after"); n != nil && n.Value == environment {
			afters = append(afters, n)
		}
	}

	var edits yamlfile.Edits
	add := []string{"was: " + environment}
	if was := yamlfile.ValueOf(value, "was"); was != nil {
		edits.Scalar(was, environment)
		add = nil
	}
	if yamlfile.ValueOf(value, "path") == nil {
		of, _ := file.Application(e.Application)
		own := e.Path
		if of.Path != "" {
			own = strings.TrimPrefix(e.Path, path.Clean(of.Path)+"/")
		}
		add = append(add, "path: "+own)
	}
	edits.Scalar(key, to)
	for _, n := range afters {
		edits.Scalar(n, to)
	}
	edits.Entries(key, value, add)
	edited, ok := edits.Apply(data)
	if !ok {
		return nil, ErrNoEdit
	}

	got, err := Parse(Name, edited)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoEdit, err)
	}
	if !reflect.DeepEqual(bare(got), bare(file.renamed(environment, to))) {
		return nil, ErrNoEdit
	}
	return edited, nil
}

// renamed is the file with an environment under another name.
func (f *File) renamed(environment, to string) *File {
	r := *f
	r.Environments = slices.Clone(f.Environments)
	for i := range r.Environments {
		e := &r.Environments[i]
		if e.Name == environment {
			e.Name, e.Was = to, environment
		}
		if e.After == environment {
			e.After = to
		}
	}
	return &r
}

// bare is a file without its lines.
func bare(f *File) *File {
	r := *f
	r.Environments, r.Applications, r.Schedules = slices.Clone(f.Environments), slices.Clone(
		f.Applications), slices.Clone(f.Schedules)
	for i := range r.Environments {
		r.Environments[i].Line, r.Environments[i].lines = 0, nil
	}
	for i := range r.Applications {
		r.Applications[i].Line, r.Applications[i].lines = 0, nil
	}
	for i := range r.Schedules {
		r.Schedules[i].Line, r.Schedules[i].lines = 0, nil
	}
	return &r
}

// environmentNodes yields the keys and values of all environments.
func environmentNodes(top *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		lists := []*yaml.Node{yamlfile.ValueOf(top, "environments")}
		if apps := yamlfile.ValueOf(top, "applications"); apps != nil {
			for _, app := range yamlfile.Pairs(apps) {
				lists = append(lists, yamlfile.ValueOf(app, "environments"))
			}
		}
		for _, list := range lists {
			if list == nil {
				continue
			}
			for key, value := range yamlfile.Pairs(list) {
				if !yield(key, value) {
					return
				}
			}
		}
	}
}
