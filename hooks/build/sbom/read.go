package sbom

import (
	"encoding/json"
	"encoding/xml"
	"regexp"
	"strings"
)

// lines are the lines of a file without their ends.
func lines(data []byte) []string {
	return strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
}

// goMod reads what a go.mod requires, and what it puts in its place.
func goMod(data []byte) (all []component) {
	block := ""
	replaced := map[string]component{}
	for _, line := range lines(data) {
		line, _, _ = strings.Cut(line, "//")
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
			continue
		case f[0] == ")":
			block = ""
			continue
		case len(f) == 2 && f[1] == "(":
			block = f[0]
			continue
		case block == "" && (f[0] == "require" || f[0] == "replace"):
			f = append(f[:1:1], f[1:]...)
		case block != "":
			f = append([]string{block}, f...)
		}
		switch {
		case f[0] == "require" && len(f) == 3:
			all = append(all, component{kind: "golang", name: f[1], version: f[2]})
		case f[0] == "replace":
			for i, word := range f {
				if word == "=>" && i >= 2 && len(f) == i+3 { // one of the project's own directories has no version
					replaced[f[1]] = component{kind: "golang", name: f[i+1], version: f[i+2]}
				}
			}
		}
	}
	for i, c := range all {
		if by, ok := replaced[c.name]; ok {
			all[i] = by
		}
	}
	return all
}

// packageLock reads npm's lock file of version 2 and 3, and of version 1.
func packageLock(data []byte) (all []component) {
	type dependency struct {
		Version      string                     `json:"version"`
		Link         bool                       `json:"link"`
		Name         string                     `json:"name"` // of an alias
		Dependencies map[string]json.RawMessage `json:"dependencies"`
	}
	var lock struct {
		Packages     map[string]dependency      `json:"packages"`
		Dependencies map[string]json.RawMessage `json:"dependencies"`
	}
	if json.Unmarshal(data, &lock) != nil {
		return nil
	}
	const dir = "node_modules/"
	for at, p := range lock.Packages {
		i := strings.LastIndex(at, dir)
		if i < 0 || p.Link { // the project's own
			continue
		}
		name := p.Name
		if name == "" {
			name = at[i+len(dir):]
		}
		all = append(all, component{kind: "npm", name: name, version: p.Version})
	}
	if lock.Packages != nil {
		return all
	}
	var below func(map[string]json.RawMessage)
	below = func(of map[string]json.RawMessage) {
		for name, raw := range of {
			var d dependency
			if json.Unmarshal(raw, &d) == nil {
				all = append(all, component{kind: "npm", name: name, version: d.Version})
				below(d.Dependencies)
			}
		}
	}
	below(lock.Dependencies)
	return all
}

var (
	pinned    = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*===?\s*([^\s;#,\\]+)`)
	separator = regexp.MustCompile(`[-_.]+`)
)

// requirements reads those of a requirements.txt that name one version.
func requirements(data []byte) (all []component) {
	for _, line := range lines(data) {
		if m := pinned.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			all = append(all, component{kind: "pypi", name: python(m[1]), version: m[2]})
		}
	}
	return all
}

// python is a name as PyPI compares them.
func python(name string) string { return strings.ToLower(separator.ReplaceAllString(name, "-")) }

// tables reads the [[package]] tables of a lock file in TOML that a program has written:
// a name and a version, each on a line of its own.
func tables(kind string) func(data []byte) []component {
	return func(data []byte) (all []component) {
		var c *component
		for _, line := range lines(data) {
			if strings.HasPrefix(line, "[") {
				c = nil
				if line == "[[package]]" {
					all = append(all, component{kind: kind})
					c = &all[len(all)-1]
				}
				continue
			}
			key, value, ok := strings.Cut(line, " = ")
			if !ok || c == nil {
				continue
			}
			value = strings.Trim(value, `"`)
			switch {
			case key == "name" && kind == "pypi":
				c.name = python(value)
			case key == "name":
				c.name = value
			case key == "version":
				c.version = value
			}
		}
		return all
	}
}

var gem = regexp.MustCompile(`^    ([A-Za-z0-9][A-Za-z0-9._-]*) \(([^()\s]+)\)$`)

// gemfileLock reads the specs of Bundler's lock file.
func gemfileLock(data []byte) (all []component) {
	for _, line := range lines(data) {
		if m := gem.FindStringSubmatch(line); m != nil {
			all = append(all, component{kind: "gem", name: m[1], version: m[2]})
		}
	}
	return all
}

// pom reads the dependencies of a Maven project that name a version, by themselves or by
// a property of the file.
func pom(data []byte) (all []component) {
	var project struct {
		Properties struct {
			All []struct {
				XMLName xml.Name
				Value   string `xml:",chardata"`
			} `xml:",any"`
		} `xml:"properties"`
		Dependencies []struct {
			Group    string `xml:"groupId"`
			Artifact string `xml:"artifactId"`
			Version  string `xml:"version"`
		} `xml:"dependencies>dependency"`
	}
	if xml.Unmarshal(data, &project) != nil {
		return nil
	}
	values := map[string]string{}
	for _, p := range project.Properties.All {
		values["${"+p.XMLName.Local+"}"] = strings.TrimSpace(p.Value)
	}
	for _, d := range project.Dependencies {
		version := d.Version
		if v, ok := values[version]; ok {
			version = v
		}
		if d.Group != "" && d.Artifact != "" && !strings.Contains(version, "$") {
			all = append(all, component{kind: "maven", name: d.Group + ":" + d.Artifact, version: version})
		}
	}
	return all
}
