package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/kubernetes"
)

const extensions = "apiextensions.k8s.io"

// maxObjects bounds what kustomize makes of what was pushed.
const maxObjects = 1000

// render makes the objects of what is declared, in the order in which they are applied.
func render(d *target.Declared,
	registry string) (objects []*unstructured.Unstructured, settings kubernetes.Settings, err error) {
	settings, problems := kubernetes.ReadSettings("", d.Files)
	if err := problems.Err(); err != nil {
		return nil, settings, err
	}
	source, problems := kubernetes.Read("", d.Files)
	if err := problems.Err(); err != nil {
		return nil, settings, err
	}
	made := source.Objects
	if source.Kustomized {
		if made, err = kustomize(d.Files); err != nil {
			return nil, settings, err
		}
	}
	kubernetes.Order(made)
	for _, o := range made {
		if len(d.Release.Images) > 0 {
			kubernetes.Images(o.Content, registry, d.Repository, d.Release.Images)
		}
		data, err := json.Marshal(o.Content)
		if err != nil {
			return nil, settings, fmt.Errorf("%s: %w", o.ID(), err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(data); err != nil {
			return nil, settings, fmt.Errorf("%s: %w", o.ID(), err)
		}
		objects = append(objects, u)
	}
	return objects, settings, nil
}

// kustomize has kustomize make objects of files, which Read has judged. It reads nothing else, and runs nothing.
func kustomize(files target.Files) (objects []kubernetes.Object, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("kustomize cannot read it: %v", p)
		}
	}()
	const top = "/declared"
	fs := filesys.MakeFsInMemory()
	for name, data := range files {
		if err := fs.WriteFile(top+"/"+name, data); err != nil {
			return nil, err
		}
	}
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, top)
	if err != nil {
		return nil, errors.New("kustomize: " + strings.ReplaceAll(err.Error(), top+"/", ""))
	}
	if made.Size() > maxObjects {
		return nil, fmt.Errorf("kustomize makes %d objects of it, and %d are the most that one application may have",
			made.Size(), maxObjects)
	}
	for _, r := range made.Resources() {
		content, err := r.Map()
		if err != nil {
			return nil, err
		}
		o := kubernetes.Object{Content: content}
		if problems := o.Judge(); len(problems) > 0 {
			return nil, fmt.Errorf("kustomize makes %s, which %s; %s", o.ID(), problems[0].What, problems[0].Fix)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// defined are the kinds that an application brings with it: where their objects are to be had, and whether they are in a
// namespace.
func defined(objects []*unstructured.Unstructured) map[schema.GroupKind]resource {
	all := map[schema.GroupKind]resource{}
	for _, o := range objects {
		if gk := o.GroupVersionKind().GroupKind(); gk.Group != extensions || gk.Kind != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		plural, _, _ := unstructured.NestedString(o.Object, "spec", "names", "plural")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		all[schema.GroupKind{Group: group, Kind: kind}] = resource{
			GroupVersionResource: schema.GroupVersionResource{Group: group, Resource: plural},
			namespaced:           scope == "Namespaced",
		}
	}
	return all
}
