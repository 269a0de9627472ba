package deploy

import (
	"cmp"
	"context"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// stub stands for the programs of a host that scripts call: it notes that, and keeps
// in $STATE what would run.
const stub = `#!/bin/sh
name=$(basename "$0")
echo "$name $*" >>"$STATE/calls"
case "$name $1" in
"curl "*) cat "$STATE/running"; exit ;;
"npm "*) mkdir -p node_modules && cp package.json node_modules/.package-lock.json; exit ;;
"composer "*) mkdir -p vendor && cp composer.lock vendor/installed.json; exit ;;
"bundle "*) mkdir -p .bundle && cp Gemfile.lock .bundle/config; exit ;;
"python3 "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/pip"; exit ;;
esac
for word; do
  case $word in
  start | restart | reload | up) cp "$VERSION_FILE" "$STATE/running"; exit ;;
  stop | delete | down) rm "$STATE/running"; exit ;;
  status | describe | is-active) cat "$STATE/running"; exit ;;
  esac
done
`

var stubs = []string{"curl", "npm", "composer", "bundle", "python3", "pm2", "systemctl", "service", "supervisorctl",
	"docker", "nginx"}

// TestExamples deploys whole appspecs in the manner of real projects: a first release,
// a second, one that is not healthy, and another good one.
func TestExamples(t *testing.T) {
	all, err := filepath.Glob("testdata/appspecs/*.txtar")
	if err != nil || len(all) < 15 {
		t.Fatalf("only %d examples, %v", len(all), err)
	}
	bin := t.TempDir()
	for _, name := range stubs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range all {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			newExample(t, archive, bin).tell()
		})
	}
}

// example is one of testdata/appspecs. Its first lines say where the version is to be
// found, whether something runs ("unit none"), and whether there is traffic.
type example struct {
	*harness
	archive *txtar.Archive
	said    map[string]string
	env     map[string]string
	blocked bool
}

func newExample(t *testing.T, archive *txtar.Archive, bin string) *example {
	e := &example{harness: newHarness(t), archive: archive, said: map[string]string{}}
	for line := range strings.Lines(string(archive.Comment)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		e.said[key] = cmp.Or(value, "yes")
	}
	state := filepath.Join(filepath.Dir(e.dst), "state")
	e.mkdirs(state)
	e.env = map[string]string{
		"PATH":         bin + ":" + searchPath,
		"STATE":        state,
		"VERSION_FILE": filepath.Join(e.dst, e.said["version"]),
	}
	return e
}

func (e *example) release(version string) Request {
	e.Helper()
	self, err := user.Current()
	if err != nil {
		e.Fatal(err)
	}
	all := files{}
	for _, f := range e.archive.Files {
		text := strings.ReplaceAll(strings.ReplaceAll(string(f.Data), "VERSION", version), "ME", self.Username)
		all[f.Name] = strings.TrimSuffix(text, "\n") + "\n"
		if strings.HasPrefix(text, "-> ") {
			all[f.Name] = strings.TrimSpace(text)
		}
	}
	r := e.request(all)
	r.Env = e.env
	if e.said["traffic"] != "" {
		r.Traffic = func(_ context.Context, allow bool) error { e.blocked = !allow; return nil }
	}
	return r
}

// runs checks what runs and what is installed.
func (e *example) runs(version string) {
	e.Helper()
	data, err := os.ReadFile(e.env["VERSION_FILE"])
	if err != nil || !strings.Contains(string(data), version) {
		e.Errorf("installed is %q, not %s (%v)", data, version, err)
	}
	if e.said["unit"] == "none" {
		return
	}
	data, err = os.ReadFile(filepath.Join(e.env["STATE"], "running"))
	if err != nil || !strings.Contains(string(data), version) {
		e.Errorf("%q runs, not %s (%v)", data, version, err)
	}
	if e.blocked {
		e.Error("it has no traffic")
	}
}

func (e *example) tell() {
	for _, version := range []string{"release-1", "release-2"} {
		if r := e.run(e.release(version)); r.Status != Succeeded {
			e.Fatalf("%s: %v\n%s", version, r.Failure, r.Failure.Output)
		}
		e.runs(version)
	}
	before := e.tree(e.dst)
	r := e.run(e.release("release-3-BROKEN"))
	if r.Status != Failed || r.Restored != PutBack || r.Failure.Script == "" {
		e.Fatalf("%+v, %v", r, r.Failure)
	}
	e.runs("release-2")
	if got := e.tree(e.dst); got != before {
		e.Errorf("files are\n%s\nwere\n%s", got, before)
	}
	if drift, err := e.host.Drift("group"); err != nil || len(drift) > 0 {
		e.Errorf("drift after it: %v, %v", drift, err)
	}
	if r := e.run(e.release("release-4")); r.Status != Succeeded {
		e.Fatalf("%v\n%s", r.Failure, r.Failure.Output)
	}
	e.runs("release-4")

	// Taken away, nothing stays but what scripts have made.
	record, err := e.host.cleanup("group")
	if err != nil {
		e.Fatal(err)
	}
	nothing := e.request(files{"appspec.yml": os0})
	nothing.Env = e.env
	if r := e.run(nothing); r.Status != Succeeded {
		e.Fatal(r.Failure)
	}
	for _, path := range record {
		if !isDir(path) && exists(path) {
			e.Errorf("%s is still there", path)
		}
	}
}
