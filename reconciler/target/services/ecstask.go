package services

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// The files of an ECS service: its task definition, what create-service takes, what
// CodeDeploy takes, and what CodePipeline fills images in from.
const (
	taskFile        = "taskdef.json"
	serviceFile     = "service.json"
	appspecFile     = "appspec.yaml"
	definitionsFile = "imagedefinitions.json"
	detailFile      = "imageDetail.json"
)

// What a task definition says nothing about.
const (
	ecsStopTimeout = 30 * time.Second
	ecsHealthy     = 40 * time.Second // after its start, where nothing is checked
	ecsRetries     = 3
	ecsInterval    = 30 * time.Second
	ecsTimeout     = 5 * time.Second
)

const (
	noRoles     = "what runs here has the rights that it is given here: secrets by name, and no AWS role"
	noPlacement = "there is one machine"
	noTask      = "AWS notes them when a task definition is registered"
	noDetail    = "only ImageURI is looked at"
	noPrinted   = "AWS prints them of a service that runs there"
)

// record checks the keys of a JSON object, of which those that say nothing are passed
// over: what AWS prints is full of them.
func (p *parser) record(n *yaml.Node, what string, known []string,
	unsupported, harmless map[string]string) (map[string]*yaml.Node, bool) {
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write {…}", "%s is %s, where an object belongs", what, yamlfile.Describe(n))
		return nil, false
	}
	said := p.with(n, "", nil)
	said.Content = nil
	set := map[string]*yaml.Node{}
	var noted []string
	var first *yaml.Node
	for key, v := range yamlfile.Pairs(n) {
		if why := harmless[key.Value]; why == noTask || why == noPrinted || why == noDetail {
			noted = append(noted, key.Value)
			first = cmp.Or(first, key)
			continue
		}
		empty := v.Tag == "!!null" || v.Kind != yaml.ScalarNode && len(v.Content) == 0 || v.Value == "false" &&
			v.Tag == "!!bool"
		if slices.Contains(known, key.Value) && v.Tag != "!!null" {
			set[key.Value] = v
		} else if empty && (slices.Contains(known, key.Value) || unsupported[key.Value] != "" || harmless[key.Value] != "") {
			continue
		}
		said.Content = append(said.Content, key, v)
	}
	if len(noted) > 0 {
		p.warning(first, harmless[first.Value], "%s: %s have no effect here", what, strings.Join(noted, ", "))
	}
	return set, p.mapping(said, what, known, unsupported, harmless)
}

// items are the elements of a JSON list, with what each is called in messages.
func (p *parser) items(n *yaml.Node, what string, most int, each func(item *yaml.Node, of string)) {
	if n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		p.problem(n, "write a list", "%s is %s, where a list belongs", what, yamlfile.Describe(n))
		return
	}
	for i, item := range n.Content {
		if i == most {
			p.problem(item, "leave some out", "%s: more than %d", what, most)
			return
		}
		each(item, fmt.Sprintf("%s[%d]", what, i))
	}
}

// said is the text of a key of an object, "" where there is none.
func (p *parser) said(set map[string]*yaml.Node, key, what string) string {
	if set[key] == nil {
		return ""
	}
	text, _ := p.scalar(set[key], what+"."+key)
	return text
}

// document reads a JSON file of the directory, nil when it is not there or cannot be
// read.
func (p *parser) document(name string) *yaml.Node {
	data, ok := p.content(name)
	if !ok {
		return nil
	}
	p.read[name] = true
	top, err := yamlfile.ParseJSON(path.Join(p.dir, name), data)
	if err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		p.problems = append(p.problems, ps...)
		return nil
	}
	p.belongs(top, &origin{name: name, text: true})
	return top
}

// ecsTask is what is being read of a task definition.
type ecsTask struct {
	*parser
	family   string
	network  string
	limits   Limits                // of the whole task
	volumes  map[string]*yaml.Node // by name
	images   map[string]string     // by container, as imagedefinitions.json says
	detail   string                // for placeholders, as imageDetail.json says
	hostPort map[string]int        // by service: where requests are taken
}

// ecsContainer is one container of a task definition.
type ecsContainer struct {
	Service
	at        *yaml.Node
	essential bool
	needs     []need
	checked   bool // a health check is declared
}

// task reads an application that is declared as an ECS service.
func (p *parser) task() *Compose {
	c := &Compose{}
	top := p.document(taskFile)
	if top == nil {
		return c
	}
	if inner := value(top, "taskDefinition"); inner != nil { // as describe-task-definition prints it
		if _, ok := p.record(top, taskFile, []string{"taskDefinition"}, nil, map[string]string{"tags": noTask}); !ok {
			return c
		}
		top = inner
	}
	t := &ecsTask{parser: p, volumes: map[string]*yaml.Node{}, images: map[string]string{}, hostPort: map[string]int{}}
	t.definitions()
	set, ok := p.record(top, taskFile, []string{
		"family", "networkMode", "cpu", "memory", "volumes", "containerDefinitions", "runtimePlatform", "pidMode", "ipcMode",
	}, map[string]string{
		"proxyConfiguration":    "requests are carried by the proxy of this machine",
		"inferenceAccelerators": noDevices,
		"enableFaultInjection":  "leave it out",
	}, map[string]string{
		"taskRoleArn": noRoles, "executionRoleArn": noRoles,
		"requiresCompatibilities": "it runs on this machine's container engine",
		"placementConstraints":    noPlacement, "ephemeralStorage": "it is the machine's", "tags": noTask,
		"taskDefinitionArn": noTask,
		"revision":          noTask, "status": noTask, "requiresAttributes": noTask, "compatibilities": noTask,
		"registeredAt": noTask,
		"registeredBy": noTask, "deregisteredAt": noTask,
	})
	if !ok {
		return c
	}
	t.family = p.said(set, "family", taskFile)
	t.whole(set)
	var all []ecsContainer
	p.items(set["containerDefinitions"], "containerDefinitions", 10, func(item *yaml.Node, what string) {
		if one, ok := t.container(item, what); ok {
			all = append(all, one)
		}
	})
	if set["containerDefinitions"] == nil {
		p.problem(top, "write containerDefinitions", "%s has no containers", taskFile)
	}
	c.Services = t.together(all, top)
	t.service(c, all)
	return c
}

// whole reads what counts for all containers of the task.
func (t *ecsTask) whole(set map[string]*yaml.Node) {
	p := t.parser
	if n := set["networkMode"]; n != nil {
		switch t.network, _ = p.scalar(n, "networkMode"); t.network {
		case "awsvpc", "bridge", "host":
			p.warning(n, "the proxy of this machine takes the requests, and "+oneNetwork, "networkMode has no effect here")
		default:
			p.problem(n, "write awsvpc, bridge or host, which are alike here", "networkMode is %q", t.network)
		}
	}
	for _, key := range []string{"pidMode", "ipcMode"} {
		if n := set[key]; n != nil && p.said(set, key, taskFile) != "task" {
			p.problem(n, "leave it out", "%s: %s", key, noBounds)
		}
	}
	if n := set["runtimePlatform"]; n != nil {
		platform, _ := p.record(n, "runtimePlatform", []string{"operatingSystemFamily", "cpuArchitecture"}, nil, nil)
		if family := platform["operatingSystemFamily"]; family != nil &&
			p.said(platform, "operatingSystemFamily", "") != "LINUX" {
			p.problem(family, "build an image for Linux", "runtimePlatform: this machine runs Linux")
		}
	}
	if n := set["cpu"]; n != nil {
		t.limits.CPUs = p.vcpus(n, "cpu")
	}
	if n := set["memory"]; n != nil {
		t.limits.Memory = p.mebibytes(n, "memory")
	}
	p.items(set["volumes"], "volumes", maxListed, func(item *yaml.Node, what string) {
		const here = "a volume is kept on this machine"
		v, ok := p.record(item, what, []string{"name", "host", "dockerVolumeConfiguration"}, map[string]string{
			"efsVolumeConfiguration":                  here + "; leave efsVolumeConfiguration out",
			"fsxWindowsFileServerVolumeConfiguration": here,
			"s3filesVolumeConfiguration":              here, "configuredAtLaunch": here + "; leave it out",
		}, nil)
		name := p.said(v, "name", what)
		if !ok {
			return
		}
		if !volumeName().MatchString(name) || len(name) > 64 {
			p.problem(cmp.Or(v["name"], item), "use letters, digits, '_', '.' and '-', at most 64", "%s.name is %q", what, name)
			return
		}
		if host := v["host"]; host != nil && len(host.Content) > 0 {
			h, _ := p.record(host, what+".host", []string{"sourcePath"}, nil, nil)
			if source := p.said(h, "sourcePath", what+".host"); source != "" {
				p.problem(h["sourcePath"], "leave sourcePath out for a volume that survives every deployment",
					"%s: %s is the machine's, and not the release's", what, source)
			}
		}
		if d := v["dockerVolumeConfiguration"]; d != nil {
			config, _ := p.record(d, what+".dockerVolumeConfiguration", []string{"driver"},
				map[string]string{"driverOpts": here + "; leave it out"},
				map[string]string{"scope": "it survives every deployment", "autoprovision": "it is made when it is needed",
					"labels": "it has the application's"})
			if driver := config["driver"]; driver != nil && p.said(config, "driver", "") != "local" {
				p.problem(driver, "leave it out", "%s: %s", what, here)
			}
		}
		if t.volumes[name] != nil {
			p.problem(item, "keep one of them", "%s: volume %q is given twice", what, name)
		}
		t.volumes[name] = item
	})
}

var (
	vcpuForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([0-9]*\.?[0-9]+) *(?i:vcpu)s?$`)
	})
	memoryForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([0-9]*\.?[0-9]+) *(?i:gb)$`)
	})
)

// vcpus reads CPU units, of which a processor has 1024, or "0.5 vCPU".
func (p *parser) vcpus(n *yaml.Node, what string) float64 {
	text, ok := p.scalar(n, what)
	if m := vcpuForm().FindStringSubmatch(text); ok && m != nil {
		if v, err := strconv.ParseFloat(m[1], 64); err == nil && v >= 0.01 && v <= 4096 {
			return v
		}
	} else if v, err := strconv.Atoi(text); ok && err == nil && v >= 10 && v <= 4096*1024 {
		return float64(v) / 1024
	}
	p.problem(n, `write "512" for half a processor, or "0.5 vCPU"`, "%s is %q", what, text)
	return 0
}

// mebibytes reads MiB, or "0.5 GB".
func (p *parser) mebibytes(n *yaml.Node, what string) int64 {
	text, ok := p.scalar(n, what)
	v, err := strconv.ParseFloat(text, 64)
	if m := memoryForm().FindStringSubmatch(text); m != nil {
		v, err = strconv.ParseFloat(m[1], 64)
		v *= 1024
	}
	if !ok || err != nil || !(v >= 6 && v <= maxMemory>>20) || v != math.Trunc(v) {
		p.problem(n, `write how many MiB, such as "512", or "1 GB"`, "%s is %q", what, text)
		return 0
	}
	return int64(v) << 20
}

// together makes services of the containers of a task. A task is one unit in ECS, and
// shares its addresses; here each container is one of its own.
func (t *ecsTask) together(all []ecsContainer, top *yaml.Node) (services []Service) {
	names := map[string]bool{}
	var main *ecsContainer
	for i, c := range all {
		if names[c.Name] {
			t.problem(c.at, "give each a name of its own", "two containers have the name %q", c.Name)
		}
		names[c.Name] = true
		if !c.essential {
			continue
		}
		if main != nil {
			t.problem(
				c.at, "give each essential container an environment, or compose.yaml, of its own; beside it may stand containers with "+
					`"essential": false that it waits for with SUCCESS`,
				"containers %s and %s are both essential and share the task's addresses, which instances here do not", main.Name, c.Name)
			continue
		}
		main = &all[i]
	}
	if main == nil {
		if len(all) > 0 {
			t.problem(all[0].at, `leave out "essential": false of one`, "no container of the task is essential")
		}
		return nil
	}
	needs := map[string][]need{}
	for i := range all {
		c := &all[i]
		needs[c.Name] = c.needs
		if c.essential {
			continue
		}
		ends := slices.ContainsFunc(all, func(o ecsContainer) bool {
			return slices.ContainsFunc(o.needs,
				func(n need) bool { return n.Service == c.Name && n.Until == rollout.UntilSucceeded })
		})
		if !ends || len(c.Ports) > 0 {
			t.problem(c.at, "leave it out, or have another container wait for its end with dependsOn: SUCCESS",
				"container %s runs beside %s and shares the task's addresses, which instances here do not", c.Name, main.Name)
			continue
		}
		t.warning(c.at, "", "container %s runs once a release, and not once for each task", c.Name)
		c.Restart, c.restarts = rollout.Restart{Never: true}, true
		if !c.checked {
			c.Health.alive(aliveHealthyFor)
		}
	}
	for _, c := range all {
		services = append(services, c.Service)
	}
	t.dependencies(services, needs, nil)
	slices.SortFunc(services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return services
}
