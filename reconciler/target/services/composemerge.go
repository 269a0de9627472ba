package services

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// extending replaces extends by what services extend.
type extending struct {
	p    *parser
	top  *yaml.Node // of the file; all that include puts there
	done map[string]*yaml.Node
}

// service is a service with what it extends in it; nil: that cannot be done. chain are
// the services that extend it.
func (e *extending) service(at *yaml.Node, name string, chain []string) *yaml.Node {
	p := e.p
	if n := e.done[name]; n != nil {
		return n
	}
	n := value(value(e.top, "services"), name)
	if n == nil {
		p.problem(at, "name one that is there", "extends: there is no service %q in %s", name, p.fileOf(e.top))
		return nil
	}
	how := value(n, "extends")
	if how == nil {
		e.done[name] = n
		return n
	}

	what := "services." + name + ".extends"
	base := how
	file := ""
	if how.Kind == yaml.MappingNode {
		if !p.mapping(how, what, []string{"service", "file"}, nil, nil) {
			return nil
		}
		if base = value(how, "service"); base == nil {
			p.problem(how, "write service: the one to extend", "%s names no service", what)
			return nil
		}
		if v := value(how, "file"); v != nil {
			var ok bool
			if file, ok = p.named(v, what+".file"); !ok {
				return nil
			}
		}
	}
	of, ok := p.scalar(base, what+".service")
	if !ok {
		return nil
	}
	here := p.of(how).name
	self := here + ": " + name
	if slices.Contains(chain, self) {
		p.problem(how, "remove one of them", "%s: %s extends itself", what, name)
		return nil
	}
	if len(chain) == maxExtends {
		p.problem(how, "extend over fewer levels", "services extend each other over more than %d levels", maxExtends)
		return nil
	}
	chain = append(slices.Clone(chain), self)

	from := e
	if file != "" && file != here {
		top := p.load(how, &origin{name: file, dir: dirOf(file), vars: p.of(how).vars}, what)
		if top == nil || !p.top(top) {
			return nil
		}
		from = &extending{p: p, top: top, done: map[string]*yaml.Node{}}
	}
	extended := from.service(base, of, chain)
	if extended == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode || extended.Kind != yaml.MappingNode {
		p.problem(base, `write "key: value" lines below it`, "%s: service %q is %s", what, of, yamlfile.Describe(extended))
		return nil
	}
	n = p.merge(p.clone(extended), p.without(n, "extends"), "services.*")
	if p.tooMuch(how) {
		return nil
	}
	e.done[name] = n
	return n
}

// How the lists of a service are put together: texts "NAME=value" and mappings by
// name, some by what they are for, and some not at all. All others one after the other.
var (
	byName = []string{"environment", "labels", "annotations", "sysctls", "extra_hosts", "depends_on", "networks",
		"args", "ulimits"}
	byTarget = []string{"volumes", "secrets", "configs", "env_file"}
	replaced = []string{"command", "entrypoint", "test"}
)

// merge is what base says with what over says in its stead. at is where both are, with
// "*" for the name of a service.
func (p *parser) merge(base, over *yaml.Node, at string) *yaml.Node {
	key := at[strings.LastIndex(at, ".")+1:]
	service := strings.HasPrefix(at, "services.*.")
	switch {
	case over.Tag == "!override":
		over = p.clone(over)
		over.Tag = map[yaml.Kind]string{yaml.MappingNode: "!!map", yaml.SequenceNode: "!!seq",
			yaml.ScalarNode: "!!str"}[over.Kind]
		return over
	case base.Tag == "!!null", over.Tag == "!!null" && over.Kind == yaml.ScalarNode && base.Kind != yaml.ScalarNode:
		if over.Tag == "!!null" {
			return base
		}
		return over
	}
	if service && slices.Contains(byName, key) {
		base, over = p.byName(base, key), p.byName(over, key)
	}
	switch {
	case base.Kind == yaml.MappingNode && over.Kind == yaml.MappingNode:
		out := p.new(over, yaml.MappingNode, "!!map", "")
		for k, v := range yamlfile.Pairs(base) {
			w := value(over, k.Value)
			switch {
			case w != nil && w.Tag == "!reset":
				continue
			case w != nil:
				name := k.Value
				if at == "services" {
					name = "*"
				}
				v = p.merge(v, w, strings.TrimPrefix(at+"."+name, "."))
			}
			out.Content = append(out.Content, k, v)
		}
		for k, v := range yamlfile.Pairs(over) {
			if value(base, k.Value) == nil && v.Tag != "!reset" {
				out.Content = append(out.Content, k, v)
			}
		}
		return out
	case base.Kind == yaml.SequenceNode && over.Kind == yaml.SequenceNode && !(service && slices.Contains(replaced, key)):
		out := p.new(over, yaml.SequenceNode, "!!seq", "")
		out.Content = p.joined(base.Content, over.Content, key, service)
		return out
	case service && slices.Contains([]string{"env_file", "tmpfs", "dns", "dns_search", "label_file"}, key):
		out := p.new(over, yaml.SequenceNode, "!!seq", "")
		out.Content = p.joined(listed(base), listed(over), key, service)
		return out
	}
	return over
}

// joined are the elements of two lists, one after the other: what is for the same as one
// before takes its place.
func (p *parser) joined(base, over []*yaml.Node, key string, service bool) []*yaml.Node {
	all := slices.Clone(base)
	for _, o := range over {
		i := slices.IndexFunc(all, func(item *yaml.Node) bool { return same(item, o) || p.forSame(item, o, key, service) })
		if i < 0 {
			all = append(all, o)
		} else {
			all[i] = o
		}
	}
	return all
}

// forSame reports whether two elements of a list are for the same, so that the second
// takes the place of the first.
func (p *parser) forSame(a, b *yaml.Node, key string, service bool) bool {
	if !service || !slices.Contains(byTarget, key) {
		return false
	}
	x, y := p.target(a, key), p.target(b, key)
	return x != "" && x == y
}

// target is where an element of a list of volumes, secrets or configs goes, and the file
// that one of env_file is.
func (p *parser) target(n *yaml.Node, key string) string {
	if n.Kind == yaml.MappingNode {
		for _, k := range []string{"target", "source", "path"} {
			if v := value(n, k); v != nil {
				return p.quiet(v)
			}
		}
		return ""
	}
	text := p.quiet(n)
	if key != "volumes" {
		return text
	}
	parts := strings.Split(text, ":")
	return parts[min(1, len(parts)-1)]
}

// byName is a list of "NAME=value" texts, or of names, as a mapping.
func (p *parser) byName(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return n
	}
	out := p.new(n, yaml.MappingNode, "!!map", "")
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return n
		}
		name, text, ok := strings.Cut(item.Value, "=")
		if key == "extra_hosts" && !ok {
			name, text, ok = strings.Cut(item.Value, ":")
		}
		v := p.new(item, yaml.ScalarNode, "!!str", text)
		switch {
		case key == "depends_on":
			v = p.new(item, yaml.MappingNode, "!!map", "")
			v.Content = []*yaml.Node{
				p.new(item, yaml.ScalarNode, "!!str", "condition"),
				p.new(item, yaml.ScalarNode, "!!str", startedCondition),
			}
		case !ok:
			v = p.new(item, yaml.ScalarNode, "!!null", "")
		}
		if value(out, name) != nil {
			return n // said where it is read
		}
		out.Content = append(out.Content, p.new(item, yaml.ScalarNode, "!!str", name), v)
	}
	return out
}
