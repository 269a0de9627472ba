package access

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Agent is another machine that comes with a key of its own, to be told what it should
// run. It is not a user, and has no right to anything.
type Agent struct {
	Name string
	Tags map[string]string // by which environments find it; may be nil
	Key  Key
	// Repositories may deploy there; nil: all of the server.
	Repositories []string
	Drained      bool // nothing new is deployed there
}

// MayDeploy reports whether a repository's environments may deploy there.
func (a Agent) MayDeploy(repository string) bool {
	return repository != Own && (a.Repositories == nil || slices.Contains(a.Repositories, repository))
}

const maxTags = 20 // of one agent

var (
	agentForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	})
	tagForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}=[A-Za-z0-9._/@+-]{1,128}$`)
	})
)

// CheckAgentName says what is wrong with the name of an agent.
func CheckAgentName(name string) error {
	if !agentForm().MatchString(name) {
		return fmt.Errorf("%q is not a name for an agent: use 1 to 63 small letters, digits, '.' and '-', as in web-1", name)
	}
	return nil
}

// CheckTags says what is wrong with the tags of an agent.
func CheckTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return fmt.Errorf("an agent has at most %d tags, not %d", maxTags, len(tags))
	}
	for _, key := range sorted(tags) {
		if tag := key + "=" + tags[key]; !tagForm().MatchString(tag) {
			return fmt.Errorf("%q is not a tag: write key=value, as in role=web, with letters, digits, '.', '_', '/' and '-'",
				tag)
		}
	}
	return nil
}

// AgentByKey is the agent that holds a key, by its SHA256 fingerprint. That it was proven
// is for the caller to know. No agent has the key of a user.
func (c *Config) AgentByKey(fingerprint string) (Agent, bool) {
	if c == nil {
		return Agent{}, false
	}
	return c.Agent(c.agentKeys[fingerprint])
}

// Agent finds an agent by name.
func (c *Config) Agent(name string) (Agent, bool) {
	if c == nil {
		return Agent{}, false
	}
	a, ok := c.agents[name]
	return a, ok
}

// Agents lists all agents by name.
func (c *Config) Agents() (all []Agent) {
	if c == nil {
		return nil
	}
	for _, name := range sorted(c.agents) {
		all = append(all, c.agents[name])
	}
	return all
}

// agent checks one agent. Users have been read before.
func (r *reader) agent(key, value *yaml.Node) {
	a := Agent{Name: key.Value}
	if err := CheckAgentName(a.Name); err != nil {
		r.problem(key, "", "%s", err)
	}
	_, tags := lookup(value, "tags")
	for k, v := range yamlfile.Pairs(tags) {
		if a.Tags == nil {
			a.Tags = map[string]string{}
		}
		a.Tags[k.Value] = v.Value
	}
	if err := CheckTags(a.Tags); err != nil {
		r.problem(tags, "", "tags of agent %s: %s", a.Name, err)
	}
	if _, list := lookup(value, "repositories"); list != nil && list.Kind == yaml.SequenceNode {
		a.Repositories = []string{}
		for _, n := range items(list) {
			if err := CheckRepositoryName(n.Value); err != nil {
				r.problem(n, "", "repositories of agent %s: %s", a.Name, err)
			}
			a.Repositories = append(a.Repositories, n.Value)
		}
	}
	if _, n := lookup(value, "drained"); n != nil {
		a.Drained = n.Value == "true"
	}
	_, n := lookup(value, "key")
	if n == nil || n.Value == "" {
		r.problem(key, "let it enrol: ssh host agent enrol --name "+a.Name, "agent %s has no key", a.Name)
		return
	}
	k, err := ParseKey(n.Value)
	if err != nil {
		r.problem(n, "paste the one line of its key.pub", "the key of agent %s %s", a.Name, err)
		return
	}
	if other, taken := r.config.keys[k.Fingerprint]; taken {
		r.problem(n, "a key says who comes: give the machine its own",
			"the key %s of agent %s is already the key of %s on line %d", k.Fingerprint, a.Name, other, r.keyLines[k.Fingerprint])
		return
	}
	if other, taken := r.config.agentKeys[k.Fingerprint]; taken {
		r.problem(n, "a key says who comes: give each machine its own",
			"the key %s of agent %s is already the key of agent %s on line %d", k.Fingerprint, a.Name, other, r.keyLines[k.Fingerprint])
		return
	}
	a.Key = k
	r.config.agentKeys[k.Fingerprint], r.keyLines[k.Fingerprint] = a.Name, n.Line
	r.config.agents[a.Name] = a
}

// AddAgent adds an agent with its public key (the line of a .pub file). Everything else in
// the text stays as it is; so for RemoveAgent.
func AddAgent(data []byte, a Agent, key string) ([]byte, error) {
	name, tags := a.Name, a.Tags
	if err := CheckAgentName(name); err != nil {
		return nil, err
	}
	for _, r := range a.Repositories {
		if err := CheckRepositoryName(r); err != nil {
			return nil, err
		}
	}
	if err := CheckTags(tags); err != nil {
		return nil, err
	}
	key = strings.TrimSpace(key)
	k, err := ParseKey(key)
	if err != nil {
		return nil, fmt.Errorf("the key of agent %s %w", name, err)
	}
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	if _, there := old.agents[name]; there {
		return nil, fmt.Errorf("agent %q is already there", name)
	}
	if other, taken := old.keys[k.Fingerprint]; taken {
		return nil, fmt.Errorf("the key %s is already a key of %s", k.Fingerprint, other)
	}
	if other, taken := old.agentKeys[k.Fingerprint]; taken {
		return nil, fmt.Errorf("the key %s is already that of agent %s", k.Fingerprint, other)
	}
	want := old.clone()
	want.agents, want.agentKeys = maps.Clone(old.agents), maps.Clone(old.agentKeys)
	a.Key = k
	entry := []string{"key: " + quoted(key)}
	if len(tags) > 0 {
		var pairs []string
		for _, key := range sorted(tags) {
			pairs = append(pairs, quoted(key)+": "+quoted(tags[key]))
		}
		entry = append(entry, "tags: {"+strings.Join(pairs, ", ")+"}")
	}
	if a.Repositories != nil {
		entry = append(entry, "repositories: ["+strings.Join(a.Repositories, ", ")+"]")
	}
	if len(entry) == 1 {
		entry[0] = "{" + entry[0] + "}"
	}
	want.agents[name], want.agentKeys[k.Fingerprint] = a, name
	text := lines(data)
	if !text.entry(top, "agents", name, entry...) {
		return nil, errNoEdit
	}
	return text.checked(want)
}

// RemoveAgent removes an agent, whose key is good for nothing then.
func RemoveAgent(data []byte, name string) ([]byte, error) {
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	a, ok := old.agents[name]
	if !ok {
		return nil, fmt.Errorf("there is no agent %q", name)
	}
	want := old.clone()
	want.agents, want.agentKeys = maps.Clone(old.agents), maps.Clone(old.agentKeys)
	delete(want.agents, name)
	delete(want.agentKeys, a.Key.Fingerprint)
	text := lines(data)
	key, agents := lookup(top, "agents")
	if !text.removeEntry(top, key, agents, name) {
		return nil, errNoEdit
	}
	return text.checked(want)
}

// DrainAgent has nothing new be deployed to an agent, or something again. Everything else
// in the text stays as it is.
func DrainAgent(data []byte, name string, drained bool) ([]byte, error) {
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	a, ok := old.agents[name]
	if !ok {
		return nil, fmt.Errorf("there is no agent %q", name)
	}
	if a.Drained == drained {
		return data, nil
	}
	_, agents := lookup(top, "agents")
	_, entry := lookup(agents, name)
	_, present := lookup(entry, "drained")
	text, value := lines(data), fmt.Sprint(drained)
	switch {
	case present != nil:
		ok = text.replace(present, present.Value, value)
	case entry.Style&yaml.FlowStyle != 0:
		ok = text.replace(entry, "{", "{drained: "+value+", ")
	default:
		first := entry.Content[0]
		text.insert(first.Line-1, strings.Repeat(" ", first.Column-1)+"drained: "+value)
	}
	if !ok {
		return nil, errNoEdit
	}
	want := old.clone()
	want.agents = maps.Clone(old.agents)
	a.Drained = drained
	want.agents[name] = a
	return text.checked(want)
}
