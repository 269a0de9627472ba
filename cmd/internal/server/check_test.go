package server

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/headgate-cd/headgate/gitd/headgateyaml"
)

// What headgate.yaml may name is what this program has: the schema that editors
// read, the checker of pushes and the server know the same targets.
func TestTargetsAreOneList(t *testing.T) {
	t.Parallel()
	var schema struct {
		Defs struct {
			Environments struct {
				AdditionalProperties struct {
					Properties map[string]struct{ Enum []string }
				}
			}
		} `json:"$defs"`
	}
	if err := json.Unmarshal(headgateyaml.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	published := schema.Defs.Environments.AdditionalProperties.Properties["target"].Enum
	checked := slices.Sorted(maps.Keys(Checker(nil).Targets))
	served := slices.Sorted(maps.Keys(targets(nil, nil, nil, nil)))
	if !slices.Equal(published, checked) || !slices.Equal(checked, served) {
		t.Errorf("schema.json has %q, the checker %q, the server %q", published, checked, served)
	}
}

// TestManifestsAreChecked: what a directory of manifests says is judged whole, with the file that says where they go.
func TestManifestsAreChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ settings, manifest, want string }{
		{"tags: {cluster: a}\nnamespace: shop\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", ""},
		{"tags: {cluster: a}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
			"deploy/kubernetes.yaml:1: does not say in which namespace"},
		{"namespace: shop\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
			"deploy/kubernetes.yaml:1: tags does not say which clusters"},
		{"tags: {cluster: a}\nnamespace: shop\nnamspace: x\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
			"deploy/kubernetes.yaml:3: "},
		{"tags: {cluster: a}\nnamespace: shop\n", "kind: ConfigMap\n", "deploy/sub/a.yaml:1: has no apiVersion"},
	} {
		tree := fstest.MapFS{
			"headgate.yaml":          {Data: []byte("environments: {staging: {target: kubernetes, path: deploy}}\n")},
			"buildspec.yml":          {Data: []byte("version: 0.2\nphases: {build: {commands: [\"true\"]}}\n")},
			"deploy/kubernetes.yaml": {Data: []byte(c.settings)},
			"deploy/sub/a.yaml":      {Data: []byte(c.manifest)},
		}
		found, err := Checker(nil).Tree(t.Context(), tree)
		if err != nil {
			t.Fatal(err)
		}
		if got := found.Problems.Error(); c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("says %q, and not %q", got, c.want)
		}
	}
}

// TestPartsOfAReleaseAreChecked: what compose.yaml and function.yaml name of a release is
// known before anything is built.
func TestPartsOfAReleaseAreChecked(t *testing.T) {
	t.Parallel()
	const buildspec = "version: 0.2\nphases: {build: {commands: [x]}}\nartifacts: {files: x}\n"
	for _, c := range []struct{ target, file, text, want string }{
		{"services", "compose.yaml", "services:\n  web:\n    command: x\n    x-headgate: {artifact: main}\n", ""},
		{"services", "compose.yaml", "services:\n  web:\n    command: x\n    x-headgate: {artifact: mian}\n",
			`deploy/compose.yaml:4: services.web: artifact "mian", which the build does not have; did you mean "main"?`},
		{"services", "compose.yaml", "services:\n  web:\n    x-headgate: {image: site}\n", ""},
		{"services", "compose.yaml", "services:\n  web:\n    x-headgate: {image: sito}\n",
			`deploy/compose.yaml:3: services.web: image "sito", which headgate.yaml does not make; did you mean "site"?`},
		{"services", "compose.yaml", "services: {web: {image: postgres}}\n", ""}, // or a registry's
		{"function", "function.yaml", "functions:\n  hello:\n    artifact: main\n", ""},
		{"function", "function.yaml", "functions:\n  hello:\n    artifact: hello\n",
			`deploy/function.yaml:3: functions.hello: artifact "hello", which the build does not have; name one of: main`},
	} {
		tree := fstest.MapFS{
			"headgate.yaml": {Data: []byte("environments: {staging: {target: " + c.target + ", path: deploy}}\n" +
				"images: {site: {entrypoint: [/x]}}\n")},
			"buildspec.yml":    {Data: []byte(buildspec)},
			"deploy/" + c.file: {Data: []byte(c.text)},
			"deploy/appspec.yml": {Data: []byte("version: 0.0\nResources:\n  - hello:\n      Type: AWS::Lambda::Function\n" +
				"      Properties: {Name: hello, Alias: live, CurrentVersion: 1, TargetVersion: 2}\n")},
		}
		found, err := Checker(nil).Tree(t.Context(), tree)
		if err != nil {
			t.Fatal(err)
		}
		if got := found.Problems.Error(); got != c.want && !(len(found.Problems) == 0 && c.want == "") {
			t.Errorf("%s\nsays %q, and not %q", c.text, got, c.want)
		}
	}
}
