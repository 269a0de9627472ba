package buildspec

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
)

// Artifact is what to keep: the main one is called Main, the others by their
// identifier.
type Artifact struct {
	ID            string
	Name          string // may hold $VAR and $(command); "" is ID
	Files         []string
	Exclude       []string
	BaseDirectory string // may hold $VAR
	DiscardPaths  bool
	Symlinks      bool
	Line          int
}

// Main is the identifier of the artifact at the top of `artifacts`.
const Main = "main"

// Report is a group of files that say how tests went, or what they covered.
type Report struct {
	Name          string // may hold $VAR
	Files         []string
	BaseDirectory string // may hold $VAR
	Format        string // one of Formats
	Line          int
}

// Formats of reports (B50); the first is the default.
var Formats = []string{
	"JUNITXML", "CUCUMBERJSON", "NUNITXML", "NUNIT3XML", "TESTNGXML", "VISUALSTUDIOTRX",
	"CLOVERXML", "COBERTURAXML", "JACOCOXML", "SIMPLECOV",
}

// Cache is what one build keeps for the next (B54-B56).
type Cache struct {
	Key      string // may hold $VAR and $(command); "" is one for all
	Fallback []string
	Restore  bool
	Save     bool
	Paths    []string
}

// Bounds that CodeBuild has.
const (
	maxReports  = 5
	maxFallback = 5
)

var artifactKeys = []string{"files", "name", "discard-paths", "base-directory", "exclude-paths",
	"enable-symlinks", "s3-prefix"}

var identifierForm = sync.OnceValue(
	func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`) })

func (r *reader) artifacts(key, n *yaml.Node) {
	r.mapping(n, "artifacts", func() {
		main := Artifact{ID: Main, Line: key.Line}
		known := append(slices.Clone(artifactKeys), "secondary-artifacts", "type", "encryption", "packaging")
		r.keys(n, "artifacts", known, func(k, value *yaml.Node) {
			if k.Value != "secondary-artifacts" {
				r.artifact(&main, k, value)
				return
			}
			r.mapping(value, "secondary-artifacts", func() { r.pairs(value, r.secondary) })
		})
		if len(main.Files) > 0 {
			r.spec.Artifacts = append([]Artifact{main}, r.spec.Artifacts...)
		} else if len(r.spec.Artifacts) == 0 && len(r.problems) == 0 {
			r.refuse(key, `add files: ["**/*"]`, "artifacts names no files")
		}
	})
}

func (r *reader) secondary(id, value *yaml.Node) {
	a := Artifact{ID: id.Value, Line: id.Line}
	if !identifierForm().MatchString(a.ID) || a.ID == Main {
		r.refuse(id, "use letters, digits, '.', '_' and '-'", "%q is not an identifier for an artifact", a.ID)
	}
	r.mapping(value, "artifact "+a.ID, func() {
		r.keys(value, "artifacts.secondary-artifacts."+a.ID, artifactKeys, func(k, v *yaml.Node) { r.artifact(&a, k, v) })
	})
	if len(a.Files) == 0 {
		r.refuse(id, `add files: ["**/*"]`, "artifact %s names no files", a.ID)
	}
	r.spec.Artifacts = append(r.spec.Artifacts, a)
}

func (r *reader) artifact(a *Artifact, key, value *yaml.Node) {
	switch key.Value {
	case "files":
		a.Files = r.texts(value, "files")
	case "exclude-paths":
		a.Exclude = r.texts(value, "exclude-paths")
	case "name":
		a.Name = r.text(value, "name")
	case "base-directory":
		a.BaseDirectory = r.base(value)
	case "discard-paths":
		a.DiscardPaths = r.yes(value, key.Value)
	case "enable-symlinks":
		a.Symlinks = r.yes(value, key.Value)
	default:
		r.text(value, key.Value)
		r.warn(key, "%s has no effect here: artifacts are kept by their digest", key.Value)
	}
}

func (r *reader) base(n *yaml.Node) string {
	dir := r.text(n, "base-directory")
	if clean := path.Clean(dir); clean == ".." || strings.HasPrefix(clean, "../") {
		r.refuse(n, "name a directory in the source", "base-directory %q is outside of the source", dir)
	}
	return dir
}

func (r *reader) reports(key, n *yaml.Node) {
	r.mapping(n, "reports", func() {
		r.pairs(n, func(name, value *yaml.Node) {
			one := Report{Name: name.Value, Format: Formats[0], Line: name.Line}
			r.mapping(value, "reports."+name.Value, func() {
				known := []string{"files", "base-directory", "discard-paths", "file-format"}
				r.keys(value, "reports."+name.Value, known, func(k, v *yaml.Node) {
					switch k.Value {
					case "files":
						one.Files = r.texts(v, "files")
					case "base-directory":
						one.BaseDirectory = r.base(v)
					case "discard-paths":
						r.yes(v, k.Value) // a report here is its cases, whatever their file is called
					case "file-format":
						if format := r.oneOf(v, "file-format", Formats); format != "" {
							one.Format = format
						}
					}
				})
			})
			if len(one.Files) == 0 {
				r.refuse(name, `add files: ["**/*"]`, "report %s names no files", one.Name)
			}
			r.spec.Reports = append(r.spec.Reports, one)
		})
		if n := len(r.spec.Reports); n > maxReports {
			r.refuse(key, "put files of one format into one report", "%d reports: a build has at most %d", n, maxReports)
		}
	})
}

func (r *reader) cache(key, n *yaml.Node) {
	c := Cache{Restore: true, Save: true}
	r.mapping(n, "cache", func() {
		r.keys(n, "cache", []string{"key", "fallback-keys", "action", "paths"}, func(k, value *yaml.Node) {
			switch k.Value {
			case "key":
				c.Key = r.text(value, "cache.key")
			case "fallback-keys":
				c.Fallback = r.texts(value, "fallback-keys")
				if len(c.Fallback) > maxFallback {
					r.refuse(value, "keep the first", "%d fallback-keys: a cache has at most %d", len(c.Fallback), maxFallback)
				}
			case "action":
				action := r.oneOf(value, "cache.action", []string{"restore", "save"})
				c.Restore, c.Save = action != "save", action != "restore"
			case "paths":
				c.Paths = r.texts(value, "paths")
			}
		})
		if len(c.Fallback) > 0 && c.Key == "" {
			r.warn(key, "fallback-keys have no effect without a key")
			c.Fallback = nil
		}
		if len(c.Paths) > 0 {
			r.spec.Cache = c
		} else if c.Key != "" {
			r.refuse(key, `add paths: ["/root/.m2/**/*"]`, "cache names no paths")
		}
	})
}
