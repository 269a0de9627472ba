package headgateyaml

import (
	"errors"
	"testing"
)

func TestRename(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"flow": {
			"# ours\nenvironments:\n  staging: {target: services}\n  production: {target: services, after: staging} # the real one\n  far: {target: services, after: production}\n",
			"# ours\nenvironments:\n  staging: {target: services}\n  live: {was: production, path: deploy/production, target: services, after: staging} # the real one\n  far: {target: services, after: live}\n",
		},
		"block": {
			"environments:\n  \"production\":\n    # how it runs\n    target: services\n    path: deploy/prod\n",
			"environments:\n  live:\n    was: production\n    # how it runs\n    target: services\n    path: deploy/prod\n",
		},
		"block without a path, no newline at the end": {
			"environments:\n  production:\n      target: services",
			"environments:\n  live:\n      was: production\n      path: deploy/production\n      target: services",
		},
		"renamed before": {
			"environments:\n  production: {was: prod, target: services, path: p}\n",
			"environments:\n  live: {was: production, target: services, path: p}\n",
		},
		"of an application": {
			"applications:\n  web:\n    path: sites/web\n    environments:\n      production: {target: services}\n      far: {target: services, after: 'production'}\n",
			"applications:\n  web:\n    path: sites/web\n    environments:\n      live: {was: production, path: deploy/production, target: services}\n      far: {target: services, after: live}\n",
		},
	} {
		got, err := Rename([]byte(c.text), "production", "live")
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	if got, err := Rename([]byte("environments: {production: {target: services},\n live: {target: services}}\n"),
		"production", "live"); !errors.Is(err, ErrNoEdit) {
		t.Errorf("to a name that is taken: %s, %v", got, err)
	}
	if got, err := Rename([]byte("environments:\n  staging: {target: services}\n"), "production", "live"); err == nil {
		t.Errorf("of one that is not there: %s", got)
	}
}

func TestWasIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		"environments:\n  a: {target: services}\n  b:\n    target: services\n    was: a\n":  `headgate.yaml:5: environment "b" was "a", which is defined on line 2`,
		"environments:\n  a: {target: services, was: a}\n":                                  `headgate.yaml:2: environment "a" was called so before`,
		"environments:\n  a: {target: services, was: c}\n  b: {target: services, was: c}\n": `headgate.yaml:3: environments "a" and "b" both were "c"`,
		"environments:\n  a: {target: services, was: No}\n":                                 `headgate.yaml:2: invalid environment name "No"`,
	} {
		_, err := Parse(Name, []byte(text))
		if err == nil || err.Error()[:min(len(want), len(err.Error()))] != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	f, err := Parse(Name, []byte("environments:\n  b: {target: services, was: a}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := f.RenamedTo("a"); !ok || e.Name != "b" {
		t.Errorf("a is %+v now", e)
	}
}
