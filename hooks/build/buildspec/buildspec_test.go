package buildspec

import (
	"reflect"
	"slices"
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
		{name: "B02 missing", in: phases, refused: "b.yml:1:1: has no version; add version: 0.2"},
		{name: "B02 other", in: "version: 1\n" + phases, refused: `version "1" is neither 0.1 nor 0.2`},
		{name: "B03 dash", in: "version: 0.2\nphases:\n  pre-build: {commands: [x]}\n",
			refused: `b.yml:3:3: Invalid buildspec phase name: pre-build. Expecting: build,install,post_build,pre_build; did you mean "pre_build"?`},
		{name: "B03 artifacts indented", in: "version: 0.2\nphases:\n  build: {commands: [x]}\n  artifacts: {files: x}\n",
			refused: "b.yml:4:3: Invalid buildspec phase name: artifacts. Expecting: build,install,post_build,pre_build; it belongs in the top of the file: indent it less"},
		{name: "B04 syntax", in: "version: 0.2\nphases:\n  build:\n    commands: [\n", refused: "b.yml:4: is not YAML"},
		{name: "no phases", in: "version: 0.2\n", refused: "has no phases"},
		{name: "no command", in: "version: 0.2\nphases: {build: }\n", refused: "it would prove nothing"},
		{name: "B24 only finally", in: "version: 0.2\nphases: {build: {finally: [x]}}\n"},
		{name: "B28 retry", in: "version: 0.2\nphases: {build: {on-failure: RETRY-2-time.*out, commands: [x]}}\n"},
		{name: "B28 retry too often", in: "version: 0.2\nphases: {build: {on-failure: RETRY-101, commands: [x]}}\n",
			refused: `b.yml:2:30: on-failure "RETRY-101": a build is tried again 0 to 100 times; write RETRY-3`},
		{name: "B28 no expression", in: "version: 0.2\nphases: {build: {on-failure: \"RETRY-2-[\", commands: [x]}}\n",
			refused: `"[" is not a regular expression`},
		{name: "on-failure that forgives", in: "version: 0.2\nphases: {build: {on-failure: CONTINUE, commands: [x]}}\n",
			warned: "does not keep the tree from landing"},
		{name: "on-failure misspelt", in: "version: 0.2\nphases: {build: {on-failure: CONTINU, commands: [x]}}\n",
			refused: `did you mean "CONTINUE"?`},
		{name: "on-failure", in: "version: 0.2\nphases: {build: {on-failure: stop, commands: [x]}}\n",
			refused: `on-failure "stop" is unknown`},
		{name: "B30 run-as root", in: "version: 0.2\nrun-as: root\n" + phases},
		{name: "B30 run-as other", in: "version: 0.2\nrun-as: ec2-user\n" + phases},
		{name: "B30 run-as no user", in: "version: 0.2\nrun-as: 'a b'\n" + phases,
			refused: `b.yml:2:9: run-as "a b" is not the name of a user`},
		{name: "B34 codebuild name", in: "version: 0.2\nenv: {variables: {CODEBUILD_X: 1}}\n" + phases,
			refused: "CODEBUILD_X: names beginning with CODEBUILD_"},
		{name: "variable name", in: "version: 0.2\nenv: {variables: {\"A B\": 1}}\n" + phases,
			refused: "is not a name for a variable"},
		{name: "B35 secrets", in: "version: 0.2\nenv: {secrets-manager: {A: b, B: 'c:d', C: 'e:f:AWSCURRENT', D: 'arn:aws:secretsmanager:eu-west-1:123456789012:secret:app/db-AbCdEf:user::'}, parameter-store: {E: /prod/x}}\n" + phases},
		{name: "B35 stage and id", in: "version: 0.2\nenv: {secrets-manager: {A: 'b:c:AWSCURRENT:v1'}}\n" + phases,
			refused: `b.yml:2:28: "b:c:AWSCURRENT:v1" names both a version-stage and a version-id; keep one of them`},
		{name: "B35 another version", in: "version: 0.2\nenv: {secrets-manager: {A: 'b::AWSPREVIOUS'}}\n" + phases},
		{name: "B35 too many parts", in: "version: 0.2\nenv: {secrets-manager: {A: 'b:::::x'}}\n" + phases,
			refused: "has too many parts"},
		{name: "B35 nothing", in: "version: 0.2\nenv: {parameter-store: {A: }}\n" + phases,
			refused: "env.parameter-store.A names nothing"},
		{name: "B34 secret for a codebuild name", in: "version: 0.2\nenv: {parameter-store: {CODEBUILD_X: y}}\n" + phases,
			refused: "b.yml:2:25: CODEBUILD_X: names beginning with CODEBUILD_"},
		{name: "B37 exported", in: "version: 0.2\nenv: {exported-variables: [A, B]}\n" + phases},
		{name: "B37 exported secret", in: "version: 0.2\nenv: {exported-variables: [A], secrets-manager: {A: b}}\n" + phases,
			refused: "A is a secret, which is not exported"},
		{name: "B37 exported AWS", in: "version: 0.2\nenv: {exported-variables: AWS_REGION}\n" + phases,
			refused: "names beginning with AWS_ are not exported"},
		{name: "B58 cycle", in: "version: 0.2\nbatch: {build-graph: [{identifier: a, depend-on: [b]}, {identifier: b, depend-on: [a]}]}\n" + phases, refused: "b.yml:2:1: the tasks a, b wait for one another"},
		{name: "B58 unknown", in: "version: 0.2\nbatch: {build-graph: [{identifier: unit}, {identifier: b, depend-on: unt}]}\n" + phases, refused: `task "b" depends on "unt", which is not there; did you mean "unit"?`},
		{name: "B58 twice", in: "version: 0.2\nbatch: {build-list: [{identifier: a}, {identifier: a}]}\n" + phases,
			refused: `the identifier "a" is already that of line 2`},
		{name: "B58 no identifier", in: "version: 0.2\nbatch: {build-list: [{buildspec: x}]}\n" + phases,
			refused: `"" is not an identifier for a task`},
		{name: "B58 too many", in: "version: 0.2\nbatch: {build-matrix: {dynamic: {env: {variables: {A: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], B: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}}}}\n" + phases, refused: "comes to 110 builds and more: a batch has at most 100"},
		{name: "B58 none", in: "version: 0.2\nbatch: {fast-fail: true}\n" + phases, refused: "batch has no builds"},
		{name: "B58 two kinds", in: "version: 0.2\nbatch: {build-list: [{identifier: a}], build-fanout: {parallelism: 2}}\n" +
			phases, refused: "batch has both build-list and build-fanout"},
		{name: "B58 files of their own", in: "version: 0.2\nbatch: {build-list: [{identifier: a, buildspec: a.yml}]}\n"},
		{name: "B60 parallelism", in: "version: 0.2\nbatch: {build-fanout: {parallelism: many}}\n" + phases,
			refused: `parallelism "many" is not a number of builds`},
		{name: "batch misspelt", in: "version: 0.2\nbatch: {build-lists: [{identifier: a}]}\n" + phases,
			refused: `did you mean "build-list"?`},
		{name: "B38 runtimes", in: "version: 0.2\nphases: {install: {runtime-versions: {golang: 1.x, java: corretto17, python: 3.10}}, build: {commands: [x]}}\n"},
		{name: "B38 unknown runtime",
			in:      "version: 0.2\nphases: {install: {runtime-versions: {docker: 18}}, build: {commands: [x]}}\n",
			refused: "b.yml:2:39: Unknown runtime named 'docker'; This build image has the following runtimes: android, dotnet, golang"},
		{name: "B38 runtime misspelt",
			in:      "version: 0.2\nphases: {install: {runtime-versions: {node: 18}}, build: {commands: [x]}}\n",
			refused: "Unknown runtime named 'node'"},
		{name: "B38 runtimes in another phase",
			in:     "version: 0.2\nphases: {build: {runtime-versions: {golang: 1}, commands: [x]}}\n",
			warned: "it belongs in phases.install"},
		{name: "misspelt key", in: "version: 0.2\nphases: {build: {commans: [x], commands: [y]}}\n",
			refused: `b.yml:2:18: unknown key "commans" in "phases.build"; did you mean "commands"?`},
		{name: "misspelt at the top", in: "version: 0.2\nartifact: {files: x}\n" + phases,
			refused: `did you mean "artifacts"?`},
		{name: "another builder's word", in: "version: 0.2\nphases: {build: {script: [x], commands: [y]}}\n",
			refused: `did you mean "commands"?`},
		{name: "where it has no effect", in: "version: 0.2\nvariables: {A: b}\n" + phases,
			refused: `b.yml:2:1: unknown key "variables" here; it belongs in env`},
		{name: "B03 phases forgotten", in: "version: 0.2\nbuild: {commands: [x]}\n", refused: "it belongs in phases"},
		{name: "unknown to both", in: "version: 0.2\nnotifications: {to: me}\n" + phases,
			warned: `b.yml:2:1: unknown key "notifications" here`},
		{name: "unknown under env", in: "version: 0.2\nenv: {compute-type: x}\n" + phases,
			warned: `unknown key "compute-type" in "env"`},
		{name: "twice", in: "version: 0.2\nphases: {build: {commands: [x], commands: [y]}}\n",
			warned: "is given twice; the last counts"},
		{name: "command with colon", in: "version: 0.2\nphases: {build: {commands: [{echo a: b}]}}\n",
			refused: "a text that holds ': ' must be quoted"},
		{name: "shell", in: "version: 0.2\nenv: {shell: powershell.exe}\n" + phases,
			refused: `b.yml:2:14: shell "powershell.exe" is not here; use sh or bash`},
		{name: "base out", in: "version: 0.2\nartifacts: {files: x, base-directory: ../..}\n" + phases,
			refused: "outside of the source"},
		{name: "artifacts empty", in: "version: 0.2\nartifacts: {name: x}\n" + phases, refused: "artifacts names no files"},
		{name: "B47 no top files", in: "version: 0.2\nartifacts: {secondary-artifacts: {a: {files: x}}}\n" + phases},
		{name: "alias", in: "version: &v 0.2\nphases: *v\n", refused: "uses a YAML alias"},
		{name: "alias to itself", in: "version: 0.2\nphases: &p {build: *p}\n", refused: "uses a YAML alias"},
		{name: "tabs", in: "version: 0.2\nphases:\n\tbuild:\n",
			refused: "b.yml:3: is not YAML: found character that cannot start any token; indent with spaces"},
		{name: "BOM and CRLF", in: "\ufeffversion: 0.2\r\nphases:\r\n  build:\r\n    commands:\r\n      - x\r\n"},
		{name: "not UTF-8", in: "version: 0.2\n" + phases + "# \xff\n", refused: "is not UTF-8"},
		{name: "empty", in: "", refused: "is empty"},
		{name: "two documents", in: "version: 0.2\n" + phases + "---\n" + phases,
			refused: "b.yml:3: holds more than one YAML document"},
		{name: "version null", in: "version:\n" + phases, refused: `version "" is neither`},
		{name: "phases null", in: "version: 0.2\nphases:\n", refused: "phases is not a mapping"},
		{name: "B30 phase run-as", in: "version: 0.2\nrun-as: root\nphases: {build: {run-as: ec2-user, commands: [x]}}\n",
			refused: ""},
		{name: "B61 commands null", in: "version: 0.2\nphases: {install: {commands: }, build: {commands: [~, x]}}\n"},
		{name: "commands in a phase's place", in: "version: 0.2\nphases: {build: [make test]}\n",
			refused: `b.yml:2:17: phase build is not a mapping of keys to values; write "commands:" below it`},
		{name: "a command in a phase's place", in: "version: 0.2\nphases: {build: make test}\n",
			refused: `phase build is not a mapping of keys to values; write "commands:" below it`},
		{name: "variables as a list", in: "version: 0.2\nenv: {variables: [{A: b}]}\n" + phases,
			refused: "env.variables is not a mapping of keys to values; write 'key: value' below it"},
		{name: "nothing after keys",
			in: "version: 0.2\nrun-as:\nenv: {shell: , variables: }\nphases: {build: {run-as: , on-failure: , commands: [x]}}\nartifacts: {files: x, name: , base-directory: ~, discard-paths: }\n"},
		{name: "name is a list", in: "version: 0.2\nartifacts: {files: x, name: [a]}\n" + phases,
			refused: "b.yml:2:29: name is not text"},
		{name: "base is a list", in: "version: 0.2\nartifacts: {files: x, base-directory: [a]}\n" + phases,
			refused: "base-directory is not text"},
		{name: "yes is a list", in: "version: 0.2\nartifacts: {files: x, discard-paths: [yes]}\n" + phases,
			refused: "discard-paths is not text"},
		{name: "yes is a number", in: "version: 0.2\nartifacts: {files: x, discard-paths: 1}\n" + phases,
			refused: `discard-paths "1" is neither yes nor no`},
		{name: "shell is a list", in: "version: 0.2\nenv: {shell: [bash]}\n" + phases, refused: "env.shell is not text"},
		{name: "secondary twice", in: "version: 0.2\nartifacts: {secondary-artifacts: {a: {files: x}, a: {files: y}}}\n" +
			phases, warned: `"a" is given twice; the last counts`},
		{name: "phase twice", in: "version: 0.2\nphases: {build: {commands: [x]}, build: {commands: [y]}}\n",
			warned: `"build" is given twice; the last counts`},
		{name: "steps", in: "version: 0.2\nphases: {build: {steps: [x], commands: [y]}}\n",
			refused: `did you mean "commands"?`},
		{name: "secondary called main", in: "version: 0.2\nartifacts: {secondary-artifacts: {main: {files: x}}}\n" + phases,
			refused: `"main" is not an identifier`},
		{name: "B50 formats", in: "version: 0.2\nreports: {a: {files: x, file-format: JunitXml}, b: {files: [y], file-format: NUNIT3XML}}\n" + phases},
		{name: "B50 format", in: "version: 0.2\nreports: {a: {files: x, file-format: JUNIT}}\n" + phases,
			refused: `b.yml:2:38: file-format "JUNIT" is unknown; did you mean "JUNITXML"?`},
		{name: "B50 no files", in: "version: 0.2\nreports: {a: {file-format: JUNITXML}}\n" + phases,
			refused: "report a names no files"},
		{name: "reports at most five",
			in: "version: 0.2\nreports: {a: {files: x}, b: {files: x}, c: {files: x}, d: {files: x}, e: {files: x}, f: {files: x}}\n" + phases, refused: "6 reports: a build has at most 5"},
		{name: "B55 fallback without a key", in: "version: 0.2\ncache: {paths: [x], fallback-keys: [y]}\n" + phases,
			warned: "fallback-keys have no effect without a key"},
		{name: "B55 six fallbacks", in: "version: 0.2\ncache: {paths: [x], key: k, fallback-keys: [a, b, c, d, e, f]}\n" +
			phases, refused: "6 fallback-keys: a cache has at most 5"},
		{name: "B56 action", in: "version: 0.2\ncache: {paths: [x], key: k, action: load}\n" + phases,
			refused: `cache.action "load" is unknown`},
		{name: "proxy", in: "version: 0.2\nproxy: {logs: yes}\n" + phases, warned: "proxy.logs has no effect here"},
		{name: "Bash under sh", in: "version: 0.2\nphases:\n  build:\n    commands:\n      - true\n      - |\n        a=1\n        [[ $a == 1 ]]\n", warned: "b.yml:8: [[ … ]] is Bash, and commands run in sh; write env: {shell: bash}"},
		{
			name:   "a block that goes on",
			in:     "version: 0.2\nphases:\n  build:\n    commands:\n      - |\n        echo one\n        ./test.sh\n        echo done\n",
			warned: "b.yml:7: ./test.sh may fail here and the build stays green: of several lines the last one's exit status counts; begin the block with set -e",
		},
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

func TestUnnoticed(t *testing.T) {
	for command, want := range map[string][]int{
		"make test":                                  nil,
		"make test\nmake dist":                       {1},
		"make test; make dist; echo done":            {1, 1},
		"set -e\nmake test\nmake dist":               nil,
		"set -euo pipefail\nmake test\nmake dist":    nil,
		"make one\nset -o errexit\nmake two\nmake":   {1},
		"make test || exit 1\nmake dist":             nil,
		"make test && make dist\nmake more":          nil,
		"if make test; then make dist; fi\nmake":     nil,
		"x=$(make version)\necho $x\nserver &\nmake": nil,
		"! grep -r TODO .\nmake":                     nil,
		"echo 'not closed":                           nil,
	} {
		if lines, _ := unnoticed(command); !slices.Equal(lines, want) {
			t.Errorf("%q goes on after what fails in lines %v, want %v", command, lines, want)
		}
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

// TestB35SecretIDs: a store is asked by what is written, and who may ask by the name alone.
func TestB35SecretIDs(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-north-1:1:secret:team/db-AbCdEf"
	for text, want := range map[string]Secret{
		"db":                    {Name: "db", ID: "db"},
		"db:user":               {Name: "db", ID: "db", Key: "user"},
		"db::AWSCURRENT":        {Name: "db", ID: "db"},
		"db::AWSPREVIOUS":       {Name: "db", ID: "db", Stage: "AWSPREVIOUS"},
		"db:user::v-1":          {Name: "db", ID: "db", Key: "user", Version: "v-1"},
		arn:                     {Name: "team/db", ID: arn},
		arn + ":user":           {Name: "team/db", ID: arn, Key: "user"},
		arn + "::AWSPREVIOUS":   {Name: "team/db", ID: arn, Stage: "AWSPREVIOUS"},
		arn + ":user:PENDING: ": {Name: "team/db", ID: arn, Key: "user", Stage: "PENDING", Version: " "},
	} {
		spec, _, problems := Parse("b.yml", []byte("version: 0.2\nenv: {secrets-manager: {A: '"+text+"'}}\nphases: {build: {commands: [x]}}\n"))
		if want.Stage != "" && want.Version != "" {
			if problems == nil {
				t.Errorf("%s is taken", text)
			}
			continue
		}
		if problems != nil || len(spec.Secrets) != 1 {
			t.Errorf("%s: %v", text, problems)
			continue
		}
		got := spec.Secrets[0]
		want.Variable, want.Store, want.Line, want.Column = "A", SecretsManager, got.Line, got.Column
		if got != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
