package buildsettings

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Service is a container beside that of a build, such as a database that its tests use.
// It has the network of the build, and is there before the first command.
type Service struct {
	Name        string // by which the build reaches it
	Line        int    // in the file, for messages
	Image       string
	Entrypoint  []string // nil: the image's, as Command
	Command     []string
	Environment map[string]string
	Health      Health
}

// Health says when a service is ready.
type Health struct {
	Test        []string // argv, of a command in its container; nil: the HEALTHCHECK of its image
	None        bool     // it is not waited for
	Interval    time.Duration
	Timeout     time.Duration // of one try
	StartPeriod time.Duration // in which no failed try counts
	Retries     int           // failed tries, one after the other, until it counts as unhealthy
}

// Settings is the digest of all that a service is made of but for its name and image.
func (s Service) Settings() string {
	data, _ := json.Marshal([]any{s.Entrypoint, s.Command, s.Environment, s.Health}) // nothing in it could not be
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}

// Bounds and defaults of services.
const (
	maxServices = 8
	maxWords    = 100 // of an entrypoint, a command or a test

	defaultInterval = time.Second
	defaultTimeout  = 10 * time.Second
	defaultRetries  = 60
)

var (
	serviceForm = regexp.MustCompile(`^[a-z0-9]+(-+[a-z0-9]+)*$`)
	// A registry, a path, a tag, a digest. It takes long to compile.
	imageForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*` +
			`(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	})
	secretForm  = regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_./-]*$`)
	serviceKeys = []string{"image", "entrypoint", "command", "environment", "healthcheck"}
	healthKeys  = []string{"test", "interval", "timeout", "retries", "start_period", "disable"}

	// elsewhere are keys of compose files that say what is so of itself here, or cannot be.
	elsewhere = map[string]string{
		"ports":          "remove it: the build reaches every port, at the service's name",
		"expose":         "remove it: the build reaches every port, at the service's name",
		"networks":       "remove it: a service has the network of its build",
		"container_name": "remove it: a service is reached by the name of its key",
		"volumes":        "remove it: what a service writes ends with the build",
		"build":          "name an image that is there",
		"depends_on":     "remove it: services start together, and commands wait for all of them",
		"restart":        "remove it: a service that ends has failed",
		"env_file":       "write them below environment",
	}
)

// ValidImage reports whether an engine can take this for the name of an image.
func ValidImage(name string) bool { return imageForm().MatchString(name) }

// RegistryOf is the host, and port, of the registry of an image.
func RegistryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return "docker.io"
	}
	return host
}

// ReadRegistries reads by which secret each registry is entered, of which images are.
func ReadRegistries(file string, n *yaml.Node, under string, images []string) (map[string]string, yamlfile.Problems) {
	r := reader{file: file, under: under}
	if n.Kind == 0 || !r.mapping(n, "registries", "registries: {ghcr.io: registry-login}") {
		return nil, r.problems
	}
	all := map[string]string{}
	for key, value := range yamlfile.Pairs(n) {
		host, name := key.Value, value.Value
		if value.Kind != yaml.ScalarNode || !secretForm.MatchString(name) || len(name) > 100 {
			r.problem(value, "use letters, digits, and . _ / -", "%s.registries: %q is not the name of a secret", under, name)
		}
		if !slices.ContainsFunc(images, func(i string) bool { return RegistryOf(i) == host }) {
			r.problem(key, "correct its name, or leave it out", "%s.registries: no image of the build is of %s", under, host)
		}
		all[host] = name
	}
	return all, r.problems
}

// ReadServices reads services, at the dotted path under.
func ReadServices(file string, n *yaml.Node, under string) (all []Service, ps yamlfile.Problems) {
	r := reader{file: file, under: under}
	if n.Kind == 0 || !r.mapping(n, "services", `"db: {image: postgres:17}" below it`) {
		return nil, r.problems
	}
	for key, value := range yamlfile.Pairs(n) {
		if len(all) == maxServices {
			r.problem(key, "have one of them do what another does, too", "%s.services has more than %d services",
				under, maxServices)
			break
		}
		if s, ok := r.service(key, value); ok {
			all = append(all, s)
		}
	}
	return all, r.problems
}

func (r *reader) service(key, n *yaml.Node) (s Service, ok bool) {
	s = Service{Name: key.Value, Line: key.Line, Health: Health{
		Interval: defaultInterval,
		Timeout:  defaultTimeout,
		Retries:  defaultRetries,
	}}
	where := "services." + s.Name
	if !serviceForm.MatchString(s.Name) || len(s.Name) > 63 || s.Name == "localhost" {
		r.problem(key, "use small letters, digits and '-', at most 63", "%q is not a name for a host", s.Name)
	}
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		r.problem(n, "write {image: postgres:17}", "%s.%s is not a mapping", r.under, where)
		return s, false
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for k, v := range yamlfile.Pairs(n) {
		at := where + "." + k.Value
		switch k.Value {
		case "image":
			s.Image = v.Value
			if v.Kind != yaml.ScalarNode || !ValidImage(s.Image) {
				r.problem(v, "write a name such as postgres:17", "%q is not the name of an image", s.Image)
			}
		case "entrypoint":
			s.Entrypoint = r.words(v, at)
		case "command":
			s.Command = r.words(v, at)
		case "environment":
			s.Environment = r.environment(v, at)
		case "healthcheck":
			r.health(&s.Health, v, at)
		default:
			if fix, known := elsewhere[k.Value]; known {
				r.problem(k, fix, "%s.%s is not for services of a build", r.under, at)
				continue
			}
			r.problems = append(r.problems, yamlfile.UnknownKey(r.file, k, r.under+"."+where, serviceKeys))
		}
	}
	if s.Image == "" {
		r.problem(key, "write image: postgres:17", "%s.%s names no image", r.under, where)
	}
	return s, true
}

// words reads a list of them.
func (r *reader) words(n *yaml.Node, at string) (words []string) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxWords {
		r.problem(n, "write [program, argument]", "%s.%s is not a list of 1 to %d words", r.under, at, maxWords)
		return nil
	}
	for _, w := range n.Content {
		if w.Kind != yaml.ScalarNode || len(w.Value) > maxValue || strings.ContainsRune(w.Value, 0) {
			r.problem(w, "write it as text", "%s.%s has a word that is not text, or too long", r.under, at)
			continue
		}
		words = append(words, w.Value)
	}
	return words
}

// environment reads {NAME: value} or [NAME=value].
func (r *reader) environment(n *yaml.Node, at string) map[string]string {
	all := map[string]string{}
	set := func(at *yaml.Node, name, value string) {
		if !variableForm.MatchString(name) || len(value) > maxValue || strings.ContainsRune(value, 0) {
			r.problem(at, "use letters, digits and '_'", "%q is not a variable", name)
			return
		}
		all[name] = value
	}
	switch n.Kind {
	case yaml.MappingNode:
		r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
		for key, value := range yamlfile.Pairs(n) {
			if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
				r.problem(value, "write its value as text", "variable %s is not text", key.Value)
				continue
			}
			set(key, key.Value, value.Value)
		}
	case yaml.SequenceNode:
		for _, v := range n.Content {
			name, value, ok := strings.Cut(v.Value, "=")
			if v.Kind != yaml.ScalarNode || !ok {
				r.problem(v, "write NAME=value", "%s.%s has %q, which sets nothing", r.under, at, v.Value)
				continue
			}
			set(v, name, value)
		}
	default:
		r.problem(n, "write {NAME: value}", "%s.%s is not a mapping", r.under, at)
	}
	if len(all) > maxVariables {
		r.problem(n, "have the image bring them", "%s.%s has %d variables, over %d", r.under, at, len(all), maxVariables)
	}
	return all
}

func (r *reader) health(h *Health, n *yaml.Node, at string) {
	if n.Kind != yaml.MappingNode {
		r.problem(n, `write {test: ["CMD", "pg_isready"]}`, "%s.%s is not a mapping", r.under, at)
		return
	}
	r.problems = append(r.problems, yamlfile.DuplicateKeys(r.file, n)...)
	for k, v := range yamlfile.Pairs(n) {
		switch k.Value {
		case "test":
			h.Test, h.None = r.test(v, at+".test")
		case "interval":
			h.Interval = r.duration(v, at+".interval", 100*time.Millisecond)
		case "timeout":
			h.Timeout = r.duration(v, at+".timeout", 100*time.Millisecond)
		case "start_period":
			h.StartPeriod = r.duration(v, at+".start_period", 0)
		case "retries":
			if err := v.Decode(&h.Retries); err != nil || h.Retries < 1 || h.Retries > 1000 {
				r.problem(v, "write a number such as 60", "%s.%s.retries is not a number from 1 to 1000", r.under, at)
			}
		case "disable":
			var yes bool
			if err := v.Decode(&yes); err != nil {
				r.problem(v, "write true or false", "%s.%s.disable is %q", r.under, at, v.Value)
			}
			h.None = h.None || yes
		default:
			r.problems = append(r.problems, yamlfile.UnknownKey(r.file, k, r.under+"."+at, healthKeys))
		}
	}
}

// test reads text for a shell, or a list that begins with CMD, CMD-SHELL or NONE.
func (r *reader) test(n *yaml.Node, at string) (argv []string, none bool) {
	if n.Kind == yaml.ScalarNode && n.Value != "" {
		return []string{"/bin/sh", "-c", n.Value}, false
	}
	words := r.words(n, at)
	switch {
	case len(words) == 0:
		return nil, false // which was said
	case slices.Equal(words, []string{"NONE"}):
		return nil, true
	case words[0] == "CMD" && len(words) > 1:
		return words[1:], false
	case words[0] == "CMD-SHELL" && len(words) == 2:
		return []string{"/bin/sh", "-c", words[1]}, false
	}
	r.problem(n, `write ["CMD", program, arguments], ["CMD-SHELL", "command line"] or ["NONE"]`,
		"%s.%s begins with none of CMD, CMD-SHELL, NONE", r.under, at)
	return nil, false
}

func (r *reader) duration(n *yaml.Node, at string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(n.Value)
	if err != nil || d < least || d > time.Hour {
		r.problem(n, "write a number and a unit, such as 500ms or 5s", "%s.%s is %q, which is not a time from %s to 1h",
			r.under, at, n.Value, least)
		return least
	}
	return d
}
