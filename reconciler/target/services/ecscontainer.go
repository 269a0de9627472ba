package services

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

var containerNameForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)
})

// container reads one element of containerDefinitions.
func (t *ecsTask) container(n *yaml.Node, what string) (one ecsContainer, ok bool) {
	p := t.parser
	set, ok := p.record(n, what, []string{
		"name", "image", "essential", "cpu", "memory", "memoryReservation", "portMappings", "command", "entryPoint",
		"workingDirectory",
		"environment", "environmentFiles", "secrets", "mountPoints", "dependsOn", "healthCheck", "stopTimeout",
		"user", "ulimits",
		"linuxParameters", "readonlyRootFilesystem", "dockerLabels", "hostname", "dnsServers", "extraHosts", "systemControls",
		"dockerSecurityOptions",
		"repositoryCredentials",
	}, map[string]string{
		"links": oneNetwork, "volumesFrom": "name the volume under mountPoints of both containers",
		"privileged":        "containers run without privileges",
		"disableNetworking": "leave it out", "dnsSearchDomains": "write names out", "resourceRequirements": noDevices,
		"firelensConfiguration": "the output of every instance is kept already; leave the log router out",
		"credentialSpecs":       "only Windows has it",
	}, map[string]string{
		"logConfiguration": "the output of every instance is kept here: env logs",
		"startTimeout":     "deployments have a circuit breaker",
		"restartPolicy":    "an instance that ends is started again", "interactive": "an instance's input is empty",
		"pseudoTerminal":     "an instance's output goes to its log",
		"versionConsistency": "a tag is resolved once for every deployment",
	})
	name := p.said(set, "name", what)
	if n.Kind != yaml.MappingNode || name == "" && !ok {
		return one, false
	}
	if !containerNameForm().MatchString(name) || !serviceName().MatchString(strings.ToLower(name)) {
		p.problem(cmp.Or(set["name"], n), "use letters, digits, _ and -, at most 40", "%s.name is %q", what, name)
		return one, false
	}
	s := Service{
		Name:        strings.ToLower(name),
		Container:   &Container{Limits: t.limits},
		Replicas:    1,
		Drain:       defaultDrain,
		StopGrace:   ecsStopTimeout,
		StopSignal:  syscall.SIGTERM,
		Environment: map[string]string{},
		overlaps:    true, // what may run at a time is said in percent
	}
	one = ecsContainer{Service: s, at: cmp.Or(set["name"], n), essential: true}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		t.containerKey(&one, name, key, set[key], what+"."+key)
	}
	if set["image"] == nil {
		p.problem(n, "write image", "%s has no image", what)
	}
	t.ports(&one, set["portMappings"], what+".portMappings")
	t.healthCheck(&one, set["healthCheck"], what+".healthCheck")
	p.whole(&one.Service, n, what)
	return one, true
}

func (t *ecsTask) containerKey(one *ecsContainer, name, key string, n *yaml.Node, what string) {
	p, c := t.parser, one.Container
	switch key {
	case "image":
		t.image(c, name, n, what)
	case "essential":
		one.essential = p.boolean(n, what)
	case "cpu":
		if units := p.integer(n, what, 0, 262144); units > 0 {
			c.Limits.CPUShares = int64(max(2, units))
		}
	case "memory":
		if c.Limits.Memory = p.mebibytes(n, what); t.limits.Memory > 0 && c.Limits.Memory > t.limits.Memory {
			p.problem(n, "lower it, or raise the task's", "%s: a container has more memory than its task", what)
		}
	case "memoryReservation":
		c.Limits.MemoryReservation = p.mebibytes(n, what)
	case "command":
		one.Command = t.words(n, what)
	case "entryPoint":
		c.Entrypoint = t.words(n, what)
	case "workingDirectory":
		one.WorkingDir = p.workingDir(n, what, true)
	case "environment":
		t.pairs(n, what, "name", "value", func(at *yaml.Node, name, value string) {
			t.variable(one, at, name, value, what)
		})
	case "environmentFiles":
		t.environmentFiles(one, n, what)
	case "secrets":
		t.pairs(n, what, "name", "valueFrom", func(at *yaml.Node, name, from string) {
			if s, ok := p.valueFrom(at, from, what); ok {
				s.Variable = name
				if !containerVariable().MatchString(name) || strings.HasPrefix(name, "HEADGATE_") {
					p.problem(at, "use letters, digits and _, and no name that is headgate's", "%s: variable name %q", what, name)
				}
				one.Secrets = append(one.Secrets, s)
			}
		})
	case "repositoryCredentials":
		set, _ := p.record(n, what, []string{"credentialsParameter"}, nil, nil)
		if of := set["credentialsParameter"]; of == nil {
			p.problem(n, "write the secret's name under credentialsParameter", "%s names no secret", what)
		} else if s, ok := p.valueFrom(of, p.said(set, "credentialsParameter", what), what); ok {
			c.Login, c.loginAt = s.Name, s.at
		}
	case "mountPoints":
		t.mountPoints(c, n, what)
	case "dependsOn":
		t.dependsOn(one, n, what)
	case "stopTimeout":
		one.StopGrace = time.Duration(p.integer(n, what, 0, 600)) * time.Second
	case "linuxParameters":
		t.linuxParameters(c, n, what)
	case "ulimits":
		t.ulimits(c, n, what)
	case "readonlyRootFilesystem":
		c.ReadOnly = p.boolean(n, what)
	case "dockerLabels":
		c.Labels = p.labels(n, what)
	case "extraHosts":
		t.pairs(n, what, "hostname", "ipAddress", func(at *yaml.Node, name, address string) {
			list := p.new(at, yaml.MappingNode, "!!map", "")
			list.Content = []*yaml.Node{p.new(at, yaml.ScalarNode, "!!str", name), p.new(at, yaml.ScalarNode, "!!str", address)}
			p.extraHosts(c, list, what)
		})
	case "systemControls":
		c.Sysctls = map[string]string{}
		t.pairs(n, what, "namespace", "value", func(at *yaml.Node, name, value string) {
			if c.Sysctls[name] = value; !sysctlName().MatchString(name) {
				p.problem(at, "leave it out; the machine's administrator sets it", "%s: %s is the whole machine's", what, name)
			}
		})
	case "user", "hostname", "dnsServers", "dockerSecurityOptions":
		as := map[string]string{"dnsServers": "dns", "dockerSecurityOptions": "security_opt"}
		p.container(&one.Service, p.new(n, yaml.ScalarNode, "!!str", cmp.Or(as[key], key)), n, what)
	}
}

// words are a command line, of which no "$" means anything.
func (t *ecsTask) words(n *yaml.Node, what string) (argv []string) {
	t.items(n, what, 1000, func(item *yaml.Node, of string) {
		if word, ok := t.text(item, of); ok {
			argv = append(argv, word)
		}
	})
	return argv
}

// pairs reads a list of objects with a name and a value.
func (t *ecsTask) pairs(n *yaml.Node, what, name, value string, each func(at *yaml.Node, name, value string)) {
	seen := map[string]bool{}
	t.items(n, what, maxVariables, func(item *yaml.Node, of string) {
		set, ok := t.record(item, of, []string{name, value}, nil, nil)
		if !ok {
			return
		}
		if set[name] == nil || set[value] == nil {
			t.problem(item, fmt.Sprintf(`write {"%s": …, "%s": …}`, name, value), "%s needs both %s and %s", of, name, value)
			return
		}
		text := t.said(set, name, of)
		if seen[text] && name != "hostname" {
			t.problem(item, "keep one of them", "%s: %s is given twice", what, text)
		}
		seen[text] = true
		each(item, text, t.said(set, value, of))
	})
}

func (t *ecsTask) variable(one *ecsContainer, at *yaml.Node, name, value, what string) {
	switch {
	case !containerVariable().MatchString(name):
		t.problem(at, "use letters, digits and _", "%s: variable name %q", what, name)
	case strings.HasPrefix(name, "HEADGATE_"):
		t.problem(at, "leave it out, or give yours another name", "%s: %s is set by headgate", what, name)
	default:
		one.Environment[name] = literal(value)
	}
}

// environmentFiles reads files that stand in S3 where ECS runs, and in Git here.
func (t *ecsTask) environmentFiles(one *ecsContainer, n *yaml.Node, what string) {
	t.items(n, what, 10, func(item *yaml.Node, of string) {
		set, ok := t.record(item, of, []string{"value", "type"}, nil, nil)
		text := t.said(set, "value", of)
		if !ok || text == "" {
			return
		}
		_, key, bucket := strings.Cut(strings.TrimPrefix(text, "arn:aws:s3:::"), "/")
		if !bucket {
			key = text
		}
		name := path.Clean(key)
		if _, there := t.content(name); !there || strings.HasPrefix(name, "../") {
			name = path.Base(name)
		}
		data, there := t.content(name)
		if !there {
			t.absent++
			t.problem(set["value"], "put it into the environment's directory, from which it is read",
				"%s: there is no %s, and nothing is fetched from S3", of, path.Join(t.dir, name))
			return
		}
		t.read[name] = true
		vars, problems := envFile(path.Join(t.dir, name), data, nil, nil, true)
		t.problems = append(t.problems, problems...)
		for _, v := range slices.Sorted(maps.Keys(vars)) {
			if _, set := one.Environment[v]; !set { // what environment says counts before
				t.variable(one, item, v, vars[v], of)
			}
		}
		t.warning(set["value"], "S3 is not asked", "%s is read from %s", text, path.Join(t.dir, name))
	})
}

var (
	secretsManagerARN = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^arn:[^:]*:secretsmanager:[^:]*:[^:]*:secret:([^:]+)(?::(.*))?$`)
	})
	parameterARN = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^arn:[^:]*:ssm:[^:]*:[^:]*:parameter/(.+)$`)
	})
)

// valueFrom reads where a secret is, in Secrets Manager or the Parameter Store, as the
// name under which it is kept here.
func (p *parser) valueFrom(at *yaml.Node, text, what string) (s Secret, ok bool) {
	s.Name, s.at = text, p.place(at)
	rest := ""
	if m := secretsManagerARN().FindStringSubmatch(text); m != nil {
		s.Name, rest = m[1], m[2]
		if i := len(s.Name) - 7; i > 0 && s.Name[i] == '-' { // six random characters
			s.Name = s.Name[:i]
		}
	} else if m := parameterARN().FindStringSubmatch(text); m != nil {
		if s.Name = m[1]; strings.Contains(s.Name, "/") {
			s.Name = "/" + s.Name // as the parameter itself is called
		}
	}
	parts := append(strings.Split(rest, ":"), "", "")
	s.JSON = parts[0]
	if parts[2] != "" || parts[1] != "" && parts[1] != "AWSCURRENT" {
		p.problem(at, "leave the version out",
			"%s: %q asks for another version than the current one, and no other is kept here", what, text)
		return s, false
	}
	faults := len(p.problems)
	p.secretName(at, s.Name, what)
	return s, len(p.problems) == faults
}

func (t *ecsTask) mountPoints(c *Container, n *yaml.Node, what string) {
	t.items(n, what, maxListed, func(item *yaml.Node, of string) {
		set, ok := t.record(item, of, []string{"sourceVolume", "containerPath", "readOnly"}, nil, nil)
		if !ok {
			return
		}
		m := Mount{Volume: t.said(set, "sourceVolume", of), Target: t.said(set, "containerPath", of)}
		if set["readOnly"] != nil {
			m.ReadOnly = t.boolean(set["readOnly"], of+".readOnly")
		}
		switch {
		case t.volumes[m.Volume] == nil:
			t.problem(cmp.Or(set["sourceVolume"], item), "declare it under volumes", "%s: there is no volume %q", of, m.Volume)
		case t.inside(cmp.Or(set["containerPath"], item), m.Target, of):
			m.Target = strings.TrimSuffix(m.Target, "/")
			t.warning(item, "write the directory under linuxParameters.tmpfs for what may go with the instance",
				"%s: volume %s survives every deployment, and instances that run side by side share it (minimumHealthyPercent 0 and maximumPercent 100 let none)", of, m.Volume)
			c.Mounts = append(c.Mounts, m)
		}
	})
}

// taskConditions are what a container may wait for of another one in its task.
var taskConditions = map[string]rollout.Condition{
	"START":    rollout.UntilStarted,
	"HEALTHY":  rollout.UntilHealthy,
	"SUCCESS":  rollout.UntilSucceeded,
	"COMPLETE": rollout.UntilSucceeded,
}

func (t *ecsTask) dependsOn(one *ecsContainer, n *yaml.Node, what string) {
	t.items(n, what, maxListed, func(item *yaml.Node, of string) {
		set, ok := t.record(item, of, []string{"containerName", "condition"}, nil, nil)
		if !ok {
			return
		}
		condition := t.said(set, "condition", of)
		until := taskConditions[condition]
		if until == "" {
			t.problem(cmp.Or(set["condition"], item), "write START, COMPLETE, SUCCESS or HEALTHY",
				"%s.condition is %q", of, condition)
			return
		}
		if condition == "COMPLETE" {
			t.warning(set["condition"], "write SUCCESS", "%s: it has to end well here", of)
		}
		name := strings.ToLower(t.said(set, "containerName", of))
		one.needs = append(one.needs,
			need{Need: rollout.Need{Service: name, Until: until}, at: cmp.Or(set["containerName"], item)})
	})
}

func (t *ecsTask) linuxParameters(c *Container, n *yaml.Node, what string) {
	set, ok := t.record(n, what, []string{"capabilities", "initProcessEnabled", "sharedMemorySize", "tmpfs"},
		map[string]string{
			"devices": noDevices, "maxSwap": "nothing is swapped", "swappiness": "nothing is swapped",
		}, nil)
	if !ok {
		return
	}
	if v := set["initProcessEnabled"]; v != nil {
		c.Init = t.boolean(v, what+".initProcessEnabled")
	}
	if v := set["sharedMemorySize"]; v != nil {
		c.SharedMem = int64(t.integer(v, what+".sharedMemorySize", 0, 1<<20)) << 20
	}
	if v := set["capabilities"]; v != nil {
		if kinds, ok := t.record(v, what+".capabilities", []string{"add", "drop"}, nil, nil); ok {
			if add := kinds["add"]; add != nil {
				c.CapAdd = t.capabilities(add, what+".capabilities.add", false)
			}
			if drop := kinds["drop"]; drop != nil {
				c.CapDrop = t.capabilities(drop, what+".capabilities.drop", true)
			}
		}
	}
	t.items(set["tmpfs"], what+".tmpfs", maxListed, func(item *yaml.Node, of string) {
		fs, ok := t.record(item, of, []string{"containerPath", "size", "mountOptions"}, nil, nil)
		if !ok {
			return
		}
		one := Tmpfs{Target: t.said(fs, "containerPath", of)}
		if fs["size"] != nil {
			one.Size = int64(t.integer(fs["size"], of+".size", 1, 1<<24)) << 20
		}
		t.items(fs["mountOptions"], of+".mountOptions", maxListed, func(option *yaml.Node, of string) {
			text, _ := t.scalar(option, of)
			mode, found := strings.CutPrefix(text, "mode=")
			switch {
			case found:
				one.Mode = t.mode(t.new(option, yaml.ScalarNode, "!!str", mode), of)
			case slices.Contains([]string{"rw", "noexec", "nosuid", "nodev", "defaults", "noatime"}, text):
			default:
				t.problem(option, "write mode=1777 at most", "%s is %q", of, text)
			}
		})
		if t.inside(cmp.Or(fs["containerPath"], item), one.Target, of) {
			c.Tmpfs = append(c.Tmpfs, one)
		}
	})
}

func (t *ecsTask) ulimits(c *Container, n *yaml.Node, what string) {
	c.Ulimits = map[string]Ulimit{}
	t.items(n, what, maxListed, func(item *yaml.Node, of string) {
		set, ok := t.record(item, of, []string{"name", "softLimit", "hardLimit"}, nil, nil)
		if !ok {
			return
		}
		number := func(key string) int64 {
			if set[key] == nil {
				t.problem(item, `write {"name": "nofile", "softLimit": 1024, "hardLimit": 4096}`, "%s has no %s", of, key)
				return 0
			}
			return int64(t.integer(set[key], of+"."+key, -1, math.MaxInt64))
		}
		name := t.said(set, "name", of)
		if !slices.Contains(ulimitNames, name) {
			t.problem(cmp.Or(set["name"], item), "write one of "+strings.Join(ulimitNames, ", "), "%s.name is %q", of, name)
			return
		}
		u := Ulimit{number("softLimit"), number("hardLimit")}
		if u.Hard >= 0 && (u.Soft > u.Hard || u.Soft < 0) {
			t.problem(item, "raise hardLimit", "%s: softLimit is over hardLimit", of)
		}
		c.Ulimits[name] = u
	})
}

// ports reads which port of the container requests are for.
func (t *ecsTask) ports(one *ecsContainer, n *yaml.Node, what string) {
	t.items(n, what, 100, func(item *yaml.Node, of string) {
		set, ok := t.record(item, of, []string{"containerPort", "hostPort", "protocol"}, map[string]string{
			"containerPortRange": "write containerPort: requests are carried to one port of a container",
		}, map[string]string{"name": oneNetwork, "appProtocol": `write "x-headgate": {"protocol": "h2c"} into service.json for HTTP/2 in clear`})
		if !ok || set["containerPort"] == nil {
			if ok {
				t.problem(item, "write containerPort", "%s has no containerPort", of)
			}
			return
		}
		if protocol := t.said(set, "protocol", of); protocol != "" && protocol != "tcp" {
			t.problem(set["protocol"], "leave the mapping out: others of the application reach every port of the container",
				"%s: only TCP is served", of)
			return
		}
		port := t.integer(set["containerPort"], of+".containerPort", 1, 65535)
		host := 0
		if set["hostPort"] != nil {
			host = t.integer(set["hostPort"], of+".hostPort", 0, 65535)
		} else if t.network == "awsvpc" || t.network == "host" {
			host = port
		}
		if one.Container.Port != 0 {
			t.problem(item, "keep the one that requests are for: others of the application reach every port of a container",
				"%s: requests are carried to one port of a container, but %d and %d are named", what, one.Container.Port, port)
			return
		}
		one.Container.Port = port
		one.Ports = []Port{{Host: host, at: t.place(item)}}
	})
}

// healthCheck reads how a container is checked. An image's own check does not count,
// as in ECS.
func (t *ecsTask) healthCheck(one *ecsContainer, n *yaml.Node, what string) {
	h := &one.Health
	if n == nil {
		h.Check = rollout.Check{
			StartPeriod: defaultStart,
			Interval:    defaultInterval,
			Timeout:     defaultTimeout,
			Retries:     ecsRetries,
			Passes:      defaultPasses,
		}
		h.unsaid = true
		return
	}
	one.checked = true
	h.Check = rollout.Check{Interval: ecsInterval, Timeout: ecsTimeout, Retries: ecsRetries, Passes: 1}
	set, ok := t.record(n, what, []string{"command", "interval", "timeout", "retries", "startPeriod"}, nil, nil)
	if !ok {
		return
	}
	if set["command"] == nil {
		t.problem(n, `write "command": ["CMD-SHELL", "curl -f http://localhost/ || exit 1"]`, "%s has no command", what)
		return
	}
	argv := t.words(set["command"], what+".command")
	switch {
	case len(argv) >= 2 && argv[0] == "CMD":
		h.Test = argv[1:]
	case len(argv) >= 2 && argv[0] == "CMD-SHELL":
		h.Test = []string{"/bin/sh", "-c", strings.Join(argv[1:], " ")}
	case len(argv) >= 1 && argv[0] != "CMD" && argv[0] != "CMD-SHELL" && argv[0] != "NONE":
		h.Test = argv
	default:
		t.problem(set["command"], `write ["CMD", program, arguments…] or ["CMD-SHELL", "command line"]`,
			"%s.command is not a check", what)
	}
	seconds := func(key string, low, high int, into *time.Duration) {
		if set[key] != nil {
			*into = time.Duration(t.integer(set[key], what+"."+key, low, high)) * time.Second
		}
	}
	seconds("interval", 5, 300, &h.Interval)
	seconds("timeout", 2, 60, &h.Timeout)
	seconds("startPeriod", 0, 300, &h.StartPeriod)
	if set["retries"] != nil {
		h.Retries = t.integer(set["retries"], what+".retries", 1, 10)
	}
}

// alive has an instance be checked that has nothing to be asked: it has to live for a
// while.
func (h *Health) alive(healthyFor time.Duration) {
	h.unsaid = true
	h.Check = rollout.Check{
		StartPeriod: aliveStartPeriod,
		Interval:    defaultInterval,
		Timeout:     defaultTimeout,
		Retries:     ecsRetries,
		Passes:      1,
		HealthyFor:  healthyFor,
	}
}
