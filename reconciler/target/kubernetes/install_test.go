package kubernetes

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// TestManifest: what it is given stands in it as it is, whatever is in it. That its rights are enough, and no more, is
// for a cluster to say: cmd/headgate-kube.
func TestManifest(t *testing.T) {
	text, err := Installation{
		Name:        "staging",
		Namespaces:  []string{"shop", "on"},
		Image:       "registry.example.org/headgate-kube:1",
		Token:       "hgenrol_x",
		Expires:     time.Date(2026, 11, 29, 4, 0, 0, 0, time.UTC),
		Server:      `git.example.org:22" #`,
		HostKey:     "SHA256:host",
		SigningKeys: "SHA256:one,SHA256:two",
		Registry:    "git.example.org",
	}.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	var args any
	for one := range strings.SplitSeq(text, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(one), &o); err != nil {
			t.Fatalf("%v\n%s", err, one)
		}
		object := Object{Content: o}
		kinds = append(kinds, object.ID().String())
		if object.ID().Kind == "Deployment" {
			containers, _ := at(o, "spec", "template", "spec", "containers").([]any)
			args = containers[0].(map[string]any)["args"]
		}
	}
	if want := "Namespace headgate, Secret headgate/headgate-agent, ServiceAccount headgate/headgate-agent, " +
		"Role headgate/headgate-agent, RoleBinding headgate/headgate-agent, " +
		"Namespace shop, Role shop/headgate-agent, RoleBinding shop/headgate-agent, " +
		"Namespace on, Role on/headgate-agent, RoleBinding on/headgate-agent, " +
		"Deployment headgate/headgate-agent"; strings.Join(kinds, ", ") != want {
		t.Errorf("it has %s", strings.Join(kinds, ", "))
	}
	list, _ := args.([]any)
	if len(list) != 4 || list[0] != `--server=git.example.org:22" #` || list[2] != "--signing-key=SHA256:one,SHA256:two" {
		t.Errorf("the agent is given %v", list)
	}
	if !strings.Contains(text, "until 2026-11-29 04:00 UTC") || strings.Contains(text, "only its own machine") {
		t.Error(text)
	}
}
