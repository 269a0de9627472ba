package services

import (
	"errors"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestScale: one number changes, wherever it stands, and nothing else of the text.
func TestScale(t *testing.T) {
	const web = "# ours\nservices:\n  web:\n    command: ./web # the program\n"
	task := `{"family": "w", "containerDefinitions": [{"name": "web", "image": "w:1"}]}`
	for name, c := range map[string]struct {
		files     target.Files
		file, was string // a part of the file, and what becomes of it
		is        string
	}{
		"not said": {target.Files{composeFile: []byte(web)}, composeFile, "web:\n", "web:\n    scale: 3\n"},
		"replicas": {target.Files{composeFile: []byte(web + "    deploy: {replicas: 2} # two\n")}, composeFile,
			"replicas: 2} # two", "replicas: 3} # two"},
		"scale": {target.Files{composeFile: []byte(web + "    scale: '2'\n")}, composeFile, "scale: '2'", "scale: 3"},
		"flow": {target.Files{composeFile: []byte("services: {web: {command: ./web}}\n")}, composeFile,
			"web: {command", "web: {scale: 3, command"},
		"an override": {target.Files{
			composeFile:             []byte(web + "    deploy: {replicas: 2}\n"),
			"compose.override.yaml": []byte("services: {web: {deploy: {replicas: 4}}}\n"),
		}, "compose.override.yaml", "replicas: 4", "replicas: 3"},
		"included": {target.Files{
			composeFile:  []byte("include: [more.yaml]\nservices: {other: {command: ./other}}\n"),
			"more.yaml":  []byte(web + "    deploy:\n      replicas: 2\n"),
			"other.yaml": []byte(web + "    scale: 7\n"),
		}, "more.yaml", "replicas: 2", "replicas: 3"},
		"a number of two services": {target.Files{composeFile: []byte(
			"services:\n  web: {command: ./web, deploy: &d {replicas: 2}}\n" +
				"  job: {command: ./job, deploy: *d}\n")}, "", "", ""},
		"an ECS service": {target.Files{taskFile: []byte(task), serviceFile: []byte("{\n  \"desiredCount\": 2\n}\n")},
			serviceFile,
			`"desiredCount": 2`, `"desiredCount": 3`},
		"an ECS service that does not say": {target.Files{taskFile: []byte(task)}, "", "", ""},
	} {
		file, edited, err := Scale(c.files, "web", 3)
		if c.file == "" {
			if !errors.Is(err, ErrNoScale) {
				t.Errorf("%s: %s %q %v", name, file, edited, err)
			}
			continue
		}
		want := strings.Replace(string(c.files[c.file]), c.was, c.is, 1)
		if err != nil || file != c.file || string(edited) != want {
			t.Errorf("%s: %s, %v\n%s\nwant\n%s", name, file, err, edited, want)
		}
	}

	if file, edited, err := Scale(target.Files{composeFile: []byte(web)}, "web", 1); file != "" ||
		edited != nil || err != nil {
		t.Errorf("as many as there are: %s %q %v", file, edited, err)
	}
	var names NoService
	if _, _, err := Scale(target.Files{composeFile: []byte(web)}, "wob", 3); !errors.As(err, &names) || names[0] != "web" {
		t.Errorf("another service: %v", err)
	}
	var faults yamlfile.Problems
	if _, _, err := Scale(target.Files{composeFile: []byte(web)}, "web", maxReplicas+1); !errors.As(err, &faults) {
		t.Errorf("too many: %v", err)
	}
}
