package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// installIn runs install with its units in a directory.
func installIn(t *testing.T, dir string, args ...string) (said string, code int) {
	t.Helper()
	var out bytes.Buffer
	code = execute(t.Context(), printer{&out, &out}, append([]string{"install", "--unit-dir", dir}, args...))
	return out.String(), code
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(t.TempDir(), "my data")
	flags := []string{"--data", data, "--", "--ssh", ":22", "--name", `a"b%h$x`}

	said, code := installIn(t, dir, append([]string{"--dry-run"}, flags...)...)
	if left, _ := os.ReadDir(dir); code != 0 || len(left) > 0 ||
		!strings.Contains(said, "would have written "+filepath.Join(dir, agentUnit)) {
		t.Errorf("%d %v\n%s", code, left, said)
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a dry run made the data directory")
	}

	said, code = installIn(t, dir, flags...)
	if code != 0 || !strings.Contains(said, "made "+data+", of user root\nwritten ") {
		t.Errorf("%d\n%s", code, said)
	}
	server, err := os.ReadFile(filepath.Join(dir, serverUnit))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		` serve --data "` + data + `" --no-agent --ssh :22 --name "a\"b%%h$$x"` + "\n",
		"\nWants=network-online.target headgate-agent.service\n",
		"\nKillMode=mixed\n",
	} {
		if !strings.Contains(string(server), want) {
			t.Errorf("%s does not say %q:\n%s", serverUnit, want, server)
		}
	}
	agent, err := os.ReadFile(filepath.Join(dir, agentUnit))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		` agent --data "` + data + `"` + "\n",
		"\nExecReload=/bin/kill -HUP $MAINPID\n",
		"\nKillMode=process\n", // else the end of the supervisor would end production
		"\nOOMPolicy=continue\n",
	} {
		if !strings.Contains(string(agent), want) {
			t.Errorf("%s does not say %q:\n%s", agentUnit, want, agent)
		}
	}
	if verify, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("NOT verified by systemd itself, which is not installed")
	} else if out, err := exec.Command(verify, "verify", "--recursive-errors=no", filepath.Join(dir,
		agentUnit), filepath.Join(dir, serverUnit)).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}

	if said, code = installIn(t, dir, flags...); code != 0 || strings.Count(said, "is as it should be") != 2 {
		t.Errorf("the second time it says\n%s", said)
	}
	if said, code = installIn(t, dir, "--uninstall"); code != 0 || strings.Count(said, "removed ") != 2 {
		t.Errorf("%d\n%s", code, said)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if _, err := os.Stat(data); err != nil {
		t.Errorf("the data went with the units: %v", err)
	}
}

// A machine that is an agent of a server elsewhere has the agent's unit alone.
func TestInstallAgent(t *testing.T) {
	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	said, code := installIn(t, dir, "--agent", "--data", data)
	if left, _ := os.ReadDir(dir); code != 0 || len(left) != 1 || left[0].Name() != agentUnit ||
		!strings.Contains(said, "systemctl enable --now "+agentUnit+"\n") {
		t.Errorf("%d %v\n%s", code, left, said)
	}
	if said, code := installIn(t, dir, "--agent", "--data", data, "--", "--ssh", ":22"); code != 2 {
		t.Errorf("%d\n%s", code, said)
	}
}

// TestInstallLeavesOthersAlone: a unit of that name which somebody else has written is
// neither overwritten nor removed.
func TestInstallLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	theirs := filepath.Join(dir, serverUnit)
	if err := os.WriteFile(theirs, []byte("[Service]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--data", t.TempDir()}, {"--uninstall"}} {
		if said, code := installIn(t, dir, args...); code != 1 ||
			!strings.Contains(said, "was not written by headgate install") {
			t.Errorf("%v: %d\n%s", args, code, said)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v", left)
	}
	if said, code := installIn(t, dir, "--user", "nobody-knows"); code != 1 ||
		!strings.Contains(said, "useradd --system") {
		t.Errorf("%d\n%s", code, said)
	}
	if said, code := installIn(t, t.TempDir(), "--data", t.TempDir(), "--", "--name", "a\nb"); code != 2 {
		t.Errorf("%d\n%s", code, said)
	}
}
