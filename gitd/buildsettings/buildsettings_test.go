package buildsettings

import (
	"maps"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

func TestRead(t *testing.T) {
	top, err := yamlfile.Parse("f",
		[]byte(
			"variables: {A: 3.10, B: NO, C: , D: $A}\nnetwork: false\nlimits: {memory: 2 GiB, disk: 500 MiB, cpu: 0.5, processes: 100}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, ps := Read("f", top, "build")
	if len(ps) > 0 || !maps.Equal(s.Variables, map[string]string{"A": "3.10", "B": "NO", "C": "", "D": "$A"}) ||
		s.Network == nil || *s.Network || s.Limits != (Limits{Memory: 2 << 30, Disk: 500 << 20, CPU: 0.5, Processes: 100}) {
		t.Errorf("%+v %v", s, ps)
	}
	if got := s.Limits.Within(Limits{Memory: 1 << 30, CPU: 2}); got != (Limits{Memory: 1 << 30, Disk: 500 << 20, CPU: 0.5,
		Processes: 100}) {
		t.Errorf("%+v", got)
	}
	for in, want := range map[string]string{
		"variables: [A]":                 "f:1: build.variables is not a mapping; write variables: {NAME: value}",
		"variables: {A B: 1}":            `"A B" is not a name for a variable`,
		"variables: {A: [1]}":            "variable A is not text",
		"variables: {CODEBUILD_X: 1}":    "names beginning with CODEBUILD_",
		"variables: {LD_PRELOAD: x}":     "LD_PRELOAD would change how every command is run",
		"variables: {A: 1, A: 2}":        `"A" was already set on line 1`,
		"network: maybe":                 `build.network is "maybe"; write true or false`,
		"limits: {memory: lots}":         `build.limits.memory is "lots"`,
		"limits: {memory: 1 KiB}":        "not a size of at least 16 MiB",
		"limits: {cpu: 0}":               `build.limits.cpu is "0"`,
		"limits: {cpu: NaN}":             `build.limits.cpu is "NaN"`,
		"limits: {processes: 1}":         "not a number from 16",
		"limits: {memmory: 1 GiB}":       `unknown key "memmory" in "build.limits"; did you mean "memory"?`,
		"limits: 3":                      "build.limits is not a mapping",
		"limits: {disk: 2 GiB, disk: 3}": `"disk" was already set`,
	} {
		top, err := yamlfile.Parse("f", []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if _, ps := Read("f", top, "build"); !strings.Contains(ps.Error(), want) {
			t.Errorf("%s: %v, want %q", in, ps, want)
		}
	}
}
