package services

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// Compose is what a compose.yaml declares.
type Compose struct {
	Services   []Service // by name
	Deployment Deployment
}

// Service is one service of a compose.yaml: containers of an image, or supervised
// processes that run from the release's artifact.
type Service struct {
	Name        string
	Container   *Container        `json:",omitempty"` // nil: processes of the release's files
	Command     []string          // argv; variables not yet replaced
	Environment map[string]string // variables not yet replaced
	WorkingDir  string            // in the artifact or container; empty is its top, or the image's
	Ports       []Port
	Replicas    int
	Health      Health
	Drain       time.Duration // how long requests in flight may take
	Restart     rollout.Restart
	StopSignal  syscall.Signal
	StopGrace   time.Duration // from StopSignal to SIGKILL
	Artifact    string        // empty: the release's only one, or the one named like the service

	HTTP2 bool // instances speak HTTP/2 in clear

	// Proxy is no part of what an instance is made of, nor of what is on record of it.
	Proxy Proxy `json:"-"`

	passes     *int // as x-headgate says, if it does
	healthyFor *time.Duration
}

// Port is where the proxy listens for a service.
type Port struct {
	HostIP string // "" is the target's Address
	Host   int    // 0 is any free one, kept while the server lives

	line int // in the file, for messages
}

func (p Port) String() string {
	if p.HostIP == "" {
		return strconv.Itoa(p.Host)
	}
	return net.JoinHostPort(p.HostIP, strconv.Itoa(p.Host))
}

// on is where it listens, for a target with an address.
func (p Port) on(address netip.Addr) string {
	return net.JoinHostPort(cmp.Or(p.HostIP, address.String()), strconv.Itoa(p.Host))
}

// Health is how the instances of a service are checked: by the first of Path,
// Test and Connect that is set; with none, an instance is healthy when it lives.
type Health struct {
	Path    string   // HTTP GET, 2xx and 3xx are healthy
	Test    []string // a command in the instance's sandbox, exit status 0 is healthy
	Connect bool     // a TCP connection succeeds
	rollout.Check
}

// Limits of one file.
const (
	maxServices = 50
	maxReplicas = 100
	maxPorts    = 10
)

// Defaults, where a service says nothing.
const (
	defaultDrain     = 10 * time.Second
	defaultGrace     = 10 * time.Second
	defaultInterval  = 2 * time.Second
	commandInterval  = 5 * time.Second // a command costs more than a request
	defaultTimeout   = 2 * time.Second
	defaultRetries   = 3
	defaultStart     = 10 * time.Second
	defaultPasses    = 2
	aliveStartPeriod = time.Second // without a check: so long alive is healthy
	aliveHealthyFor  = 10 * time.Second
)

// composeFile is what an application's directory must hold.
const composeFile = "compose.yaml"

var errNoCompose = errors.New("there is no " + composeFile + "; add one to the environment's path, and promote a release that has it")

// Reads are the names of the files that Check looks at: the one that counts, and
// others that people take for it.
var Reads = []string{composeFile, "compose.yml", "docker-compose.yaml", "docker-compose.yml"}

// Check says what is wrong with the files of an application's directory.
func Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	file := path.Join(dir, composeFile)
	data, ok := files[composeFile]
	if !ok {
		p := yamlfile.Problem{File: file, What: "is not there", Fix: "add it, or name its directory with path: in headgate.yaml"}
		for _, name := range Reads[1:] {
			if _, there := files[name]; there {
				p.Fix = "rename " + path.Join(dir, name) + " to " + composeFile
			}
		}
		return yamlfile.Problems{p}, nil
	}
	c, warnings, err := Parse(file, data)
	problems, _ = yamlfile.ProblemsIn(err)
	return append(problems, missingPages(c, dir, files)...), warnings
}

// Parse reads a compose.yaml: the subset of the Compose specification that makes
// sense for supervised processes. Warnings name what is read and has no effect.
// The error is yamlfile.Problems.
func Parse(file string, data []byte) (c *Compose, warnings yamlfile.Problems, err error) {
	top, err := yamlfile.ParseAliased(file, data)
	if err != nil {
		return nil, nil, err
	}
	p := &composeParser{file: file}
	c = &Compose{}
	if !p.mapping(top, "compose.yaml", []string{"services", "name", "version", "x-headgate"}, nil, nil) {
		return nil, p.warnings, p.problems
	}
	for key, value := range yamlfile.Pairs(top) {
		if key.Value == "services" {
			c.Services = p.services(value)
		}
	}
	for key, value := range yamlfile.Pairs(top) {
		if key.Value == "x-headgate" {
			p.application(c, value)
		}
	}
	if len(p.problems) == 0 && len(c.Services) == 0 {
		p.problem(top, `write one under "services:", such as "web: {command: ./web, ports: [\"8000:80\"]}"`, "declares no service")
	}
	if err := p.problems.Err(); err != nil {
		return nil, p.warnings, err
	}
	slices.SortFunc(c.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return c, p.warnings, nil
}

type composeParser struct {
	file     string
	problems yamlfile.Problems
	warnings yamlfile.Problems
}

func (p *composeParser) problem(at *yaml.Node, fix, format string, args ...any) {
	p.problems = append(p.problems, yamlfile.Problem{File: p.file, Line: at.Line, What: fmt.Sprintf(format, args...), Fix: fix})
}

// mapping checks that a node is a mapping with known keys, each once. Unsupported
// says what to do about keys that Compose has and this subset has not.
func (p *composeParser) mapping(n *yaml.Node, what string, known []string, unsupported, harmless map[string]string) bool {
	if n.Kind != yaml.MappingNode {
		p.problem(n, `write "key: value" lines below it`, "%s is %s, where a mapping belongs", what, yamlfile.Describe(n))
		return false
	}
	p.problems = append(p.problems, yamlfile.DuplicateKeys(p.file, n)...)
	for key := range yamlfile.Pairs(n) {
		if slices.Contains(known, key.Value) {
			continue
		}
		if why, ok := harmless[key.Value]; ok {
			p.warnings = append(p.warnings, yamlfile.Problem{
				File: p.file,
				Line: key.Line,
				What: fmt.Sprintf("%s.%s has no effect here", what, key.Value),
				Fix:  why,
			})
			continue
		}
		if fix, ok := unsupported[key.Value]; ok {
			p.problem(key, fix, "%s: %q is not supported", what, key.Value)
			continue
		}
		if strings.HasPrefix(key.Value, "x-") && key.Value != "x-headgate" {
			if near, ok := yamlfile.Nearest(key.Value, []string{"x-headgate"}); !ok || near == "" {
				continue // somebody else's extension
			}
		}
		p.problems = append(p.problems, yamlfile.UnknownKey(p.file, key, what, slices.Clone(known)))
	}
	return true
}

// scalar is the text of a scalar that is not null.
func (p *composeParser) scalar(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.problem(n, "write text or a number", "%s is %s, where text belongs", what, yamlfile.Describe(n))
		return "", false
	}
	if strings.ContainsRune(n.Value, 0) {
		p.problem(n, "remove it", "%s holds a NUL byte", what)
		return "", false
	}
	return n.Value, true
}

func (p *composeParser) integer(n *yaml.Node, what string, low, high int) int {
	text, ok := p.scalar(n, what)
	if !ok {
		return low
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < low || v > high {
		p.problem(n, fmt.Sprintf("write a number from %d to %d", low, high), "%s is %q", what, text)
		return low
	}
	return v
}

func (p *composeParser) duration(n *yaml.Node, what string, low, high time.Duration) time.Duration {
	text, ok := p.scalar(n, what)
	if !ok {
		return low
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		p.problem(n, `write it like "500ms", "10s" or "1m30s"`, "%s is %q, which is not a duration", what, text)
		return low
	}
	if d < low || d > high {
		p.problem(n, fmt.Sprintf("write a duration from %s to %s", low, high), "%s is %s", what, d)
		return low
	}
	return d
}

var serviceName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`) })

func (p *composeParser) services(n *yaml.Node) (all []Service) {
	if n.Kind != yaml.MappingNode {
		p.problem(n, `write a service below it, such as "web: {command: ./web, ports: [\"8000:80\"]}"`, `"services" is %s, where a mapping belongs`, yamlfile.Describe(n))
		return nil
	}
	p.problems = append(p.problems, yamlfile.DuplicateKeys(p.file, n)...)
	taken, routes := map[string]string{}, map[string]string{}
	for key, value := range yamlfile.Pairs(n) {
		if !serviceName().MatchString(key.Value) {
			p.problem(key, "use lower-case letters, digits, _ and -, at most 40", "service name %q", key.Value)
			continue
		}
		if len(all) == maxServices {
			p.problem(key, "split the application", "declares more than %d services", maxServices)
			break
		}
		s := p.service(key, value)
		for _, port := range s.Ports {
			at := port.String()
			by, ok := taken[at]
			switch {
			case ok && port.Host != 0 && len(s.Proxy.Routes) == 0:
				p.problem(value, "give each its own, or say which requests are for which with x-headgate: {routes: [/api]}",
					"services %q and %q both want port %s", by, s.Name, at)
			case len(s.Proxy.Routes) == 0:
				taken[at] = s.Name
			}
			p.routesOf(value, s, at, routes)
		}
		all = append(all, s)
	}
	return all
}

const noContainers = "containers are not in this version; leave it out and the command runs from the release's artifact"

var serviceKeys = []string{"command", "environment", "ports", "deploy", "healthcheck", "stop_grace_period", "stop_signal", "working_dir", "restart", "x-headgate"}

var unsupportedService = map[string]string{
	"image":        noContainers,
	"build":        noContainers,
	"volumes":      "the artifact is read-only and /tmp is private; keep data in a service outside, reached by an address in environment",
	"tmpfs":        "/tmp is private and writable already",
	"depends_on":   "services start side by side; let the process retry until what it needs answers",
	"networks":     "services share the machine's network; reach each other on the ports the proxy listens on",
	"network_mode": "services share the machine's network",
	"env_file":     "write the variables under environment",
	"entrypoint":   "put the whole command line under command",
	"user":         "instances run as the server's user without privileges; leave it out",
	"secrets":      "a compose.yaml in Git is no place for secrets, and there is no store for them in this version",
	"configs":      "put the files into the artifact",
	"scale":        "write deploy: {replicas: N}",
	"extends":      "write the service out",
	"profiles":     "leave the service out of this environment's directory",
	"privileged":   "instances run without privileges",
	"cap_add":      "instances run without privileges",
}

// harmlessService are keys that say nothing about how a process has to run. Files
// that are also given to Compose have them.
var harmlessService = map[string]string{
	"annotations":    "",
	"attach":         "",
	"container_name": "instances are named by service and number",
	"expose":         "an instance listens on $PORT",
	"hostname":       "an instance's host name is its own",
	"domainname":     "",
	"init":           "what an instance leaves behind is reaped already",
	"labels":         "",
	"logging":        "the output of every instance is kept already",
	"platform":       "",
	"pull_policy":    "",
	"stdin_open":     "an instance's input is empty",
	"tty":            "an instance's output goes to its log",
}

func (p *composeParser) service(key, n *yaml.Node) Service {
	s := Service{Name: key.Value, Replicas: 1, Drain: defaultDrain, StopGrace: defaultGrace, StopSignal: syscall.SIGTERM, Environment: map[string]string{}}
	where := "services." + s.Name
	if !p.mapping(n, where, serviceKeys, unsupportedService, harmlessService) {
		return s
	}
	var health, extension *yaml.Node
	for key, v := range yamlfile.Pairs(n) {
		what := where + "." + key.Value
		switch key.Value {
		case "command":
			s.Command = p.command(v, what)
		case "environment":
			s.Environment = p.environment(v, what)
		case "ports":
			s.Ports = p.ports(v, what)
		case "deploy":
			if p.mapping(v, what, []string{"replicas"}, map[string]string{
				"resources": "there are no limits in this version; leave it out", "update_config": "write x-headgate: {deployment: {strategy: rolling, minimum_healthy: 100, maximum: 200}} beside services",
				"rollback_config": "what a deployment gives up goes back by itself; x-headgate: {deployment: …} beside services says when",
				"restart_policy":  "write restart: always, on-failure or \"no\" beside deploy",
			}, map[string]string{"mode": "", "placement": "there is one machine", "labels": ""}) {
				for k, r := range yamlfile.Pairs(v) {
					if k.Value == "replicas" {
						s.Replicas = p.integer(r, what+".replicas", 0, maxReplicas)
					}
				}
			}
		case "restart":
			s.Restart = p.restart(v, what)
		case "healthcheck":
			health = v
		case "x-headgate":
			extension = v
		case "stop_grace_period":
			s.StopGrace = p.duration(v, what, 0, 10*time.Minute)
		case "stop_signal":
			s.StopSignal = p.signal(v, what)
		case "working_dir":
			s.WorkingDir = p.workingDir(v, what)
		}
	}
	if s.Command == nil && !slices.ContainsFunc(p.problems, func(q yamlfile.Problem) bool { return strings.HasPrefix(q.What, where+".command") }) {
		p.problem(key, `write the program to run and its arguments, such as "command: ./web"`, "%s has no command", where)
	}
	p.extension(&s, extension, where+".x-headgate")
	p.health(&s, health, where+".healthcheck")
	return s
}

func (p *composeParser) command(n *yaml.Node, what string) (argv []string) {
	switch n.Kind {
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if word, ok := p.scalar(c, what); ok {
				argv = append(argv, word)
			}
		}
	default:
		text, ok := p.scalar(n, what)
		if !ok {
			return nil
		}
		var err error
		if argv, err = shellWords(text); err != nil {
			p.problem(n, "write it as a list", "%s: %v", what, err)
			return nil
		}
	}
	if len(argv) == 0 || argv[0] == "" {
		p.problem(n, "write the program to run and its arguments", "%s is empty", what)
		return nil
	}
	for _, w := range argv {
		p.variables(n, w, what)
	}
	return argv
}

func (p *composeParser) variables(n *yaml.Node, text, what string) {
	if _, err := interpolate(text, nil); err != nil {
		p.problem(n, `write "$$" for a dollar sign that is meant for the program`, "%s: %v", what, err)
	}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p *composeParser) environment(n *yaml.Node, what string) map[string]string {
	env := map[string]string{}
	set := func(at *yaml.Node, name, value string) {
		switch {
		case !variableName.MatchString(name):
			p.problem(at, "use letters, digits and _", "%s: variable name %q", what, name)
		case name == "PORT" || strings.HasPrefix(name, "HEADGATE_"):
			p.problem(at, "leave it out, or give yours another name", "%s: %s is set by headgate", what, name)
		default:
			p.variables(at, value, what+"."+name)
			env[name] = value
		}
	}
	switch n.Kind {
	case yaml.MappingNode:
		p.problems = append(p.problems, yamlfile.DuplicateKeys(p.file, n)...)
		for key, v := range yamlfile.Pairs(n) {
			if v.Kind == yaml.ScalarNode && v.Tag == "!!null" {
				p.problem(v, "write its value", "%s: %s has none, and nothing is taken from the server's environment", what, key.Value)
			} else if value, ok := p.scalar(v, what+"."+key.Value); ok {
				set(key, key.Value, value)
			}
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			text, ok := p.scalar(c, what)
			if !ok {
				continue
			}
			name, value, ok := strings.Cut(text, "=")
			if !ok {
				p.problem(c, `write "NAME=value"`, "%s: %s has no value, and nothing is taken from the server's environment", what, name)
				continue
			}
			if _, twice := env[name]; twice {
				p.problem(c, "keep one of them", "%s: %s is set twice", what, name)
			}
			set(c, name, value)
		}
	default:
		p.problem(n, `write "NAME: value" lines`, "%s is %s, where a mapping or a list belongs", what, yamlfile.Describe(n))
	}
	return env
}

// restart reads what becomes of an instance that ends. Where Compose takes "no" for
// granted, a service that says nothing is kept running.
func (p *composeParser) restart(n *yaml.Node, what string) (r rollout.Restart) {
	text, ok := p.scalar(n, what)
	if !ok {
		return r
	}
	policy, most, counted := strings.Cut(text, ":")
	switch {
	case text == "always" || text == "unless-stopped":
		return r
	case text == "no" || text == "false": // YAML takes an unquoted no for false
		return rollout.Restart{Never: true}
	case policy == "on-failure":
		r.OnFailure = true
		if !counted {
			return r
		}
		var err error
		if r.Most, err = strconv.Atoi(most); err == nil && r.Most > 0 {
			return r
		}
	}
	p.problem(n, `write always, on-failure, on-failure:3 or "no"`, "%s is %q", what, text)
	return r
}

var signals = map[string]syscall.Signal{
	"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT, "SIGHUP": syscall.SIGHUP,
	"SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGKILL": syscall.SIGKILL, "SIGWINCH": syscall.SIGWINCH,
}

func (p *composeParser) signal(n *yaml.Node, what string) syscall.Signal {
	text, ok := p.scalar(n, what)
	if !ok {
		return syscall.SIGTERM
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	sig, ok := signals[name]
	if !ok {
		p.problem(n, "use one of SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH", "%s: %q is not a signal to stop with", what, text)
		return syscall.SIGTERM
	}
	return sig
}

func (p *composeParser) workingDir(n *yaml.Node, what string) string {
	text, ok := p.scalar(n, what)
	if !ok {
		return ""
	}
	if strings.HasPrefix(text, "/") || slices.Contains(strings.Split(text, "/"), "..") {
		p.problem(n, `write a directory of the artifact, such as "app"`, "%s: %q is outside the artifact", what, text)
		return ""
	}
	return text
}

func (p *composeParser) extension(s *Service, n *yaml.Node, what string) {
	if n == nil || !p.mapping(n, what, slices.Concat([]string{"health", "drain", "artifact", "passes", "healthy_for"}, proxyKeys), nil, nil) {
		return
	}
	for key, v := range yamlfile.Pairs(n) {
		switch key.Value {
		case "health":
			path, ok := p.scalar(v, what+".health")
			switch {
			case !ok:
			case !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \t\r\n#"):
				p.problem(v, `write the path to request, such as "/healthz"`, "%s.health: %q is not a path", what, path)
			case len(s.Ports) == 0:
				p.problem(v, "add ports, or use healthcheck with a test command", "%s.health: the service has no ports", what)
			default:
				s.Health.Path = path
			}
		case "drain":
			s.Drain = p.duration(v, what+".drain", 0, time.Hour)
		case "passes":
			n := p.integer(v, what+".passes", 1, 100)
			s.passes = &n
		case "healthy_for":
			d := p.duration(v, what+".healthy_for", 0, time.Hour)
			s.healthyFor = &d
		case "artifact":
			s.Artifact, _ = p.scalar(v, what+".artifact")
		default:
			p.proxy(s, key.Value, v, what+"."+key.Value)
		}
	}
}
