package services

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

var containerKeys = []string{
	"image", "entrypoint", "user", "group_add", "hostname", "init", "read_only", "tmpfs", "shm_size", "cap_add",
	"cap_drop", "security_opt",
	"sysctls", "labels", "extra_hosts", "dns", "networks", "volumes", "configs", "pull_policy", "platform",
	"mem_reservation", "cpu_shares", "ulimits",
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
	imageReference = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(
			`^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	})
	imageName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`)
	})
	containerUser = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$`)
	})
	oneHostName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	})
	volumeName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)
	})
	sysctlName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(
			`^(net\.[a-z0-9_.-]+|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\.[a-z_]+)$`)
	})
	octalMode = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^0?o?[0-7]{3,4}$`)
	})
)

// capabilities are those that let nobody out of a container.
var capabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "MKNOD", "NET_ADMIN",
	"NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_NICE", "SYS_PTRACE",
}

var ulimitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
	"sigpending", "stack",
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
			if !containerUser().MatchString(text) {
				p.problem(n, `write a name or a number, such as "65532:65532"`, "%s is %q", what, text)
			}
		}
	case "group_add":
		c.Groups = p.texts(n, what, func(text string) string {
			if containerUser().MatchString(text) && !strings.Contains(text, ":") {
				return ""
			}
			return "a name or a number of a group"
		})
	case "hostname":
		if text, ok := p.scalar(n, what); ok {
			c.Hostname = text
			if !oneHostName().MatchString(text) {
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
			if !sysctlName().MatchString(name) {
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
	case "mem_reservation":
		c.Limits.MemoryReservation = p.bytes(n, what, minMemory, maxMemory)
	case "cpu_shares":
		c.Limits.CPUShares = int64(p.integer(n, what, 2, 262144))
	case "ulimits":
		p.ulimits(c, n, what)
	}
}

// whole refuses what does not go together in a container.
func (p *parser) whole(s *Service, n *yaml.Node, what string) {
	c := s.Container
	seen := map[string]bool{}
	total := 0
	for _, of := range s.Secrets {
		seen[of.File] = of.File != ""
	}
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
		p.problem(n, "put them into the image", "%s: the files that are mounted are %d bytes, over the limit of %d", what,
			total, maxMounted)
	}
	for _, t := range c.Tmpfs {
		if seen[t.Target] {
			p.problem(n, "keep one of them", "%s: two things are mounted at %s", what, t.Target)
		}
		seen[t.Target] = true
	}
	if l := c.Limits; l.Memory > 0 && l.MemoryReservation > l.Memory {
		p.problem(n, "reserve less, or raise the limit", "%s: %d bytes of memory are reserved, over the limit of %d", what,
			l.MemoryReservation, l.Memory)
	}
}

// sampleVariables stand for those of an instance, to see what a text becomes.
var sampleVariables = map[string]string{
	"HEADGATE_RELEASE":     "1",
	"HEADGATE_COMMIT":      "c0ffee",
	"HEADGATE_ENVIRONMENT": "e",
	"HEADGATE_APPLICATION": "a",
	"HEADGATE_INSTANCE":    "i",
}

// image reads the reference of an image.
func (p *parser) image(c *Container, n *yaml.Node, what string) {
	text, ok := p.text(n, what)
	if !ok {
		return
	}
	plain, err := interpolate(text, sampleVariables)
	if err != nil || !imageReference().MatchString(plain) {
		p.problem(
			n, `write it like "postgres:17" or "ghcr.io/acme/web@sha256:…", in small letters; a name alone is an image of the release`,
			"%s: %q is not the name of an image", what, text)
		return
	}
	if strings.Contains(text, "$PORT") || strings.Contains(text, "${PORT") || strings.Contains(text, "HEADGATE_INSTANCE") {
		p.problem(n, "use $HEADGATE_RELEASE, $HEADGATE_COMMIT or $HEADGATE_ENVIRONMENT",
			"%s: all instances have one image", what)
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
	case !imageName().MatchString(text):
		p.problem(n, "write the name of one under images in headgate.yaml", "%s is %q", what, text)
	default:
		s.Container.Image, s.Container.OwnImage, s.Container.imageAt = text, true, p.place(n)
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
			if text, ok = p.text(p.plain(v, what+"."+key.Value), what+"."+key.Value); !ok {
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
		case drop && (name == "ALL" || regexp.MustCompile(`^[A-Z_]{2,40}$`).MatchString(name)),
			slices.Contains(capabilities, name):
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
		if !hostName().MatchString(strings.ToLower(name)) || strings.HasPrefix(name, "*") || err != nil &&
			address != "host-gateway" {
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
					if hostName().MatchString(text) {
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
		p.problem(n, "write always, missing or never; without it, a tag is looked up once for each deployment",
			"%s is %q", what, text)
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
	if !octalMode().MatchString(text) {
		p.problem(n, `write octal digits in quotes, such as "0440"`, "%s is %q", what, text)
		return 0
	}
	v, _ := strconv.ParseUint(strings.ReplaceAll(text, "o", ""), 8, 32) // a few octal digits
	return uint32(v)
}
