package services

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target/alarm"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

const (
	noNetworks = "the proxy of this machine takes the requests"
	noScaling  = "desiredCount says how many instances there are"
)

// service reads how many tasks there are and how they are deployed, of service.json
// and appspec.yaml.
func (t *ecsTask) service(c *Compose, all []ecsContainer) {
	d := &c.Deployment
	d.Strategy, d.MinimumHealthy, d.Maximum = rollout.Rolling, defaultMinimumHealthy, defaultMaximum
	i := slices.IndexFunc(all, func(c ecsContainer) bool { return c.essential })
	j := -1
	if i >= 0 {
		j = slices.IndexFunc(c.Services, func(s Service) bool { return s.Name == all[i].Name })
	}
	var s Service // of the essential container
	balanced := false
	if j >= 0 {
		s = c.Services[j]
	}
	spec := t.appspec(&s)
	if spec {
		d.Strategy = rollout.AllAtOnce // what CodeDeploy does unless it is told
		balanced = true
	}
	at := t.document(serviceFile)
	if at != nil {
		at, balanced = t.serviceKeys(at, c, &s, spec, balanced)
	}
	if j < 0 {
		return
	}
	if !all[i].checked && s.Health.Path == "" {
		// Without anything to be asked, living for a while has to do.
		if s.Health.Connect = balanced && s.Container.Port > 0; !s.Health.Connect {
			s.Health.alive(ecsHealthy)
		}
	}
	if s.passes != nil {
		s.Health.Passes = *s.passes
	}
	if s.healthyFor != nil {
		s.Health.HealthyFor = *s.healthyFor
	}
	if s.cronAt != nil && all[i].checked {
		t.problem(s.cronAt, "leave out the container's healthCheck, or cron", "container %s runs at times, and is judged by how it ends",
			s.Name)
	}
	t.runs(&s, nil, "container "+s.Name)
	c.Services[j] = s
	if d.Strategy == rollout.Rolling && len(t.problems) == 0 {
		if at == nil {
			at = all[i].at
		}
		t.bounds(at, &Compose{Services: []Service{s}, Deployment: *d})
	}
}

// serviceKeys reads service.json.
func (t *ecsTask) serviceKeys(top *yaml.Node, c *Compose, s *Service, spec, balanced bool) (at *yaml.Node, _ bool) {
	for _, wrapper := range []string{"service", "services"} { // as create-service and describe-services print it
		if inner := value(top, wrapper); inner != nil {
			if inner.Kind == yaml.SequenceNode && len(inner.Content) == 1 {
				inner = inner.Content[0]
			}
			if _, ok := t.record(top, serviceFile, []string{wrapper}, nil, map[string]string{"failures": noPrinted}); !ok {
				return top, balanced
			}
			top = inner
		}
	}
	harmless := map[string]string{
		"cluster": noPlacement, "launchType": noPlacement, "capacityProviderStrategy": noPlacement,
		"platformVersion": noPlacement,
		"platformFamily":  noPlacement, "placementConstraints": noPlacement, "placementStrategy": noPlacement,
		"availabilityZoneRebalancing": noPlacement, "networkConfiguration": noNetworks, "role": noRoles, "roleArn": noRoles,
		"serviceRegistries": oneNetwork, "serviceConnectConfiguration": oneNetwork, "tags": noPrinted,
		"propagateTags":        noPrinted,
		"enableECSManagedTags": noPrinted, "enableExecuteCommand": noRoles, "clientToken": noPrinted,
		"monitoring": "console and env show say how it is",
	}
	for _, key := range []string{
		"serviceArn", "clusterArn", "status", "runningCount", "pendingCount", "taskSets", "deployments", "events",
		"createdAt", "createdBy",
		"updatedAt", "currentServiceDeployment", "currentServiceRevisions", "resourceManagementType",
	} {
		harmless[key] = noPrinted
	}
	set, ok := t.record(top, serviceFile, []string{
		"serviceName", "taskDefinition", "desiredCount", "schedulingStrategy", "deploymentController",
		"deploymentConfiguration",
		"loadBalancers", "healthCheckGracePeriodSeconds", "x-headgate",
	}, map[string]string{
		"volumeConfigurations":     "a volume is kept on this machine; declare it in " + taskFile,
		"vpcLatticeConfigurations": noNetworks,
	}, harmless)
	if !ok {
		return top, balanced
	}
	d := &c.Deployment

	if n := set["taskDefinition"]; n != nil {
		text, _ := t.scalar(n, "taskDefinition")
		family := text[strings.LastIndex(text, "/")+1:]
		family, _, _ = strings.Cut(family, ":")
		if text != "<TASK_DEFINITION>" && t.family != "" && family != t.family {
			t.problem(n, fmt.Sprintf("write %q, or leave it out", t.family), "taskDefinition is %q, but %s is of the family %q",
				text, taskFile, t.family)
		}
	}
	daemon := t.said(set, "schedulingStrategy", serviceFile) == "DAEMON"
	if n := set["schedulingStrategy"]; n != nil && !daemon && t.said(set, "schedulingStrategy", serviceFile) != "REPLICA" {
		t.problem(n, "write REPLICA or DAEMON", "schedulingStrategy is not one")
	}
	if daemon {
		d.MinimumHealthy, d.Maximum = 0, 100
	}
	if n := set["desiredCount"]; n != nil {
		if daemon {
			t.problem(n, "leave it out: a daemon runs once on every machine", "desiredCount has no meaning for a daemon")
		}
		s.Replicas = t.integer(n, "desiredCount", 0, maxReplicas)
	}
	t.items(set["loadBalancers"], "loadBalancers", 5, func(item *yaml.Node, of string) {
		b, ok := t.record(item, of, []string{"containerName", "containerPort"}, nil, map[string]string{
			"targetGroupArn": noNetworks, "loadBalancerName": noNetworks, "advancedConfiguration": noNetworks,
		})
		if ok {
			t.balanced(s, item, t.said(b, "containerName", of), b["containerPort"], of)
			balanced = true
		}
	})
	if n := set["healthCheckGracePeriodSeconds"]; n != nil {
		grace := time.Duration(t.integer(n, "healthCheckGracePeriodSeconds", 0, 86400)) * time.Second
		if !balanced && grace > 0 {
			t.problem(n, "leave it out, or write loadBalancers",
				"healthCheckGracePeriodSeconds has no meaning without a load balancer")
		}
		s.Health.StartPeriod = max(s.Health.StartPeriod, grace)
	}
	deploys := spec
	if n := set["deploymentController"]; n != nil {
		kind, _ := t.record(n, "deploymentController", []string{"type"}, nil, nil)
		switch text := t.said(kind, "type", "deploymentController"); text {
		case "ECS":
			if spec {
				t.problem(n, "remove "+appspecFile+", or write CODE_DEPLOY",
					"deploymentController is ECS, but there is an %s", appspecFile)
			}
		case "CODE_DEPLOY":
			deploys, d.Strategy = true, rollout.AllAtOnce
		default:
			t.problem(n, "write ECS or CODE_DEPLOY", "deploymentController.type is %q", text)
		}
	}
	if n := set["x-headgate"]; n != nil {
		t.extended(c, s, n)
	}
	if n := set["deploymentConfiguration"]; n != nil {
		t.deploymentConfiguration(d, n, deploys, daemon)
	}
	return cmp.Or(set["deploymentConfiguration"], set["desiredCount"], top), balanced
}

// extended reads what ECS has no words for: where requests are taken, and the like.
func (t *ecsTask) extended(c *Compose, s *Service, n *yaml.Node) {
	what := "x-headgate"
	t.belongs(n, &origin{name: serviceFile}) // its texts may name an instance's variables
	if n.Kind != yaml.MappingNode {
		t.problem(n, `write {"ports": ["8000:80"]}`, "%s is %s", what, yamlfile.Describe(n))
		return
	}
	if ports := value(n, "ports"); ports != nil && s.Container != nil {
		inside := s.Container.Port
		s.Ports = t.parser.ports(s, ports, what+".ports")
		if inside > 0 && s.Container.Port != inside {
			t.problem(ports, fmt.Sprintf(`write "8000:%d"`, inside), "%s.ports: the container's port is %d", what, inside)
		}
	}
	if deployment := value(n, "deployment"); deployment != nil {
		c.Deployment = t.deployment(deployment, what+".deployment")
	}
	t.extension(s, t.without(t.without(n, "ports"), "deployment"), what)
	t.schedule(s, n, what)
	t.hookCommands(&Compose{Services: []Service{*s}, Deployment: c.Deployment})
}

// balanced checks that a load balancer reaches a container at the port that it has.
func (t *ecsTask) balanced(s *Service, at *yaml.Node, name string, port *yaml.Node, what string) {
	if s.Container == nil {
		return
	}
	if !strings.EqualFold(name, s.Name) {
		t.problem(at, "name the essential container", "%s: requests are for %s, and not for %q", what, s.Name, name)
		return
	}
	if port == nil {
		return
	}
	if n := t.integer(port, what+".containerPort", 1, 65535); n != s.Container.Port {
		t.problem(port, "name the port of its portMappings", "%s: container %s has port %d", what, s.Name, s.Container.Port)
	}
}

func (t *ecsTask) deploymentConfiguration(d *Deployment, n *yaml.Node, deploys, daemon bool) {
	what := "deploymentConfiguration"
	set, ok := t.record(n, what, []string{
		"maximumPercent", "minimumHealthyPercent", "deploymentCircuitBreaker", "alarms", "strategy", "bakeTimeInMinutes",
		"linearConfiguration", "canaryConfiguration",
	}, map[string]string{
		"lifecycleHooks": `they are functions of Lambda; write "x-headgate": {"deployment": {"hooks": [{"stage": "post-test-traffic-shift", "url": "https://…"}]}}`,
	}, nil)
	if !ok {
		return
	}
	if deploys {
		for _, key := range []string{"strategy", "linearConfiguration", "canaryConfiguration", "bakeTimeInMinutes"} {
			if set[key] != nil {
				t.problem(set[key], `write "x-headgate": {"deployment": "CodeDeployDefault.ECSCanary10Percent5Minutes"}`,
					"%s.%s has no meaning where CodeDeploy deploys", what, key)
			}
		}
	}
	minutes := func(n *yaml.Node, of string) time.Duration {
		return time.Duration(t.integer(n, of, 0, 1440)) * time.Minute
	}
	if v := set["strategy"]; v != nil && !deploys {
		names := map[string]rollout.Strategy{
			"ROLLING": rollout.Rolling, "BLUE_GREEN": rollout.AllAtOnce, "LINEAR": rollout.Linear, "CANARY": rollout.Canary,
		}
		text, _ := t.scalar(v, what+".strategy")
		strategy, known := names[text]
		if !known {
			t.problem(v, "write ROLLING, BLUE_GREEN, LINEAR or CANARY", "%s.strategy is %q", what, text)
		}
		if daemon && strategy != rollout.Rolling {
			t.problem(v, "write ROLLING", "%s.strategy: a daemon is replaced one by one", what)
		}
		d.Strategy = strategy
	}
	switch of := what + ".canaryConfiguration"; {
	case d.Strategy == rollout.Canary && set["canaryConfiguration"] != nil:
		config, _ := t.record(set["canaryConfiguration"], of, []string{"canaryPercent", "canaryBakeTimeInMinutes"}, nil, nil)
		d.Percent, d.Interval = 5, 10*time.Minute
		if v := config["canaryPercent"]; v != nil {
			d.Percent = t.integer(v, of+".canaryPercent", 1, 99)
		}
		if v := config["canaryBakeTimeInMinutes"]; v != nil {
			d.Interval = minutes(v, of+".canaryBakeTimeInMinutes")
		}
	case d.Strategy == rollout.Canary && d.Percent == 0:
		d.Percent, d.Interval = 5, 10*time.Minute
	case set["canaryConfiguration"] != nil:
		t.problem(set["canaryConfiguration"], "leave it out, or write strategy: CANARY",
			"%s has no meaning for this strategy", of)
	}
	switch of := what + ".linearConfiguration"; {
	case d.Strategy == rollout.Linear && set["linearConfiguration"] != nil:
		config, _ := t.record(set["linearConfiguration"], of, []string{"stepPercent", "stepBakeTimeInMinutes"}, nil, nil)
		d.Percent, d.Interval = 10, 6*time.Minute
		if v := config["stepPercent"]; v != nil {
			d.Percent = t.integer(v, of+".stepPercent", 3, 100)
		}
		if v := config["stepBakeTimeInMinutes"]; v != nil {
			d.Interval = minutes(v, of+".stepBakeTimeInMinutes")
		}
		if steps := (100+d.Percent-1)/d.Percent - 1; time.Duration(steps)*d.Interval > maxStageTime {
			t.problem(set["linearConfiguration"], fmt.Sprintf("make the steps fewer or shorter, %s altogether", maxStageTime),
				"%s: the traffic would take %s to shift", of, time.Duration(steps)*d.Interval)
		}
	case d.Strategy == rollout.Linear && d.Percent == 0:
		d.Percent, d.Interval = 10, 6*time.Minute
	case set["linearConfiguration"] != nil:
		t.problem(set["linearConfiguration"], "leave it out, or write strategy: LINEAR",
			"%s has no meaning for this strategy", of)
	}
	if v := set["bakeTimeInMinutes"]; v != nil {
		d.Bake = minutes(v, what+".bakeTimeInMinutes")
	}
	if v := set["minimumHealthyPercent"]; v != nil {
		d.MinimumHealthy = t.integer(v, what+".minimumHealthyPercent", 0, 100)
	}
	if v := set["maximumPercent"]; v != nil {
		d.Maximum = t.integer(v, what+".maximumPercent", 100, 1000)
		if daemon && d.Maximum != 100 {
			t.problem(v, "write 100", "%s.maximumPercent: a daemon runs once on every machine", what)
		}
	}
	if v := set["deploymentCircuitBreaker"]; v != nil {
		t.circuitBreaker(d, v, what+".deploymentCircuitBreaker")
	}
	if v := set["alarms"]; v != nil {
		t.deploymentAlarms(d, v, what+".alarms")
	}
}

func (t *ecsTask) circuitBreaker(d *Deployment, n *yaml.Node, what string) {
	set, ok := t.record(n, what, []string{"enable", "rollback", "thresholdConfiguration", "resetOnHealthyTask"}, nil, nil)
	if !ok {
		return
	}
	if v := set["enable"]; v == nil || !t.boolean(v, what+".enable") {
		d.Breaker = rollout.Breaker{Off: true}
		return
	}
	d.Breaker = rollout.Breaker{Keeps: true} // unless it is to roll back
	if v := set["rollback"]; v != nil {
		d.Breaker.Keeps = !t.boolean(v, what+".rollback")
	}
	if v := set["resetOnHealthyTask"]; v != nil {
		d.Breaker.Cumulative = !t.boolean(v, what+".resetOnHealthyTask")
	}
	if v := set["thresholdConfiguration"]; v != nil {
		of := what + ".thresholdConfiguration"
		config, ok := t.record(v, of, []string{"type", "value"}, nil, nil)
		if !ok {
			return
		}
		most := 100
		switch kind := t.said(config, "type", of); kind {
		case "BOUNDED_PERCENT":
		case "UNBOUNDED_PERCENT":
			d.Breaker.Kind = rollout.UnboundedPercent
		case "COUNT":
			d.Breaker.Kind, most = rollout.Count, 10000
		default:
			t.problem(v, "write BOUNDED_PERCENT, UNBOUNDED_PERCENT or COUNT", "%s.type is %q", of, kind)
		}
		if config["value"] != nil {
			d.Breaker.Value = t.integer(config["value"], of+".value", 1, most)
		}
	}
}

// deploymentAlarms reads which alarms stop a deployment. What they measure is said in
// x-headgate, as CloudWatch is not asked.
func (t *ecsTask) deploymentAlarms(d *Deployment, n *yaml.Node, what string) {
	set, ok := t.record(n, what, []string{"alarmNames", "enable", "rollback"}, nil, nil)
	if !ok {
		return
	}
	enabled := set["enable"] != nil && t.boolean(set["enable"], what+".enable")
	rolls := set["rollback"] != nil && t.boolean(set["rollback"], what+".rollback")
	var alarms []alarm.Alarm
	t.items(set["alarmNames"], what+".alarmNames", maxAlarms, func(item *yaml.Node, of string) {
		name, _ := t.scalar(item, of)
		i := slices.IndexFunc(d.Alarms, func(a alarm.Alarm) bool { return a.Name == name })
		switch {
		case i >= 0:
			d.Alarms[i].Keeps = !rolls
			alarms = append(alarms, d.Alarms[i])
		case enabled:
			t.problem(item, `write "x-headgate": {"deployment": {"alarms": [{"name": "`+name+
				`", "prometheus": "http://127.0.0.1:9090", "query": "…", "above": 0.05}]}}`,
				"%s: what %q measures is known to CloudWatch alone", of, name)
		}
	})
	if enabled {
		d.Alarms = alarms
	}
}

// appspec reads an appspec.yaml of ECS, and says whether there is one.
func (t *ecsTask) appspec(s *Service) bool {
	name := appspecFile
	for _, other := range []string{"appspec.yml", "appspec.json"} {
		if _, ok := t.files[name]; !ok {
			name = other
		}
	}
	data, ok := t.files[name]
	if !ok {
		return false
	}
	t.read[name] = true
	top, err := yamlfile.Parse(path.Join(t.dir, name), data)
	if err != nil {
		ps, _ := yamlfile.ProblemsIn(err)
		t.problems = append(t.problems, ps...)
		return true
	}
	t.belongs(top, &origin{name: name, text: true})
	set, ok := t.record(top, name, []string{"version", "Resources", "resources", "Hooks", "hooks"}, nil, nil)
	if !ok {
		return true
	}
	if v := t.said(set, "version", name); v != "0.0" {
		t.problem(cmp.Or(set["version"], top), "write version: 0.0", "%s: version %q", name, v)
	}
	if hooks := cmp.Or(set["Hooks"], set["hooks"]); hooks != nil && len(hooks.Content) > 0 {
		t.problem(
			hooks, `write into service.json "x-headgate": {"deployment": {"hooks": [{"stage": "post-test-traffic-shift", "url": "https://…"}]}}`,
			"%s: hooks are functions of Lambda", name)
	}
	resources := cmp.Or(set["Resources"], set["resources"])
	if resources == nil {
		t.problem(
			top, "write Resources: [{TargetService: {Type: AWS::ECS::Service, Properties: {TaskDefinition: <TASK_DEFINITION>}}}]", "%s has no Resources", name)
		return true
	}
	t.items(resources, "Resources", 1, func(item *yaml.Node, _ string) {
		for key, resource := range yamlfile.Pairs(item) {
			of := "Resources." + key.Value
			r, ok := t.record(resource, of, []string{"Type", "type", "Properties", "properties"}, nil, nil)
			if !ok {
				continue
			}
			if kind := t.said(r, "Type", of) + t.said(r, "type", of); kind != "AWS::ECS::Service" {
				t.problem(resource, "write Type: AWS::ECS::Service", "%s.Type is %q", of, kind)
			}
			of += ".Properties"
			properties := cmp.Or(r["Properties"], r["properties"])
			if properties == nil {
				continue
			}
			harmless := map[string]string{
				"PlatformVersion": noPlacement, "NetworkConfiguration": noNetworks, "CapacityProviderStrategy": noPlacement,
			}
			props, ok := t.record(properties, of, []string{"TaskDefinition", "LoadBalancerInfo"}, nil, harmless)
			if !ok {
				continue
			}
			if n := props["TaskDefinition"]; n != nil {
				text := t.said(props, "TaskDefinition", of)
				family := text[strings.LastIndex(text, "/")+1:]
				family, _, _ = strings.Cut(family, ":")
				if text != "<TASK_DEFINITION>" && family != t.family {
					t.problem(n, `write "<TASK_DEFINITION>"`, "%s.TaskDefinition is %q, but %s is of the family %q", of, text,
						taskFile, t.family)
				}
			}
			if n := props["LoadBalancerInfo"]; n != nil {
				b, _ := t.record(n, of+".LoadBalancerInfo", []string{"ContainerName", "ContainerPort"}, nil, nil)
				t.balanced(s, n, t.said(b, "ContainerName", of), b["ContainerPort"], of+".LoadBalancerInfo")
			}
		}
	})
	return true
}
