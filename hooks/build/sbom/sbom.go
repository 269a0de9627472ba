// Package sbom says what a project is made of besides its own text: a software bill of
// materials, in CycloneDX, of the module and package files of its tree. It is a function
// of these files alone, so that anybody can make it again.
//
// It says what the files say. What a build downloads beyond them is not in it.
package sbom

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Bounds of what is looked at. What is over them is left out, and Contents.Cut says so.
const (
	maxFiles      = 200
	maxComponents = 20_000
)

// component is a package or a module that a file names.
type component struct {
	kind    string // of its package URL: golang, npm, pypi, gem, cargo, maven
	name    string // as its own registry writes it
	version string
	from    string // the file
}

// url is the package URL.
func (c component) url() string {
	name := c.name
	if c.kind == "maven" {
		name = strings.Replace(name, ":", "/", 1)
	}
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.PathEscape(p), "@", "%40")
	}
	return "pkg:" + c.kind + "/" + strings.Join(parts, "/") + "@" + url.PathEscape(c.version)
}

// readers are what reads a file of a name. What cannot be read names nothing.
var readers = map[string]func(data []byte) []component{
	"go.mod":            goMod,
	"package-lock.json": packageLock,
	"requirements.txt":  requirements,
	"poetry.lock":       tables("pypi"),
	"uv.lock":           tables("pypi"),
	"Cargo.lock":        tables("cargo"),
	"Gemfile.lock":      gemfileLock,
	"pom.xml":           pom,
}

// Wanted reports whether a file of a tree says what the project is made of. Those of
// packages that lie in the tree are theirs.
func Wanted(name string) bool {
	for _, dir := range []string{"node_modules/", "vendor/", "testdata/"} {
		if strings.HasPrefix(name, dir) || strings.Contains(name, "/"+dir) {
			return false
		}
	}
	return readers[path.Base(name)] != nil
}

// Contents is a bill of materials.
type Contents struct {
	JSON       []byte
	Components int
	Files      []string // that it was made of
	Cut        bool     // there is more than fits in
}

// Of makes the bill of materials of a project, of those of its files that are Wanted. It
// is the zero Contents when there are none.
func Of(project, commit string, files map[string][]byte) Contents {
	names := slices.Sorted(maps.Keys(files))
	var c Contents
	if len(names) == 0 {
		return c
	}
	if len(names) > maxFiles {
		names, c.Cut = names[:maxFiles], true
	}
	byURL := map[string]component{}
	for _, name := range names {
		read := readers[path.Base(name)]
		if read == nil {
			continue
		}
		c.Files = append(c.Files, name)
		for _, found := range read(files[name]) {
			at := found.url()
			if _, twice := byURL[at]; twice || found.name == "" || found.version == "" {
				continue
			}
			if len(byURL) == maxComponents {
				c.Cut = true
				break
			}
			found.from = name
			byURL[at] = found
		}
	}
	c.Components = len(byURL)
	c.JSON = document(project, commit, byURL)
	return c
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type entry struct {
	Type       string     `json:"type"`
	Reference  string     `json:"bom-ref"`
	Group      string     `json:"group,omitempty"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

// document is CycloneDX 1.6. It has no time, and a serial number of what is in it: equal
// trees have equal ones.
func document(project, commit string, all map[string]component) []byte {
	list := []entry{}
	for _, at := range slices.Sorted(maps.Keys(all)) {
		c := all[at]
		e := entry{
			Type:       "library",
			Reference:  at,
			Name:       c.name,
			Version:    c.version,
			PURL:       at,
			Properties: []property{{"headgate:file", c.from}},
		}
		if group, name, ok := strings.Cut(c.name, ":"); ok && c.kind == "maven" {
			e.Group, e.Name = group, name
		}
		list = append(list, e)
	}
	doc := map[string]any{
		"bomFormat":   "CycloneDX",
		"specVersion": "1.6",
		"version":     1,
		"metadata": map[string]any{
			"component":  entry{Type: "application", Reference: "project", Name: project, Version: cmp.Or(commit, "0")},
			"lifecycles": []map[string]string{{"phase": "pre-build"}},
		},
		"components": list,
	}
	text, _ := json.Marshal(doc) // it holds text alone
	h := sha256.Sum256(text)
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // a UUID of version 8
	doc["serialNumber"] = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
	text, _ = json.MarshalIndent(doc, "", "  ")
	return append(text, '\n')
}
