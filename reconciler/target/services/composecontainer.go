package services

import (
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

var containerKeys = []string{
	"image", "entrypoint", "user", "group_add", "hostname", "init", "read_only", "tmpfs", "shm_size", "cap_add", "cap_drop", "security_opt",
	"sysctls", "labels", "extra_hosts", "dns", "networks", "volumes", "secrets", "configs", "pull_policy", "platform",
	"mem_limit", "mem_reservation", "cpus", "cpu_shares", "pids_limit", "ulimits",
}

// harmlessContainer are keys that say nothing about how a container has to run.
var harmlessContainer = map[string]string{
	"annotations":    "",
	"attach":         "",
	"container_name": "instances are named by service and number; others of the application find it by the service's name",
	"domainname":     "",
	"expose":         "others of the application reach every port of the container",
	"logging":        "the output of every instance is kept already",
	"stdin_open":     "an instance's input is empty",
	"tty":            "an instance's output goes to its log",
}

// Bounds of what a container may ask for.
const (
	maxListed  = 50       // elements of one list
	maxMounted = 1 << 20  // bytes of files that are mounted in one service
	minMemory  = 6 << 20  // below it engines refuse
	maxMemory  = 16 << 40 // bytes
)

var (
	// imageReference is a name with a registry, a tag and a digest, or with less of that.
	imageReference = regexp.MustCompile(`^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	imageName      = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`)
	containerUser  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$`)
	oneHostName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	volumeName     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)
	sysctlName     = regexp.MustCompile(`^(net\.[a-z0-9_.-]+|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\.[a-z_]+)$`)
	octalMode      = regexp.MustCompile(`^0?o?[0-7]{3,4}$`)
)

// capabilities are those that let nobody out of a container.
var capabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_NICE", "SYS_PTRACE",
}

var ulimitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

// container reads a key that only a container has.
func (p *parser) container(s *Service, key, n *yaml.Node, what string) {
	c := s.Container
	switch key.Value {
	case "image":
		p.image(c, n, what)
	case "entrypoint":
		c.Entrypoint = p.command(n, what)
	case "user":
		if text, ok := p.scalar(n, what); ok {
			c.User = text
			if !containerUser.MatchString(text) {
				p.problem(n, `write a name or a number, such as "65532:65532"`, "%s is %q", what, text)
			}
		}
	case "group_add":
		c.Groups = p.texts(n, what, func(text string) string {
			if containerUser.MatchString(text) && !strings.Contains(text, ":") {
				return ""
			}
			return "a name or a number of a group"
		})
	case "hostname":
		if text, ok := p.scalar(n, what); ok {
			c.Hostname = text
			if !oneHostName.MatchString(text) {
				p.problem(n, "use letters, digits and -, at most 63", "%s is %q", what, text)
			}
		}
	case "init":
		c.Init = p.boolean(n, what)
	case "read_only":
		c.ReadOnly = p.boolean(n, what)
	case "tmpfs":
		p.tmpfs(c, n, what)
	case "shm_size":
		c.SharedMem = p.bytes(n, what, 4096, maxMemory)
	case "cap_add":
		c.CapAdd = p.capabilities(n, what, false)
	case "cap_drop":
		c.CapDrop = p.capabilities(n, what, true)
	case "security_opt":
		p.texts(n, what, func(text string) string {
			switch strings.ReplaceAll(text, "=", ":") {
			case "no-new-privileges", "no-new-privileges:true":
				c.NoNewPrivs = true
			case "no-new-privileges:false":
			default:
				return "no-new-privileges:true; of the rest, what the engine does by itself holds"
			}
			return ""
		})
	case "sysctls":
		c.Sysctls = p.pairs(n, what, func(at *yaml.Node, name, value string) {
			if !sysctlName.MatchString(name) {
				p.problem(at, "leave it out; the machine's administrator sets it", "%s: %s is the whole machine's", what, name)
			}
		})
	case "labels":
		c.Labels = p.labels(n, what)
	case "extra_hosts":
		p.extraHosts(c, n, what)
	case "dns":
		c.DNS = p.texts(n, what, func(text string) string {
			if _, err := netip.ParseAddr(text); err != nil {
				return "an IP address"
			}
			return ""
		})
	case "networks":
		p.networks(s, n, what)
	case "volumes":
		p.volumes(c, n, what)
	case "secrets":
		p.secrets(c, n, what)
	case "configs":
		p.configs(c, n, what)
	case "pull_policy":
		p.pullPolicy(c, n, what)
	case "platform":
		if text, ok := p.scalar(n, what); ok && text != "linux/amd64" && text != "linux/arm64" {
			p.problem(n, "leave it out: the machine's own is used", "%s is %q", what, text)
		} else if ok {
			p.warning(n, "the machine's own is used", "%s has no effect here", what)
		}
	case "mem_limit":
		c.Limits.Memory = p.bytes(n, what, minMemory, maxMemory)
	case "mem_reservation":
		c.Limits.MemoryReservation = p.bytes(n, what, minMemory, maxMemory)
	case "cpus":
		c.Limits.CPUs = p.cpus(n, what)
	case "cpu_shares":
		c.Limits.CPUShares = int64(p.integer(n, what, 2, 262144))
	case "pids_limit":
		if text, _ := p.scalar(n, what); text != "-1" {
			c.Limits.PIDs = int64(p.integer(n, what, 1, 4194304))
		}
	case "ulimits":
		p.ulimits(c, n, what)
	}
}

// whole refuses what does not go together in a container.
func (p *parser) whole(c *Container, n *yaml.Node, what string) {
	seen := map[string]bool{}
	total := 0
	for _, m := range c.Mounts {
		if seen[m.Target] {
			p.problem(n, "keep one of them", "%s: two things are mounted at %s", what, m.Target)
		}
		seen[m.Target] = true
		total += len(m.File)
		for _, data := range m.Directory {
			total += len(data)
		}
	}
	if total > maxMounted {
		p.problem(n, "put them into the image", "%s: the files that are mounted are %d bytes, over the limit of %d", what, total, maxMounted)
	}
	for _, t := range c.Tmpfs {
		if seen[t.Target] {
			p.problem(n, "keep one of them", "%s: two things are mounted at %s", what, t.Target)
		}
		seen[t.Target] = true
	}
	if l := c.Limits; l.Memory > 0 && l.MemoryReservation > l.Memory {
		p.problem(n, "reserve less, or raise the limit", "%s: %d bytes of memory are reserved, over the limit of %d", what, l.MemoryReservation, l.Memory)
	}
}

// image reads the reference of an image.
func (p *parser) image(c *Container, n *yaml.Node, what string) {
	text, ok := p.text(n, what)
	if !ok {
		return
	}
	sample := map[string]string{"HEADGATE_RELEASE": "1", "HEADGATE_COMMIT": "c0ffee", "HEADGATE_ENVIRONMENT": "e", "HEADGATE_APPLICATION": "a", "HEADGATE_INSTANCE": "i"}
	plain, err := interpolate(text, sample)
	if err != nil || !imageReference.MatchString(plain) {
		p.problem(n, `write it like "postgres:17" or "ghcr.io/acme/web@sha256:…", in small letters; a name alone is an image of the release`,
			"%s: %q is not the name of an image", what, text)
		return
	}
	if strings.Contains(text, "$PORT") || strings.Contains(text, "${PORT") || strings.Contains(text, "HEADGATE_INSTANCE") {
		p.problem(n, "use $HEADGATE_RELEASE, $HEADGATE_COMMIT or $HEADGATE_ENVIRONMENT", "%s: all instances have one image", what)
	}
	c.Image = text
}

// ownImage reads which image of the release a service is of.
func (p *parser) ownImage(s *Service, n *yaml.Node, what string) {
	text, ok := p.scalar(n, what)
	switch {
	case !ok:
	case s.Container.Image != "":
		p.problem(n, "keep one of them", "%s: the service has an image already", what)
	case !imageName.MatchString(text):
		p.problem(n, "write the name of one under images in headgate.yaml", "%s is %q", what, text)
	default:
		s.Container.Image, s.Container.OwnImage = text, true
	}
}

// texts reads a list of texts, or one. want says what should be there instead, ""
// when it is good.
func (p *parser) texts(n *yaml.Node, what string, want func(text string) string) (all []string) {
	for i, item := range listed(n) {
		text, ok := p.scalar(item, what)
		if !ok {
			continue
		}
		if i == maxListed {
			p.problem(item, "leave some out", "%s: more than %d", what, maxListed)
			break
		}
		if fix := want(text); fix != "" {
			p.problem(item, "write "+fix, "%s: %q", what, text)
			continue
		}
		all = append(all, text)
	}
	return all
}

// pairs reads "NAME: value" lines, or a list of "NAME=value".
func (p *parser) pairs(n *yaml.Node, what string, each func(at *yaml.Node, name, value string)) map[string]string {
	if n.Kind == yaml.SequenceNode {
		n = p.byName(n, "")
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, `write "NAME: value" lines, each name once`, "%s is %s", what, yamlfile.Describe(n))
		return nil
	}
	p.problems = append(p.problems, yamlfile.DuplicateKeys(p.fileOf(n), n)...)
	all := map[string]string{}
	for key, v := range yamlfile.Pairs(n) {
		text := ""
		if v.Tag != "!!null" {
			var ok bool
			if text, ok = p.text(v, what+"."+key.Value); !ok {
				continue
			}
		}
		if len(all) == maxVariables {
			p.problem(key, "leave some out", "%s: more than %d", what, maxVariables)
			break
		}
		if each != nil {
			each(key, key.Value, text)
		}
		all[key.Value] = text
	}
	return all
}

func (p *parser) labels(n *yaml.Node, what string) map[string]string {
	return p.pairs(n, what, func(at *yaml.Node, name, _ string) {
		if strings.HasPrefix(name, "headgate.") || strings.HasPrefix(name, "com.docker.") {
			p.problem(at, "give it another name", "%s: names like %s are kept for who runs the container", what, name)
		}
	})
}

func (p *parser) capabilities(n *yaml.Node, what string, drop bool) []string {
	all := p.texts(n, what, func(text string) string {
		name := strings.TrimPrefix(strings.ToUpper(text), "CAP_")
		switch {
		case drop && (name == "ALL" || regexp.MustCompile(`^[A-Z_]{2,40}$`).MatchString(name)), slices.Contains(capabilities, name):
			return ""
		case drop:
			return "the name of a capability, or ALL"
		}
		return "one of " + strings.Join(capabilities, ", ") + "; others would let the container out of its bounds"
	})
	for i, text := range all {
		all[i] = strings.TrimPrefix(strings.ToUpper(text), "CAP_")
	}
	return all
}

func (p *parser) extraHosts(c *Container, n *yaml.Node, what string) {
	add := func(at *yaml.Node, name, address string) {
		address = strings.Trim(address, "[]")
		_, err := netip.ParseAddr(address)
		if !hostName.MatchString(strings.ToLower(name)) || strings.HasPrefix(name, "*") || err != nil && address != "host-gateway" {
			p.problem(at, `write "name: address", such as "db.internal: 10.0.0.5"`, "%s: %q is %q", what, name, address)
			return
		}
		c.ExtraHosts = append(c.ExtraHosts, ExtraHost{name, address})
	}
	if n.Kind == yaml.MappingNode {
		for key, v := range yamlfile.Pairs(n) {
			for _, item := range listed(v) {
				if text, ok := p.scalar(item, what+"."+key.Value); ok {
					add(key, key.Value, text)
				}
			}
		}
		return
	}
	for _, item := range listed(n) {
		text, ok := p.scalar(item, what)
		if !ok {
			continue
		}
		at := strings.IndexAny(text, "=:")
		if at < 0 {
			at = len(text) - 1
		}
		if at >= 0 {
			add(item, text[:at], text[at+1:])
		}
	}
}

// networks reads by which further names a service is found. The networks themselves
// are one.
func (p *parser) networks(s *Service, n *yaml.Node, what string) {
	names := 0
	known := func(at *yaml.Node, name string) {
		if names++; name != "default" && p.resources["networks"][name] == nil {
			p.problem(at, `declare it under "networks:", or leave it out`, "%s: there is no network %q", what, name)
		}
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for _, item := range n.Content {
			if text, ok := p.scalar(item, what); ok {
				known(item, text)
			}
		}
	case yaml.MappingNode:
		for key, v := range yamlfile.Pairs(n) {
			known(key, key.Value)
			if v.Tag == "!!null" {
				continue
			}
			of := what + "." + key.Value
			if !p.mapping(v, of, []string{"aliases"}, map[string]string{
				"ipv4_address": "reach it by its name", "ipv6_address": "reach it by its name", "mac_address": oneNetwork,
			}, map[string]string{"priority": oneNetwork, "gw_priority": oneNetwork, "interface_name": "", "link_local_ips": "", "driver_opts": ""}) {
				continue
			}
			if aliases := value(v, "aliases"); aliases != nil {
				s.Container.Aliases = append(s.Container.Aliases, p.texts(aliases, of+".aliases", func(text string) string {
					if hostName.MatchString(text) {
						return ""
					}
					return "a host name in small letters"
				})...)
			}
		}
	default:
		p.problem(n, "write a list of names", "%s is %s", what, yamlfile.Describe(n))
	}
	if names > 0 {
		p.warning(n, oneNetwork, "%s has no effect here", what)
	}
}

func (p *parser) pullPolicy(c *Container, n *yaml.Node, what string) {
	text, ok := p.scalar(n, what)
	if !ok {
		return
	}
	switch text {
	case "always":
		c.Pull = PullAlways
	case "missing", "if_not_present":
		c.Pull = PullMissing
	case "never":
		c.Pull = PullNever
	case "build":
		p.problem(n, noBuild, "%s is %q", what, text)
	default:
		p.problem(n, "write always, missing or never; without it, a tag is looked up once for each deployment", "%s is %q", what, text)
	}
}

func (p *parser) cpus(n *yaml.Node, what string) float64 {
	text, ok := p.scalar(n, what)
	if !ok {
		return 0
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0.01 && v <= 4096) {
		p.problem(n, `write how many processors, such as "0.5"`, "%s is %q", what, text)
		return 0
	}
	return v
}

// reserved reads deploy.resources.
func (p *parser) reserved(c *Container, n *yaml.Node, what string) {
	if !p.mapping(n, what, []string{"limits", "reservations"}, nil, nil) {
		return
	}
	twice := func(at *yaml.Node, of string, set bool) {
		if set {
			p.problem(at, "keep this one", "%s: it is said beside deploy too", of)
		}
	}
	for kind, m := range yamlfile.Pairs(n) {
		of := what + "." + kind.Value
		known, unsupported, harmless := []string{"cpus", "memory", "pids"}, map[string]string{}, map[string]string{}
		if kind.Value == "reservations" {
			known = []string{"memory"}
			unsupported = map[string]string{"devices": noDevices, "generic_resources": noDevices}
			harmless = map[string]string{"cpus": "there is one machine; write cpu_shares for a weight"}
		}
		if m.Tag == "!!null" || !p.mapping(m, of, known, unsupported, harmless) {
			continue
		}
		for k, v := range yamlfile.Pairs(m) {
			of := of + "." + k.Value
			switch {
			case kind.Value == "reservations" && k.Value == "memory":
				twice(v, of, c.Limits.MemoryReservation > 0)
				c.Limits.MemoryReservation = p.bytes(v, of, minMemory, maxMemory)
			case kind.Value == "reservations":
			case k.Value == "memory":
				twice(v, of, c.Limits.Memory > 0)
				c.Limits.Memory = p.bytes(v, of, minMemory, maxMemory)
			case k.Value == "cpus":
				twice(v, of, c.Limits.CPUs > 0)
				c.Limits.CPUs = p.cpus(v, of)
			case k.Value == "pids":
				twice(v, of, c.Limits.PIDs > 0)
				c.Limits.PIDs = int64(p.integer(v, of, 1, 4194304))
			}
		}
	}
}

func (p *parser) ulimits(c *Container, n *yaml.Node, what string) {
	if !p.mapping(n, what, ulimitNames, nil, nil) {
		return
	}
	c.Ulimits = map[string]Ulimit{}
	number := func(n *yaml.Node, of string) int64 {
		if text, _ := p.scalar(n, of); text == "-1" {
			return -1
		}
		return int64(p.integer(n, of, 0, 1<<62))
	}
	for key, v := range yamlfile.Pairs(n) {
		of := what + "." + key.Value
		if v.Kind != yaml.MappingNode {
			both := number(v, of)
			c.Ulimits[key.Value] = Ulimit{both, both}
			continue
		}
		if !p.mapping(v, of, []string{"soft", "hard"}, nil, nil) {
			continue
		}
		soft, hard := value(v, "soft"), value(v, "hard")
		if soft == nil || hard == nil {
			p.problem(v, "write {soft: 1024, hard: 4096}", "%s needs both soft and hard", of)
			continue
		}
		u := Ulimit{number(soft, of+".soft"), number(hard, of+".hard")}
		if u.Hard >= 0 && (u.Soft > u.Hard || u.Soft < 0) {
			p.problem(v, "raise hard", "%s: soft is over hard", of)
		}
		c.Ulimits[key.Value] = u
	}
}

// tmpfs reads "/run" or "/run:size=64m,mode=1777".
func (p *parser) tmpfs(c *Container, n *yaml.Node, what string) {
	for _, item := range listed(n) {
		text, ok := p.scalar(item, what)
		if !ok {
			continue
		}
		target, options, _ := strings.Cut(text, ":")
		t := Tmpfs{Target: target}
		if !p.inside(item, target, what) {
			continue
		}
		for option := range strings.SplitSeq(options, ",") {
			name, v, _ := strings.Cut(option, "=")
			switch {
			case option == "" || slices.Contains([]string{"rw", "noexec", "nosuid", "nodev"}, option):
			case name == "size":
				t.Size = p.bytes(p.new(item, yaml.ScalarNode, "!!str", v), what+" size", 4096, maxMemory)
			case name == "mode":
				t.Mode = p.mode(p.new(item, yaml.ScalarNode, "!!str", v), what+" mode")
			default:
				p.problem(item, "write size=64m and mode=1777 at most", "%s: the option %q", what, option)
			}
		}
		c.Tmpfs = append(c.Tmpfs, t)
	}
}

// inside checks that a path is one in a container.
func (p *parser) inside(at *yaml.Node, text, what string) bool {
	if !path.IsAbs(text) || path.Clean(text) != strings.TrimSuffix(text, "/") || text == "/" || len(text) > 1000 {
		p.problem(at, `write a path in the container, such as "/data"`, "%s: %q is not one", what, text)
		return false
	}
	for _, own := range []string{"/proc", "/sys", "/dev"} {
		if text == own || strings.HasPrefix(text, own+"/") && text != "/dev/shm" {
			p.problem(at, "mount it elsewhere", "%s: %s is the kernel's", what, text)
			return false
		}
	}
	return true
}

// mode reads permissions as octal digits.
func (p *parser) mode(n *yaml.Node, what string) uint32 {
	text, ok := p.scalar(n, what)
	if !ok {
		return 0
	}
	if !octalMode.MatchString(text) {
		p.problem(n, `write octal digits in quotes, such as "0440"`, "%s is %q", what, text)
		return 0
	}
	v, _ := strconv.ParseUint(strings.ReplaceAll(text, "o", ""), 8, 32) // a few octal digits
	return uint32(v)
}

// secretVariables reads x-headgate.secrets: which variables get which secret.
func (p *parser) secretVariables(s *Service, n *yaml.Node, what string) {
	if s.Container == nil {
		p.problem(n, "have the program read a file that whoever runs the machine keeps", "%s: %s", what, noProcess)
		return
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write {DATABASE_PASSWORD: database-password}", "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for variable, name := range p.pairs(n, what, nil) {
		at := value(n, variable)
		if !variableName.MatchString(variable) || variable == "PORT" || strings.HasPrefix(variable, "HEADGATE_") {
			p.problem(at, "use letters, digits and _, and no name that is headgate's", "%s: variable name %q", what, variable)
		}
		if _, twice := s.Environment[variable]; twice {
			p.problem(at, "keep one of them", "%s: %s is set in environment too", what, variable)
		}
		name, member, _ := strings.Cut(name, ":")
		p.secretName(at, name, what)
		s.Container.Secrets = append(s.Container.Secrets, Secret{Name: name, JSON: member, Variable: variable, at: p.place(at)})
	}
	slices.SortFunc(s.Container.Secrets, func(a, b Secret) int { return strings.Compare(a.Variable+a.File, b.Variable+b.File) })
}

var secretForm = regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_./-]{0,99}$`)

func (p *parser) secretName(at *yaml.Node, name, what string) {
	if !secretForm.MatchString(name) {
		p.problem(at, "name one as in: ssh host secret set <repository>:<name>", "%s: %q is not the name of a secret", what, name)
	}
}

// resource reads what is declared at the top to be used by services.
func (p *parser) resource(key, n *yaml.Node) {
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, `write "name: {…}" lines below it`, "%q is %s, where a mapping belongs", key.Value, yamlfile.Describe(n))
		return
	}
	all := map[string]*yaml.Node{}
	p.resources[key.Value] = all
	for name, v := range yamlfile.Pairs(n) {
		what := key.Value + "." + name.Value
		if !volumeName.MatchString(name.Value) {
			p.problem(name, "use letters, digits, '_', '.' and '-', at most 64", "%s: invalid name %q", key.Value, name.Value)
			continue
		}
		if len(all) == maxListed {
			p.problem(name, "leave some out", "%s: more than %d", key.Value, maxListed)
			return
		}
		if v.Tag == "!!null" {
			v = p.new(name, yaml.MappingNode, "!!map", "")
		}
		all[name.Value] = v
		outside := "a volume belongs to the application in its environment, and survives every deployment; leave it out"
		ok := false
		switch key.Value {
		case "volumes":
			ok = p.mapping(v, what, []string{"driver"}, map[string]string{"external": outside, "driver_opts": "the machine's own driver keeps it; leave it out"},
				map[string]string{"labels": "", "name": outside})
			if d := value(v, "driver"); ok && d != nil {
				if text, _ := p.scalar(d, what+".driver"); text != "local" {
					p.problem(d, "leave it out: the machine's own driver keeps it", "%s.driver is %q", what, text)
				}
			}
		case "networks":
			unsupported := map[string]string{"external": oneNetwork + "; reach what is elsewhere by an address"}
			if e := value(v, "external"); e != nil && p.quiet(e) == "false" {
				unsupported = nil
			}
			ok = p.mapping(v, what, []string{"external"}, unsupported, map[string]string{
				"driver": oneNetwork, "driver_opts": oneNetwork, "internal": oneNetwork, "ipam": oneNetwork, "attachable": oneNetwork,
				"labels": "", "name": oneNetwork, "enable_ipv4": oneNetwork, "enable_ipv6": oneNetwork,
			})
			if e := value(v, "external"); ok && e != nil && unsupported != nil {
				p.problem(e, unsupported["external"], "%s is not the application's", what)
			}
		case "secrets":
			set := "set it with: ssh host secret set <repository>:" + name.Value + ", and write external: true"
			ok = p.mapping(v, what, []string{"external", "name"}, map[string]string{
				"file": "a secret in Git is none; " + set, "environment": "nothing is taken from the server's environment; " + set,
				"driver": set, "template_driver": set,
			}, map[string]string{"labels": ""})
			if e := value(v, "external"); ok && (e == nil || !p.boolean(e, what+".external")) {
				p.problem(v, set, "%s is kept nowhere", what)
			}
		case "configs":
			ok = p.mapping(v, what, []string{"file", "content", "environment", "name"}, map[string]string{
				"external": "put the file beside compose.yaml, and write file: ./" + name.Value,
			}, map[string]string{"labels": ""})
		}
		if !ok {
			all[name.Value] = p.new(name, yaml.MappingNode, "!!map", "")
		}
	}
}

// volumes reads what a container has mounted.
func (p *parser) volumes(c *Container, n *yaml.Node, what string) {
	if n.Kind != yaml.SequenceNode {
		p.problem(n, `write a list: ["data:/var/lib/data", "./nginx.conf:/etc/nginx/nginx.conf:ro"]`, "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for i, item := range n.Content {
		if i == maxListed {
			p.problem(item, "leave some out", "%s: more than %d", what, maxListed)
			return
		}
		if item.Kind == yaml.MappingNode {
			p.longVolume(c, item, what)
			continue
		}
		text, ok := p.scalar(item, what)
		if !ok {
			continue
		}
		parts := strings.Split(text, ":")
		m := Mount{}
		switch len(parts) {
		case 1:
			p.problem(item, `give it a name, as in "data:`+text+`", and declare it under volumes; or write it under tmpfs`,
				"%s: what is kept in %q would be lost with its instance", what, text)
			continue
		case 2, 3:
			m.Target = parts[1]
		default:
			p.problem(item, `write "name:/path" or "./file:/path:ro"`, "%s: %q has too many parts", what, text)
			continue
		}
		if len(parts) == 3 {
			for option := range strings.SplitSeq(parts[2], ",") {
				switch option {
				case "ro":
					m.ReadOnly = true
				case "nocopy":
					m.NoCopy = true
				case "rw", "z", "Z", "cached", "delegated", "consistent":
				default:
					p.problem(item, "write ro, or nothing", "%s: the option %q", what, option)
				}
			}
		}
		p.mount(c, item, parts[0], m, what)
	}
}

// mount adds a volume, or files, by what comes before the colon.
func (p *parser) mount(c *Container, at *yaml.Node, from string, m Mount, what string) {
	if !p.inside(at, m.Target, what) {
		return
	}
	m.Target = strings.TrimSuffix(m.Target, "/")
	if volumeName.MatchString(from) {
		if p.resources["volumes"][from] == nil {
			p.problem(at, `declare it under "volumes:"; a file is named with ./ before it`, "%s: there is no volume %q", what, from)
			return
		}
		m.Volume = from
		c.Mounts = append(c.Mounts, m)
		return
	}
	if strings.HasSuffix(from, "docker.sock") || strings.HasSuffix(from, "podman.sock") {
		p.problem(at, "leave it out", "%s: who has the engine's socket has the machine", what)
		return
	}
	name, ok := p.path(at, from, what)
	if !ok {
		return
	}
	if !m.ReadOnly {
		p.warning(at, `write :ro after it to say that it is meant; keep what is written in a named volume`, "%s: %s is read-only here, as all of Git", what, from)
	}
	m.ReadOnly = true
	m.File, m.Directory, ok = p.contents(at, name, what)
	if ok {
		c.Mounts = append(c.Mounts, m)
	}
}

// contents are a file, or those of a directory.
func (p *parser) contents(at *yaml.Node, name, what string) (file []byte, directory map[string][]byte, ok bool) {
	if data, ok := p.files[name]; ok {
		if data == nil {
			data = []byte{}
		}
		return data, nil, true
	}
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	for _, each := range slices.Sorted(maps.Keys(p.files)) {
		if below, ok := strings.CutPrefix(each, prefix); ok {
			if directory == nil {
				directory = map[string][]byte{}
			}
			directory[below] = p.files[each]
		}
	}
	// Which files there are shows when all are there.
	if p.missing[name] = true; directory == nil {
		p.notThere(at, name, what)
		return nil, nil, false
	}
	return nil, directory, true
}

func (p *parser) longVolume(c *Container, n *yaml.Node, what string) {
	if !p.mapping(n, what, []string{"type", "source", "target", "read_only", "volume", "tmpfs", "bind"}, nil, map[string]string{"consistency": ""}) {
		return
	}
	get := func(key string) string {
		if v := value(n, key); v != nil {
			text, _ := p.scalar(v, what+"."+key)
			return text
		}
		return ""
	}
	kind, source := get("type"), get("source")
	m := Mount{Target: get("target")}
	if v := value(n, "read_only"); v != nil {
		m.ReadOnly = p.boolean(v, what+".read_only")
	}
	if v := value(n, "volume"); v != nil && p.mapping(v, what+".volume", []string{"nocopy", "subpath"}, nil, map[string]string{"labels": ""}) {
		if nocopy := value(v, "nocopy"); nocopy != nil {
			m.NoCopy = p.boolean(nocopy, what+".volume.nocopy")
		}
		if within := value(v, "subpath"); within != nil {
			text, ok := p.scalar(within, what+".volume.subpath")
			if m.Within = text; ok && (path.IsAbs(text) || path.Clean(text) != text || strings.HasPrefix(text, "..")) {
				p.problem(within, "write a directory of the volume", "%s.volume.subpath is %q", what, text)
			}
		}
	}
	t := Tmpfs{Target: m.Target}
	if v := value(n, "tmpfs"); v != nil && p.mapping(v, what+".tmpfs", []string{"size", "mode"}, nil, nil) {
		if size := value(v, "size"); size != nil {
			t.Size = p.bytes(size, what+".tmpfs.size", 4096, maxMemory)
		}
		if mode := value(v, "mode"); mode != nil {
			t.Mode = p.mode(mode, what+".tmpfs.mode")
		}
	}
	if v := value(n, "bind"); v != nil {
		p.mapping(v, what+".bind", nil, nil, map[string]string{"create_host_path": "the file has to be in Git", "propagation": "", "selinux": "", "recursive": ""})
	}
	switch kind {
	case "volume":
		if source == "" || !volumeName.MatchString(source) {
			p.problem(n, "write source: the name of one under volumes", "%s: a volume without a name would be lost with its instance", what)
			return
		}
		p.mount(c, n, source, m, what)
	case "bind":
		if source != "" && !strings.HasPrefix(source, ".") && !path.IsAbs(source) && !strings.HasPrefix(source, "~") {
			source = "./" + source
		}
		p.mount(c, n, source, m, what)
	case "tmpfs":
		if p.inside(n, m.Target, what) {
			c.Tmpfs = append(c.Tmpfs, t)
		}
	case "":
		p.problem(n, "write type: volume, bind or tmpfs", "%s has no type", what)
	default:
		p.problem(n, "write volume, bind or tmpfs", "%s.type is %q", what, kind)
	}
}

// grant is a secret or config as a service names it.
type grant struct {
	source, target string
	mode           uint32
	uid, gid       int
}

// grants reads a list of secrets or configs of a service.
func (p *parser) grants(n *yaml.Node, what, kind string, each func(at *yaml.Node, g grant)) {
	if n.Kind != yaml.SequenceNode {
		p.problem(n, "write a list of names", "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for i, item := range n.Content {
		if i == maxListed {
			p.problem(item, "leave some out", "%s: more than %d", what, maxListed)
			return
		}
		var g grant
		if item.Kind != yaml.MappingNode {
			text, ok := p.scalar(item, what)
			if !ok {
				continue
			}
			g.source = text
		} else if !p.mapping(item, what, []string{"source", "target", "uid", "gid", "mode"}, nil, nil) {
			continue
		}
		for key, v := range yamlfile.Pairs(item) {
			of := what + "." + key.Value
			switch key.Value {
			case "source":
				g.source, _ = p.scalar(v, of)
			case "target":
				g.target, _ = p.scalar(v, of)
			case "uid":
				g.uid = p.integer(v, of, 0, 1<<31-1)
			case "gid":
				g.gid = p.integer(v, of, 0, 1<<31-1)
			case "mode":
				g.mode = p.mode(v, of)
			}
		}
		if p.resources[kind][g.source] == nil {
			p.problem(item, `declare it under "`+kind+`:"`, "%s: there is no %s %q", what, strings.TrimSuffix(kind, "s"), g.source)
			continue
		}
		each(item, g)
	}
}

func (p *parser) secrets(c *Container, n *yaml.Node, what string) {
	p.grants(n, what, "secrets", func(at *yaml.Node, g grant) {
		s := Secret{Name: g.source, Mode: g.mode, UID: g.uid, GID: g.gid, at: p.place(at)}
		if name := value(p.resources["secrets"][g.source], "name"); name != nil {
			s.Name, _ = p.scalar(name, "secrets."+g.source+".name")
		}
		p.secretName(at, s.Name, what)
		if s.File = g.target; s.File == "" {
			s.File = g.source
		}
		if !path.IsAbs(s.File) {
			s.File = "/run/secrets/" + s.File
		}
		if p.inside(at, s.File, what) {
			c.Secrets = append(c.Secrets, s)
		}
	})
}

func (p *parser) configs(c *Container, n *yaml.Node, what string) {
	p.grants(n, what, "configs", func(at *yaml.Node, g grant) {
		m := Mount{Target: g.target, ReadOnly: true, Mode: g.mode, UID: g.uid, GID: g.gid}
		if m.Target == "" {
			m.Target = "/" + g.source
		}
		if !p.inside(at, m.Target, what) {
			return
		}
		declared, of := p.resources["configs"][g.source], "configs."+g.source
		file, content, variable := value(declared, "file"), value(declared, "content"), value(declared, "environment")
		switch {
		case file != nil && content == nil && variable == nil:
			name, ok := p.named(file, of+".file")
			if !ok {
				return
			}
			var directory map[string][]byte
			if m.File, directory, ok = p.contents(file, name, of+".file"); ok && directory != nil {
				p.problem(file, "name a file", "%s.file: %s is a directory", of, path.Join(p.dir, name))
				return
			} else if !ok {
				return
			}
		case content != nil && file == nil && variable == nil:
			text, ok := p.scalar(content, of+".content")
			if !ok {
				return
			}
			m.File = []byte(text)
		case variable != nil && file == nil && content == nil:
			name, _ := p.scalar(variable, of+".environment")
			text, ok := p.of(variable).vars[name]
			if !ok {
				p.problem(variable, "set it in .env beside compose.yaml", "%s.environment: $%s is not set", of, name)
				return
			}
			m.File = []byte(text)
		default:
			p.problem(at, "write file: ./name, or content: its text", "%s has neither a file nor a content, or both", of)
			return
		}
		c.Mounts = append(c.Mounts, m)
	})
}
