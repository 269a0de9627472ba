package services

import (
	"cmp"
	"maps"
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
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

var serviceName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`) })

func (p *parser) services(n *yaml.Node) (all []Service) {
	if n.Kind != yaml.MappingNode {
		p.problem(n, `write a service below it, such as "web: {command: ./web, ports: [\"8000:80\"]}"`,
			`"services" is %s, where a mapping belongs`, yamlfile.Describe(n))
		return nil
	}
	p.problems = append(p.problems, yamlfile.DuplicateKeys(p.fileOf(n), n)...)
	idle := p.idle(n)
	needs := map[string][]need{}
	taken, routes := map[string]string{}, map[string]string{}
	first := map[string]Service{} // at a port
	for key, v := range yamlfile.Pairs(n) {
		if !serviceName().MatchString(key.Value) {
			p.problem(key, "use lower-case letters, digits, _ and -, at most 40", "service name %q", key.Value)
			continue
		}
		if idle[key.Value] {
			continue
		}
		if len(all) == maxServices {
			p.problem(key, "split the application", "declares more than %d services", maxServices)
			break
		}
		s := p.service(key, v)
		needs[s.Name] = p.needs(value(v, "depends_on"), "services."+s.Name+".depends_on")
		for _, port := range s.Ports {
			at := port.String()
			by, ok := taken[at]
			switch {
			case ok && port.Host != 0 && len(s.Proxy.Routes) == 0:
				p.problem(v, "give each its own, or say which requests are for which with x-headgate: {routes: [/api]}",
					"services %q and %q both want port %s", by, s.Name, at)
			case len(s.Proxy.Routes) == 0:
				taken[at] = s.Name
			}
			p.routesOf(v, s, at, routes)
			other, shared := first[at]
			switch {
			case !shared:
				first[at] = s
			case port.Host != 0 && other.Proxy.ACME != s.Proxy.ACME:
				p.problem(v, "say it of both, or give each its own port",
					"services %q and %q share port %s, and one of them has tls: acme", other.Name, s.Name, at)
			}
		}
		all = append(all, s)
	}
	p.dependencies(all, needs, idle)
	return all
}

// Why some keys are refused.
const (
	noBuild    = "the release's build makes images: write images: {web: …} in headgate.yaml, and image: web here"
	noBounds   = "it would let the service out of its bounds on the machine"
	oneNetwork = "the services of an application are in one network, where each is found by its name"
	noDevices  = "instances get no devices of the machine"
	noProcess  = "only a service with an image has it"
)

var serviceKeys = []string{
	"command", "environment", "env_file", "ports", "deploy", "scale", "healthcheck", "stop_grace_period",
	"mem_limit", "cpus", "pids_limit",
	"stop_signal", "working_dir",
	"restart", "depends_on", "profiles", "secrets", "x-headgate",
}

// neverSupported are keys that neither processes nor containers have.
var neverSupported = map[string]string{
	"build":               noBuild,
	"network_mode":        oneNetwork,
	"links":               oneNetwork,
	"external_links":      "reach what is elsewhere by an address in environment",
	"volumes_from":        "name the volume under volumes of both services",
	"label_file":          "write the labels under labels",
	"privileged":          "instances run without privileges",
	"devices":             noDevices,
	"device_cgroup_rules": noDevices,
	"gpus":                noDevices,
	"use_api_socket":      noBounds,
	"cgroup":              noBounds,
	"cgroup_parent":       noBounds,
	"ipc":                 noBounds,
	"pid":                 noBounds,
	"uts":                 noBounds,
	"userns_mode":         noBounds,
	"runtime":             "the machine's own container runtime is used",
	"isolation":           "the machine's own container runtime is used",
	"credential_spec":     "only Windows has it",
	"mac_address":         oneNetwork,
	"dns_opt":             "write the name servers under dns",
	"dns_search":          "write names out",
	"blkio_config":        "limit memory, cpus and pids",
	"storage_opt":         "limit memory, cpus and pids",
	"cpu_count":           "write cpus",
	"cpu_percent":         "write cpus",
	"cpu_period":          "write cpus",
	"cpu_quota":           "write cpus",
	"cpu_rt_period":       "write cpus",
	"cpu_rt_runtime":      "write cpus",
	"cpuset":              "write cpus",
	"mem_swappiness":      "write deploy: {resources: {limits: {memory: …}}}: what is over it is ended, and nothing is swapped",
	"memswap_limit":       "write deploy: {resources: {limits: {memory: …}}}: what is over it is ended, and nothing is swapped",
	"oom_kill_disable":    "an instance that is over its memory ends, and is started again",
	"oom_score_adj":       "limit memory",
	"post_start":          "have the program do it when it starts, or a service that others depend on",
	"pre_stop":            "have the program do it when it gets stop_signal",
	"models":              "have the service reach the model by an address in its environment",
	"provider":            "reach what is elsewhere by an address in environment",
	"develop":             "it is for a developer's machine; leave it out of the environment's directory",
}

// unsupportedProcess are keys that containers have.
var unsupportedProcess = map[string]string{
	"volumes":         "the artifact is read-only and /tmp is private; keep data in a service outside, reached by an address in environment",
	"tmpfs":           "/tmp is private and writable already",
	"entrypoint":      "put the whole command line under command",
	"user":            "instances run as the server's user without privileges; leave it out",
	"configs":         "put the files into the artifact",
	"cap_add":         "instances run without privileges",
	"cap_drop":        "instances run without privileges",
	"security_opt":    "instances run without privileges",
	"group_add":       noProcess,
	"read_only":       "the artifact is read-only already",
	"shm_size":        noProcess,
	"sysctls":         noProcess,
	"extra_hosts":     noProcess,
	"dns":             noProcess,
	"networks":        "services share the machine's network; reach each other on the ports the proxy listens on",
	"network_mode":    "services share the machine's network",
	"links":           "services share the machine's network",
	"mem_reservation": limitsOfProcesses,
	"cpu_shares":      limitsOfProcesses,
	"ulimits":         limitsOfProcesses,
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

func (p *parser) service(key, n *yaml.Node) Service {
	s := Service{Name: key.Value, Replicas: 1, Drain: defaultDrain, StopGrace: defaultGrace, StopSignal: syscall.SIGTERM,
		Environment: map[string]string{}}
	where := "services." + s.Name
	image := cmp.Or(value(n, "image"), value(value(n, "x-headgate"), "image"), value(n, "build"))
	if image != nil {
		s.Container = &Container{}
		if !p.mapping(n, where, slices.Concat(serviceKeys, containerKeys), neverSupported, harmlessContainer) {
			return s
		}
	} else {
		unsupported := maps.Clone(neverSupported)
		maps.Copy(unsupported, unsupportedProcess)
		if !p.mapping(n, where, serviceKeys, unsupported, harmlessService) {
			return s
		}
	}
	faults := len(p.problems)
	var health, extension *yaml.Node
	for key, v := range yamlfile.Pairs(n) {
		what := where + "." + key.Value
		switch key.Value {
		case "command":
			s.Command = p.command(v, what)
		case "environment":
			p.environment(v, what, s.Container != nil, s.Environment)
		case "ports":
			s.Ports = p.ports(&s, v, what)
		case "deploy":
			p.deploy(&s, v, what)
		case "mem_limit", "cpus", "pids_limit":
			p.limit(&s, v, key.Value, what)
		case "scale":
			s.Replicas = p.integer(v, what, 0, maxReplicas)
		case "restart":
			s.Restart, s.restarts = p.restart(v, what), true
		case "healthcheck":
			health = v
		case "x-headgate":
			extension = v
		case "stop_grace_period":
			s.StopGrace = p.duration(v, what, 0, 10*time.Minute)
		case "stop_signal":
			s.StopSignal = p.signal(v, what)
		case "secrets":
			p.secretFiles(&s, v, what)
		case "working_dir":
			s.WorkingDir = p.workingDir(v, what, s.Container != nil)
		default:
			if s.Container != nil {
				p.container(&s, key, v, what)
			}
		}
	}
	p.alike(n, where)
	if file := value(n, "env_file"); file != nil {
		p.envFiles(file, where+".env_file", s.Container != nil, s.Environment)
	}
	if s.Command == nil && s.Container == nil && len(p.problems) == faults {
		p.problem(key, `write the program to run and its arguments, such as "command: ./web", or the image to run`,
			"%s has no command", where)
	}
	p.extension(&s, extension, where+".x-headgate")
	p.health(&s, health, where+".healthcheck")
	p.schedule(&s, extension, where+".x-headgate")
	if c := s.Container; c != nil {
		c.ImageHealth = health == nil && s.Health.Path == ""
		p.whole(&s, n, where)
	}
	p.runs(&s, n, where)
	return s
}

// deploy reads how many instances there are, and what each may use.
func (p *parser) deploy(s *Service, n *yaml.Node, what string) {
	known := []string{"replicas", "resources"}
	unsupported := map[string]string{
		"update_config":   "write x-headgate: {deployment: {strategy: rolling, minimum_healthy: 100, maximum: 200}} beside services",
		"rollback_config": "what a deployment gives up goes back by itself; x-headgate: {deployment: …} beside services says when",
		"restart_policy":  "write restart: always, on-failure or \"no\" beside deploy",
	}
	harmless := map[string]string{"placement": "there is one machine", "labels": "", "endpoint_mode": ""}
	if !p.mapping(n, what, append(known, "mode"), unsupported, harmless) {
		return
	}
	for k, v := range yamlfile.Pairs(n) {
		of := what + "." + k.Value
		switch k.Value {
		case "replicas":
			s.Replicas = p.integer(v, of, 0, maxReplicas)
		case "resources":
			p.reserved(s, v, of)
		case "mode":
			switch text, ok := p.scalar(v, of); {
			case !ok:
			case strings.HasSuffix(text, "-job"):
				p.problem(
					v, `write restart: on-failure, and depends_on: {…: {condition: service_completed_successfully}} where it is waited for`, "%s is %q", of, text)
			default:
				p.warning(v, "", "%s has no effect here", of)
			}
		}
	}
}

func (p *parser) command(n *yaml.Node, what string) (argv []string) {
	switch n.Kind {
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if word, ok := p.text(c, what); ok {
				argv = append(argv, word)
			}
		}
	default:
		text, ok := p.text(n, what)
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
	return argv
}

var (
	variableName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	})
	// containerVariable is one that no shell needs to know: images take settings by them.
	containerVariable = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,199}$`)
	})
)

// environment reads variables into env, instead of what is there.
func (p *parser) environment(n *yaml.Node, what string, container bool, env map[string]string) {
	set := func(at *yaml.Node, name string, value *yaml.Node) {
		switch {
		case !variableName().MatchString(name) && !(container && containerVariable().MatchString(name)):
			p.problem(at, "use letters, digits and _", "%s: variable name %q", what, name)
		case name == "PORT" && !container || strings.HasPrefix(name, "HEADGATE_"):
			p.problem(at, "leave it out, or give yours another name", "%s: %s is set by headgate", what, name)
		default:
			if text, ok := p.text(p.plain(value, what+"."+name), what+"."+name); ok {
				env[name] = text
			}
		}
	}
	passOn := func(at *yaml.Node, name, fix string) {
		if value, ok := p.of(at).vars[name]; ok && variableName().MatchString(name) {
			env[name] = literal(value)
			return
		}
		p.problem(at, fix, "%s: %s has no value, and nothing is taken from the server's environment", what, name)
	}
	switch n.Kind {
	case yaml.MappingNode:
		p.problems = append(p.problems, yamlfile.DuplicateKeys(p.fileOf(n), n)...)
		for key, v := range yamlfile.Pairs(n) {
			if v.Kind == yaml.ScalarNode && v.Tag == "!!null" {
				passOn(v, key.Value, "write its value")
			} else {
				set(key, key.Value, v)
			}
		}
	case yaml.SequenceNode:
		twice := map[string]bool{}
		for _, c := range n.Content {
			if _, ok := p.text(c, what); !ok {
				continue
			}
			name, value, ok := strings.Cut(c.Value, "=")
			if twice[name] {
				p.problem(c, "keep one of them", "%s: %s is set twice", what, name)
			}
			twice[name] = true
			if !ok {
				passOn(c, name, `write "NAME=value"`)
				continue
			}
			set(c, name, p.new(c, yaml.ScalarNode, "!!str", value))
		}
	default:
		p.problem(n, `write "NAME: value" lines`, "%s is %s, where a mapping or a list belongs", what, yamlfile.Describe(n))
	}
}

// envFiles reads the files of env_file into env, beside what environment has said there.
func (p *parser) envFiles(n *yaml.Node, what string, container bool, env map[string]string) {
	said := map[string]string{} // that the files may name
	for name, text := range env {
		said[name] = ofInstance
		if !strings.Contains(strings.ReplaceAll(text, "$$", ""), "$") {
			said[name] = strings.ReplaceAll(text, "$$", "$")
		}
	}
	vars := map[string]string{}
	for _, item := range listed(n) {
		file, raw, required := item, false, true
		if item.Kind == yaml.MappingNode {
			if !p.mapping(item, what, []string{"path", "required", "format"}, nil, nil) {
				return
			}
			file = nil
			for key, v := range yamlfile.Pairs(item) {
				switch key.Value {
				case "path":
					file = v
				case "required":
					required = p.boolean(v, what+".required")
				case "format":
					if text, ok := p.scalar(v, what+".format"); ok && text != "raw" {
						p.problem(v, "write raw, or leave it out", "%s.format is %q", what, text)
					}
					raw = true
				}
			}
			if file == nil {
				p.problem(item, "write path: the file", "%s names no file", what)
				continue
			}
		}
		name, ok := p.named(file, what)
		if !ok {
			continue
		}
		if _, there := p.content(name); !there && !required {
			continue
		}
		p.variablesOf(file, name, said, vars, what, raw)
		for name := range vars {
			if name == "PORT" && !container || strings.HasPrefix(name, "HEADGATE_") {
				p.problem(file, "leave it out of the file, or give yours another name", "%s: %s is set by headgate", what, name)
			}
		}
	}
	for name, value := range vars {
		if _, ok := env[name]; !ok {
			env[name] = literal(value)
		}
	}
}

// restart reads what becomes of an instance that ends. Where Compose takes "no" for
// granted, a service that says nothing is kept running.
func (p *parser) restart(n *yaml.Node, what string) (r rollout.Restart) {
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

func (p *parser) signal(n *yaml.Node, what string) syscall.Signal {
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
		p.problem(n, "use one of SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH",
			"%s: %q is not a signal to stop with", what, text)
		return syscall.SIGTERM
	}
	return sig
}

func (p *parser) workingDir(n *yaml.Node, what string, container bool) string {
	text, ok := p.scalar(n, what)
	switch {
	case !ok:
		return ""
	case container && (!path.IsAbs(text) || path.Clean(text) != text):
		p.problem(n, `write a path in the container, such as "/app"`, "%s: %q is not one", what, text)
	case !container && (strings.HasPrefix(text, "/") || slices.Contains(strings.Split(text, "/"), "..")):
		p.problem(n, `write a directory of the artifact, such as "app"`, "%s: %q is outside the artifact", what, text)
	default:
		return text
	}
	return ""
}

var extensionKeys = []string{"health", "drain", "artifact", "image", "secrets", "passes", "healthy_for", "overlap",
	"cron", "zone", "max_time"}

func (p *parser) extension(s *Service, n *yaml.Node, what string) {
	if n == nil || !p.mapping(n, what, slices.Concat(extensionKeys, proxyKeys), nil, nil) {
		return
	}
	defer func() { p.certified(s, value(n, "tls"), what+".tls") }()
	for key, v := range yamlfile.Pairs(n) {
		switch key.Value {
		case "health":
			text, ok := p.scalar(v, what+".health")
			switch {
			case !ok:
			case !strings.HasPrefix(text, "/") || strings.ContainsAny(text, " \t\r\n#"):
				p.problem(v, `write the path to request, such as "/healthz"`, "%s.health: %q is not a path", what, text)
			case len(s.Ports) == 0:
				p.problem(v, "add ports, or use healthcheck with a test command", "%s.health: the service has no ports", what)
			default:
				s.Health.Path = text
			}
		case "drain":
			s.Drain = p.duration(v, what+".drain", 0, time.Hour)
		case "passes":
			n := p.integer(v, what+".passes", 1, 100)
			s.passes = &n
		case "healthy_for":
			d := p.duration(v, what+".healthy_for", 0, time.Hour)
			s.healthyFor = &d
		case "cron", "zone": // schedule
		case "max_time":
			s.MaxTime, s.maxTimeAt = p.duration(v, what+".max_time", time.Second, 30*24*time.Hour), v
		case "artifact":
			s.Artifact, _ = p.scalar(v, what+".artifact")
			s.artifactAt = p.place(v)
			if s.Container != nil {
				p.problem(v, "leave out artifact, or image", "%s.artifact: a container's files are those of its image", what)
			}
		case "image":
			p.ownImage(s, v, what+".image")
		case "secrets":
			p.secretVariables(s, v, what+".secrets")
		case "overlap":
			if s.overlaps = p.boolean(v, what+".overlap"); s.Container == nil {
				p.problem(v, "leave it out", "%s.overlap: %s", what, noProcess)
			}
		default:
			p.proxy(s, key.Value, v, what+"."+key.Value)
		}
	}
}
