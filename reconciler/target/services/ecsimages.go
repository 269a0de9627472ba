package services

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// placeholder is an image that CodePipeline fills in.
var placeholder = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^<([A-Za-z0-9_]{1,100})>$`)
})

// definitions reads imagedefinitions.json, which names the images of containers, and
// imageDetail.json, which names that of a placeholder.
func (t *ecsTask) definitions() {
	reference := func(at *yaml.Node, file, uri string) bool {
		if imageReference().MatchString(uri) || placeholder().MatchString(uri) {
			return true
		}
		t.problem(at, `write it like "ghcr.io/acme/web:4"`, "%s: %q is not the name of an image", file, uri)
		return false
	}
	if top := t.document(definitionsFile); top != nil {
		t.pairs(top, definitionsFile, "name", "imageUri", func(at *yaml.Node, name, uri string) {
			if reference(at, definitionsFile, uri) {
				t.images[name] = uri
			}
		})
	}
	if top := t.document(detailFile); top != nil {
		set, _ := t.record(top, detailFile, []string{"ImageURI"}, nil, map[string]string{
			"ImageSizeInBytes": noDetail, "ImageDigest": noDetail, "Version": noDetail, "ImagePushedAt": noDetail,
			"RegistryId":     noDetail,
			"RepositoryName": noDetail, "ImageTags": noDetail,
		})
		if n := set["ImageURI"]; n == nil {
			t.problem(top, `write {"ImageURI": "…"}`, "%s has no ImageURI", detailFile)
		} else if uri := t.said(set, "ImageURI", detailFile); reference(n, detailFile, uri) {
			t.detail = uri
		}
	}
}

// DefinitionsFile is what an application of these files takes from a release's artifacts,
// as from its directory; "" is that there is nothing.
func DefinitionsFile(files target.Files) string {
	_, task := files[taskFile]
	if _, there := files[definitionsFile]; !task || there {
		return ""
	}
	return definitionsFile
}

// withDefinitions are the files of an application with what its release says of images.
// Its own count before.
func withDefinitions(files target.Files, r target.Release) (all target.Files, from string, err error) {
	if len(r.Definitions) == 0 || DefinitionsFile(files) == "" {
		return files, "", nil
	}
	names := slices.Sorted(maps.Keys(r.Definitions))
	for _, other := range names[1:] {
		if !bytes.Equal(r.Definitions[names[0]], r.Definitions[other]) {
			return nil, "", fmt.Errorf(
				"%s differs in artifacts %s and %s of release %d; have one of them hold it, or keep it beside %s",
				definitionsFile, names[0], other, r.Number, taskFile)
		}
	}
	all = maps.Clone(files)
	all[definitionsFile] = r.Definitions[names[0]]
	return all, names[0], nil
}

// readWith reads an application as its release fills it in.
func readWith(files target.Files, r target.Release) (*Compose, error) {
	files, from, err := withDefinitions(files, r)
	if err != nil {
		return nil, err
	}
	c, _, err := Read("", files)
	if problems, ok := yamlfile.ProblemsIn(err); ok && from != "" {
		problems = slices.Clone(problems)
		for i, p := range problems {
			if p.File == definitionsFile {
				problems[i].What += fmt.Sprintf(" (the file is in artifact %s of release %d)", from, r.Number)
			}
		}
		err = problems
	}
	return c, err
}

// image reads the image of a container. imagedefinitions.json counts before, as in
// CodePipeline; a placeholder is for an image of the release.
func (t *ecsTask) image(c *Container, container string, n *yaml.Node, what string) {
	text, ok := t.scalar(n, what)
	if uri, there := t.images[container]; ok && there {
		c.Image = uri
		return
	}
	switch {
	case !ok:
	case placeholder().MatchString(text):
		c.Image = cmp.Or(t.detail, text)
	case !imageReference().MatchString(text):
		t.problem(
			n, `write it like "postgres:17", a name alone for an image of the release, or "<IMAGE1_NAME>" for its only one`,
			"%s: %q is not the name of an image", what, text)
	default:
		c.Image = text
	}
}

// filled is the container of a service with a placeholder for an image replaced by one
// of the release: that with the container's name, that with the placeholder's, or the
// only one.
func (c *Container) filled(service string, r target.Release) (*Container, error) {
	m := placeholder().FindStringSubmatch(c.Image)
	if m == nil {
		return c, nil
	}
	var names []string
	for name := range r.Images {
		names = append(names, name)
	}
	slices.Sort(names)
	at := slices.IndexFunc(names, func(name string) bool { return strings.EqualFold(name, service) })
	if at < 0 {
		at = slices.IndexFunc(names, func(name string) bool {
			return strings.EqualFold(strings.NewReplacer("-", "_", ".", "_").Replace(name), m[1])
		})
	}
	switch {
	case at < 0 && len(names) == 1:
		at = 0
	case at < 0 && len(names) == 0:
		return nil, fmt.Errorf("release %d has no image for %s in %s; have headgate.yaml make one: images: {%s: …}",
			r.Number, m[0], taskFile, service)
	case at < 0:
		return nil, fmt.Errorf(
			"release %d has images %s, and %s in %s does not say which; name the container %s like one of them",
			r.Number, list(names), m[0], taskFile, service)
	}
	filled := *c
	filled.Image, filled.OwnImage = names[at], true
	return &filled, nil
}
