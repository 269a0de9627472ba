package kubernetes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

const settings = "tags: {cluster: staging}\nnamespace: shop\n"

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n"

func TestCheck(t *testing.T) {
	one := fmt.Sprintf(configMap, "one")
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string // each begins a problem; none: there is none
	}{
		{"manifests", map[string]string{"a.yaml": one + "---\n# nothing\n---\n" + fmt.Sprintf(configMap, "two"),
			"README.md": "words"}, nil},
		{"JSON", map[string]string{"a.json": `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}`}, nil},
		{"nothing", map[string]string{}, []string{"deploy: has no manifests"}},
		{"no settings", map[string]string{"kubernetes.yaml": "", "a.yaml": one},
			[]string{"deploy/kubernetes.yaml: is empty"}},
		{"no namespace", map[string]string{"kubernetes.yaml": "tags: {a: b}\n", "a.yaml": one},
			[]string{"deploy/kubernetes.yaml:1: does not say in which namespace"}},
		{"settings", map[string]string{"kubernetes.yaml": "namespace: A_b\ntimeout: soon\n", "a.yaml": one}, []string{
			`deploy/kubernetes.yaml:1: "A_b" is no name of a namespace`, `deploy/kubernetes.yaml:2: "soon" is no time`}},
		{"not YAML, in the second document", map[string]string{"a.yaml": one + "---\nkind: [\n"},
			[]string{"deploy/a.yaml:6: is not YAML"}},
		{"no kind", map[string]string{"a.yaml": one + "---\napiVersion: v1\nmetadata: {name: x}\n"},
			[]string{"deploy/a.yaml:6: has no kind"}},
		{"no apiVersion", map[string]string{"a.yaml": "\n\nkind: ConfigMap\n"},
			[]string{"deploy/a.yaml:3: has no apiVersion"}},
		{"bad apiVersion", map[string]string{"a.yaml": "kind: X\napiVersion: a/b/c\n"},
			[]string{`deploy/a.yaml:2: "a/b/c" is no apiVersion`}},
		{"no name", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: x-\n"},
			[]string{"deploy/a.yaml:3: has a metadata.generateName and no name"}},
		{"a name that is a path", map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  name: ../x\n"},
			[]string{`deploy/a.yaml:4: "../x" is no name`}},
		{"a list", map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems: []\n"},
			[]string{"deploy/a.yaml:2: is a list of objects"}},
		{"twice", map[string]string{"a.yaml": one, "b.yaml": one},
			[]string{"deploy/b.yaml:1: ConfigMap one is declared in deploy/a.yaml:1, too"}},
		{"a key twice", map[string]string{"a.yaml": one + "data: {a: b}\ndata: {a: c}\n"}, []string{"deploy/a.yaml:6: "}},
		{"a word that means true", map[string]string{"a.yaml": one + "data:\n  a: yes\n"},
			[]string{`deploy/a.yaml:6: yes means true to kubectl`}},
		{"a word in quotes", map[string]string{"a.yaml": one + "data:\n  a: \"yes\"\n  b: 2020-01-01\n"}, nil},
		{"of the whole cluster", map[string]string{"a.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: x}\n"},
			[]string{"deploy/a.yaml:2: ClusterRole is an object of the whole cluster"}},
		{"a namespace", map[string]string{"a.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"}, nil},
		{"a namespace in a namespace",
			map[string]string{"a.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, namespace: y}\n"},
			[]string{"deploy/a.yaml:3: Namespace is in no namespace"}},
		{"our annotation", map[string]string{"a.yaml": one + "  annotations:\n    headgate.dev/owner: me\n"},
			[]string{"deploy/a.yaml:6: headgate.dev/owner is written by Headgate"}},
		{"prune", map[string]string{"a.yaml": one + "  annotations:\n    headgate.dev/prune: never\n"},
			[]string{`deploy/a.yaml:6: headgate.dev/prune is "never"`}},
		{"a hook", map[string]string{"a.yaml": hook("Job", "before", "template: {}")}, nil},
		{"a hook at no time", map[string]string{"a.yaml": hook("Job", "during", "template: {}")},
			[]string{`deploy/a.yaml:5: headgate.dev/hook is "during"`}},
		{"a hook that is no Job", map[string]string{"a.yaml": hook("CronJob", "after", "template: {}")},
			[]string{"deploy/a.yaml:5: a CronJob cannot be a hook"}},
		{"a hook that goes by itself", map[string]string{"a.yaml": hook("Job", "after", "ttlSecondsAfterFinished: 5")},
			[]string{"deploy/a.yaml:6: a hook's Job must not go by itself"}},
		{"status", map[string]string{"a.yaml": one + "status: {}\n"}, []string{"deploy/a.yaml:5: has a status"}},
		{"an alias bomb", map[string]string{"a.yaml": bomb()}, []string{"deploy/a.yaml:"}},
		{"too many", map[string]string{"a.yaml": many(maxObjects + 2)}, []string{"deploy/a.yaml:"}},
		{"too large", map[string]string{"a.bin": strings.Repeat("x", maxBytes)}, []string{"deploy: holds more than 4 MiB"}},

		{"kustomization", map[string]string{
			"kustomization.yaml":      "resources: [base, a.yaml]\nnamePrefix: x-\npatches:\n- path: patch.yaml\nconfigMapGenerator:\n- name: c\n  files: [k=c.txt]\n",
			"base/kustomization.yaml": "resources: [../a2.yaml]\n", "a.yaml": one, "a2.yaml": one,
			"patch.yaml": "not: checked\n", "c.txt": "x",
		}, nil},
		{"out of the directory", map[string]string{"kustomization.yaml": "resources:\n- ../base\n- /etc\n"},
			[]string{`deploy/kustomization.yaml:2: "../base" leads out`, `deploy/kustomization.yaml:3: "/etc" leads out`}},
		{"elsewhere", map[string]string{"kustomization.yaml": "resources:\n- https://example.org/x.yaml\n- github.com/a/b?ref=c\n- git@github.com:a/b\n"},
			[]string{"deploy/kustomization.yaml:2: \"https", "deploy/kustomization.yaml:3: \"github",
				"deploy/kustomization.yaml:4: \"git@"}},
		{"a circle", map[string]string{"kustomization.yaml": "resources: [a]\n",
			"a/kustomization.yaml": "resources: [../b]\n", "b/kustomization.yaml": "resources: [../a]\n"},
			[]string{"deploy/b/kustomization.yaml: comes back to itself: a/kustomization.yaml → b/kustomization.yaml → a/kustomization.yaml"}},
		{"itself", map[string]string{"kustomization.yaml": "resources: [.]\n"},
			[]string{"deploy/kustomization.yaml: comes back to itself"}},
		{"each twice", nested(20), []string{"deploy/"}},
		{"not there", map[string]string{"kustomization.yaml": "resources: [x.yaml]\npatches:\n- path: y.yaml\n"},
			[]string{`deploy/kustomization.yaml:1: "x.yaml" is not there`,
				`deploy/kustomization.yaml:3: "y.yaml" is not there`}},
		{"no kustomization", map[string]string{"kustomization.yaml": "resources: [x]\n", "x/a.yaml": one},
			[]string{`deploy/kustomization.yaml:1: "x" has no kustomization.yaml`}},
		{"a chart", map[string]string{"kustomization.yaml": "helmCharts: []\nresorces: []\n"},
			[]string{"deploy/kustomization.yaml:1: helmCharts is not taken",
				`deploy/kustomization.yaml:2: unknown field "resorces"; did you mean "resources"`}},
		{"a file of a kustomization", map[string]string{"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": "kind: X\n"},
			[]string{"deploy/a.yaml:1: has no apiVersion"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string][]byte{FileName: []byte(settings)}
			for name, data := range c.files {
				files[name] = []byte(data)
			}
			problems, _ := Check("deploy", files)
			if len(c.want) == 0 && len(problems) > 0 || len(c.want) > 0 && len(problems) < len(c.want) {
				t.Fatalf("%d problems, not %d:\n%s", len(problems), len(c.want), problems)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(problems[i].Error(), want) || problems[i].What == "" {
					t.Errorf("says\n%s\nand not\n%s", problems[i], want)
				}
			}
			for _, p := range problems {
				if p.Fix == "" && !strings.Contains(p.What, "YAML") && !strings.Contains(p.What, "twice") &&
					!strings.Contains(p.What, "more than") {
					t.Errorf("does not say what to do: %s", p)
				}
			}
		})
	}
	_, problems := ReadSettings("deploy", map[string][]byte{})
	if len(problems) != 1 || problems[0].Place() != "deploy/kubernetes.yaml" {
		t.Errorf("without settings: %v", problems)
	}
}

func bomb() string {
	s := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		s += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	return s
}

func many(n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "---\n"+configMap, fmt.Sprint("x", i))
	}
	return s.String()
}

// nested are kustomizations each of which names the next twice.
func nested(n int) map[string]string {
	files := map[string]string{"kustomization.yaml": "resources: [a0, a0]\n"}
	for i := range n {
		files[fmt.Sprintf("a%d/kustomization.yaml", i)] = fmt.Sprintf("resources: [../a%d, ../a%d]\n", i+1, i+1)
	}
	files[fmt.Sprintf("a%d/kustomization.yaml", n)] = "resources: []\n"
	return files
}

func TestReadSaysWhatJSONSays(t *testing.T) {
	source, problems := Read("", map[string][]byte{"a.yaml": []byte(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {on: "on"}}
spec: {replicas: 3, weight: 1.5, when: 2020-01-01, none: null, big: 18446744073709551615, list: [a, {b: true}]}
`)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got, err := json.Marshal(source.Objects[0].Content)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"on":"on"},"name":"web"},` +
		`"spec":{"big":18446744073709552000,"list":["a",{"b":true}],"none":null,"replicas":3,"weight":1.5,"when":"2020-01-01"}}`
	if string(got) != want {
		t.Errorf("%s", got)
	}
	if _, whole := source.Objects[0].Content["spec"].(map[string]any)["replicas"].(int64); !whole {
		t.Error("a whole number is no int64")
	}
}

func TestSecretsAreWarnedOf(t *testing.T) {
	_, warnings := Check("deploy", map[string][]byte{FileName: []byte(settings),
		"a.yaml": []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: b}\n")})
	if len(warnings) != 1 || warnings[0].Place() != "deploy/a.yaml:1" {
		t.Errorf("%v", warnings)
	}
}

func TestImages(t *testing.T) {
	source, problems := Read("", map[string][]byte{"a.yaml": []byte(`apiVersion: batch/v1
kind: CronJob
metadata: {name: x}
spec:
  jobTemplate: {spec: {template: {spec: {
    initContainers: [{name: i, image: Web}],
    containers: [{name: a, image: Web}, {name: b, image: "nginx:1"}, {name: c}]}}}}
`)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	o := source.Objects[0].Content
	Images(o, "git.example.org", "hello", map[string]string{"Web": "sha256:1", "b": "sha256:2"})
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(data); strings.Count(s, `"git.example.org/hello/web@sha256:1"`) != 2 ||
		!strings.Contains(s, `"nginx:1"`) || strings.Contains(s, "sha256:2") {
		t.Errorf("%s", s)
	}
}

func hook(kind, when, spec string) string {
	return fmt.Sprintf("apiVersion: batch/v1\nkind: %s\nmetadata:\n  name: x\n  annotations: {headgate.dev/hook: %s}\n"+
		"spec: {%s}\n", kind, when, spec)
}

func TestHookNames(t *testing.T) {
	long := strings.Repeat("x", 59) + "-.y"
	for _, c := range []struct {
		name     string
		sequence int
		want     string
	}{{"migrate", 12, "migrate-12"}, {long, 7, strings.Repeat("x", 59) + "-7"}, {long, 123, strings.Repeat("x", 59) + "-123"}} {
		if got := HookName(c.name, c.sequence); got != c.want {
			t.Errorf("%s at %d is %s", c.name, c.sequence, got)
		}
	}
	suspended := map[string]any{
		"apiVersion": "batch/v1",
		"kind":       "Job",
		"status":     map[string]any{"conditions": []any{map[string]any{"type": "Suspended", "status": "True"}}},
	}
	if health, _ := HookHealth(suspended); health != InProgress {
		t.Errorf("a Job that is suspended is %s", health)
	}
}

func TestOrderAndPrune(t *testing.T) {
	kinds := []string{"apps/Deployment", "/Service", "example.org/Thing", extensions + "/CustomResourceDefinition",
		"/Namespace", "/ConfigMap"}
	var objects []Object
	for _, k := range kinds {
		group, kind, _ := strings.Cut(k, "/")
		objects = append(
			objects, Object{Content: map[string]any{"apiVersion": strings.TrimPrefix(group+"/v1", "/"), "kind": kind}})
	}
	Order(objects)
	var got []string
	for _, o := range objects {
		got = append(got, o.ID().Kind)
	}
	if want := "Namespace CustomResourceDefinition Service ConfigMap Deployment Thing"; strings.Join(got, " ") != want {
		t.Errorf("%s, and not %s", got, want)
	}
	for _, c := range []struct {
		group, kind, says string
		want              bool
	}{
		{"apps", "Deployment", "", true},
		{"apps", "Deployment", PruneDisabled, false},
		{"", "Namespace", "", false},
		{"", "Namespace", PruneEnabled, true},
		{"", "PersistentVolumeClaim", "", false},
		{extensions, "CustomResourceDefinition", "", false},
	} {
		if got := Pruned(c.group, c.kind, map[string]string{PruneAnnotation: c.says}); got != c.want {
			t.Errorf("%s %q: %v", c.kind, c.says, got)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(many(3)), []byte("resources: [a.yaml]\n"))
	f.Add([]byte(bomb()), []byte(""))
	f.Add([]byte("--- {apiVersion: v1, kind: List}\n...\n"), []byte("resources: [\"//x\", ..]\n"))
	f.Fuzz(func(t *testing.T, manifest, kustomize []byte) {
		files := map[string][]byte{FileName: []byte(settings), "a.yaml": manifest}
		if len(kustomize) > 0 {
			files["kustomization.yaml"] = kustomize
		}
		source, problems := Read("deploy", files)
		if len(problems) > 0 {
			if s := yamlfile.Problems(problems).Error(); s == "" {
				t.Error("a problem says nothing")
			}
			return
		}
		for _, o := range source.Objects {
			if _, err := json.Marshal(o.Content); err != nil {
				t.Errorf("%s is not JSON: %v", o.ID(), err)
			}
			HealthOf(o.Content)
		}
	})
}
