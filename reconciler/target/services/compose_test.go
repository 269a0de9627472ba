package services

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// composed are the files of a directory with nothing but a compose.yaml.
func composed(text string) target.Files { return target.Files{composeFile: []byte(text)} }

func TestParse(t *testing.T) {
	c, _, err := Read("", composed(`
name: hello
x-other: {anything: goes}
services:
  worker:
    command: [./worker, --queue, "$HEADGATE_ENVIRONMENT"]
    environment: ["A=1=2", "B="]
    deploy: {replicas: 0}
    stop_signal: INT
    stop_grace_period: 1m30s
    working_dir: sub/dir
  web:
    command: ./web --name 'a b' "c\"d" e\ f -p ${PORT}
    environment: {N: 1, YES: true, COST: "$$5"}
    ports: ["8000:80", "[::1]:8001:80/tcp", "0.0.0.0::80", "80"]
    healthcheck: {interval: 10s, retries: 5}
    x-headgate: {health: "/healthz?a=b", drain: 3s, artifact: main}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Services) != 2 || c.Services[0].Name != "web" {
		t.Fatalf("%+v", c)
	}
	web, worker := c.Services[0], c.Services[1]
	for _, c := range []struct{ name, got, want string }{
		{"command", fmt.Sprintf("%q", web.Command), `["./web" "--name" "a b" "c\"d" "e f" "-p" "${PORT}"]`},
		{"environment", fmt.Sprint(web.Environment), "map[COST:$$5 N:1 YES:true]"},
		{"ports", fmt.Sprint(web.Ports), "[8000 [::1]:8001 0.0.0.0:0 0]"},
		{"health", fmt.Sprintf("%+v", web.Health),
			"{Path:/healthz?a=b Test:[] Connect:false URL: Check:{StartPeriod:10s Interval:10s Timeout:5s Retries:5 Passes:2 HealthyFor:0s} unsaid:true}"},
		{"extension", fmt.Sprintf("%v %v %v %v %v", web.Drain, web.Artifact, web.Replicas, web.StopSignal, web.StopGrace),
			"3s main 1 terminated 10s"},
		{"list", fmt.Sprint(worker.Command, worker.Environment), "[./worker --queue $HEADGATE_ENVIRONMENT] map[A:1=2 B:]"},
		{"stop", fmt.Sprintf("%v %v %v %v", worker.Replicas, worker.StopSignal, worker.StopGrace, worker.WorkingDir),
			"0 interrupt 1m30s sub/dir"},
		{"alive", fmt.Sprint(worker.Health.Connect, worker.Health.StartPeriod, worker.Health.HealthyFor,
			worker.Health.Passes), "false 1s 10s 1"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.name, c.got, c.want)
		}
	}
}

// A file that is also given to Compose is read for what it says, and what has no
// effect here is named.
func TestCompatibility(t *testing.T) {
	c, warnings, err := Read("", composed(`
x-common: &common
  labels: {a: b}
  environment: &env {A: "1"}
  restart: on-failure:3
services:
  web:
    <<: *common
    command: x
    container_name: web
    init: true
    tty: true
    logging: {driver: json-file}
    x-headgate: {passes: 5, healthy_for: 30s}
    ports: ["80"]
  job:
    command: y
    environment: {<<: *env, B: "2"}
    restart: no
  other:
    command: z
    environment: *env
    restart: unless-stopped
    deploy: {mode: replicated}
`))
	if err != nil {
		t.Fatal(err)
	}
	job, other, web := c.Services[0], c.Services[1], c.Services[2]
	for _, c := range []struct{ name, got, want string }{
		{"merged", fmt.Sprint(web.Environment, web.Command), "map[A:1] [x]"},
		{"merged into", fmt.Sprint(job.Environment), "map[A:1 B:2]"},
		{"alias", fmt.Sprint(other.Environment), "map[A:1]"},
		{"restart", fmt.Sprint(web.Restart, job.Restart, other.Restart), "{false true 3} {true false 0} {false false 0}"},
		{"lasting", fmt.Sprint(web.Health.Passes, web.Health.HealthyFor), "5 30s"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.name, c.got, c.want)
		}
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.Place()+" "+w.What)
	}
	want := []string{
		"compose.yaml:10 services.web.container_name has no effect here",
		"compose.yaml:11 services.web.init has no effect here",
		"compose.yaml:12 services.web.tty has no effect here",
		"compose.yaml:13 services.web.logging has no effect here",
		"compose.yaml:3 services.web.labels has no effect here",
		"compose.yaml:24 services.other.deploy.mode has no effect here",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("warnings %q", got)
	}
}

func TestProblems(t *testing.T) {
	const web = "services: {web: {command: x, ports: ['80'], x-headgate: "
	deploy := func(how string) string {
		return "services: {web: {command: x, ports: ['80'], deploy: {replicas: 3}}}\nx-headgate:\n  " + how + "\n"
	}
	for _, c := range []struct{ name, in, want string }{
		{"build", "services:\n  web:\n    build: .\n    command: x\n",
			`compose.yaml:3: services.web: "build" is not supported; the release's build makes images: write images: {web: …} in headgate.yaml, and image: web here`},
		{"image", "services:\n  web:\n    image: Web\n",
			`compose.yaml:3: services.web.image: "Web" is not the name of an image`},
		{"depends_on", "services:\n  web: {command: x, depends_on: [db]}\n",
			`compose.yaml:2: services.web.depends_on: there is no service "db"; name one that is declared`},
		{"unknown", "services:\n  web:\n    comand: x\n",
			`compose.yaml:3: unknown key "comand" in "services.web"; did you mean "command"?`},
		{"top", "servces: {}\n", `did you mean "services"?`},
		{"misspelt extension", "services: {web: {command: x, x-headgat: {}}}\n", `did you mean "x-headgate"?`},
		{"none", "services: {}\n", "declares no service"},
		{"no services", "name: x\n", "compose.yaml:1: declares no service"},
		{"secret nowhere", "services: {web: {command: x, secrets: [db]}}\n",
			`services.web.secrets: there is no secret "db"; declare it under "secrets:"`},
		{"secret in Git", "services: {web: {command: x, secrets: [db]}}\nsecrets:\n  db: {file: ./db}\n",
			`compose.yaml:3: secrets.db: "file" is not supported; a secret in Git is none`},
		{"secret elsewhere", "services: {web: {command: x, secrets: [{source: db, target: /etc/db}]}}\nsecrets: {db: {external: true}}\n", "/etc/db is not below /run/secrets"},
		{"secret twice", "services: {web: {command: x, secrets: [db, db]}}\nsecrets: {db: {external: true}}\n",
			"two secrets are at /run/secrets/db"},
		{"secret of another", "services: {web: {command: x, secrets: [{source: db, uid: '1000'}]}}\nsecrets: {db: {external: true}}\n", "a process is of the agent's user"},
		{"secret variable", "services: {web: {command: x, environment: {A: b}, x-headgate: {secrets: {A: a}}}}\n",
			"A is set in environment too"},
		{"registry", "services: {web: {image: 'ghcr.io/a/b:1'}}\nx-headgate:\n  registries: {quay.io: login}\n",
			"compose.yaml:3: x-headgate.registries: no service has an image of quay.io; correct its name"},
		{"no command", "services:\n  web:\n    ports: ['80:80']\n",
			"compose.yaml:2: services.web has no command; write the program"},
		{"quote", "services: {web: {command: \"a 'b\"}}\n", "services.web.command: a single quote is not closed"},
		{"variable", "services: {web: {command: 'x $HOME'}}\n",
			`services.web.command: $HOME is not set; an instance has $PORT, $HEADGATE_ENVIRONMENT`},
		{"variable fix", "services: {web: {command: 'x $HOME'}}\n", `write "$$"`},
		{"PORT", "services: {web: {command: x, environment: {PORT: 1}}}\n", "PORT is set by headgate"},
		{"taken from the shell", "services: {web: {command: x, environment: [TOKEN]}}\n", "TOKEN has no value"},
		{"port", "services: {web: {command: x, ports: ['1:2:3:4']}}\n", `"1:2" is not an IP address`},
		{"port number", "services: {web: {command: x, ports: ['70000:80']}}\n", `"70000" is not a port number`},
		{"range", "services: {web: {command: x, ports: ['8000-8010:80']}}\n", `"8000-8010" is not a port number`},
		{"udp", "services: {web: {command: x, ports: ['53:53/udp']}}\n", "only TCP"},
		{"two inside", "services: {web: {command: x, ports: ['1000:80', '1001:81']}}\n", "an instance has one port"},
		{"same port", "services: {a: {command: x, ports: ['1000:80']}, b: {command: x, ports: ['1000:80']}}\n",
			`services "a" and "b" both want port 1000`},
		{"long ports", "services: {web: {command: x, ports: [{published: 80}]}}\n",
			"services.web.ports has no target; write {target: 80, published: 8000}"},
		{"long ports of many", "services: {web: {command: x, ports: [{target: 80, published: 8000-8010}]}}\n",
			`"8000-8010" is not a port number`},
		{"replicas", "services: {web: {command: x, deploy: {replicas: many}}}\n",
			`services.web.deploy.replicas is "many"; write a number from 0 to 100`},
		{"too many replicas", "services: {web: {command: x, deploy: {replicas: 101}}}\n", "from 0 to 100"},
		{"health without ports", "services: {web: {command: x, x-headgate: {health: /}}}\n", "the service has no ports"},
		{"two checks", "services: {web: {command: x, ports: ['80'], healthcheck: {test: y}, x-headgate: {health: /}}}\n",
			"has x-headgate.health already"},
		{"test", "services: {web: {command: x, healthcheck: {test: [y]}}}\n", "begins with none of CMD, CMD-SHELL, NONE"},
		{"duration", "services: {web: {command: x, x-headgate: {drain: soon}}}\n", `"soon", which is not a duration`},
		{"negative", "services: {web: {command: x, x-headgate: {drain: -1s}}}\n", "from 0s to 1h0m0s"},
		{"restart", "services: {web: {command: x, restart: sometimes}}\n",
			`services.web.restart is "sometimes"; write always, on-failure, on-failure:3 or "no"`},
		{"restarts", "services: {web: {command: x, restart: on-failure:0}}\n", `services.web.restart is "on-failure:0"`},
		{"passes", "services: {web: {command: x, x-headgate: {passes: 0}}}\n", "write a number from 1 to 100"},
		{"alias of itself", "services: {web: &a {command: x, environment: *a}}\n", "nests deeper than"},
		{"merge of text", "services: {web: {<<: x, command: x}}\n", "what is not a mapping"},
		{"signal", "services: {web: {command: x, stop_signal: SIGSTOP}}\n", "not a signal to stop with"},
		{"outside", "services: {web: {command: x, working_dir: ../..}}\n", "outside the artifact"},
		{"name", "services: {'We b': {command: x}}\n", `service name "We b"`},
		{"duplicate", "services:\n  web: {command: x}\n  web: {command: y}\n",
			`compose.yaml:3: "web" was already set on line 2`},
		{"update_config", "services: {web: {command: x, deploy: {update_config: {parallelism: 2}}}}\n",
			"write x-headgate: {deployment: {strategy: rolling"},
		{"route", web + "{routes: [/a?b]}}}\n", `"/a?b" is not a route`},
		{"route twice", "services: {a: {command: x, ports: ['1:80'], x-headgate: {routes: [/a]}}, b: {command: x, ports: ['1:80'], x-headgate: {routes: [/a]}}}\n",
			`services "a" and "b" both want /a at port 1`},
		{"routes without ports", "services: {web: {command: x, x-headgate: {routes: [/a]}}}\n", "the service has no ports"},
		{"traffic", web + "{traffic: stop}}}\n", "write serve, hold (requests wait) or maintenance"},
		{"size", web + "{max_body: big}}}\n", `"big", which is not a size`},
		{"header", web + "{max_header: 1g}}}\n", "from 1024 to 262144 bytes"},
		{"page", web + "{page: ../x.html}}}\n", "the name of a file beside compose.yaml"},
		{"strategy", deploy("deployment: fast"),
			`compose.yaml:3: x-headgate.deployment is "fast"; write all-at-once, rolling, canary, linear`},
		{"predefined", deploy("deployment: CodeDeployDefault.ECSCanary20Percent5Minutes"), "ECSCanary20Percent5Minutes"},
		{"stalls", deploy("deployment: {strategy: rolling, maximum: 125}"),
			"compose.yaml:3: service web could never be replaced: of 3 instances at least 3 are to be healthy and at most 3 to run"},
		{"rolls with percent", deploy("deployment: {strategy: rolling, percent: 10}"),
			"x-headgate.deployment.percent has no meaning for this strategy"},
		{"no percent", deploy("deployment: {strategy: canary, interval: 5m}"), "a canary gets from 1 to 99 percent"},
		{"linear too small", deploy("deployment: {strategy: linear, percent: 2, interval: 5m}"), "from 3 to 100 percent"},
		{"too long", deploy("deployment: {strategy: linear, percent: 10, interval: 3h}"),
			"the traffic would take 27h0m0s to shift"},
		{"breaker", deploy("deployment: {breaker: {percent: 50, count: 3}}"), "exclude each other"},
		{"hook stage", deploy("deployment: {hooks: [{stage: clean-up, url: 'http://h/'}]}"),
			"write one of reconcile-service, pre-scale-up"},
		{"hook of nothing", deploy("deployment: {hooks: [{stage: pre-scale-up}]}"), "a hook has either a url or a command or a pause"},
		{"hook of several ways", deploy("deployment: {hooks: [{stage: post-scale-up, url: 'http://h/', command: x}]}"),
			"compose.yaml:3: x-headgate.deployment.hooks[0]: a hook has either a url or a command or a pause"},
		{"hook in no service", deploy("deployment: {hooks: [{stage: post-scale-up, command: x, service: db}]}"),
			`compose.yaml:3: hook post-scale-up runs in service "db", which has no instances; name one of web`},
		{"hook too early", deploy("deployment: {hooks: [{stage: pre-scale-up, command: x}]}"),
			"compose.yaml:3: hook pre-scale-up runs where no instance of the release does yet"},
		{"hook of a service", deploy("deployment: {hooks: [{stage: post-scale-up, url: 'http://h/', service: web}]}"),
			"only a command runs in one"},
		{"hook twice", deploy(
			"deployment: {hooks: [{stage: pre-scale-up, url: 'http://h/'}, {stage: pre-scale-up, url: 'http://h/'}]}"), `"pre-scale-up" is given twice`},
		{"hook and rolling", deploy(
			"deployment: {strategy: rolling, hooks: [{stage: post-test-traffic-shift, url: 'http://h/'}]}"), "a rolling deployment shifts it with each instance"},
		{"hook with a password", deploy("deployment: {hooks: [{stage: pre-scale-up, url: 'http://a:b@h/'}]}"),
			"without a password"},
		{"alarm", deploy("deployment: {alarms: [{name: e, prometheus: 'http://p:9090', query: x}]}"),
			"either above or below"},
		{"alarm without a query", deploy("deployment: {alarms: [{name: e, prometheus: 'http://p:9090', above: 1}]}"),
			"has no query"},
		{"alarm of infinity", deploy("deployment: {alarms: [{name: e, prometheus: 'http://p:9090', query: x, above: inf}]}"),
			`the bound is "inf"`},
		{"cron of four fields", "services:\n  job:\n    command: x\n    x-headgate:\n      cron: 30 2 * *\n",
			`compose.yaml:5: services.job.x-headgate.cron: invalid schedule "30 2 * *": expected exactly 5 fields, found 4`},
		{"cron of no day", "services:\n  job:\n    command: x\n    x-headgate: {cron: 0 0 30 2 *}\n",
			"compose.yaml:4: services.job.x-headgate.cron: invalid schedule \"0 0 30 2 *\": no such day ever comes"},
		{"two counts", "services: {web: {command: x, scale: 2, deploy: {replicas: 3}}}\n",
			"compose.yaml:1: services.web.scale is 2, and deploy.replicas is 3; keep one of them"},
		{"two limits", "services:\n  web:\n    image: x\n    deploy: {resources: {limits: {memory: 1g}}}\n    mem_limit: 2g\n",
			"compose.yaml:5: services.web.mem_limit is 2g, and deploy.resources.limits.memory is 1g; keep one of them"},
		{"cron of EventBridge with five fields", "services:\n  job:\n    command: x\n    x-headgate:\n      cron: cron(30 2 * * ?)\n",
			"compose.yaml:5: services.job.x-headgate.cron: invalid schedule \"cron(30 2 * * ?)\": cron(…) has six fields, not 5"},
		{"zone that is none", "services:\n  job:\n    command: x\n    x-headgate:\n      cron: 0 3 * * *\n      zone: Prague\n",
			`compose.yaml:6: services.job.x-headgate.zone: unknown time zone "Prague": use a name such as Europe/Prague`},
		{"longest time of what runs on", "services: {job: {command: x, x-headgate: {max_time: 1h}}}\n",
			`services.job runs on and has no longest time; leave it out, or write restart: "no" or on-failure`},
		{"zone of nothing", "services: {job: {command: x, x-headgate: {zone: Europe/Prague}}}\n",
			"nothing says when the service runs"},
		{"cron that is reached", "services:\n  job:\n    command: x\n    ports: ['80']\n    x-headgate: {cron: '@daily'}\n",
			"compose.yaml:4: services.job runs at times, and nothing else reaches it; leave out ports, or x-headgate.cron"},
		{"cron that is checked", "services: {job: {command: x, healthcheck: {retries: 2}, x-headgate: {cron: '@daily'}}}\n",
			"leave out healthcheck, or x-headgate.cron"},
		{"cron that restarts", "services: {job: {command: x, restart: on-failure, x-headgate: {cron: '@daily'}}}\n",
			"leave out restart, or x-headgate.cron"},
		{"cron of several", "services: {job: {command: x, scale: 2, x-headgate: {cron: '@daily'}}}\n",
			"services.job runs at times, one run after the other"},
		{"cron that is waited for", "services: {web: {command: x, depends_on: [job]}, job: {command: x, x-headgate: {cron: '@daily'}}}\n",
			"services.web.depends_on: service job runs at times, which nothing waits for"},
		{"null", "services: {web: }\n", "services.web is nothing, where a mapping belongs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ps, _ := Check("", target.Files{composeFile: []byte(c.in)})
			if !strings.Contains(ps.Error(), c.want) {
				t.Errorf("got %q, want %q", ps.Error(), c.want)
			}
		})
	}
}

// Nothing that a file says makes its reading long.
func TestBounds(t *testing.T) {
	many := func(n int, format string) string {
		var out strings.Builder
		for i := range n {
			fmt.Fprintf(&out, format, i)
		}
		return out.String()
	}
	for _, c := range []struct {
		name  string
		files target.Files
		want  string
	}{
		{
			"services that take much over",
			target.Files{
				composeFile: []byte("services:\n" + many(49, "  s%d: {extends: base}\n") +
					"  base:\n    command: x\n    environment:\n" + many(5000, "      A%d: x\n")),
			},
			"takes over more than 200000 values",
		},
		{
			"a large file that is read again and again",
			target.Files{
				composeFile: []byte("services:\n" + many(40, "  s%d: {extends: {file: x.yaml, service: a}}\n")),
				"x.yaml":    []byte("services: {a: {command: x}}\nx-much: \"" + strings.Repeat("x", 900_000) + "\"\n"),
			},
			"reads more than 8 MiB of files",
		},
		{
			"a file of variables, over and over",
			target.Files{
				composeFile: []byte("services: {a: {command: x, env_file: [" + strings.Repeat("e,", 500) + "e]}}\n"),
				"e":         []byte(strings.Repeat("# "+strings.Repeat("x", 1000)+"\n", 60)),
			},
			"reads more than 8 MiB of files",
		},
		{
			"a file of variables that names what an instance knows",
			target.Files{
				composeFile: []byte("services: {a: {command: x, env_file: e, environment: {A: \"${PORT:-1}\"}}}\n"),
				"e":         []byte("# for all\nB=\"${A-2}\"\n"),
			},
			"e:2: B names a variable that is set in environment to what only an instance knows",
		},
		{
			"more files than one reads",
			func() target.Files {
				files := target.Files{composeFile: []byte("include: [" + many(60, "f%d.yaml, ") +
					"]\nservices: {a: {command: x}}\n")}
				for i := range 60 {
					files[fmt.Sprintf("f%d.yaml", i)] = []byte("services: {}\n")
				}
				return files
			}(),
			"declared in more than 50 files",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := Read("", c.files); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.500v, want %q", err, c.want)
			}
		})
	}
}

func TestInterpolate(t *testing.T) {
	vars := map[string]string{"PORT": "80", "HEADGATE_RELEASE": "4"}
	for in, want := range map[string]string{
		"": "", "a$PORT.b": "a80.b", "${PORT}x": "80x", "$$PORT": "$PORT", "$PORTX": "!", "${PORT": "!", "$": "!",
		"${X:-y}": "y", "${X-}": "",
		"${PORT:-1}": "80", "${HEADGATE_COMMIT:-none}": "none", "$HEADGATE_RELEASE$PORT": "480", "${}": "!",
		"cost $$5":      "cost $5",
		"${A:-${B:-x}}": "x", "${A:-<${PORT}>}z": "<80>z", "${A:-${B}}": "!", "${A:-${B:-x}": "!", "${PORT:-${B}}": "!",
		"${A:-a-b:c}":  "a-b:c",
		"${PORT:+yes}": "yes", "${A+yes}": "", "${HEADGATE_COMMIT:+yes}": "", "${HEADGATE_COMMIT+yes}": "yes",
		"${PORT:?no}": "80", "${A:?no}": "!",
		"${PORT!x}": "!", "${PORT:}": "!", "${A:-$$x}": "$x", "${A:-{}}": "{}",
	} {
		got, err := interpolate(in, vars)
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func TestVersionIsWhatAnInstanceIsMadeOf(t *testing.T) {
	read := func(text string) *version {
		c, _, err := Read("", composed("services: {web: {"+text+"}}"))
		if err != nil {
			t.Fatal(err)
		}
		return &version{Service: c.Services[0], Release: target.Release{Number: 4, Commit: "c"}, Digest: digest(1)}
	}
	base := "command: x, ports: ['80']"
	id := read(base).id(1)
	for _, same := range []string{base, base + ", deploy: {replicas: 3}", base + ", x-headgate: {drain: 1s}",
		"command: x, ports: ['80', '81:80']"} {
		if read(same).id(1) != id {
			t.Errorf("%s needs new instances", same)
		}
	}
	for _, other := range []string{"command: y, ports: ['80']", base + ", environment: {A: b}",
		base + ", healthcheck: {retries: 9}", "command: x, x-headgate: {cron: '@daily'}", base + ", working_dir: x"} {
		if read(other).id(1) == id {
			t.Errorf("%s needs no new instances", other)
		}
	}
	if read(base).id(2) == id {
		t.Error("another generation needs no new instances")
	}
	// What a program of some time ago has started goes on, although defaults have changed.
	for text, want := range map[string]string{
		"command: x":                "4-2f2038dfdc41",
		"command: x, ports: ['80']": "4-86b6f7d71891",
		"command: x, ports: ['80'], x-headgate: {health: /}": "4-049b857979c6",
		"command: x, healthcheck: {test: y}":                 "4-beca54e397a8",
		"command: x, healthcheck: {test: y, timeout: 2s}":    "4-beca54e397a8",
		"command: x, healthcheck: {test: y, timeout: 10s}":   "4-b62da6f0e1fc",
	} {
		if got := read(text).id(1); got != want {
			t.Errorf("%s: what was %s is %s", text, want, got)
		}
	}
}

// A service of an image from elsewhere is no other in the next release; one of the
// release's own is, and one that names the release.
func TestVersionOfContainers(t *testing.T) {
	at := func(text string, release int) string {
		c, _, err := Read("", composed("services: {db: {"+text+"}}\nvolumes: {data: }"))
		if err != nil {
			t.Fatal(err)
		}
		images := map[string]string{"own": "sha256:1"}
		v := &version{Service: c.Services[0],
			Release: target.Release{Number: release, Commit: fmt.Sprint("c", release), Images: images}}
		return v.id(0)
	}
	for text, same := range map[string]bool{
		"image: postgres:17": true,
		"image: postgres:17, environment: {A: $HEADGATE_ENVIRONMENT}": true,
		"image: own":                       false,
		"x-headgate: {image: other}":       false,
		"image: acme/web:$HEADGATE_COMMIT": false,
		"image: acme/web, environment: {A: '${HEADGATE_RELEASE:-none}'}": false,
		"image: acme/web, labels: [a=$HEADGATE_RELEASE]":                 false,
	} {
		if got := at(text, 4) == at(text, 5); got != same {
			t.Errorf("%s: the same in the next release: %v", text, got)
		}
	}
	if at("image: postgres:17", 4) == at("image: postgres:18", 4) {
		t.Error("another image is the same version")
	}
}

// TestVersionIsNotTheLogin: who may fetch an image says nothing of it.
func TestVersionIsNotTheLogin(t *testing.T) {
	files := func(text string) target.Files {
		return target.Files{composeFile: []byte("services: {web: {image: 'ghcr.io/a/b:1'}}\n" + text)}
	}
	ids := map[string]bool{}
	for _, text := range []string{"", "x-headgate: {registries: {ghcr.io: one}}\n",
		"x-headgate: {registries: {ghcr.io: other}}\n"} {
		c, _, err := Read("", files(text))
		if err != nil {
			t.Fatal(err)
		}
		ids[(&version{Service: c.Services[0]}).id(0)] = true
	}
	if len(ids) != 1 {
		t.Errorf("versions %v", ids)
	}
}

func TestExclusive(t *testing.T) {
	for text, want := range map[string]bool{
		"image: postgres, volumes: ['data:/data']":                              true,
		"image: postgres, volumes: ['data:/data:ro']":                           false,
		"image: postgres, volumes: ['data:/data'], x-headgate: {overlap: true}": false,
		"image: postgres, tmpfs: /data":                                         false,
		"command: ./x":                                                          false,
	} {
		c, _, err := Read("", composed("services: {db: {"+text+"}}\nvolumes: {data: }"))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Services[0].exclusive(); got != want {
			t.Errorf("%s: exclusive is %v", text, got)
		}
	}
}

func TestArtifactOf(t *testing.T) {
	one, two := map[string]string{"main": "1"}, map[string]string{"web": "1", "worker": "2"}
	for _, c := range []struct {
		service   Service
		artifacts map[string]string
		want      string
	}{
		{Service{Name: "web"}, one, "1"},
		{Service{Name: "worker"}, two, "2"},
		{Service{Name: "x", Artifact: "web"}, two, "1"},
		{Service{Name: "x"}, two, "does not say which"},
		{Service{Name: "x", Artifact: "y"}, two, "release 7 has web, worker"},
		{Service{Name: "x"}, nil, "has no artifact"},
	} {
		got, err := artifactOf(c.service, target.Release{Number: 7, Artifacts: c.artifacts})
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.service, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(web))
	f.Add([]byte("services: {a: {command: [x], environment: [A=$PORT], healthcheck: {test: [CMD, y]}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, _, err := Read("", composed(string(data)))
		if err != nil {
			ps, ok := yamlfile.ProblemsIn(err)
			if !ok || len(ps) == 0 {
				t.Fatalf("an error that is no Problem: %v", err)
			}
			for _, p := range ps {
				if p.File != composeFile || p.What == "" {
					t.Fatalf("%+v", p)
				}
			}
			return
		}
		for _, s := range c.Services {
			if s.Container == nil && len(s.Command) == 0 || s.Replicas < 0 || s.Health.Interval <= 0 || s.Health.Timeout <= 0 ||
				s.Drain < 0 || s.Drain > time.Hour {
				t.Fatalf("%+v", s)
			}
			if _, err := interpolateAll(s.Command, map[string]string{"HEADGATE_COMMIT": "c"}); err != nil &&
				!strings.Contains(err.Error(), "is not set") {
				t.Fatal(err)
			}
		}
		again, _, err := Read("", composed(string(data)))
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatal("it reads differently the second time")
		}
	})
}

func TestParseDeployment(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"CodeDeployDefault.ECSAllAtOnce", "{}"},
		{"CodeDeployDefault.ECSCanary10Percent5Minutes", "{canary 10 5m0s}"},
		{"ECSCanary10Percent15Minutes", "{canary 10 15m0s}"},
		{"CodeDeployDefault.ECSLinear10PercentEvery1Minutes", "{linear 10 1m0s}"},
		{"CodeDeployDefault.ECSLinear10PercentEvery3Minutes", "{linear 10 3m0s}"},
		{"BLUE_GREEN", "{}"},
		{"{strategy: CANARY, percent: 25, interval: 1m, bake: 10m}", "{canary 25 1m0s bake 10m0s}"},
		{"{strategy: rolling, minimum_healthy: 50, maximum: 150}", "{rolling 50 150}"},
		{"{breaker: {count: 7, cumulative: true, rollback: false}}",
			"{breaker {Off:false Kind:count Value:7 Cumulative:true Keeps:true}}"},
		{"{breaker: false}", "{breaker {Off:true Kind: Value:0 Cumulative:false Keeps:false}}"},
		{"{hooks: [{stage: pre-scale-up, url: 'http://h/x', timeout: 1m}, {stage: POST_SCALE_UP, name: ok, pause: 2h}]}",
			"{hook pre-scale-up PRE_SCALE_UP 1m0s false http://h/x hook ok POST_SCALE_UP 2h0m0s true }"},
		{"{hooks: [{stage: post-scale-up, command: './smoke -q $HEADGATE_INSTANCE'}]}",
			`{hook post-scale-up POST_SCALE_UP 10m0s false  ["./smoke" "-q" "$HEADGATE_INSTANCE"] in web}`},
		{"{alarms: [{name: e, prometheus: 'http://p', query: up, below: 1, for: 30s, rollback: false}]}",
			"{alarm e false 1 30s 10s true {http://p up}}"},
	} {
		got, _, err := Read(
			"", composed("services: {web: {command: x, deploy: {replicas: 4}}}\nx-headgate: {deployment: "+c.in+"}\n"))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		d := got.Deployment
		var parts []string
		add := func(said bool, format string, args ...any) {
			if said {
				parts = append(parts, fmt.Sprintf(format, args...))
			}
		}
		add(d.Strategy == "canary" || d.Strategy == "linear", "%s %d %s", d.Strategy, d.Percent, d.Interval)
		add(d.Strategy == "rolling", "%s %d %d", d.Strategy, d.MinimumHealthy, d.Maximum)
		add(d.Bake > 0, "bake %s", d.Bake)
		add(d.Breaker != (rollout.Breaker{}), "breaker %+v", d.Breaker)
		for _, h := range d.Hooks {
			call := d.Calls[h.Name]
			add(true, "hook %s %s %s %t %s", h.Name, h.Stage, h.Timeout, h.Pause, call.URL)
			add(call.Command != nil, "%q in %s", call.Command, call.Service)
		}
		for _, a := range d.Alarms {
			add(true, "alarm %s %t %g %s %s %t %v", a.Name, a.Above, a.Bound, a.For, a.Interval, a.Keeps, d.Queries[a.Name])
		}
		if text := "{" + strings.Join(parts, " ") + "}"; text != c.want {
			t.Errorf("%s is %s, want %s", c.in, text, c.want)
		}
	}
}

func TestParseProxy(t *testing.T) {
	c, _, err := Read("", composed(`
services:
  web:
    command: x
    ports: ["8000:80"]
    x-headgate: {sticky: true, hold: 10s, max_body: 10m, max_header: 8k, timeout: 1m, tls: true, protocol: h2c, traffic: maintenance, page: down.html}
  api:
    command: x
    ports: ["8000:80"]
    x-headgate: {routes: [/api, "*.Example.org/v1/", api.example.org], sticky: session, access_log: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	api, web := c.Services[0], c.Services[1]
	if got, want := fmt.Sprintf("%+v",
		web.Proxy), "{Routes:[] Sticky:headgate-slot TestHeader: Hold:10s Traffic:maintenance Page:down.html MaxBody:10485760 "+
		"MaxHeader:8192 Timeout:1m0s TLS:true ACME:false AccessLog:false}"; got != want || !web.HTTP2 {
		t.Errorf("%s, want %s", got, want)
	}
	var routes []string
	for _, r := range api.Proxy.Routes {
		routes = append(routes, r.Host+"|"+r.Path)
	}
	if got := strings.Join(routes, " "); got != "|/api *.example.org|/v1/ api.example.org|" ||
		api.Proxy.Sticky != "session" {
		t.Errorf("%s, %+v", got, api.Proxy)
	}
	problems, _ := Check("deploy",
		target.Files{"compose.yaml": []byte("services: {web: {command: x, ports: ['80'], x-headgate: {page: down.html}}}")})
	if len(problems) != 1 || problems[0].File != "deploy/down.html" {
		t.Errorf("%v", problems)
	}
}
