package services

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// Deployment is how an application gets from one release to the next, as x-headgate
// beside services says.
type Deployment struct {
	rollout.Deployment

	MinimumHealthy, Maximum int // percent, of rolling ones
	Calls                   map[string]HookCall
	Queries                 map[string]alarm.Query
}

// HookCall is what a hook does: it calls URL, or runs Command in an instance of Service, or
// neither where a person lets it go on.
type HookCall struct {
	URL     string
	Command []string `json:",omitempty"` // variables not yet replaced
	Service string   `json:",omitempty"`

	at *yaml.Node
}

// ParseFunctionDeployment reads how a function's alias gets from one version to the
// next: like a deployment of services, without what is about instances. what is its
// place for messages.
func ParseFunctionDeployment(file string, n *yaml.Node, what string) (Deployment, yamlfile.Problems) {
	p := newParser("", nil)
	p.main.name, p.function = file, true
	d := p.deployment(n, what)
	return d, p.problems
}

// ParseAlarms reads the alarms of a deployment of something else than services, by the same
// keys.
func ParseAlarms(file string, n *yaml.Node, what string) ([]alarm.Alarm, map[string]alarm.Query, yamlfile.Problems) {
	p := newParser("", nil)
	p.main.name = file
	var d Deployment
	p.alarms(&d, n, what)
	return d.Alarms, d.Queries, p.problems
}

// QueryOf is what an alarm asks about what is declared: its variables are replaced.
func QueryOf(q alarm.Query, d *target.Declared) (alarm.Query, error) {
	var err error
	q.Query, err = interpolate(q.Query, map[string]string{
		"HEADGATE_ENVIRONMENT": d.Environment,
		"HEADGATE_APPLICATION": d.Application,
		"HEADGATE_RELEASE":     strconv.Itoa(d.Release.Number),
		"HEADGATE_COMMIT":      d.Release.Commit,
	})
	return q, err
}

// Defaults, and bounds of what may be declared.
const (
	defaultMinimumHealthy = 100
	defaultMaximum        = 200
	defaultHookTimeout    = 10 * time.Minute
	defaultPauseTimeout   = 24 * time.Hour
	defaultAlarmInterval  = 10 * time.Second
	maxStageTime          = 24 * time.Hour
	maxFunctionTime       = 48 * time.Hour // CodeDeploy's 2880 minutes
	maxHooks              = 20
	maxAlarms             = 10
)

// predefined are the deployments that CodeDeploy and ECS have names for.
var predefined = map[string]rollout.Deployment{
	"ECSAllAtOnce":                        {},
	"ECSCanary10Percent5Minutes":          {Strategy: rollout.Canary, Percent: 10, Interval: 5 * time.Minute},
	"ECSCanary10Percent15Minutes":         {Strategy: rollout.Canary, Percent: 10, Interval: 15 * time.Minute},
	"ECSLinear10PercentEvery1Minutes":     {Strategy: rollout.Linear, Percent: 10, Interval: time.Minute},
	"ECSLinear10PercentEvery3Minutes":     {Strategy: rollout.Linear, Percent: 10, Interval: 3 * time.Minute},
	"LambdaCanary10Percent5Minutes":       {Strategy: rollout.Canary, Percent: 10, Interval: 5 * time.Minute},
	"LambdaCanary10Percent10Minutes":      {Strategy: rollout.Canary, Percent: 10, Interval: 10 * time.Minute},
	"LambdaCanary10Percent15Minutes":      {Strategy: rollout.Canary, Percent: 10, Interval: 15 * time.Minute},
	"LambdaCanary10Percent30Minutes":      {Strategy: rollout.Canary, Percent: 10, Interval: 30 * time.Minute},
	"LambdaLinear10PercentEvery1Minute":   {Strategy: rollout.Linear, Percent: 10, Interval: time.Minute},
	"LambdaLinear10PercentEvery2Minutes":  {Strategy: rollout.Linear, Percent: 10, Interval: 2 * time.Minute},
	"LambdaLinear10PercentEvery3Minutes":  {Strategy: rollout.Linear, Percent: 10, Interval: 3 * time.Minute},
	"LambdaLinear10PercentEvery10Minutes": {Strategy: rollout.Linear, Percent: 10, Interval: 10 * time.Minute},
	"LambdaAllAtOnce":                     {},
}

// strategies are the names of those that take settings, ECS's own among them.
var strategies = map[string]rollout.Strategy{
	"all-at-once": rollout.AllAtOnce,
	"blue-green":  rollout.AllAtOnce,
	"rolling":     rollout.Rolling,
	"canary":      rollout.Canary,
	"linear":      rollout.Linear,
}

const strategyForm = "write all-at-once, rolling, canary, linear, or a name such as CodeDeployDefault.ECSCanary10Percent5Minutes"

// deployments reads x-headgate beside services.
func (p *parser) deployments(c *Compose, n *yaml.Node) {
	if !p.mapping(n, "x-headgate", applicationKeys, nil, nil) {
		return
	}
	p.registries(c, value(n, "registries"), "x-headgate.registries")
	if v := value(n, "deployment"); v != nil {
		c.Deployment = p.deployment(v, "x-headgate.deployment")
		p.hookCommands(c)
		if c.Deployment.Strategy == rollout.Rolling && len(p.problems) == 0 {
			p.bounds(v, c)
		}
	}
}

// bounds refuses a rolling deployment that could go nowhere.
func (p *parser) bounds(n *yaml.Node, c *Compose) {
	for _, s := range c.Services {
		if s.exclusive() || s.Cron != "" {
			continue
		}
		low, high := rollout.Bounds(s.Replicas, c.Deployment.MinimumHealthy, c.Deployment.Maximum)
		if rollout.Stalls(s.Replicas, low, high) {
			fix := "lower minimum_healthy, raise maximum, or declare more replicas"
			if p.of(n).text {
				fix = "lower minimumHealthyPercent, raise maximumPercent, or raise desiredCount"
			}
			p.problem(n, fix,
				"service %s could never be replaced: of %d instances at least %d are to be healthy and at most %d to run, so that none can be stopped or started first",
				s.Name, s.Replicas, low, high)
		}
	}
}

// Keys of what x-headgate says beside services, and below that; x-headgate.schema.json has
// the same.
var (
	applicationKeys = []string{"deployment", "registries"}
	deploymentKeys  = []string{
		"strategy", "percent", "interval", "bake", "minimum_healthy", "maximum", "breaker", "hooks", "alarms",
	}
	breakerKeys = []string{"percent", "unbounded_percent", "count", "cumulative", "rollback"}
	hookKeys    = []string{"name", "stage", "url", "command", "service", "pause", "timeout"}
	alarmKeys   = []string{"name", "prometheus", "query", "above", "below", "for", "interval", "rollback"}
)

// functionKeys are those that mean something for a function's alias. Its hooks are in
// the appspec.yml.
var functionKeys = []string{"strategy", "percent", "interval", "alarms"}

// smallest is the smallest linear step, in percent: ECS has 3, CodeDeploy 1.
func (p *parser) smallest() int {
	if p.function {
		return 1
	}
	return 3
}

// longest is how long traffic may take to shift.
func (p *parser) longest() time.Duration {
	if p.function {
		return maxFunctionTime
	}
	return maxStageTime
}

func (p *parser) deployment(n *yaml.Node, what string) (d Deployment) {
	d.MinimumHealthy, d.Maximum = defaultMinimumHealthy, defaultMaximum
	if n.Kind == yaml.ScalarNode {
		p.strategy(&d, n, what)
		return p.complete(d, n, what, map[string]*yaml.Node{})
	}
	known := deploymentKeys
	if p.function {
		known = functionKeys
	}
	if !p.mapping(n, what, known, nil, nil) {
		return d
	}
	set := map[string]*yaml.Node{}
	for key, v := range yamlfile.Pairs(n) {
		set[key.Value] = v
	}
	if v := set["strategy"]; v != nil {
		p.strategy(&d, v, what+".strategy")
	}
	for key, v := range yamlfile.Pairs(n) {
		of := what + "." + key.Value
		switch key.Value {
		case "percent":
			d.Percent = p.integer(v, of, 1, 100)
		case "interval":
			d.Interval = p.duration(v, of, 0, p.longest())
		case "bake":
			d.Bake = p.duration(v, of, 0, maxStageTime)
		case "minimum_healthy":
			d.MinimumHealthy = p.integer(v, of, 0, 100)
		case "maximum":
			d.Maximum = p.integer(v, of, 100, 1000)
		case "breaker":
			d.Breaker = p.breaker(v, of)
		case "hooks":
			p.hooks(&d, v, of)
		case "alarms":
			p.alarms(&d, v, of)
		}
	}
	return p.complete(d, n, what, set)
}

func (p *parser) strategy(d *Deployment, n *yaml.Node, what string) {
	text, ok := p.scalar(n, what)
	if !ok {
		return
	}
	name := strings.TrimPrefix(text, "CodeDeployDefault.")
	if known, ok := predefined[name]; ok {
		d.Deployment = known
		return
	}
	s, ok := strategies[strings.ReplaceAll(strings.ToLower(text), "_", "-")]
	if p.function && (!ok || s == rollout.Rolling) {
		p.problem(n, "write all-at-once, canary, linear, or a name such as CodeDeployDefault.LambdaCanary10Percent5Minutes",
			"%s is %q", what, text)
	} else if !ok {
		p.problem(n, strategyForm, "%s is %q", what, text)
	}
	d.Strategy = s
}

// complete refuses settings that do not go together.
func (p *parser) complete(d Deployment, n *yaml.Node, what string, set map[string]*yaml.Node) Deployment {
	belongs := map[string][]rollout.Strategy{
		"percent":         {rollout.Canary, rollout.Linear},
		"interval":        {rollout.Canary, rollout.Linear},
		"minimum_healthy": {rollout.Rolling},
		"maximum":         {rollout.Rolling},
	}
	for _, key := range deploymentKeys {
		if of := belongs[key]; set[key] != nil && of != nil && !slices.Contains(of, d.Strategy) {
			p.problem(set[key], fmt.Sprintf("leave it out, or write strategy: %s", of[0]),
				"%s.%s has no meaning for this strategy", what, key)
		}
	}
	steps := 2
	switch {
	case d.Strategy == rollout.Canary && (d.Percent < 1 || d.Percent > 99):
		p.problem(n, "write percent: 10", "%s: a canary gets from 1 to 99 percent of the traffic first", what)
		return d
	case d.Strategy == rollout.Linear && (d.Percent < p.smallest() || d.Percent > 100):
		p.problem(n, "write percent: 10", "%s: a linear step is from %d to 100 percent of the traffic", what, p.smallest())
		return d
	case d.Strategy == rollout.Linear:
		steps = (100 + d.Percent - 1) / d.Percent
	}
	if all := time.Duration(steps-1) * d.Interval; all > p.longest() {
		p.problem(n, fmt.Sprintf("make the steps fewer or shorter, %s altogether", p.longest()),
			"%s: the traffic would take %s to shift", what, all)
	}
	for _, h := range d.Hooks {
		if d.Strategy == rollout.Rolling &&
			slices.Contains([]rollout.Stage{rollout.TestTrafficShift, rollout.PostTestTrafficShift, rollout.PreProductionShift},
				h.Stage) {
			p.problem(set["hooks"], "use pre-scale-up or post-production-traffic-shift, or another strategy",
				"%s: hook %s has a say before the traffic shifts, but a rolling deployment shifts it with each instance", what, h.Name)
		}
	}
	return d
}

func (p *parser) breaker(n *yaml.Node, what string) (b rollout.Breaker) {
	if n.Kind == yaml.ScalarNode && n.Value == "false" {
		b.Off = true
		return b
	}
	if !p.mapping(n, what, breakerKeys, nil, nil) {
		return b
	}
	given := 0
	for key, v := range yamlfile.Pairs(n) {
		of := what + "." + key.Value
		switch key.Value {
		case "percent", "unbounded_percent":
			given++
			b.Value = p.integer(v, of, 1, 100)
			if key.Value == "unbounded_percent" {
				b.Kind = rollout.UnboundedPercent
			}
		case "count":
			given++
			b.Kind, b.Value = rollout.Count, p.integer(v, of, 1, 10000)
		case "cumulative":
			b.Cumulative = p.boolean(v, of)
		case "rollback":
			b.Keeps = !p.boolean(v, of)
		}
	}
	if given > 1 {
		p.problem(n, "keep one of them", "%s: percent, unbounded_percent and count exclude each other", what)
	}
	return b
}

// each calls f for each mapping of a list, with known keys by name.
func (p *parser) each(n *yaml.Node, what string, most int, known []string,
	f func(at *yaml.Node, of string, set map[string]*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		p.problem(n, "write a list", "%s is %s", what, yamlfile.Describe(n))
		return
	}
	for i, item := range n.Content {
		of := fmt.Sprintf("%s[%d]", what, i)
		if i == most {
			p.problem(item, "leave some out", "%s: more than %d", what, most)
			return
		}
		if !p.mapping(item, of, known, nil, nil) {
			continue
		}
		set := map[string]*yaml.Node{}
		for key, v := range yamlfile.Pairs(item) {
			set[key.Value] = v
		}
		f(item, of, set)
	}
}

func (p *parser) hooks(d *Deployment, n *yaml.Node, what string) {
	d.Calls = map[string]HookCall{}
	p.each(n, what, maxHooks, hookKeys,
		func(at *yaml.Node, of string, set map[string]*yaml.Node) {
			h := rollout.Hook{Timeout: defaultHookTimeout}
			var call HookCall
			var stages []string
			for _, s := range rollout.HookStages {
				stages = append(stages, strings.ToLower(strings.ReplaceAll(string(s), "_", "-")))
			}
			if v := set["stage"]; v == nil {
				p.problem(at, "write stage: post-test-traffic-shift", "%s has no stage", of)
			} else if text, ok := p.scalar(v, of+".stage"); ok {
				h.Stage = rollout.Stage(strings.ToUpper(strings.ReplaceAll(text, "-", "_")))
				if !slices.Contains(rollout.HookStages, h.Stage) {
					p.problem(v, "write one of "+strings.Join(stages, ", "), "%s.stage is %q", of, text)
				}
			}
			if v := set["pause"]; v != nil {
				h.Pause, h.Timeout = true, defaultPauseTimeout
				if v.Value != "true" {
					h.Timeout = p.duration(v, of+".pause", time.Second, maxStageTime)
				}
			}
			if v := set["url"]; v != nil {
				call.URL = p.address(v, of+".url")
			}
			if v := set["command"]; v != nil {
				call.Command = p.command(v, of+".command")
			}
			if v := set["service"]; v != nil {
				if call.Service, _ = p.scalar(v, of+".service"); set["command"] == nil {
					p.problem(v, "leave it out", "%s.service: only a command runs in one", of)
				}
			}
			call.at = at
			ways := 0
			for _, key := range []string{"url", "command", "pause"} {
				if set[key] != nil {
					ways++
				}
			}
			if ways != 1 {
				p.problem(at, "write url: https://…, or command: ./smoke, or pause: 24h for a person who lets it go on",
					"%s: a hook has either a url or a command or a pause", of)
			}
			if v := set["timeout"]; v != nil && h.Pause {
				p.problem(v, "write pause: 24h", "%s.timeout: how long a pause may take is its value", of)
			} else if v != nil {
				h.Timeout = p.duration(v, of+".timeout", time.Second, maxStageTime)
			}
			h.Name = strings.ToLower(strings.ReplaceAll(string(h.Stage), "_", "-"))
			p.name(at, set["name"], of, &h.Name, func(name string) bool {
				return slices.ContainsFunc(d.Hooks, func(o rollout.Hook) bool { return o.Name == name })
			})
			d.Hooks = append(d.Hooks, h)
			d.Calls[h.Name] = call
		})
}

// name reads a name that nothing else has.
func (p *parser) name(at, n *yaml.Node, what string, name *string, taken func(string) bool) {
	if n != nil {
		text, ok := p.scalar(n, what+".name")
		if ok && !serviceName().MatchString(text) {
			p.problem(n, "use lower-case letters, digits, _ and -, at most 40", "%s.name is %q", what, text)
		}
		*name, at = text, n
	}
	if taken(*name) {
		p.problem(at, "give each a name of its own with name:", "%s: %q is given twice", what, *name)
	}
}

// address reads an HTTP address.
func (p *parser) address(n *yaml.Node, what string) string {
	text, ok := p.scalar(n, what)
	if !ok {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		p.problem(n, `write it like "http://127.0.0.1:9090", without a password`, "%s is not an address", what)
	}
	return text
}

func (p *parser) alarms(d *Deployment, n *yaml.Node, what string) {
	d.Queries = map[string]alarm.Query{}
	p.each(n, what, maxAlarms, alarmKeys, func(at *yaml.Node, of string, set map[string]*yaml.Node) {
		a := alarm.Alarm{Interval: defaultAlarmInterval, Above: set["above"] != nil}
		var q alarm.Query
		for _, key := range []string{"name", "prometheus", "query"} {
			if set[key] == nil {
				p.problem(at, "write {name: errors, prometheus: http://127.0.0.1:9090, query: …, above: 0.05, for: 1m}",
					"%s has no %s", of, key)
			}
		}
		bound := set["above"]
		if (bound == nil) == (set["below"] == nil) {
			p.problem(at, "write above: 0.05, or below", "%s: an alarm has either above or below", of)
		} else if bound == nil {
			bound = set["below"]
		}
		if bound != nil {
			value, err := strconv.ParseFloat(bound.Value, 64)
			if err != nil || math.IsNaN(value) || math.IsInf(value, 0) {
				p.problem(bound, "write a number", "%s: the bound is %q", of, bound.Value)
			}
			a.Bound = value
		}
		if v := set["prometheus"]; v != nil {
			q.Prometheus = p.address(v, of+".prometheus")
		}
		if v := set["query"]; v != nil {
			q.Query, _ = p.text(v, of+".query")
		}
		if v := set["for"]; v != nil {
			a.For = p.duration(v, of+".for", 0, time.Hour)
		}
		if v := set["interval"]; v != nil {
			a.Interval = p.duration(v, of+".interval", time.Second, time.Hour)
		}
		if v := set["rollback"]; v != nil {
			a.Keeps = !p.boolean(v, of+".rollback")
		}
		p.name(at, set["name"], of, &a.Name, func(name string) bool {
			return slices.ContainsFunc(d.Alarms, func(o alarm.Alarm) bool { return o.Name == name })
		})
		d.Alarms = append(d.Alarms, a)
		d.Queries[a.Name] = q
	})
}
