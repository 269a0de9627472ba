package services

import (
	"maps"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// What CodePipeline would fill in is an image of the release.
func TestFilled(t *testing.T) {
	const digest = "sha256:1"
	for _, c := range []struct {
		name, image, service string
		images               []string
		want                 string
	}{
		{"its only one", "<IMAGE1_NAME>", "web", []string{"shop"}, "shop"},
		{"that of the container", "<IMAGE1_NAME>", "web", []string{"shop", "web"}, "web"},
		{"that of the placeholder", "<SHOP_API>", "web", []string{"shop-api", "other"}, "shop-api"},
		{"none", "<IMAGE1_NAME>", "web", nil,
			"release 7 has no image for <IMAGE1_NAME> in taskdef.json; have headgate.yaml make one: images: {web: …}"},
		{"some", "<IMAGE1_NAME>", "web", []string{"b", "a"},
			"release 7 has images a, b, and <IMAGE1_NAME> in taskdef.json does not say which"},
		{"a name", "postgres:17", "web", []string{"a"}, "postgres:17"},
	} {
		t.Run(c.name, func(t *testing.T) {
			release := target.Release{Number: 7, Images: map[string]string{}}
			for _, name := range c.images {
				release.Images[name] = digest
			}
			declared := &Container{Image: c.image}
			filled, err := declared.filled(c.service, release)
			switch {
			case err != nil && strings.HasPrefix(err.Error(), c.want):
			case err != nil || filled.Image != c.want:
				t.Errorf("got %v, %v, want %s", filled, err, c.want)
			case filled.OwnImage != strings.HasPrefix(c.image, "<"):
				t.Errorf("an own image: %v", filled.OwnImage)
			}
			if declared.Image != c.image {
				t.Error("what is declared has changed")
			}
		})
	}
}

// What CodePipeline's build step names in the release's artifact counts as beside the task
// definition, which has its own before.
func TestDefinitionsOfRelease(t *testing.T) {
	t.Parallel()
	const task = `{"containerDefinitions": [
		{"name": "web", "image": "<IMAGE1_NAME>", "portMappings": [{"containerPort": 80}]}]}`
	names := func(uri string) []byte { return []byte(`[{"name": "web", "imageUri": "` + uri + `"}]`) }
	both := map[string][]byte{"a": names("ghcr.io/acme/web:4"), "b": names("ghcr.io/acme/web:5")}
	for _, c := range []struct {
		name string
		more target.Files
		of   map[string][]byte
		want string
	}{
		{"nothing", nil, nil, "<IMAGE1_NAME>"},
		{"of an artifact", nil, map[string][]byte{"main": names("ghcr.io/acme/web:4")}, "ghcr.io/acme/web:4"},
		{"of two that agree", nil, map[string][]byte{"a": both["a"], "b": both["a"]}, "ghcr.io/acme/web:4"},
		{"its own", target.Files{definitionsFile: names("ghcr.io/acme/web:1")}, both, "ghcr.io/acme/web:1"},
		{"of two that differ", nil, both, "imagedefinitions.json differs in artifacts a and b of release 7; " +
			"have one of them hold it, or keep it beside taskdef.json"},
		{"no name", nil, map[string][]byte{"main": names("Not One")}, "imagedefinitions.json:1: imagedefinitions.json: " +
			`"Not One" is not the name of an image (the file is in artifact main of release 7); write it like`},
		{"no JSON", nil, map[string][]byte{"main": []byte("\n[")}, "imagedefinitions.json:2: "},
		{"empty", nil, map[string][]byte{"main": {}},
			"imagedefinitions.json: is empty (the file is in artifact main of release 7)"},
		{"too large", nil, map[string][]byte{"main": make([]byte, yamlfile.MaxBytes+1)},
			"imagedefinitions.json: is 1048577 bytes, over the limit of 1048576"},
	} {
		files := target.Files{taskFile: []byte(task)}
		maps.Copy(files, c.more)
		before := len(files)
		got, err := readWith(files, target.Release{Number: 7, Definitions: c.of})
		switch {
		case err != nil && !strings.HasPrefix(err.Error(), c.want):
			t.Errorf("%s: %v", c.name, err)
		case err == nil && got.Services[0].Container.Image != c.want:
			t.Errorf("%s: %s", c.name, got.Services[0].Container.Image)
		case len(files) != before:
			t.Errorf("%s: what is declared has changed", c.name)
		}
	}
	if name := DefinitionsFile(target.Files{composeFile: nil}); name != "" {
		t.Errorf("a compose.yaml takes %s", name)
	}
}

func TestTaskFiles(t *testing.T) {
	const task = `{"family": "w", "containerDefinitions": [{"name": "w", "image": "w", "portMappings": [{"containerPort": 80, "hostPort": 8080}]}]}`
	for _, c := range []struct {
		name  string
		files target.Files
		want  string
	}{
		{"both", target.Files{taskFile: []byte(task), composeFile: []byte("services: {web: {command: x}}")},
			"d/taskdef.json: is beside a compose.yaml; keep the one that is to run"},
		{"no JSON", target.Files{taskFile: []byte("{\n\"family\": x}")}, "d/taskdef.json:2: is not JSON"},
		{"no object", target.Files{taskFile: []byte("[]")},
			"d/taskdef.json:1: taskdef.json is a list, where an object belongs"},
		{"no containers", target.Files{taskFile: []byte(`{"family": "x"}`)},
			"d/taskdef.json:1: taskdef.json has no containers"},
		{"service without a task", target.Files{serviceFile: []byte("{}")},
			"d/compose.yaml: is not there; add it, or a taskdef.json of ECS"},
		{"not essential", target.Files{taskFile: []byte(strings.Replace(task, `"name"`, `"essential": false, "name"`, 1))},
			"no container of the task is essential"},
		{"service", target.Files{taskFile: []byte(task), serviceFile: []byte(`{"desiredcount": 2}`)},
			`d/service.json:1: unknown key "desiredcount" in "service.json"; did you mean "desiredCount"?`},
		{"grace", target.Files{taskFile: []byte(task), serviceFile: []byte(`{"healthCheckGracePeriodSeconds": 2}`)},
			"has no meaning without a load balancer"},
		{"several ports", target.Files{taskFile: []byte(task), serviceFile: []byte(`{"x-headgate": {"ports": ["8000:81"]}}`)},
			`the container's port is 80; write "8000:80"`},
		{"steps", target.Files{taskFile: []byte(task),
			serviceFile: []byte(
				`{"deploymentConfiguration": {"strategy": "LINEAR", "linearConfiguration": {"stepPercent": 2}}}`)}, "write a number from 3 to 100"},
		{"detail", target.Files{taskFile: []byte(task), detailFile: []byte(`{"ImageURI": "Not One"}`)},
			`d/imageDetail.json:1: imageDetail.json: "Not One" is not the name of an image`},
		{"definitions", target.Files{taskFile: []byte(task), definitionsFile: []byte(`[{"name": "w"}]`)},
			"d/imagedefinitions.json:1: imagedefinitions.json[0] needs both name and imageUri"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ps, _ := Check("d", c.files)
			if !strings.Contains(ps.Error(), c.want) {
				t.Errorf("got %q, want %q", ps.Error(), c.want)
			}
		})
	}

	secrets := Secrets(target.Files{taskFile: []byte(strings.Replace(task, `"name"`,
		"\n"+`"secrets": [{"name": "A", "valueFrom": "a/b"}], "name"`, 1))})
	if len(secrets) != 1 || secrets[0] != (target.SecretUse{Name: "a/b", Unit: "w", File: taskFile, Line: 2}) {
		t.Errorf("asks for %+v", secrets)
	}
	secrets = Secrets(target.Files{taskFile: []byte(strings.Replace(task, `"name"`,
		`"repositoryCredentials": {"credentialsParameter": "login"}, "name"`, 1))})
	if len(secrets) != 1 || secrets[0] != (target.SecretUse{Name: "login", Unit: "w", File: taskFile, Line: 1}) {
		t.Errorf("asks for %+v", secrets)
	}
	all := Addresses(target.Files{taskFile: []byte(task)})
	if len(all) != 1 || all[0].Address.Port() != 8080 || all[0].File != taskFile || all[0].Line != 1 ||
		all[0].Unit != "w" {
		t.Errorf("asks for %+v", all)
	}
}

// Who asks for addresses does not read what is mounted.
func TestAddressesOfSomeFiles(t *testing.T) {
	for _, c := range []struct {
		name, compose string
		want          int
	}{
		{"good", "services: {web: {image: x, ports: ['$AT:80']}}", 1},
		{"a mount that is not read",
			"services: {web: {image: x, ports: ['$AT:80'], volumes: ['./x.conf:/x:ro'], env_file: [a, b]}}", 1},
		{"faulty", "services: {web: {image: x, ports: ['$AT:80'], volumes: ['./x.conf:/x:ro'], imgae: y}}", 0},
	} {
		all := Addresses(target.Files{composeFile: []byte(c.compose), ".env": []byte("AT=8000\n")})
		if len(all) != c.want || c.want == 1 && all[0].Address.Port() != 8000 {
			t.Errorf("%s: %v", c.name, all)
		}
	}
}

func FuzzTask(f *testing.F) {
	f.Add([]byte(`{"containerDefinitions": [{"name": "w", "image": "<I>", "healthCheck": {"command": ["CMD", "x"]}}]}`),
		[]byte(`{"desiredCount": 2}`))
	f.Fuzz(func(t *testing.T, task, service []byte) {
		c, _, err := Read("", target.Files{taskFile: task, serviceFile: service})
		if err != nil {
			ps, ok := yamlfile.ProblemsIn(err)
			if !ok || len(ps) == 0 {
				t.Fatalf("an error that is no Problem: %v", err)
			}
			for _, p := range ps {
				if p.File != taskFile && p.File != serviceFile || p.What == "" {
					t.Fatalf("%+v", p)
				}
			}
			return
		}
		if len(c.Services) == 0 {
			t.Fatal("nothing is declared, and nothing is wrong")
		}
		for _, s := range c.Services {
			if s.Container == nil || s.Container.Image == "" || s.Replicas < 0 || s.Health.Interval <= 0 ||
				s.Health.Timeout <= 0 {
				t.Fatalf("%+v", s)
			}
			if _, err := interpolateAll(s.Command, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}
