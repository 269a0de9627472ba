package services

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// secretVariables reads x-headgate.secrets: which variables get which secret.
func (p *parser) secretVariables(s *Service, n *yaml.Node, what string) {
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write {DATABASE_PASSWORD: database-password}", "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for variable, name := range p.pairs(n, what, nil) {
		at := value(n, variable)
		if !variableName().MatchString(variable) || variable == "PORT" || strings.HasPrefix(variable, "HEADGATE_") {
			p.problem(at, "use letters, digits and _, and no name that is headgate's", "%s: variable name %q", what, variable)
		}
		if _, twice := s.Environment[variable]; twice {
			p.problem(at, "keep one of them", "%s: %s is set in environment too", what, variable)
		}
		name, member, _ := strings.Cut(name, ":")
		p.secretName(at, name, what)
		s.Secrets = append(s.Secrets, Secret{Name: name, JSON: member, Variable: variable, at: p.place(at)})
	}
	slices.SortFunc(s.Secrets, func(a, b Secret) int { return strings.Compare(a.Variable+a.File, b.Variable+b.File) })
}

var secretForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_./-]{0,99}$`)
})

func (p *parser) secretName(at *yaml.Node, name, what string) {
	if !secretForm().MatchString(name) {
		p.problem(at, "name one as in: ssh host secret set <repository>:<name>",
			"%s: %q is not the name of a secret", what, name)
	}
}

// volumes reads what a container has mounted.
func (p *parser) volumes(c *Container, n *yaml.Node, what string) {
	if n.Kind != yaml.SequenceNode {
		p.problem(n, `write a list: ["data:/var/lib/data", "./nginx.conf:/etc/nginx/nginx.conf:ro"]`, "%s is %s", what,
			yamlfile.Describe(n))
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
	if volumeName().MatchString(from) {
		if p.resources["volumes"][from] == nil {
			p.problem(at, `declare it under "volumes:"; a file is named with ./ before it`,
				"%s: there is no volume %q", what, from)
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
		p.warning(at, `write :ro after it to say that it is meant; keep what is written in a named volume`,
			"%s: %s is read-only here, as all of Git", what, from)
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
	if !p.mapping(n, what, []string{"type", "source", "target", "read_only", "volume", "tmpfs", "bind"}, nil,
		map[string]string{"consistency": ""}) {
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
	if v := value(n, "volume"); v != nil &&
		p.mapping(v, what+".volume", []string{"nocopy", "subpath"}, nil, map[string]string{"labels": ""}) {
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
		p.mapping(v, what+".bind", nil, nil, map[string]string{"create_host_path": "the file has to be in Git",
			"propagation": "", "selinux": "", "recursive": ""})
	}
	switch kind {
	case "volume":
		if source == "" || !volumeName().MatchString(source) {
			p.problem(n, "write source: the name of one under volumes",
				"%s: a volume without a name would be lost with its instance", what)
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
			p.problem(item, `declare it under "`+kind+`:"`, "%s: there is no %s %q", what,
				strings.TrimSuffix(kind, "s"), g.source)
			continue
		}
		each(item, g)
	}
}

// secretFiles reads which secrets a service finds as files.
func (p *parser) secretFiles(of *Service, n *yaml.Node, what string) {
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
			s.File = secretsDir + "/" + s.File
		}
		switch {
		case !p.inside(at, s.File, what):
			return
		case of.Container == nil && !strings.HasPrefix(s.File, secretsDir+"/"):
			p.problem(at, "write target: "+path.Base(s.File)+", and have the program read "+secretsDir+"/"+path.Base(s.File),
				"%s: %s is not below %s, where a process finds its secrets", what, s.File, secretsDir)
			return
		case of.Container == nil && (s.UID != 0 || s.GID != 0):
			p.problem(at, "leave uid and gid out", "%s: a process is of the agent's user, and so are its secrets", what)
			return
		}
		if slices.ContainsFunc(of.Secrets, func(other Secret) bool { return other.File == s.File }) {
			p.problem(at, "keep one of them", "%s: two secrets are at %s", what, s.File)
			return
		}
		of.Secrets = append(of.Secrets, s)
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
		if !volumeName().MatchString(name.Value) {
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
			ok = p.mapping(v, what, []string{"driver"},
				map[string]string{"external": outside, "driver_opts": "the machine's own driver keeps it; leave it out"},
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
				"driver": oneNetwork, "driver_opts": oneNetwork, "internal": oneNetwork, "ipam": oneNetwork,
				"attachable": oneNetwork,
				"labels":     "", "name": oneNetwork, "enable_ipv4": oneNetwork, "enable_ipv6": oneNetwork,
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
