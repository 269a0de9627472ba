package host_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/executortest"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

func TestContract(t *testing.T) {
	root := os.Geteuid() == 0
	executortest.Suite{Executor: &host.Host{}, Limits: root, Users: root, Writable: writable(t)}.Test(t)
}

// writable says whether this machine lets builds write to the system: it lets root.
func writable(t *testing.T) bool {
	t.Helper()
	err := (&host.Host{}).Writable(t.Context())
	if err != nil {
		t.Log(err)
	}
	return err == nil
}

// TestAsAnOrdinaryUser runs tests of this package again as somebody who is not root.
func TestAsAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("all tests are run as one")
		return
	}
	const somebody = 54321
	memory := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		memory = "/dev/shm" // the directories of the machine are many
	}
	home, err := os.MkdirTemp(memory, "headgate-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer build.RemoveAll(home)
	if err := os.Chown(home, somebody, somebody); err != nil {
		t.Fatal(err)
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	const tests = "^(TestContract|TestEnter|TestSystemOfAnOrdinaryUser|TestHiddenFolders|TestMaskIsNotTheServers)$"
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run", tests, "-test.v")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: somebody, Gid: somebody},
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestSystemOfAnOrdinaryUser") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestSystemOfAnOrdinaryUser: what a build does to the system of the machine is there for
// it, and for nobody else, though it all belongs to root.
func TestSystemOfAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("see TestAsAnOrdinaryUser")
		return
	}
	if !writable(t) {
		return // the contract tests that it says so
	}
	h := &host.Host{}
	run := func(script string) (out string, notes []string) {
		t.Helper()
		dir := t.TempDir()
		t.Cleanup(func() { build.RemoveAll(dir) }) // the kernel leaves directories that nobody may enter
		s := build.Sandbox{
			ID:      "system",
			Source:  filepath.Join(dir, "source"),
			Control: filepath.Join(dir, "control"),
			Home:    filepath.Join(dir, "home"),
			Temp:    filepath.Join(dir, "temp"),
			System:  filepath.Join(dir, "system"),
		}
		for _, d := range []string{s.Source, s.Control, s.Home, s.Temp, s.System} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		n, err := h.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		if err := n.Put(t.Context(), "x.sh", []byte("set -eu\n"+script)); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		exit, err := n.Run(t.Context(), build.Script{Shell: "sh", Path: build.ControlDir + "/x.sh"}, &said)
		if exit != 0 || err != nil {
			t.Errorf("%s\nexit %d, %v:\n%s", script, exit, err, said.String())
		}
		return said.String(), n.Notes()
	}
	_, notes := run(`
		echo new >/usr/share/doc/new; test "$(cat /usr/share/doc/new)" = new
		rm /usr/bin/yes; ! command -v yes
		cp /bin/true /tmp/t; mv /tmp/t /usr/bin/env; /usr/bin/env false
		sed -i s/a/b/ /etc/services
		mkdir -p /opt/x /usr/local/lib/x/y; ln -s /bin/true /etc/alternatives/x
		rm -rf /usr/share/man; mkdir /usr/share/man; test -z "$(ls /usr/share/man)"
		! mount -t tmpfs x /mnt 2>/dev/null
		! unshare -U true 2>/dev/null
		! cat /etc/shadow 2>/dev/null`)
	for _, n := range notes {
		if strings.HasPrefix(n, "the system") {
			t.Error(n)
		}
	}
	run(`test ! -e /usr/share/doc/new; command -v yes >/dev/null; ! /usr/bin/env false`)
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		return
	}
	out, _ := run(`
		mkdir -p pkg/DEBIAN pkg/usr/bin pkg/etc pkg/var/lib/headgate-hello; chmod 755 pkg/DEBIAN
		printf 'Package: headgate-hello\nVersion: 1.2\nArchitecture: all\nMaintainer: us <us@example.com>\nDescription: hello\n' >pkg/DEBIAN/control
		printf '#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/greet greet /usr/bin/headgate-hello 1\nldconfig\n' >pkg/DEBIAN/postinst
		printf '#!/bin/sh\necho hello from a package\n' >pkg/usr/bin/headgate-hello
		chmod 755 pkg/DEBIAN/postinst pkg/usr/bin/headgate-hello
		echo conf >pkg/etc/headgate-hello
		dpkg-deb --root-owner-group --build pkg hello.deb
		dpkg -i hello.deb
		greet; cat /etc/headgate-hello; dpkg -s headgate-hello | grep Version
		apt-get remove -y headgate-hello; ! command -v headgate-hello; echo removed`)
	if !strings.Contains(out, "\nhello from a package\nconf\nVersion: 1.2\n") || !strings.HasSuffix(out, "removed\n") {
		t.Error(out)
	}
}
