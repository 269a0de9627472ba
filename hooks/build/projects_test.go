package build_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/artifact"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

// Whole projects, each with the buildspec that it would have for CodeBuild. What
// comes before the first file of an archive is what must come of it, a line each:
//
//	status STATUS
//	log TEXT            that is in the log
//	not TEXT            that is not
//	call PROGRAM ARGS   that one of the stubs was called with, in this order
//	artifact NAME FILE…
//	reason TEXT         that is in the reason
//	var NAME=VALUE      of the project's environment
//	secret NAME=VALUE   that the server keeps
//	git                 the source has a history, with the tag v1.2.0
//	root                only a server that is root can build it
//
// Files below stubs/ are programs that write down how they were called, and do what
// is in them.
func TestProjects(t *testing.T) {
	archives, err := filepath.Glob("testdata/projects/*.txtar")
	if err != nil || len(archives) < 15 {
		t.Fatalf("%d projects, %v", len(archives), err)
	}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			project(t, file, &host.Host{}, "")
		})
	}
}

// stub is what a stub does before its own part.
const stub = `#!/bin/sh
case "$*" in *--password-stdin*) password=$(cat) ;; esac # so that it comes after who gives it
echo "${0##*/} $*" >>"$CODEBUILD_SRC_DIR/.calls"
`

// project runs one, in a container of an image unless that is "".
func project(t *testing.T, file string, executor build.Executor, image string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	stubs := false
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
		if strings.HasPrefix(f.Name, "stubs/") {
			stubs = true
			files[f.Name] = stub + string(f.Data)
		}
	}
	b := prepare(t, files)
	b.executor, b.req.Image = executor, image
	for name := range files {
		if strings.HasPrefix(name, "stubs/") || strings.HasSuffix(name, ".sh") {
			if err := os.Chmod(filepath.Join(b.req.Source, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.req.Variables = map[string]string{}
	if stubs {
		b.req.Variables["PATH"] = build.SourceDir +
			"/stubs:/usr/local/sbin:/usr/local/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + build.ControlDir + "/bin"
	}
	secrets := map[string]string{}
	b.req.Secrets = func(_ context.Context, s build.Secret) (string, error) {
		if v, ok := secrets[s.Name]; ok {
			return v, nil
		}
		return "", build.Problem(s, "there is no secret "+s.Name, "")
	}
	wants := strings.Split(strings.TrimSpace(string(archive.Comment)), "\n")
	for _, want := range wants {
		verb, rest, _ := strings.Cut(want, " ")
		name, value, _ := strings.Cut(rest, "=")
		switch verb {
		case "var":
			b.req.Variables[name] = value
		case "secret":
			secrets[name] = value
		case "git":
			history(t, b.req.Source)
		case "root":
			if os.Geteuid() != 0 {
				t.Log("only builds of a server that is root can write to the system")
				return
			}
		}
	}

	b.run(t.Context())
	if t.Failed() {
		return
	}
	calls, _ := os.ReadFile(filepath.Join(b.req.Source, ".calls"))
	left := string(calls)
	for _, want := range wants {
		verb, rest, _ := strings.Cut(want, " ")
		switch verb {
		case "status":
			if string(b.result.Status) != rest {
				t.Errorf("ended %s (%s), not %s", b.result.Status, b.result.Reason, rest)
			}
		case "log":
			if !strings.Contains(b.log, rest) {
				t.Errorf("the log lacks %q", rest)
			}
		case "not":
			if strings.Contains(b.log, rest) {
				t.Errorf("the log has %q", rest)
			}
		case "reason":
			if !strings.Contains(b.result.Reason, rest) {
				t.Errorf("the reason is %q, without %q", b.result.Reason, rest)
			}
		case "call":
			_, after, ok := strings.Cut("\n"+left, "\n"+rest+"\n")
			if !ok {
				t.Errorf("nobody called %q; after the ones before:\n%s", rest, left)
				continue
			}
			left = after
		case "artifact":
			name, list, _ := strings.Cut(rest, " ")
			i := slices.IndexFunc(b.result.Artifacts, func(a artifact.Artifact) bool { return a.Name == name })
			if i < 0 {
				t.Errorf("there is no artifact %s: %+v", name, b.result.Artifacts)
				continue
			}
			if got := unpacked(t, b, b.result.Artifacts[i].Digest); !slices.Equal(got, strings.Fields(list)) {
				t.Errorf("artifact %s holds %v, not %s", name, got, list)
			}
		case "var", "secret", "git", "root", "":
		default:
			t.Errorf("%q is nothing that can be wanted", want)
		}
	}
	if t.Failed() {
		t.Logf("%s\ncalls:\n%s", b.log, calls)
	}
}

// history makes a source a work tree of git, at one commit after a tag.
func history(t *testing.T, dir string) {
	t.Helper()
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"add", "-A"},
		{"commit", "-q", "-m", "begin"},
		{"tag", "v1.2.0"},
		{"commit", "-q", "--allow-empty", "-m", "more"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+t.TempDir(), "GIT_AUTHOR_NAME=A",
			"GIT_AUTHOR_EMAIL=a@b",
			"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
}
