package services

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
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
	Secrets     []Secret      `json:",omitempty"`
	Limits      Limits        // of processes; a container has its own
	Artifact    string        // empty: the release's only one, or the one named like the service

	Cron string `json:",omitempty"` // when it runs, one instance at a time; empty: always
	Zone string `json:",omitempty"` // of Cron; empty is UTC

	MaxTime time.Duration `json:",omitempty"` // of one run of what ends; 0 is no bound

	HTTP2 bool // instances speak HTTP/2 in clear

	// Proxy is no part of what an instance is made of, nor of what is on record of it.
	Proxy Proxy `json:"-"`

	// Needs are those that the first instances of a version wait for.
	Needs []rollout.Need `json:"-"`

	artifactAt place
	passes     *int // as x-headgate says, if it does
	healthyFor *time.Duration
	cronAt     *yaml.Node // of Cron
	maxTimeAt  *yaml.Node // of MaxTime
	restarts   bool       // what becomes of an instance that ends is said
	overlaps   bool       // instances of two versions may share its volumes
}

// place is where something is said, for messages.
type place struct {
	file string // in the application's directory
	line int
}

// Port is where the proxy listens for a service.
type Port struct {
	HostIP string // "" is the target's Address
	Host   int    // 0 is any free one, kept while the server lives

	at place
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
	URL     string   // HTTP GET, likewise; of something else than a service
	rollout.Check

	unsaid bool // Timeout is a default
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
	defaultTimeout   = 5 * time.Second
	commandTimeout   = 10 * time.Second // to enter a container takes seconds on a busy machine
	defaultRetries   = 3
	defaultStart     = 10 * time.Second
	defaultPasses    = 2
	aliveStartPeriod = time.Second // without a check: so long alive is healthy
	aliveHealthyFor  = 10 * time.Second
)

// composeFile is what an application's directory must hold.
const composeFile = "compose.yaml"

var errNoCompose = errors.New("there is no " + composeFile + ", and no " + taskFile +
	"; add one to the environment's path, and promote a release that has it")

// Reads are the names of files that Check looks at: those that count, and others that
// people take for them. What they name themselves is what Wants says.
var Reads = []string{
	composeFile, "compose.override.yaml", "compose.override.yml", ".env",
	taskFile, serviceFile, appspecFile, "appspec.yml", "appspec.json", definitionsFile, detailFile,
	"compose.yml", "docker-compose.yaml", "docker-compose.yml",
}

// Wants are the files and directories, by their paths in an application's directory,
// that its files name and that are not among them.
func Wants(files target.Files) []string {
	p := newParser("", files)
	p.application()
	return slices.Sorted(maps.Keys(p.missing))
}

// Check says what is wrong with the files of an application's directory.
func Check(dir string, files target.Files) (problems, warnings yamlfile.Problems) {
	if !declares(files) {
		p := yamlfile.Problem{
			File: path.Join(dir, composeFile),
			What: "is not there",
			Fix:  "add it, or a " + taskFile + " of ECS, or name its directory with path: in headgate.yaml",
		}
		for _, name := range Reads[1:] {
			if _, there := files[name]; there && strings.HasSuffix(strings.TrimSuffix(name, path.Ext(name)), "compose") {
				p.Fix = "rename " + path.Join(dir, name) + " to " + composeFile
			}
		}
		return yamlfile.Problems{p}, nil
	}
	c, warnings, err := Read(dir, files)
	problems, _ = yamlfile.ProblemsIn(err)
	if c == nil {
		return problems, warnings
	}
	return append(problems, missingPages(c, dir, files)...), warnings
}

// Read reads what the files of an application's directory declare: dir is its path,
// for messages. Of the Compose specification it takes what it can carry out, and says
// of everything else what to write instead. Warnings name what is read and has no
// effect. The error is yamlfile.Problems.
func Read(dir string, files target.Files) (c *Compose, warnings yamlfile.Problems, err error) {
	p := newParser(dir, files)
	c = p.application()
	if err := p.problems.Err(); err != nil {
		return nil, p.warnings, err
	}
	return c, p.warnings, nil
}

// declares reports whether there is one of the files that declare an application.
func declares(files target.Files) bool {
	_, compose := files[composeFile]
	_, task := files[taskFile]
	return compose || task
}

func (p *parser) application() *Compose {
	c := &Compose{}
	if _, ok := p.files[taskFile]; ok {
		if _, both := p.files[composeFile]; both {
			p.problems = append(p.problems, yamlfile.Problem{
				File: path.Join(p.dir, taskFile),
				What: "is beside a " + composeFile,
				Fix:  "keep the one that is to run",
			})
		}
		return p.task()
	}
	top := p.compose()
	if top == nil {
		return c
	}
	p.resources = map[string]map[string]*yaml.Node{}
	for key, v := range yamlfile.Pairs(top) {
		switch key.Value {
		case "volumes", "secrets", "configs", "networks":
			p.resource(key, v)
		}
	}
	for key, v := range yamlfile.Pairs(top) {
		if key.Value == "services" {
			c.Services = p.services(v)
		}
	}
	for key, v := range yamlfile.Pairs(top) {
		if key.Value == "x-headgate" {
			p.deployments(c, v)
		}
	}
	if len(p.problems) == 0 && len(c.Services) == 0 {
		p.problem(top, `write one under "services:", such as "web: {command: ./web, ports: [\"8000:80\"]}"`,
			"declares no service")
	}
	slices.SortFunc(c.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// mapping checks that a node is a mapping with known keys, each once. Unsupported
// says what to do about keys that Compose has and this subset has not.
func (p *parser) mapping(n *yaml.Node, what string, known []string, unsupported, harmless map[string]string) bool {
	if n.Kind != yaml.MappingNode {
		p.problem(n, `write "key: value" lines below it`, "%s is %s, where a mapping belongs", what, yamlfile.Describe(n))
		return false
	}
	p.problems = append(p.problems, yamlfile.DuplicateKeys(p.fileOf(n), n)...)
	for key := range yamlfile.Pairs(n) {
		if slices.Contains(known, key.Value) {
			continue
		}
		if why, ok := harmless[key.Value]; ok {
			p.warnings = append(p.warnings, yamlfile.Problem{
				File: p.fileOf(key),
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
		p.problems = append(p.problems, yamlfile.UnknownKey(p.fileOf(key), key, what, slices.Clone(known)))
	}
	return true
}

func (p *parser) duration(n *yaml.Node, what string, low, high time.Duration) time.Duration {
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
