package buildspec

import (
	"reflect"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

func TestParse(t *testing.T) {
	const phases = "phases: {build: {commands: [\"true\"]}}\n"
	for _, c := range []struct{ name, in, refused, warned string }{
		{name: "B02 as a number", in: "version: 0.2\n" + phases},
		{name: "B02 as text", in: "version: \"0.2\"\n" + phases},
		{name: "B02 older", in: "version: 0.1\n" + phases},
		{name: "B02 missing", in: phases, refused: "b.yml:1: has no version; add version: 0.2"},
		{name: "B02 other", in: "version: 1\n" + phases, refused: `version "1" is neither 0.1 nor 0.2`},
		{name: "B03 dash", in: "version: 0.2\nphases:\n  pre-build: {commands: [x]}\n", refused: `b.yml:3: Invalid buildspec phase name: pre-build. Expecting: build,install,post_build,pre_build; did you mean "pre_build"?`},
		{name: "B03 artifacts indented", in: "version: 0.2\nphases:\n  build: {commands: [x]}\n  artifacts: {files: x}\n", refused: "b.yml:4: Invalid buildspec phase name: artifacts"},
		{name: "B04 syntax", in: "version: 0.2\nphases:\n  build:\n    commands: [\n", refused: "b.yml:4: is not YAML"},
		{name: "no phases", in: "version: 0.2\n", refused: "has no phases"},
		{name: "no command", in: "version: 0.2\nphases: {build: }\n", refused: "it would prove nothing"},
		{name: "B24 only finally", in: "version: 0.2\nphases: {build: {finally: [x]}}\n"},
		{name: "B28 retry", in: "version: 0.2\nphases: {build: {on-failure: RETRY-2, commands: [x]}}\n", refused: "on-failure RETRY-2 is not in this version"},
		{name: "on-failure", in: "version: 0.2\nphases: {build: {on-failure: stop, commands: [x]}}\n", refused: `on-failure "stop" is unknown`},
		{name: "B30 run-as root", in: "version: 0.2\nrun-as: root\n" + phases},
		{name: "B30 run-as other", in: "version: 0.2\nrun-as: ec2-user\n" + phases, refused: `run-as "ec2-user" is not in this version`},
		{name: "B34 codebuild name", in: "version: 0.2\nenv: {variables: {CODEBUILD_X: 1}}\n" + phases, refused: "CODEBUILD_X: names beginning with CODEBUILD_"},
		{name: "variable name", in: "version: 0.2\nenv: {variables: {\"A B\": 1}}\n" + phases, refused: "is not a name for a variable"},
		{name: "secrets", in: "version: 0.2\nenv: {secrets-manager: {A: b}}\n" + phases, refused: "env.secrets-manager is not in this version"},
		{name: "batch", in: "version: 0.2\nbatch: {build-list: []}\n" + phases, refused: "batch builds are not in this version"},
		{name: "B38 runtimes", in: "version: 0.2\nphases: {install: {runtime-versions: {golang: 1.x}}, build: {commands: [x]}}\n", warned: "Skipping install of runtimes."},
		{name: "unknown key", in: "version: 0.2\nphases: {build: {commans: [x], commands: [y]}}\n", warned: `unknown key "commans" in "phases.build"; did you mean "commands"?`},
		{name: "unknown under env", in: "version: 0.2\nenv: {compute-type: x}\n" + phases, warned: `unknown key "compute-type" in "env"`},
		{name: "twice", in: "version: 0.2\nphases: {build: {commands: [x], commands: [y]}}\n", warned: "is given twice; the last counts"},
		{name: "command with colon", in: "version: 0.2\nphases: {build: {commands: [{echo a: b}]}}\n", refused: "a text that holds ': ' must be quoted"},
		{name: "shell", in: "version: 0.2\nenv: {shell: powershell.exe}\n" + phases, refused: `shell "powershell.exe" is not here`},
		{name: "reports", in: "version: 0.2\nreports: {a: {files: x}}\n" + phases, warned: "reports are not read"},
		{name: "base out", in: "version: 0.2\nartifacts: {files: x, base-directory: ../..}\n" + phases, refused: "outside of the source"},
		{name: "artifacts empty", in: "version: 0.2\nartifacts: {name: x}\n" + phases, refused: "artifacts names no files"},
		{name: "B47 no top files", in: "version: 0.2\nartifacts: {secondary-artifacts: {a: {files: x}}}\n" + phases},
		{name: "alias", in: "version: &v 0.2\nphases: *v\n", refused: "uses a YAML alias"},
		{name: "alias to itself", in: "version: 0.2\nphases: &p {build: *p}\n", refused: "uses a YAML alias"},
		{name: "tabs", in: "version: 0.2\nphases:\n\tbuild:\n", refused: "b.yml:3: is not YAML: found character that cannot start any token; indent with spaces"},
		{name: "BOM and CRLF", in: "\ufeffversion: 0.2\r\nphases:\r\n  build:\r\n    commands:\r\n      - x\r\n"},
		{name: "not UTF-8", in: "version: 0.2\n" + phases + "# \xff\n", refused: "is not UTF-8"},
		{name: "empty", in: "", refused: "is empty"},
		{name: "two documents", in: "version: 0.2\n" + phases + "---\n" + phases, refused: "b.yml:3: holds more than one YAML document"},
		{name: "version null", in: "version:\n" + phases, refused: `version "" is neither`},
		{name: "phases null", in: "version: 0.2\nphases:\n", refused: "phases is not a mapping"},
		{name: "B30 phase run-as", in: "version: 0.2\nrun-as: root\nphases: {build: {run-as: ec2-user, commands: [x]}}\n", refused: `b.yml:3: run-as "ec2-user" is not in this version; remove run-as: commands run as the sandbox's only user, called root`},
		{name: "B61 commands null", in: "version: 0.2\nphases: {install: {commands: }, build: {commands: [~, x]}}\n"},
		{name: "commands in a phase's place", in: "version: 0.2\nphases: {build: [make test]}\n", refused: `b.yml:2: phase build is not a mapping of keys to values; write "commands:" below it`},
		{name: "a command in a phase's place", in: "version: 0.2\nphases: {build: make test}\n", refused: `phase build is not a mapping of keys to values; write "commands:" below it`},
		{name: "variables as a list", in: "version: 0.2\nenv: {variables: [{A: b}]}\n" + phases, refused: "env.variables is not a mapping of keys to values; write 'key: value' below it"},
		{name: "nothing after keys", in: "version: 0.2\nrun-as:\nenv: {shell: , variables: }\nphases: {build: {run-as: , on-failure: , commands: [x]}}\nartifacts: {files: x, name: , base-directory: ~, discard-paths: }\n"},
		{name: "name is a list", in: "version: 0.2\nartifacts: {files: x, name: [a]}\n" + phases, refused: "b.yml:2: name is not text"},
		{name: "base is a list", in: "version: 0.2\nartifacts: {files: x, base-directory: [a]}\n" + phases, refused: "base-directory is not text"},
		{name: "yes is a list", in: "version: 0.2\nartifacts: {files: x, discard-paths: [yes]}\n" + phases, refused: "discard-paths is not text"},
		{name: "yes is a number", in: "version: 0.2\nartifacts: {files: x, discard-paths: 1}\n" + phases, refused: `discard-paths "1" is neither yes nor no`},
		{name: "shell is a list", in: "version: 0.2\nenv: {shell: [bash]}\n" + phases, refused: "env.shell is not text"},
		{name: "secondary twice", in: "version: 0.2\nartifacts: {secondary-artifacts: {a: {files: x}, a: {files: y}}}\n" + phases, warned: `"a" is given twice; the last counts`},
		{name: "phase twice", in: "version: 0.2\nphases: {build: {commands: [x]}, build: {commands: [y]}}\n", warned: `"build" is given twice; the last counts`},
		{name: "steps", in: "version: 0.2\nphases: {build: {steps: [x], commands: [y]}}\n", warned: `did you mean "commands"?`},
		{name: "secondary called main", in: "version: 0.2\nartifacts: {secondary-artifacts: {main: {files: x}}}\n" + phases, refused: `"main" is not an identifier`},
		{name: "list", in: "- a\n", refused: "is not a mapping"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, warnings, err := Parse("b.yml", []byte(c.in))
			if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want %q", err, c.refused)
			}
			if c.warned != "" && !strings.Contains(warnings.Error(), c.warned) {
				t.Errorf("warned %v, want %q", warnings, c.warned)
			}
			if err != nil {
				for _, p := range err.(yamlfile.Problems) {
					if p.Line == 0 && c.in != "" && !strings.Contains(p.What, "UTF-8") {
						t.Errorf("without a line: %v", p)
					}
				}
			}
			if err == nil && spec == nil {
				t.Error("no spec and no error")
			}
		})
	}
}

func TestParseKeepsTextAsTyped(t *testing.T) {
	spec, _, err := Parse("b.yml", []byte(`version: 0.2
env:
  shell: /bin/bash
  variables: {A: NO, B: yes, C: 3.10, D: 0010, E: "$PATH:/x", F: , A: last}
phases:
  post_build: {commands: done}
  build:
    commands: |
      one
      two
    finally: [a, ~, b]
artifacts:
  files: out.json
  discard-paths: Yes
  secondary-artifacts:
    docs: {files: none}
    docs: {files: ["**/*"], base-directory: $CODEBUILD_SRC_DIR/doc, enable-symlinks: no}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Spec{
		Version: "0.2", Shell: "bash",
		Variables: []Variable{{"B", "yes"}, {"C", "3.10"}, {"D", "0010"}, {"E", "$PATH:/x"}, {"F", ""}, {"A", "last"}},
		Phases: []Phase{
			{Name: "build", Commands: []string{"one\ntwo\n"}, Finally: []string{"a", "b"}},
			{Name: "post_build", Commands: []string{"done"}},
		},
		Artifacts: []Artifact{
			{ID: Main, Files: []string{"out.json"}, DiscardPaths: true, Line: 12},
			{ID: "docs", Files: []string{"**/*"}, BaseDirectory: "$CODEBUILD_SRC_DIR/doc", Line: 17},
		},
	}
	if !reflect.DeepEqual(spec, want) {
		t.Errorf("got  %+v\nwant %+v", spec, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 0.2\nphases: {build: {commands: [x]}}\nartifacts: {files: x}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, _, err := Parse("b.yml", data)
		if (spec == nil) != (err != nil) {
			t.Fatal("either a spec or an error")
		}
	})
}
