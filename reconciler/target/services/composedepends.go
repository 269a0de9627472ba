package services

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

const startedCondition = "service_started"

// conditions are what a service may wait for of another one.
var conditions = map[string]rollout.Condition{
	startedCondition:                 rollout.UntilStarted,
	"service_healthy":                rollout.UntilHealthy,
	"service_completed_successfully": rollout.UntilSucceeded,
}

// need is what depends_on says, with where it says so.
type need struct {
	rollout.Need
	at       *yaml.Node
	optional bool // the other one may be missing
}

// idle are the services that no active profile wants.
func (p *parser) idle(n *yaml.Node) map[string]bool {
	active := p.profiles()
	all := map[string]bool{}
	known := map[string]bool{}
	for key, v := range yamlfile.Pairs(n) {
		list := value(v, "profiles")
		if list == nil {
			continue
		}
		what := "services." + key.Value + ".profiles"
		if list.Kind != yaml.SequenceNode {
			p.problem(list, "write a list of names", "%s is %s", what, yamlfile.Describe(list))
			continue
		}
		wanted := len(list.Content) == 0
		for _, item := range list.Content {
			text, ok := p.scalar(item, what)
			if ok && !volumeName().MatchString(text) {
				p.problem(item, "use letters, digits, '_', '.' and '-'", "%s: %q is not the name of a profile", what, text)
			}
			known[text] = true
			wanted = wanted || slices.Contains(active, text) || slices.Contains(active, "*")
		}
		if !wanted {
			all[key.Value] = true
			p.warning(list, "set COMPOSE_PROFILES in .env beside compose.yaml to have it run",
				"service %s is not of an active profile, and does not run", key.Value)
		}
	}
	for _, name := range active {
		if !known[name] && name != "*" && p.dotenvLine("COMPOSE_PROFILES") > 0 {
			problem := yamlfile.Problem{
				File: strings.TrimPrefix(p.dir+"/.env", "/"),
				Line: p.dotenvLine("COMPOSE_PROFILES"),
				What: fmt.Sprintf("COMPOSE_PROFILES: no service is of the profile %q", name),
			}
			if near, ok := yamlfile.Nearest(name, slices.Sorted(maps.Keys(known))); ok {
				problem.Fix = fmt.Sprintf("did you mean %q?", near)
			} else {
				problem.Fix = "leave it out"
			}
			p.problems = append(p.problems, problem)
		}
	}
	return all
}

// dotenvLine is the line of .env that sets a variable, 0 for none.
func (p *parser) dotenvLine(name string) int {
	for i, line := range strings.Split(string(p.files[".env"]), "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if strings.HasPrefix(line, name) && strings.HasPrefix(strings.TrimSpace(line[len(name):]), "=") {
			return i + 1
		}
	}
	return 0
}

// needs reads depends_on.
func (p *parser) needs(n *yaml.Node, what string) (all []need) {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.SequenceNode {
		n = p.byName(n, "depends_on")
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write a list of services, or {db: {condition: service_healthy}}", "%s is %s", what,
			yamlfile.Describe(n))
		return nil
	}
	p.problems = append(p.problems, yamlfile.DuplicateKeys(p.fileOf(n), n)...)
	for key, v := range yamlfile.Pairs(n) {
		of := what + "." + key.Value
		one := need{at: key, Need: rollout.Need{Service: key.Value, Until: rollout.UntilStarted}}
		if v.Tag != "!!null" {
			if !p.mapping(v, of, []string{"condition", "required"}, nil, map[string]string{
				"restart": "a release replaces all of its services",
			}) {
				continue
			}
			if c := value(v, "condition"); c != nil {
				text, ok := p.scalar(c, of+".condition")
				if one.Until = conditions[text]; ok && one.Until == "" {
					p.problem(c, "write service_started, service_healthy or service_completed_successfully",
						"%s.condition is %q", of, text)
				}
			}
			if r := value(v, "required"); r != nil {
				one.optional = !p.boolean(r, of+".required")
			}
		}
		all = append(all, one)
	}
	return all
}

// dependencies gives services what they wait for, and refuses what could never be.
func (p *parser) dependencies(all []Service, needs map[string][]need, idle map[string]bool) {
	at := map[string]int{}
	for i, s := range all {
		at[s.Name] = i
	}
	for i := range all {
		s := &all[i]
		what := "services." + s.Name + ".depends_on"
		for _, n := range needs[s.Name] {
			j, ok := at[n.Service]
			switch {
			case !ok && n.optional:
				continue
			case !ok && idle[n.Service]:
				p.problem(n.at, "activate its profile with COMPOSE_PROFILES in .env, or write required: false",
					"%s: service %q is not of an active profile", what, n.Service)
				continue
			case !ok:
				fix := "name one that is declared, or leave it out"
				if near, ok := yamlfile.Nearest(n.Service, slices.Sorted(maps.Keys(at))); ok {
					fix = fmt.Sprintf("did you mean %q?", near)
				}
				p.problem(n.at, fix, "%s: there is no service %q", what, n.Service)
				continue
			}
			other := &all[j]
			ends := n.Until == rollout.UntilSucceeded
			switch {
			case other.Cron != "":
				p.problem(n.at, "leave it out", "%s: service %s runs at times, which nothing waits for", what, n.Service)
			case other.Replicas == 0:
				p.problem(n.at, "declare replicas, or leave it out", "%s: service %s has no instances", what, n.Service)
			case ends && !other.restarts:
				// What somebody waits for to end is a task, and a task is not started again: as
				// Compose has it for everything.
				other.Restart = rollout.Restart{Never: true}
			case ends && !other.Restart.Never && !other.Restart.OnFailure:
				p.problem(n.at, `give it restart: on-failure, or "no"`, "%s: service %s never ends, as it is always started again",
					what, n.Service)
			case n.Until == rollout.UntilHealthy && other.Restart.Never && len(other.Ports) == 0 && other.Health.Test == nil &&
				!other.restarts:
				p.problem(n.at, "write condition: service_completed_successfully", "%s: service %s is a task, which ends",
					what, n.Service)
			}
			s.Needs = append(s.Needs, n.Need)
		}
		slices.SortFunc(s.Needs, func(a, b rollout.Need) int { return strings.Compare(a.Service, b.Service) })
	}
	p.circles(all, needs)
}

// circles refuses services that wait for each other.
func (p *parser) circles(all []Service, needs map[string][]need) {
	state := map[string]int{} // 1 is being looked at, 2 done
	of := map[string][]rollout.Need{}
	for _, s := range all {
		of[s.Name] = s.Needs
	}
	var follow func(name string, chain []string) bool
	follow = func(name string, chain []string) bool {
		switch chain = append(chain, name); {
		case state[name] == 2:
			return false
		case state[name] == 1:
			from := slices.Index(chain, name)
			for _, n := range needs[chain[len(chain)-2]] {
				if n.Service == name {
					p.problem(n.at, "remove one of them", "services wait for each other: %s", strings.Join(chain[from:], " → "))
				}
			}
			return true
		}
		state[name] = 1
		for _, n := range of[name] {
			if follow(n.Service, chain) {
				return true
			}
		}
		state[name] = 2
		return false
	}
	for _, s := range all {
		if follow(s.Name, nil) {
			return
		}
	}
}
