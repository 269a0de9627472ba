package services

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// ways are the lines by which a service says one thing, in the several ways that Compose
// has for it. What is in braces is drawn.
var ways = map[string][]string{
	"environment": {
		"environment: {A: %s, B: %s}",
		"environment: [\"A=%s\", 'B=%s', E=]",
		"environment: {<<: *common, A: %s, C: %s}",
		"environment: *common",
	},
	"env_file": {
		"env_file: some.env",
		"env_file: [some.env, {path: other/more.env}, {path: absent.env, required: false}]",
		"env_file: [{path: other/more.env}]",
	},
	"command": {
		`command: [run, %s, "%s"]`,
		`command: run --x "%s y" %s`,
		"command: >-\n      run\n      %s\n      and %s",
	},
	"ports": {
		`ports: ["8000:80"]`,
		"ports: [80]",
		`ports: ["127.0.0.1:8000:80/tcp"]`,
		`ports: ["[::1]:8000:80"]`,
		"ports: [{target: 80, published: 8000}]",
		`ports: [{target: 80, published: "8000", host_ip: 127.0.0.1, protocol: tcp, mode: host}]`,
	},
	"depends_on": {
		"depends_on: [last]",
		"depends_on: {last: {condition: service_healthy}}",
		"depends_on: {last: {condition: service_started, required: false, restart: true}}",
	},
	"healthcheck": {
		"healthcheck: {test: [CMD, probe, %s], interval: 1m30s}",
		"healthcheck: {test: probe %s || exit 1, timeout: 2.5s, retries: 4}",
		`healthcheck: {test: [CMD-SHELL, "probe %s"], start_period: 1h}`,
		"healthcheck: {disable: true}",
		"healthcheck: {test: [NONE]}",
	},
	"limits": {
		"deploy: {replicas: 2, resources: {limits: {cpus: '0.5', memory: 64M, pids: 50}, reservations: {memory: 32M}}}",
		"mem_limit: 100m",
		"mem_limit: 1.5gb",
		"mem_limit: 104857600\n    mem_reservation: 50M",
		"cpus: 1.5\n    pids_limit: 100",
		"scale: 3",
	},
	"volumes": {
		"volumes: [data:/data]",
		"volumes: ['data:/data:ro', './files:/files:ro']",
		"volumes: [{type: volume, source: data, target: /data, read_only: true}]",
		"volumes: [{type: bind, source: ./files, target: /files, read_only: true}]",
	},
	"labels": {
		`labels: {a: %s, com.example: "%s"}`,
		"labels: [a=%s, com.example]",
	},
	"ulimits":   {"ulimits: {nproc: 100, nofile: {soft: 10, hard: 20}}", "ulimits: {nofile: 100}"},
	"sysctls":   {"sysctls: {net.core.somaxconn: 1024}", "sysctls: [net.core.somaxconn=1024]"},
	"dns":       {"dns: 10.0.0.1", "dns: [10.0.0.1, 10.0.0.2]"},
	"user":      {"user: '1000:1000'", "user: 1000", "user: nobody"},
	"init":      {"init: true", "init: false"},
	"read_only": {"read_only: true"},
	"shm_size":  {"shm_size: 64m", "shm_size: 67108864"},
	"cap_drop":  {"cap_drop: [ALL]", "cap_drop: [NET_RAW, CHOWN]"},
	"entry":     {"entrypoint: [/start, %s]", "entrypoint: /start '%s z'"},
	"dir":       {"working_dir: /srv"},
	"hostname":  {"hostname: inside"},
}

// values are what is drawn where a way has a place.
var values = []string{
	"one", "1", "1.50", "true", "yes", "0755", "1e3", "2026-11-29", "a-b_c", "$SET", "'${SET}'", "'${NONE:-d}'", "'${NONE-}'",
	"'${SET:+alt}'", "'${EMPTY:-${SET}}'", "'${EMPTY-e}'", "$$x", "'$${x}'", "'${HEADGATE_RELEASE}'", "'x${SET}y'", "a=b",
	"a:b", "é", "~",
}

// drawnService draws what a service says of itself.
func drawnService(t *rapid.T, name string, first bool) string {
	var out strings.Builder
	fmt.Fprintf(&out, "  %s:\n", name)
	for _, what := range slices.Sorted(maps.Keys(ways)) {
		if (what == "depends_on" || what == "ports") && !first || rapid.IntRange(0, 2).Draw(t, name+" says "+what) > 0 {
			continue
		}
		line := rapid.SampledFrom(ways[what]).Draw(t, name+" "+what)
		var with []any
		for range strings.Count(line, "%s") {
			with = append(with, rapid.SampledFrom(values).Draw(t, "value"))
		}
		fmt.Fprintf(&out, "    %s\n", fmt.Sprintf(line, with...))
	}
	return out.String()
}

// TestAsComposeReadsWhatIsDrawn holds what is read of files that are drawn to what the
// library of Compose reads of them: services that say what they say in one of the ways
// there are, one extends another, an override adds. What Compose refuses is refused here.
func TestAsComposeReadsWhatIsDrawn(t *testing.T) {
	dir := t.TempDir()
	vars := map[string]string{}
	for _, name := range instanceVariables {
		vars[name] = "x1"
	}
	drawn, compared := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := "x-common: &common {A: common, D: \"${SET}\"}\nservices:\n" +
			"  last: {image: last}\n" +
			drawnService(t, "first", true) + "    image: first:${SET}\n" +
			drawnService(t, "second", false) + "    extends: first\n    ports: !reset []\n" +
			"volumes: {data: {}}\n"
		files := target.Files{
			composeFile:      []byte(text),
			".env":           []byte("SET=set\nEMPTY=\n"),
			"some.env":       []byte("A=file\nF='${SET}'\nG=\"${SET} ${A}\"\nH=plain # said\n"),
			"other/more.env": []byte("G=more\nI=\n"),
			"files/x":        []byte("x"),
		}
		if rapid.Bool().Draw(t, "overridden") {
			files["compose.override.yaml"] = []byte("services:\n" + strings.ReplaceAll(drawnService(t, "first", false), "*common", "{}"))
		}
		if drawn++; len(files) < 6 {
			_ = os.Remove(dir + "/compose.override.yaml")
		}
		c, _, err := Read("", files)
		project, theirs := composeProject(t.Context(), dir, files, vars)
		switch {
		case errors.Is(theirs, errComposePanics):
			return
		case theirs != nil && (strings.Contains(theirs.Error(), " must be a ") ||
			strings.Contains(theirs.Error(), "can't set distinct values")):
			return // a number where its schema wants text; or a limit is said, and deploy has others
		case theirs != nil && err == nil:
			t.Fatalf("Compose refuses, and it is read here: %v\n%s\n%s", theirs, text, files["compose.override.yaml"])
		case err != nil:
			return
		}
		compared++
		us, them := bothRead(t, c, project, vars)
		for name := range them {
			if us[name] != them[name] {
				t.Fatalf("%s is read as\n%s\nand Compose reads\n%s\nof\n%s\n%s", name, us[name], them[name], text,
					files["compose.override.yaml"])
			}
		}
		if len(us) != len(them) {
			t.Fatalf("%d services are read, and Compose reads %d", len(us), len(them))
		}
	})
	if compared*6 < drawn { // the others are not YAML, or refused by both
		t.Errorf("of %d drawn only %d are read", drawn, compared)
	}
}
