package build_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/report"
)

// A matrix is the product of its values, each task with a source, a machine and a log
// of its own; those of the batch name them all.
func TestB58Matrix(t *testing.T) {
	b := spec(t, `version: 0.2
batch:
  build-matrix:
    static: {env: {type: LINUX_CONTAINER, variables: {ALL: every}}}
    dynamic: {env: {compute-type: BUILD_GENERAL1_SMALL, variables: {A: [one, two], B: [x, y, z]}}}
env: {variables: {A: of the file, C: of the file}}
phases:
  build:
    commands:
      - test ! -e mark && touch mark
      - echo "$CODEBUILD_BATCH_BUILD_IDENTIFIER has $A $B $ALL, $C" >out
artifacts: {files: out}
`)
	b.wants(build.Succeeded, "Entering phase BATCH: 6 builds", "task build5: SUCCEEDED",
		"Phase complete: BATCH State: SUCCEEDED")
	var got []string
	for _, a := range b.result.Artifacts {
		dir := filepath.Join(t.TempDir(), "out")
		if err := b.store.Unpack(t.Context(), a.Digest, dir); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Name+": "+strings.TrimSpace(string(data)))
	}
	want := `build0/main: build0 has one x every, of the file
build1/main: build1 has one y every, of the file
build2/main: build2 has one z every, of the file
build3/main: build3 has two x every, of the file
build4/main: build4 has two y every, of the file
build5/main: build5 has two z every, of the file`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("%s", s)
	}
	id := ""
	for line := range strings.Lines(b.log) {
		if rest, ok := strings.CutPrefix(line, "task build3: SUCCEEDED in "); ok {
			id = strings.TrimSpace(rest[strings.Index(rest, "sha256:"):])
		}
	}
	said := ""
	for e, err := range b.logs.Follow(t.Context(), id, false) {
		if err != nil {
			t.Fatal(err)
		}
		said += e.Text + "\n"
	}
	if !strings.Contains(said, "Phase complete: BUILD State: SUCCEEDED") {
		t.Errorf("the log of a task:\n%s", said)
	}

	// A search finds that log by the batch's.
	search := b.logs.Search("Entering phase BATCH", 64<<20)
	for _, err := range search.In(t.Context(), "t-1") {
		if err != nil {
			t.Fatal(err)
		}
	}
	if named := search.Named(); len(named) != 6 || !slices.Contains(named, strings.TrimPrefix(id, "sha256:")) {
		t.Errorf("%d logs are named, of tasks 6; of %s", len(named), id)
	}
}

// A graph runs what depends on others after them, and not at all after one that
// failed; the others go on.
func TestB58Graph(t *testing.T) {
	const graph = `version: 0.2
batch:
  build-graph:
    - {identifier: lint, buildspec: ci/lint.yml, ignore-failure: %v}
    - {identifier: unit}
    - {identifier: image, depend-on: [lint, unit], buildspec: ci/image.yml}
    - {identifier: deploy, depend-on: [image], env: {variables: {WHERE: there}}}
phases: {build: {commands: ['echo "$CODEBUILD_BATCH_BUILD_IDENTIFIER ran ${WHERE:-here}"', 'test $CODEBUILD_BATCH_BUILD_IDENTIFIER != none']}}
`
	files := func(ignore bool) map[string]string {
		return map[string]string{
			"buildspec.yml": fmt.Sprintf(graph, ignore),
			"ci/lint.yml":   "version: 0.2\nphases: {build: {commands: ['echo a fault in line 3', exit 3]}}\n",
			"ci/image.yml":  "version: 0.2\nphases: {build: {commands: [echo made the image]}}\n",
		}
	}
	b := prepare(t, files(false)).run(t.Context())
	b.wants(build.Failed, "a fault in line 3", "task unit: SUCCEEDED", "task image: not run, it depends on lint",
		"task deploy: not run, it depends on image")
	if b.result.Reason != `task lint: build: "exit 3" exited 3; 3 of 4 tasks are not green` || b.result.Exit != 3 {
		t.Errorf("%+v", b.result)
	}
	// B59: a task that may fail.
	b = prepare(t, files(true)).run(t.Context())
	b.wants(build.Succeeded, "ignore-failure: it does not count", "task image: SUCCEEDED", "task deploy: SUCCEEDED")
	before, after, _ := strings.Cut(b.log, "task image: begins")
	if !strings.Contains(before, "task unit: SUCCEEDED") || !strings.Contains(after, "task deploy: begins") {
		t.Errorf("not in their order:\n%s", b.log)
	}
}

// The first that fails ends those that run, when the file says so.
func TestB59FastFail(t *testing.T) {
	b := spec(t, `version: 0.2
batch:
  fast-fail: true
  build-list:
    - {identifier: slow, env: {variables: {DO: sleep 100000}}}
    - {identifier: bad, env: {variables: {DO: exit 4}}}
phases: {build: {commands: ['$DO']}}
`)
	b.wants(build.Failed, "task slow: STOPPED", "task bad: FAILED")
	if !strings.HasPrefix(b.result.Reason, `task bad: build: "$DO" exited 4`) {
		t.Errorf("%+v", b.result)
	}
}

// Each build of a fanout runs its share of the tests, and all run together.
func TestB60Fanout(t *testing.T) {
	files := map[string]string{"buildspec.yml": `version: 0.2
batch: {build-fanout: {parallelism: 3}}
phases:
  build:
    commands:
      - codebuild-tests-run --test-command 'echo ran' --files-search "codebuild-glob-search 'tests/**/test_*.sh'" --sharding-strategy equal-distribution | tee out
artifacts: {files: out}
`}
	for i := range 7 {
		files[fmt.Sprintf("tests/d%d/test_%d.sh", i%2, i)] = ""
	}
	b := prepare(t, files).run(t.Context())
	b.wants(build.Succeeded)
	ran := map[string]int{}
	for _, a := range b.result.Artifacts {
		dir := filepath.Join(t.TempDir(), "out")
		if err := b.store.Unpack(t.Context(), a.Digest, dir); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		for word := range strings.FieldsSeq(string(data)) {
			if strings.HasPrefix(word, "tests/") {
				ran[word]++
			}
		}
	}
	if len(ran) != 7 || len(b.result.Artifacts) != 3 {
		t.Errorf("%v in %d", ran, len(b.result.Artifacts))
	}
	for file, times := range ran {
		if times != 1 {
			t.Errorf("%s ran %d times", file, times)
		}
	}
}

// A batch that is stopped ends all of its builds, and says nothing about the tree.
func TestB60StoppedBatch(t *testing.T) {
	b := prepare(
		t, map[string]string{"buildspec.yml": "version: 0.2\nbatch: {build-list: [{identifier: a}, {identifier: b}]}\nphases: {build: {commands: ['touch began; sleep 100000']}}"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for t.Context().Err() == nil {
			if began, _ := filepath.Glob(filepath.Join(b.req.Work, "tasks/*/source/began")); len(began) == 2 {
				return
			}
		}
	}()
	b.run(ctx).wants(build.Stopped)
}

const junit = `<testsuite name="s"><testcase name="good"/><testcase name="bad"><failure message="want 1, got 2">at x</failure></testcase></testsuite>`

// What tests wrote is read however the build ended, and a failed build names the
// tests that failed.
func TestB51B52Reports(t *testing.T) {
	files := map[string]string{"junit.xml": junit, "buildspec.yml": `version: 0.2
env: {variables: {GROUP: unit}}
phases: {build: {commands: ['mkdir out; cp junit.xml out/a.xml; cp junit.xml /tmp/b.xml', exit 1]}}
reports:
  $GROUP: {files: ['**/*.xml'], base-directory: out, file-format: JunitXml}
  elsewhere: {files: /tmp/b.xml}
  "arn:aws:codebuild:eu-west-1:1:report-group/named": {files: [buildspec.yml, 'nothing/*']}
`}
	b := prepare(t, files).run(t.Context())
	b.wants(build.Failed, "report hello-unit: FAILED, 1 of 2 tests failed, 0 skipped", "  FAILED s.bad: want 1, got 2",
		"report named: INCOMPLETE", "nothing matches nothing/*")
	if b.result.Reason != `build: "exit 1" exited 1; failed: s.bad, s.bad` || len(b.result.Reports) != 3 ||
		b.result.Reports[0].Cases[0].Status != report.Failed {
		t.Errorf("%+v", b.result)
	}

	// B51: a red report does not fail a build.
	files["buildspec.yml"] = "version: 0.2\nphases: {build: {commands: ['true']}}\nreports: {unit: {files: junit.xml}}"
	prepare(t, files).run(t.Context()).wants(build.Succeeded, "report hello-unit: FAILED, 1 of 2")
}

// B53: results are found that no buildspec names, but for those that were there
// before.
func TestB53ReportsAreDiscovered(t *testing.T) {
	files := map[string]string{"junit.xml": junit,
		"buildspec.yml": "version: 0.2\nphases: {build: {commands: ['mkdir -p target/reports node_modules; sed s/bad/worse/ junit.xml >target/reports/TEST-a.xml; cp junit.xml node_modules/n.xml; echo \"<project/>\" >target/pom.xml; mkfifo target/f.xml', exit 2]}}"}
	b := prepare(t, files)
	b.run(t.Context()).wants(build.Failed, "report hello-discovered: FAILED, 1 of 2 tests failed",
		"FAILED s.worse: want 1, got 2")
	if !strings.HasSuffix(b.result.Reason, "; failed: s.worse") {
		t.Errorf("%+v", b.result)
	}
	b = prepare(t, files)
	b.req.Variables = map[string]string{"CODEBUILD_CONFIG_AUTO_DISCOVER": "false"}
	b.run(t.Context()).wants(build.Failed)
	if strings.Contains(b.log, "report ") {
		t.Errorf("%s", b.log)
	}
}
