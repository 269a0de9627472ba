package headgateyaml

import (
	"path"
	"regexp"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Image is a container image that becomes part of a release: either made of the
// files of an artifact, or read from what a command of the build has saved.
type Image struct {
	Name string // among the artifacts, and in the registry
	Line int    // in the file, for messages

	Archive string // path of a tar in the source; "" makes one of Artifact

	Artifact         string // name; "main" by default
	Directory        string // absolute, where the files are
	Architecture     string // as Go names it; "" is the server's
	Entrypoint       []string
	Command          []string
	Environment      map[string]string
	User             string
	WorkingDirectory string // "" is Directory
	Ports            []int  // TCP
}

type imageText struct {
	Archive          *string           `yaml:"archive"`
	Artifact         *string           `yaml:"artifact"`
	Directory        *string           `yaml:"directory"`
	Architecture     *string           `yaml:"architecture"`
	Entrypoint       []string          `yaml:"entrypoint"`
	Command          []string          `yaml:"command"`
	Environment      map[string]string `yaml:"environment"`
	User             *string           `yaml:"user"`
	WorkingDirectory *string           `yaml:"working_directory"`
	Ports            []int             `yaml:"ports"`
}

const (
	maxImages         = 50
	maxImageWords     = 100 // of an entrypoint or a command
	maxImageVariables = 200
	maxImagePorts     = 50
)

var (
	// imageForm is a name that registries take.
	imageForm        = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`)
	architectureForm = regexp.MustCompile(`^[a-z0-9]{1,20}$`)
	variableForm     = sync.OnceValue(
		func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,199}$`) })
	imageUserForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$`)
	})
)

func (r *reader) images(n *yaml.Node, f *File) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, `write "web: {entrypoint: [/web]}" below it`, "images is not a mapping of names to images")
		return
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for key, value := range yamlfile.Pairs(n) {
		if len(f.Images) == maxImages {
			r.problem(key.Line, "", "holds more than %d images", maxImages)
			return
		}
		r.image(key, value, f)
	}
}

func (r *reader) image(key, value *yaml.Node, f *File) {
	i := Image{Name: key.Value, Line: key.Line, Artifact: "main", Directory: "/"}
	if !imageForm.MatchString(i.Name) || len(i.Name) > 100 {
		r.problem(key.Line, "use 1 to 100 small letters and digits, with single '.', '_' or '-' between them",
			"invalid image name %q", i.Name)
	}
	var t imageText
	if err := yamlfile.DecodeNode(r.file, value, &t); err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		r.problems = append(r.problems, ps...)
		return
	}
	at := func(key string) int { return lineOf(value, key) }

	if t.Archive != nil {
		i.Archive = *t.Archive
		r.path(i.Archive, at("archive"), "archive")
		for k := range yamlfile.Pairs(value) {
			if k.Value != "archive" {
				r.problem(k.Line, "remove one of them", "image %q has %q beside archive, which has it already", i.Name, k.Value)
			}
		}
		f.Images = append(f.Images, i)
		return
	}

	if t.Artifact != nil {
		i.Artifact = *t.Artifact
		if !artifactForm().MatchString(i.Artifact) {
			r.problem(at("artifact"), "name it as buildspec.yml does", "invalid artifact name %q", i.Artifact)
		}
	}
	if i.Artifact == i.Name {
		r.problem(at("artifact"), "give the image or the artifact another name",
			"image %q has the name of the artifact that it is made of", i.Name)
	}
	if t.Directory != nil {
		i.Directory = *t.Directory
		r.absolute(i.Directory, at("directory"), "directory")
	}
	i.WorkingDirectory = i.Directory
	if t.WorkingDirectory != nil {
		i.WorkingDirectory = *t.WorkingDirectory
		r.absolute(i.WorkingDirectory, at("working_directory"), "working_directory")
	}
	if t.Architecture != nil {
		i.Architecture = *t.Architecture
		if !architectureForm.MatchString(i.Architecture) {
			r.problem(at("architecture"), "write it as Go does: amd64, arm64", "invalid architecture %q", i.Architecture)
		}
	}
	if t.User != nil {
		i.User = *t.User
		if !imageUserForm().MatchString(i.User) {
			r.problem(at("user"), `write a number or a name, and perhaps a group: "65532:65532"`, "invalid user %q", i.User)
		}
	}

	i.Entrypoint, i.Command, i.Environment, i.Ports = t.Entrypoint, t.Command, t.Environment, t.Ports
	if len(i.Entrypoint) == 0 && len(i.Command) == 0 {
		r.problem(i.Line, "name the program: entrypoint: [/server]", "image %q does not say what it starts", i.Name)
	}
	if len(i.Entrypoint)+len(i.Command) > maxImageWords {
		r.problem(i.Line, "start a script", "image %q starts a command of more than %d words", i.Name, maxImageWords)
	}
	for _, word := range append(append([]string(nil), i.Entrypoint...), i.Command...) {
		if strings.ContainsRune(word, 0) {
			r.problem(i.Line, "remove it", "image %q starts a command with a NUL byte", i.Name)
		}
	}
	if len(i.Environment) > maxImageVariables {
		r.problem(at("environment"), "", "image %q sets more than %d variables", i.Name, maxImageVariables)
	}
	for name, v := range i.Environment {
		if !variableForm().MatchString(name) || strings.ContainsRune(v, 0) {
			r.problem(at("environment"), "use letters, digits and '_', beginning with no digit", "invalid variable %q", name)
		}
	}
	if len(i.Ports) > maxImagePorts {
		r.problem(at("ports"), "", "image %q names more than %d ports", i.Name, maxImagePorts)
	}
	for _, p := range i.Ports {
		if p < 1 || p > 65535 {
			r.problem(at("ports"), "use 1 to 65535", "invalid port %d", p)
		}
	}
	f.Images = append(f.Images, i)
}

// absolute checks a directory of an image.
func (r *reader) absolute(dir string, line int, key string) {
	if !path.IsAbs(dir) || path.Clean(dir) != dir || len(dir) > 200 ||
		strings.ContainsFunc(dir, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		r.problem(line, `write it as "/app"`, "%s %q is not an absolute path", key, dir)
	}
}
