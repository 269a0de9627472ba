package services

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile/schematest"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// TestSchemaAgrees: what x-headgate may say stands in a schema for editors, which has the
// keys that are read and no others, and judges as the reader does.
func TestSchemaAgrees(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("x-headgate.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	published := schematest.Compile(t, data)

	type object struct{ Properties map[string]json.RawMessage }
	var schema struct {
		Defs struct {
			Application, Service, Hook, Alarm object
			Deployment                        struct{ OneOf []object }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	var breaker struct{ OneOf []object }
	deployment := schema.Defs.Deployment.OneOf[1]
	if err := json.Unmarshal(deployment.Properties["breaker"], &breaker); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		published object
		read      []string
	}{
		"application": {schema.Defs.Application, applicationKeys},
		"service":     {schema.Defs.Service, slices.Concat(extensionKeys, proxyKeys)},
		"deployment":  {deployment, deploymentKeys},
		"breaker":     {breaker.OneOf[1], breakerKeys},
		"hook":        {schema.Defs.Hook, hookKeys},
		"alarm":       {schema.Defs.Alarm, alarmKeys},
	} {
		got, want := slices.Sorted(maps.Keys(c.published.Properties)), slices.Sorted(slices.Values(c.read))
		if !slices.Equal(got, want) {
			t.Errorf("of %s the schema has %q, and read are %q", what, got, want)
		}
	}

	of := func(service string) string {
		return "services: {web: {command: x, ports: ['80'], x-headgate: {" + service + "}}}\n"
	}
	beside := func(application string) string {
		return "services: {web: {command: x, ports: ['80'], deploy: {replicas: 4}}}\nx-headgate: {" + application + "}\n"
	}
	hook := func(hook string) string { return beside("deployment: {hooks: [{" + hook + "}]}") }
	alarm := func(alarm string) string {
		return beside("deployment: {alarms: [{name: e, prometheus: 'http://p:9090', query: up, " + alarm + "}]}")
	}
	for in, good := range map[string]bool{
		of("health: /healthz, passes: 3, healthy_for: 30s, drain: 1m30s"): true,
		of("health: healthz"): false,
		of("passes: 0"):       false,
		of("drain: ten"):      false,
		of("drian: 10s"):      false,
		of("routes: [/api, example.org], sticky: true, traffic: hold, hold: 10s, protocol: h2c"): true,
		of("routes: []"):    false,
		of("traffic: stop"): false,
		of("protocol: h3"):  false,
		of("max_body: 10m, max_header: 16k, timeout: 1m, tls: false, access_log: true"): true,
		of("max_body: much"):                            false,
		of("tls: perhaps"):                              false,
		of("tls: acme"):                                 false,
		of("tls: acme, routes: [/api]"):                 false,
		of("tls: acme, routes: ['*.example.org']"):      false,
		of("tls: acme, routes: [shop.example.org/api]"): true,
		of("test_header: X Canary"):                     false,
		of("zone: Europe/Prague"):                       false,
		"services: {job: {command: x, restart: 'no', x-headgate: {max_time: 1h30m}}}\n":                    true,
		"services: {job: {command: x, restart: 'no', x-headgate: {max_time: long}}}\n":                     false,
		"services: {job: {command: x, x-headgate: {cron: 30 2 * * *, zone: Europe/Prague}}}\n":             true,
		"services: {job: {command: x, x-headgate: {cron: [30]}}}\n":                                        false,
		beside("deployment: CodeDeployDefault.ECSCanary10Percent5Minutes"):                                 true,
		beside("deployment: {strategy: canary, percent: 10, interval: 5m, bake: 10m}"):                     true,
		beside("deployment: {strategy: rolling, minimum_healthy: 50, maximum: 150}"):                       true,
		beside("deployment: {breaker: false}"):                                                             true,
		beside("deployment: {breaker: {count: 7, cumulative: true, rollback: false}}"):                     true,
		beside("deployment: {breaker: {count: 0}}"):                                                        false,
		beside("deployment: {breaker: {counts: 7}}"):                                                       false,
		beside("deployment: {bake: long}"):                                                                 false,
		beside("deploy: {}"):                                                                               false,
		hook("stage: post-scale-up, url: 'https://h/x', timeout: 1m"):                                      true,
		hook("stage: POST_SCALE_UP, name: ok, pause: 2h"):                                                  true,
		hook("stage: post-scale-up, pause: true"):                                                          true,
		hook("stage: post-scale-up, command: [./smoke, -q], service: web"):                                 true,
		hook("stage: post-scale-up, url: 'http://h/', service: web"):                                       false,
		hook("stage: clean-up, url: 'http://h/'"):                                                          false,
		hook("stage: post-scale-up"):                                                                       false,
		hook("url: 'http://h/'"):                                                                           false,
		hook("stage: post-scale-up, url: 'http://a:b@h/'"):                                                 false,
		hook("stage: post-scale-up, url: 'http://h/', command: x"):                                         false,
		alarm("above: 0.5, for: 1m, interval: 30s, rollback: false"):                                       true,
		alarm("above: 0.5, below: 1"):                                                                      false,
		alarm("for: 1m"):                                                                                   false,
		beside("deployment: {alarms: [{name: e, prometheus: 'http://p', above: 1}]}"):                      false,
		"services: {web: {image: 'ghcr.io/a/b:1'}}\nx-headgate: {registries: {ghcr.io: registry-login}}\n": true,
	} {
		var v any
		if err := yaml.Unmarshal([]byte(in), &v); err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		_, _, read := Read("", composed(in))
		if invalid := published.Validate(instance); (invalid == nil) != good || (read == nil) != good {
			t.Errorf("%s\nthe schema: %v\nthe reader: %v", in, invalid, read)
		}
	}
}
