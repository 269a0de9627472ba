package main

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/headgate-cd/headgate/reconciler/target"
	"github.com/headgate-cd/headgate/reconciler/target/services"
)

// projectIn unpacks a project of testdata/init and returns what its head says:
// the command that is to run it, what init says, and which tool its build takes.
func projectIn(t *testing.T, file string) (dir string, head map[string][]string) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head = map[string][]string{}
	for line := range strings.Lines(string(archive.Comment)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		head[key] = append(head[key], value)
	}
	dir = filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(file), ".txtar"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := txtar.Write(archive, dir); err != nil {
		t.Fatal(err)
	}
	return dir, head
}

func headgate(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	var out bytes.Buffer
	code = execute(t.Context(), printer{&out, &out}, args)
	return code, out.String()
}

// building is held by a build: those of one process are in one control group.
var building sync.Mutex

// TestInit: what init writes for each kind of project passes check, runs what it
// should, and builds green where the tools of its kind are.
func TestInit(t *testing.T) {
	files, err := filepath.Glob("testdata/init/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d projects, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			dir, head := projectIn(t, file)
			code, said := headgate(t, "init", dir)
			if code != 0 || !strings.Contains(said, "\ngood: ") {
				t.Fatalf("exit %d:\n%s", code, said)
			}
			said += read(t, dir, cmp.Or(strings.Join(head["buildspec"], ""), "buildspec.yml"))
			for _, want := range head["says"] {
				if !strings.Contains(said, want) {
					t.Errorf("did not say %q:\n%s", want, said)
				}
			}
			why := ""
			if _, after, ok := strings.Cut(read(t, dir, "headgate.yaml"), "\n  network: true            # "); ok {
				why, _, _ = strings.Cut(after, "\n")
			}
			if why != strings.Join(head["network"], "") {
				t.Errorf("network for %q, want %q", why, head["network"])
			}

			for _, environment := range []string{"staging", "production"} {
				name := "deploy/" + environment + "/compose.yaml"
				if head["command"][0] == "none" {
					if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
						t.Errorf("wrote %s", name)
					}
					continue
				}
				c, warnings, err := services.Read(path.Dir(name), target.Files{"compose.yaml": []byte(read(t, dir, name))})
				if err != nil || len(warnings) > 0 {
					t.Fatal(err, warnings)
				}
				want, _, err := services.Read("", target.Files{
					"compose.yaml": []byte("services: {web: {command: " + quoted(head["command"][0]) + "}}"),
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := c.Services[0].Command; strings.Join(got, "|") != strings.Join(want.Services[0].Command, "|") {
					t.Errorf("%s runs %q, want %q", environment, got, want.Services[0].Command)
				}
			}

			if tool := head["builds"]; tool != nil && exists(tool[0]) && exists("/usr/bin/bwrap") {
				building.Lock()
				defer building.Unlock()
				if code, said := headgate(t, "run", dir); code != 0 {
					t.Errorf("the build of what init wrote is red:\n%s\n%s", read(t, dir, "buildspec.yml"), said)
				}
			}
		})
	}
}

// TestInitOverwritesNothing: what is there stays, to the byte, unless --force says otherwise.
func TestInitOverwritesNothing(t *testing.T) {
	dir, _ := projectIn(t, "testdata/init/static.txtar")
	const own = "# mine\nland: {branches: [main]}\n"
	if err := os.WriteFile(filepath.Join(dir, "headgate.yaml"), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, said := headgate(t, "init", dir); code != 0 || !strings.Contains(said, "kept  headgate.yaml: it is there") ||
		read(t, dir, "headgate.yaml") != own {
		t.Errorf("exit %d, %q:\n%s", code, read(t, dir, "headgate.yaml"), said)
	}
	// A link that stands in its place leads nowhere that is written to.
	outside := filepath.Join(t.TempDir(), "outside")
	compose := filepath.Join(dir, "deploy/staging/compose.yaml")
	if err := os.Remove(compose); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, compose); err != nil {
		t.Fatal(err)
	}
	headgate(t, "init", "--force", dir)
	if exists(outside) {
		t.Error("wrote outside of the directory")
	}
	if err := os.Remove(compose); err != nil {
		t.Fatal(err)
	}
	if code, said := headgate(t, "init", "--force", dir); code != 0 ||
		!strings.Contains(read(t, dir, "headgate.yaml"), "environments:\n") {
		t.Errorf("exit %d:\n%s", code, said)
	}
}

// TestInitSaysWhatAKeptFileLacks: a headgate.yaml that was there and gives builds no
// network is not changed, and it is said when the build needs one.
func TestInitSaysWhatAKeptFileLacks(t *testing.T) {
	const note = "note: headgate.yaml gives builds no network, and "
	for own, want := range map[string]bool{
		"land: {branches: [main]}\n":                         true,
		"build: {network: true}\nland: {branches: [main]}\n": false,
	} {
		dir, _ := projectIn(t, "testdata/init/java-maven.txtar")
		if err := os.WriteFile(filepath.Join(dir, "headgate.yaml"), []byte(own), 0o644); err != nil {
			t.Fatal(err)
		}
		if code, said := headgate(t, "init", dir); code != 0 || strings.Contains(said, note) != want {
			t.Errorf("%q: exit %d, want the note: %v\n%s", own, code, want, said)
		}
	}
	dir, _ := projectIn(t, "testdata/init/java-maven.txtar")
	if _, said := headgate(t, "init", dir); strings.Contains(said, note) {
		t.Errorf("what it wrote itself lacks something:\n%s", said)
	}
}

// TestInitKnowsNothing: a directory that says nothing is left as it is.
func TestInitKnowsNothing(t *testing.T) {
	dir := t.TempDir()
	code, said := headgate(t, "init", dir)
	if left, _ := os.ReadDir(dir); code != 1 || len(left) > 0 || !strings.Contains(said, "hint: write buildspec.yml") {
		t.Errorf("exit %d, %d files:\n%s", code, len(left), said)
	}
}

// TestInitNextIsWhatGitTakes: the commands that it ends with are those for the name and the server that were given.
func TestInitNextIsWhatGitTakes(t *testing.T) {
	dir, _ := projectIn(t, "testdata/init/static.txtar")
	if out, err := exec.Command("git", "init", "-q", "-b", "trunk", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, said := headgate(t, "init", "--server", "git.example.org:22", "--name", "pages", dir)
	for _, want := range []string{"  ssh git.example.org repo create pages\n",
		"  git push ssh://git.example.org:22/pages HEAD:trunk\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("did not say %q:\n%s", want, said)
		}
	}
	_, said = headgate(t, "init", "--server", "127.0.0.1:2300", "--key", "/home/ada's/you", "--name", "pages", dir)
	for _, want := range []string{
		"  ssh -i '/home/ada'\\''s/you' -p 2300 127.0.0.1 repo create pages\n",
		"  GIT_SSH_COMMAND='ssh -i '\\''/home/ada'\\''\\'\\'''\\''s/you'\\''' git push ssh://127.0.0.1:2300/pages HEAD:trunk\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("did not say %q:\n%s", want, said)
		}
	}
	if !strings.Contains(read(t, dir, "headgate.yaml"), "branches: [trunk]") {
		t.Errorf("the branch is not gated:\n%s", read(t, dir, "headgate.yaml"))
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
