package headgateyaml

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/headgate-cd/headgate/gitd/buildsettings"
	"github.com/headgate-cd/headgate/gitd/yamlfile/schematest"
	"go.yaml.in/yaml/v4"
)

const full = `build: {buildspec: ci/build.yml, image: host, timeout: 90s, network: true, forks: {network: true}, variables: {GREETING: 3.10}, limits: {cpu: 2}}
land: {branches: [main, release/1], strategy: fast-forward}
environments:
  staging: {target: services}
  production: {target: services, path: ops, after: staging, soak: 10m, approvals: {count: 2, from: release, own: true}}
  extra: {target: services, after: staging, approvals: 1}
`

func TestParseKeepsEverything(t *testing.T) {
	got, err := Parse(Name, []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Build: Build{
			Buildspec: "ci/build.yml",
			Image:     "host",
			Timeout:   90 * time.Second,
			Network:   true,
			Variables: map[string]string{"GREETING": "3.10"},
			Limits:    buildsettings.Limits{CPU: 2},
			Forks:     Forks{Network: true},
		},
		Land: Land{[]string{"main", "release/1"}, FastForward},
		Environments: []Environment{
			{Name: "staging", Target: "services", Path: "deploy/staging", Line: 4},
			{Name: "production", Target: "services", Path: "ops", After: "staging", Soak: 10 * time.Minute,
				Approvals: Approvals{2, "release", true}, Line: 5},
			{Name: "extra", Target: "services", Path: "deploy/extra", After: "staging", Approvals: Approvals{Count: 1}, Line: 6},
		},
	}
	for i := range got.Environments {
		got.Environments[i].lines = nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if empty, err := Parse(Name, []byte("# nothing\n")); err != nil || !reflect.DeepEqual(empty, Default()) {
		t.Errorf("a file of comments: %+v, %v", empty, err)
	}
}

// Each file is judged by the decoder and by the published schema. schemaBlind
// marks faults that a JSON Schema cannot see.
func TestParseAndSchemaAgree(t *testing.T) {
	published := schematest.Compile(t, Schema())
	for _, c := range []struct {
		name, in, want string
		schemaBlind    bool
	}{
		{name: "full", in: full},
		{name: "land alone", in: "land: {branches: [main]}"},
		{name: "no environments", in: "environments:\n"},
		{name: "a list", in: "[a]", want: "headgate.yaml:1: is not a mapping"},
		{name: "slip", in: "environments:\n  staging:\n    taget: services\n",
			want: `headgate.yaml:3: unknown key "taget" here; did you mean "target"?`},
		{name: "later key", in: "pipelines: []", want: `headgate.yaml:1: unknown key "pipelines"`},
		{name: "no target", in: "environments:\n  staging: {}\n",
			want: `headgate.yaml:2: environment "staging" has no target; add target: services`},
		{name: "image", in: "build: {image: golang:1.26}"},
		{name: "not an image", in: "build: {image: Go Lang}", want: `"Go Lang" is not the name of an image`},
		{name: "services", in: services},
		{name: "no services", in: "build: {image: a, services: }"},
		{name: "services on the machine", in: "build:\n  services:\n    db: {image: postgres:17}\n",
			want: "headgate.yaml:2: services run beside a build in a container, and this one runs on the server itself; " +
				"name the image that the build itself runs in: build: {image: golang:1.26}"},
		{name: "service without an image", in: "build: {image: a, services: {db: {environment: {A: b}}}}",
			want: "build.services.db names no image"},
		{name: "service's ports", in: "build: {image: a, services: {db: {image: b, ports: ['5432:5432']}}}",
			want: "remove it: the build reaches every port, at the service's name"},
		{name: "service slip", in: "build: {image: a, services: {db: {imgae: b}}}", want: `did you mean "image"?`},
		{name: "service's command line", in: "build: {image: a, services: {db: {image: b, command: postgres -N 9}}}",
			want: "write [program, argument]"},
		{name: "service name", in: "build: {image: a, services: {localhost: {image: b}}}", want: "not a name for a host"},
		{name: "service's environment", in: "build: {image: a, services: {db: {image: b, environment: [A]}}}",
			want: "write NAME=value"},
		{name: "service's test", in: "build: {image: a, services: {db: {image: b, healthcheck: {test: [pg_isready]}}}}",
			want: "begins with none of CMD, CMD-SHELL, NONE"},
		{name: "service's patience", in: "build: {image: a, services: {db: {image: b, healthcheck: {retries: 0}}}}",
			want: "not a number from 1 to 1000"},
		{name: "registries", in: "build: {image: ghcr.io/a/b, registries: {ghcr.io: login/team, docker.io: hub}, " +
			"services: {db: {image: postgres}}}"},
		{name: "registry of nothing", in: "build: {image: a, registries: {ghcr.io: login}}",
			want: "headgate.yaml:1: build.registries: no image of the build is of ghcr.io", schemaBlind: true},
		{name: "registry's secret", in: "build: {image: a, registries: {docker.io: 'a b'}}",
			want: `"a b" is not the name of a secret`},
		{name: "environment name", in: "environments:\n  Staging: {target: services}\n",
			want: `invalid environment name "Staging"`},
		{name: "after nothing", in: "environments:\n  a: {target: services, after: stagin}\n  staging: {target: services}\n",
			want:        `headgate.yaml:2: environment "a" comes after "stagin", which is not defined; did you mean "staging"?`,
			schemaBlind: true},
		{name: "circle", in: "environments:\n  a: {target: services, after: b}\n  b: {target: services, after: a}\n",
			want: "environments wait for each other: a after b after a", schemaBlind: true},
		{name: "itself", in: "environments:\n  a: {target: services, after: a}\n", want: "a after a", schemaBlind: true},
		{name: "soak after none", in: "environments:\n  a: {target: services, soak: 1h}\n", want: "comes after none"},
		{name: "soak", in: "environments:\n  s: {target: services}\n  a: {target: services, after: s, soak: soon}\n",
			want: `invalid soak "soon"`},
		{name: "forks slip", in: "build: {forks: {nework: true}}", want: `did you mean "network"?`},
		{name: "forks type", in: "build: {forks: {network: 7}}", want: "network"},
		{name: "no forks", in: "build: {forks: }\n"},
		{name: "timeout", in: "build: {timeout: 100h}", want: "out of bounds", schemaBlind: true},
		{name: "strategy", in: "land: {strategy: marge}", want: `did you mean "merge"?`},
		{name: "no branch", in: "land: {branches: []}", want: "no branch would be gated"},
		{name: "branch name", in: "land: {branches: ['-x']}", want: `invalid branch name "-x"`},
		{name: "branch with a hidden part", in: "land: {branches: [a/.b]}", want: `invalid branch name "a/.b"`,
			schemaBlind: true},
		{name: "branch with a lock", in: "land: {branches: [a.lock/b]}", want: `invalid branch name "a.lock/b"`,
			schemaBlind: true},
		{name: "server's branch", in: "land: {branches: [env/staging]}", want: "belongs to the server", schemaBlind: true},
		{name: "path out", in: "environments:\n  a: {target: services, path: ../x}\n", want: `invalid path "../x"`},
		{name: "path absolute", in: "build: {buildspec: /etc/passwd}", want: `invalid buildspec "/etc/passwd"`},
		{name: "approvals text", in: "environments:\n  a: {target: services, approvals: many}\n",
			want: "neither a number nor a mapping"},
		{name: "approvals negative", in: "environments:\n  a: {target: services, approvals: -1}\n",
			want: "cannot be asked for"},
		{name: "approvals slip", in: "environments:\n  a: {target: services, approvals: {form: release}}\n",
			want: `did you mean "from"?`},
		{name: "duplicate", in: "environments:\n  a: {target: services}\n  a: {target: services}\n",
			want: "was already set on line 2", schemaBlind: true},
		{name: "applications", in: monorepo},
		{name: "no applications", in: "applications:\n"},
		{name: "applications list", in: "applications: [web]\n", want: "headgate.yaml:1: applications is not a mapping"},
		{name: "application slip", in: "applications:\n  web:\n    enviroments: {}\n",
			want: `headgate.yaml:3: unknown key "enviroments" here; did you mean "environments"?`},
		{name: "application name", in: "applications: {Web: {}}\n", want: `invalid application name "Web"`},
		{name: "application path", in: "applications: {web: {path: /web}}\n", want: `invalid path "/web"`},
		{name: "application artifact", in: "applications: {web: {artifacts: [a/b]}}\n", want: `invalid artifact name "a/b"`},
		{name: "application without artifacts", in: "applications: {web: {artifacts: []}}\n",
			want: `application "web" has 0 artifacts`},
		{name: "environment of two",
			in:   "applications:\n  web:\n    environments: {staging: {target: services}}\n  api:\n    environments: {staging: {target: services}}\n",
			want: `headgate.yaml:5: environment "staging" is already defined on line 3; give it a name of its own, such as "api-staging"`, schemaBlind: true},
		{name: "after another's", in: "applications:\n  web:\n    environments: {web-test: {target: services}}\n  api:\n    environments: {api-test: {target: services, after: web-test}}\n",
			want:        `headgate.yaml:5: environment "api-test" comes after "web-test", which is of application web`,
			schemaBlind: true},
		{name: "schedules", in: schedules},
		{name: "no schedules", in: "schedules:\n"},
		{name: "schedules mapping", in: "schedules: {nightly: {}}\n", want: "headgate.yaml:1: schedules is not a list"},
		{name: "schedule text", in: "schedules: [nightly]\n", want: "headgate.yaml:1: this schedule is not a mapping"},
		{name: "schedule slip", in: "schedules:\n- name: n\n  corn: '@daily'\n",
			want: `headgate.yaml:3: unknown key "corn" here; did you mean "cron"?`},
		{name: "schedule without a name", in: "schedules:\n- cron: '@daily'\n",
			want: "headgate.yaml:2: this schedule has no name"},
		{name: "schedule name", in: "schedules:\n- cron: '@daily'\n  name: ../x\n",
			want: `headgate.yaml:3: invalid schedule name "../x"`},
		{name: "schedule never", in: "schedules:\n- name: n\n", want: `headgate.yaml:2: schedule "n" has no cron expression`},
		{name: "schedule twice", in: "schedules:\n- {name: n, cron: '@daily'}\n- {name: n, cron: '@hourly'}\n",
			want: `headgate.yaml:3: schedule "n" is already defined on line 2`, schemaBlind: true},
		{name: "schedule's buildspec", in: "schedules:\n- {name: n, cron: '@daily', buildspec: /x}\n",
			want: `headgate.yaml:2: invalid buildspec "/x"`},
		{name: "schedule on the server's branch", in: "schedules:\n- {name: n, cron: '@daily', on: env/staging}\n",
			want: `headgate.yaml:2: branch "env/staging" belongs to the server`, schemaBlind: true},
		{name: "schedule tells nobody", in: "schedules:\n- {name: n, cron: '@daily', notify: 'a b'}\n",
			want: `headgate.yaml:2: invalid user or group name "a b"`},
		{name: "type", in: "build: {network: 7}", want: `headgate.yaml:1: build.network is "7"; write true or false`},
		{name: "variables", in: "build: {variables: {CODEBUILD_X: 1}}",
			want: "headgate.yaml:1: CODEBUILD_X: names beginning with CODEBUILD_"},
		{name: "limits", in: "build: {limits: {memory: 3}}", want: `headgate.yaml:1: build.limits.memory is "3"`},
		{name: "images", in: images},
		{name: "no images", in: "images:\n"},
		{name: "images list", in: "images: [web]\n", want: "headgate.yaml:1: images is not a mapping"},
		{name: "image name", in: "images: {Web: {command: [/x]}}\n", want: `headgate.yaml:1: invalid image name "Web"`},
		{name: "image that starts nothing", in: "images: {web: {user: '1'}}\n",
			want: `image "web" does not say what it starts`},
		{name: "image slip", in: "images: {web: {comand: [/x]}}\n", want: `did you mean "command"?`},
		{name: "image like its artifact", in: "images: {main: {command: [/x]}}\n",
			want: `image "main" has the name of the artifact`, schemaBlind: true},
		{name: "image's directory", in: "images: {web: {command: [/x], directory: app}}\n",
			want: `directory "app" is not an absolute path`},
		{name: "image's dots", in: "images: {web: {command: [/x], directory: /a/../b}}\n", want: "is not an absolute path",
			schemaBlind: true},
		{name: "image's user", in: "images: {web: {command: [/x], user: 'a b'}}\n", want: `invalid user "a b"`},
		{name: "image's variable", in: "images: {web: {command: [/x], environment: {a-b: 1}}}\n",
			want: `invalid variable "a-b"`},
		{name: "image's port", in: "images: {web: {command: [/x], ports: [0]}}\n", want: "invalid port 0"},
		{name: "image's archive and more", in: "images: {web: {archive: a.tar, user: '1'}}\n",
			want: `has "user" beside archive`},
		{name: "image's archive outside", in: "images: {web: {archive: ../a.tar}}\n", want: `invalid archive "../a.tar"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(Name, []byte(c.in))
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.schemaBlind {
				return
			}
			var v any
			if err := yaml.Unmarshal([]byte(c.in), &v); err != nil {
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
			if err := published.Validate(instance); (err == nil) != (c.want == "") {
				t.Errorf("the schema says %v", err)
			}
		})
	}
}

const services = `build:
  image: golang:1.26
  services:
    postgres:
      image: postgres:17
      environment: {POSTGRES_PASSWORD: test, POSTGRES_DB: 7}
      healthcheck: {test: [CMD, pg_isready, -U, postgres], interval: 500ms, retries: 120}
    redis:
      image: redis:8@sha256:` + "0000000000000000000000000000000000000000000000000000000000000000" + `
      command: [redis-server, --save, ""]
      environment: [A=b=c]
      healthcheck: {test: redis-cli ping, start_period: 5s, timeout: 1s}
    mail: {image: mailpit, entrypoint: [/mailpit], healthcheck: {disable: true}}
`

// What services say is all there, with what holds for those that do not say it.
func TestServices(t *testing.T) {
	f, err := Parse(Name, []byte(services))
	if err != nil {
		t.Fatal(err)
	}
	defaults := buildsettings.Health{Interval: time.Second, Timeout: 10 * time.Second, Retries: 60}
	postgres, redis, mail := defaults, defaults, defaults
	postgres.Test, postgres.Interval, postgres.Retries = []string{"pg_isready", "-U", "postgres"}, time.Second/2, 120
	redis.Test, redis.StartPeriod, redis.Timeout = []string{"/bin/sh", "-c", "redis-cli ping"}, 5*time.Second, time.Second
	mail.None = true
	want := []buildsettings.Service{
		{
			Name:        "postgres",
			Line:        4,
			Image:       "postgres:17",
			Environment: map[string]string{"POSTGRES_PASSWORD": "test", "POSTGRES_DB": "7"},
			Health:      postgres,
		},
		{
			Name:        "redis",
			Line:        8,
			Image:       "redis:8@sha256:" + strings.Repeat("0", 64),
			Command:     []string{"redis-server", "--save", ""},
			Environment: map[string]string{"A": "b=c"},
			Health:      redis,
		},
		{Name: "mail", Line: 13, Image: "mailpit", Entrypoint: []string{"/mailpit"}, Health: mail},
	}
	if !reflect.DeepEqual(f.Build.Services, want) {
		t.Errorf("%+v\nwant %+v", f.Build.Services, want)
	}
}

const monorepo = `applications:
  web:
    path: site
    artifacts: [web, assets]
    environments:
      web-staging: {target: services, path: staging}
      web-production: {target: services, after: web-staging}
  api:
    environments:
      api: {target: services}
`

func TestApplicationsHaveTheirOwn(t *testing.T) {
	f, err := Parse(Name, []byte(monorepo))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Applications[0].LineOf("artifacts"); got != 4 {
		t.Errorf("artifacts is in line %d", got)
	}
	for i := range f.Applications {
		f.Applications[i].lines = nil
	}
	if want := []Application{{Name: "web", Path: "site", Artifacts: []string{"web", "assets"}, Line: 2},
		{Name: "api", Path: "api", Line: 8}}; !reflect.DeepEqual(f.Applications, want) {
		t.Errorf("%+v", f.Applications)
	}
	var got []string
	for _, e := range f.Environments {
		got = append(got, e.Application+" "+e.Name+" "+e.Path)
	}
	want := []string{"web web-staging site/staging", "web web-production site/deploy/web-production",
		"api api api/deploy/api"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

const schedules = `build: {buildspec: ci.yml}
schedules:
  - name: nightly
    cron: "0 3 * * *"
    zone: Europe/Prague
    buildspec: nightly.yml
    on: next
    notify: ops
  - {name: hourly, cron: "@hourly"}
`

func TestSchedules(t *testing.T) {
	f, err := Parse(Name, []byte(schedules))
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Schedules {
		f.Schedules[i].lines = nil
	}
	want := []Schedule{
		{
			Name:      "nightly",
			Cron:      "0 3 * * *",
			Zone:      "Europe/Prague",
			Buildspec: "nightly.yml",
			On:        "next",
			Notify:    "ops",
			Line:      3,
		},
		{
			Name:      "hourly",
			Cron:      "@hourly",
			Buildspec: "ci.yml",
			Line:      9,
		},
	}
	if !reflect.DeepEqual(f.Schedules, want) {
		t.Errorf("%+v", f.Schedules)
	}

	var many strings.Builder
	many.WriteString("schedules:\n")
	for i := range maxSchedules + 1 {
		fmt.Fprintf(&many, "- {name: n%d, cron: '@daily'}\n", i)
	}
	if _, err := Parse(Name, []byte(many.String())); err == nil ||
		!strings.Contains(err.Error(), "headgate.yaml:52: holds more than 50 schedules") {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(Name, data)
		if (file == nil) == (err == nil) && err == nil {
			t.Fatal("neither a file nor an error")
		}
	})
}

const images = `
images:
  web:
    artifact: site
    directory: /srv/app
    architecture: arm64
    entrypoint: [/srv/app/server, --quiet]
    command: [serve]
    environment: {MODE: production, WORKERS: 4}
    user: "65532:65532"
    working_directory: /srv
    ports: [8080]
  tools: {archive: out/tools.tar}
`

func TestImages(t *testing.T) {
	f, err := Parse(Name, []byte(images))
	if err != nil {
		t.Fatal(err)
	}
	want := []Image{
		{
			Name:             "web",
			Line:             3,
			Artifact:         "site",
			Directory:        "/srv/app",
			Architecture:     "arm64",
			Entrypoint:       []string{"/srv/app/server", "--quiet"},
			Command:          []string{"serve"},
			Environment:      map[string]string{"MODE": "production", "WORKERS": "4"},
			User:             "65532:65532",
			WorkingDirectory: "/srv",
			Ports:            []int{8080},
		},
		{Name: "tools", Line: 13, Archive: "out/tools.tar", Artifact: "main", Directory: "/"},
	}
	if !reflect.DeepEqual(f.Images, want) {
		t.Errorf("got  %+v\nwant %+v", f.Images, want)
	}
}
