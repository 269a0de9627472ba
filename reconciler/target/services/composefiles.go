package services

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// Bounds of the files that one application is declared in.
const (
	maxFiles    = 50
	maxIncludes = 8       // of files that include files
	maxExtends  = 8       // of services that extend services
	maxCopied   = 200_000 // values that are taken over from elsewhere
	maxParsed   = 8 << 20 // bytes, a file as often as it is read
)

// origin is a file that services are declared in.
type origin struct {
	name string            // in the application's directory
	dir  string            // that its paths begin at; "" is the application's own
	vars map[string]string // that its texts may name, besides those of an instance
	text bool              // no "$" in it means anything
}

// parser reads the files that declare an application.
type parser struct {
	dir      string // of the application, for messages
	files    target.Files
	function bool // it is a function's deployment that is read, not that of services

	main    *origin
	from    map[*yaml.Node]*origin // of what is not in main
	read    map[string]bool        // names of files that were read
	missing map[string]bool        // names of files that were wanted and are not there
	absent  int                    // how many problems are that
	copied  int
	parsed  int // bytes

	resources map[string]map[string]*yaml.Node // volumes, secrets, configs and networks, by name

	problems yamlfile.Problems
	warnings yamlfile.Problems
}

func newParser(dir string, files target.Files) *parser {
	return &parser{
		dir:     dir,
		files:   files,
		main:    &origin{},
		from:    map[*yaml.Node]*origin{},
		read:    map[string]bool{},
		missing: map[string]bool{},
	}
}

// of is the file that a node is in.
func (p *parser) of(n *yaml.Node) *origin {
	if s := p.from[n]; s != nil {
		return s
	}
	return p.main
}

func (p *parser) place(n *yaml.Node) place { return place{p.of(n).name, n.Line} }

func (p *parser) fileOf(n *yaml.Node) string { return path.Join(p.dir, p.of(n).name) }

func (p *parser) problem(at *yaml.Node, fix, format string, args ...any) {
	p.problems = append(p.problems, yamlfile.Problem{
		File: p.fileOf(at),
		Line: at.Line,
		What: fmt.Sprintf(format, args...),
		Fix:  fix,
	})
}

func (p *parser) warning(at *yaml.Node, fix, format string, args ...any) {
	p.warnings = append(p.warnings, yamlfile.Problem{
		File: p.fileOf(at),
		Line: at.Line,
		What: fmt.Sprintf(format, args...),
		Fix:  fix,
	})
}

// content is a file of the application's directory.
func (p *parser) content(name string) ([]byte, bool) {
	data, ok := p.files[name]
	if !ok {
		p.missing[name] = true
	}
	return data, ok
}

// path is the name of a file that a text of a file says.
func (p *parser) path(at *yaml.Node, text, what string) (name string, ok bool) {
	switch {
	case strings.Contains(text, "://") || strings.HasPrefix(text, "git@") || strings.HasPrefix(text, "oci:"):
		p.problem(at, "put the file beside compose.yaml, so that it is promoted with it",
			"%s: %q is not in Git, and nothing is fetched from elsewhere", what, text)
		return "", false
	case path.IsAbs(text), strings.HasPrefix(text, "~"):
		p.problem(at, "put the file beside compose.yaml, and name it from there",
			"%s: %q is outside the environment's directory", what, text)
		return "", false
	}
	name = path.Join(p.of(at).dir, text)
	if name == ".." || strings.HasPrefix(name, "../") {
		p.problem(at, "put it below the environment's directory, which is what a promotion carries",
			"%s: %q is outside the environment's directory", what, text)
		return "", false
	}
	return name, true
}

// load reads a file of services that is named at a node, nil when it cannot.
func (p *parser) load(at *yaml.Node, s *origin, what string) *yaml.Node {
	if len(p.read) == maxFiles && !p.read[s.name] {
		p.problem(at, "leave some out", "%s: the application is declared in more than %d files", what, maxFiles)
		return nil
	}
	p.read[s.name] = true
	data, ok := p.content(s.name)
	if !ok {
		p.notThere(at, s.name, what)
		return nil
	}
	if p.tooLarge(at, data) {
		return nil
	}
	top, err := yamlfile.ParseAliased(path.Join(p.dir, s.name), data)
	if err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		p.problems = append(p.problems, ps...)
		return nil
	}
	p.belongs(top, s)
	return top
}

// notThere says that a file or directory is not there.
func (p *parser) notThere(at *yaml.Node, name, what string) {
	p.absent++
	p.problem(at, "add it, or name one that is there; links are not followed", "%s: there is no %s", what,
		path.Join(p.dir, name))
}

// tooLarge reports whether reading a file once more is more than is allowed.
func (p *parser) tooLarge(at *yaml.Node, data []byte) bool {
	p.parsed += len(data)
	if p.parsed > maxParsed && at != nil && p.parsed-len(data) <= maxParsed {
		p.problem(at, "name files fewer times, or make them smaller", "reads more than %d MiB of files", maxParsed>>20)
	}
	return p.parsed > maxParsed
}

// belongs notes that a node, with all in it, is of a file.
func (p *parser) belongs(n *yaml.Node, s *origin) {
	p.from[n] = s
	for _, c := range n.Content {
		p.belongs(c, s)
	}
}

// compose reads compose.yaml with all that it includes and its services extend, as
// one mapping. nil: that cannot be done.
func (p *parser) compose() *yaml.Node {
	p.main = &origin{name: composeFile, vars: map[string]string{}}
	p.dotenv(p.main)
	p.read[composeFile] = true
	top, err := yamlfile.ParseAliased(path.Join(p.dir, composeFile), p.files[composeFile])
	if err != nil {
		p.problems, _ = yamlfile.ProblemsIn(err)
		return nil
	}
	if !p.top(top) {
		return nil
	}
	if top = p.extended(top); top == nil {
		return nil
	}
	for _, name := range []string{"compose.override.yaml", "compose.override.yml"} {
		if _, ok := p.files[name]; !ok {
			continue
		}
		over := p.load(top, &origin{name: name, vars: p.main.vars}, name)
		if over == nil || !p.top(over) {
			return nil
		}
		if over = p.extended(over); over == nil {
			return nil
		}
		top = p.merge(top, over, "")
		break
	}
	top = p.include(top, nil)
	if top == nil {
		return nil
	}
	if services := value(top, "services"); services != nil {
		p.settle(services)
	}
	return top
}

// extended is a file whose services have what they extend in them: as in Compose,
// before others override or include it. nil: that cannot be done.
func (p *parser) extended(top *yaml.Node) *yaml.Node {
	services := value(top, "services")
	if services == nil || services.Kind != yaml.MappingNode {
		return top
	}
	extended := &extending{p: p, top: top, done: map[string]*yaml.Node{}}
	all := p.new(services, yaml.MappingNode, "!!map", "")
	for key := range yamlfile.Pairs(services) {
		n := extended.service(key, key.Value, nil)
		if n == nil {
			return nil
		}
		all.Content = append(all.Content, key, n)
	}
	return p.with(top, "services", all)
}

// settle takes out what is reset without having been set, and tags that have done
// their work. Of other tags nothing is known.
func (p *parser) settle(n *yaml.Node) {
	var content []*yaml.Node
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && (i%2 == 0 && n.Content[i+1].Tag == "!reset" || i%2 == 1 && c.Tag == "!reset") {
			continue
		}
		switch {
		case c.Tag == "!override":
			c.Tag = ""
			c.Tag = c.ShortTag()
		case strings.HasPrefix(c.Tag, "!") && !strings.HasPrefix(c.Tag, "!!") && c.Tag != "!reset":
			p.problem(c, "leave it out", "the tag %s says nothing here", c.Tag)
		}
		p.settle(c)
		content = append(content, c)
	}
	n.Content = content
}

var topKeys = []string{"services", "name", "version", "include", "volumes", "networks", "secrets",
	"configs", "x-headgate"}

var unsupportedTop = map[string]string{
	"models": "have the service reach the model by an address in its environment",
}

// top checks the keys at the top of a file, and that what names things is a mapping
// with each once.
func (p *parser) top(n *yaml.Node) bool {
	if !p.mapping(n, path.Base(p.of(n).name), topKeys, unsupportedTop, nil) {
		return false
	}
	for key, v := range yamlfile.Pairs(n) {
		if slices.Contains([]string{"services", "volumes", "networks", "secrets", "configs"}, key.Value) {
			p.problems = append(p.problems, yamlfile.DuplicateKeys(p.fileOf(v), v)...)
		}
	}
	return true
}

// include puts what the files of include declare into a mapping. chain are the files
// that include it.
func (p *parser) include(top *yaml.Node, chain []string) *yaml.Node {
	list := value(top, "include")
	if list == nil {
		return top
	}
	of := p.of(list)
	what := "include"
	if list.Kind != yaml.SequenceNode {
		p.problem(list, "write a list: [db.yaml, {path: queue/compose.yaml, env_file: queue.env}]", "%s is %s", what,
			yamlfile.Describe(list))
		return nil
	}
	if len(chain) == maxIncludes {
		p.problem(list, "include from fewer levels", "files include each other over more than %d levels", maxIncludes)
		return nil
	}
	chain = append(slices.Clone(chain), of.name)
	top = p.without(top, "include")
	for _, item := range list.Content {
		more := p.included(item, what, chain)
		if more == nil {
			return nil
		}
		if top = p.add(top, more); top == nil {
			return nil
		}
	}
	return top
}

// included is what one entry of an include declares.
func (p *parser) included(item *yaml.Node, what string, chain []string) *yaml.Node {
	paths := []*yaml.Node{item}
	var dirNode *yaml.Node
	var envs []*yaml.Node
	if item.Kind == yaml.MappingNode {
		if !p.mapping(item, what, []string{"path", "project_directory", "env_file"}, nil, nil) {
			return nil
		}
		paths = nil
		for key, v := range yamlfile.Pairs(item) {
			switch key.Value {
			case "path":
				paths = listed(v)
			case "env_file":
				envs = listed(v)
			case "project_directory":
				dirNode = v
			}
		}
		if len(paths) == 0 {
			p.problem(item, "write path: the file to include", "%s names no file", what)
			return nil
		}
	}

	var all *yaml.Node
	var shared *origin
	for _, n := range paths {
		name, ok := p.named(n, what)
		if !ok {
			return nil
		}
		if slices.Contains(chain, name) {
			p.problem(n, "remove one of them", "%s: %s includes itself, by %s", what, name,
				strings.Join(append(chain, name), " → "))
			return nil
		}
		s := &origin{name: name, dir: dirOf(name)}
		if shared == nil {
			if dirNode != nil {
				if s.dir, ok = p.named(dirNode, what+".project_directory"); !ok {
					return nil
				}
				if s.dir == "." {
					s.dir = ""
				}
			}
			s.vars = map[string]string{}
			if len(envs) > 0 {
				for _, e := range envs {
					if file, ok := p.named(e, what+".env_file"); ok {
						p.variablesOf(e, file, nil, s.vars, what+".env_file", false)
					}
				}
			} else {
				p.dotenv(s)
			}
			maps.Copy(s.vars, p.of(item).vars) // those of who includes count before
			shared = s
		} else {
			s.dir, s.vars = shared.dir, shared.vars
		}
		top := p.load(n, s, what)
		if top == nil || !p.top(top) {
			return nil
		}
		if top = p.extended(top); top == nil {
			return nil
		}
		if x := value(top, "x-headgate"); x != nil {
			p.problem(x, "write it into "+composeFile,
				"x-headgate: there is one deployment for all services, and an included file does not say how it goes")
			return nil
		}
		if all == nil {
			all = top
		} else {
			all = p.merge(all, top, "")
		}
	}
	return p.include(all, chain)
}

func dirOf(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

// named is the name of the file that a scalar names.
func (p *parser) named(n *yaml.Node, what string) (string, bool) {
	text, ok := p.scalar(n, what)
	if !ok {
		return "", false
	}
	return p.path(n, text, what)
}

// add puts what an included file declares beside what there is.
func (p *parser) add(top, more *yaml.Node) *yaml.Node {
	out := p.with(top, "", nil)
	for key, v := range yamlfile.Pairs(more) {
		if !slices.Contains([]string{"services", "volumes", "networks", "secrets", "configs"}, key.Value) ||
			v.Kind != yaml.MappingNode {
			continue // name, version and what is somebody else's
		}
		own := value(out, key.Value)
		if own == nil || own.Tag == "!!null" {
			out = p.without(out, key.Value)
			out.Content = append(out.Content, key, v)
			continue
		}
		both := p.with(own, "", nil)
		for name, w := range yamlfile.Pairs(v) {
			if had := value(own, name.Value); had != nil && !same(had, w) {
				p.problem(name, "give one of them another name; to change one that is included, extend it",
					"%s %q is declared in %s too", strings.TrimSuffix(key.Value, "s"), name.Value, p.fileOf(had))
				return nil
			} else if had == nil {
				both.Content = append(both.Content, name, w)
			}
		}
		out = p.with(out, key.Value, both)
	}
	return out
}

// dotenv reads the variables that .env beside a file sets for its texts.
func (p *parser) dotenv(s *origin) {
	name := path.Join(s.dir, ".env")
	if s.vars == nil {
		s.vars = map[string]string{}
	}
	if _, ok := p.content(name); ok {
		p.variablesOf(nil, name, nil, s.vars, ".env", false)
	}
}

// variablesOf reads a file of variables into vars, which it may name, and those of said. at
// names the file, nil for nobody.
func (p *parser) variablesOf(at *yaml.Node, name string, said, vars map[string]string, what string, raw bool) bool {
	data, ok := p.content(name)
	if !ok {
		p.notThere(at, name, what)
		return false
	}
	file := path.Join(p.dir, name)
	if p.read[name] = true; len(p.read) > maxFiles {
		p.problems = append(p.problems, yamlfile.Problem{
			File: file,
			What: fmt.Sprintf("is one of more than %d files that the application is declared in", maxFiles),
			Fix:  "leave some out",
		})
		return false
	}
	if p.tooLarge(at, data) {
		return false
	}
	outer := p.main.vars
	if at != nil {
		outer = p.of(at).vars
	}
	if len(said) > 0 {
		said = maps.Clone(said)
		maps.Copy(said, outer)
		outer = said
	}
	read, problems := envFile(file, data, outer, vars, raw)
	p.problems = append(p.problems, problems...)
	maps.Copy(vars, read)
	return len(problems) == 0
}

// profiles are those that are active: what COMPOSE_PROFILES in .env says.
func (p *parser) profiles() []string {
	var active []string
	for name := range strings.SplitSeq(p.main.vars["COMPOSE_PROFILES"], ",") {
		if name = strings.TrimSpace(name); name != "" {
			active = append(active, name)
		}
	}
	return active
}

// integer, duration and the like read one value each.
