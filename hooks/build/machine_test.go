package build_test

import (
	"os"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/host"
)

// The system of a build is its own: what it writes is there for its own commands, and
// for nobody else, not for the machine and not for the next build.
func TestTheSystemIsWrittenToAndThrownAway(t *testing.T) {
	if err := (&host.Host{}).Writable(t.Context()); err != nil {
		spec(t, steps("touch /usr/local/bin/mine")).wants(build.Failed, "the system cannot be written to: ",
			"/usr/local/bin/mine cannot be written in builds on this machine")
		return
	}
	const name = "headgate-test-of-the-system"
	spec(t, steps(
		"printf '#!/bin/sh\\necho it is mine\\n' >/usr/local/bin/"+name+" && chmod +x /usr/local/bin/"+name,
		name,
		"rm -f /usr/bin/yes && ! command -v yes && echo gone",
		"ln -s /bin/true /etc/alternatives/"+name+
			" && echo x >>/etc/hosts && echo 'nobody lives here' >/etc/motd && mkdir /srv/www /opt/x && echo all of it",
		"! mount -t tmpfs x /mnt 2>/dev/null && ! mount -o remount,rw /proc/sys 2>/dev/null && echo no mounts",
		"! unshare -U true 2>/dev/null && echo no namespaces",
		"! mknod /tmp/null c 1 3 2>/dev/null && echo no devices",
		"! cat /etc/shadow /etc/ssl/private/* 2>/dev/null && echo no secrets",
	)).wants(build.Succeeded, "\nit is mine\n", "\ngone\n", "\nall of it\n", "\nno mounts\n", "\nno namespaces\n", "\nno devices\n", "\nno secrets\n")
	if _, err := os.Stat("/usr/local/bin/" + name); err == nil {
		t.Error("it is on the machine")
	}
	if _, err := os.Stat("/usr/bin/yes"); err != nil {
		t.Error("the machine has lost it")
	}
	spec(t, steps("! command -v "+name+" && command -v yes && echo as before")).wants(build.Succeeded, "\nas before\n")
}

// A package is installed by the machine's own tools: files everywhere, scripts, the
// package's record.
func TestAPackageIsInstalled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only builds of a server that is root can write to the system")
		return
	}
	b := prepare(t, map[string]string{
		"pkg/DEBIAN/control":           "Package: headgate-hello\nVersion: 1.2\nArchitecture: all\nMaintainer: us <us@example.com>\nDescription: says hello\n",
		"pkg/DEBIAN/postinst":          "#!/bin/sh\nset -e\nuseradd --system --no-create-home hello\nchown hello /var/lib/headgate-hello\nupdate-alternatives --install /usr/bin/greet greet /usr/bin/headgate-hello 1\nldconfig\n",
		"pkg/usr/bin/headgate-hello":   "#!/bin/sh\necho hello from a package\n",
		"pkg/etc/headgate-hello":       "conf\n",
		"pkg/var/lib/headgate-hello/x": "x\n",
		"buildspec.yml": steps(
			"chmod 755 pkg/DEBIAN/postinst pkg/usr/bin/headgate-hello && dpkg-deb --root-owner-group --build pkg hello.deb",
			"dpkg -i hello.deb",
			"greet && cat /etc/headgate-hello && stat -c 'owned by %U' /var/lib/headgate-hello && dpkg -s headgate-hello | grep Version",
			"apt-get remove -y headgate-hello && ! command -v headgate-hello && echo removed",
		),
	})
	b.run(t.Context()).wants(build.Succeeded,
		"\nhello from a package\nconf\nowned by hello\nVersion: 1.2\n", "\nremoved\n")
	if _, err := os.Stat("/etc/headgate-hello"); err == nil {
		t.Error("it is on the machine")
	}
}

// B30: a phase's user wins over the file's, and what one user's commands leave the
// next ones have.
func TestB30RunAs(t *testing.T) {
	if os.Geteuid() != 0 {
		spec(t, "version: 0.2\nrun-as: nobody\nphases: {build: {commands: [id -un]}}").wants(build.Failed,
			"commands cannot run as nobody here")
		spec(t, steps("touch x; chown nobody x")).wants(build.Failed, "a build on this machine has one user, root, for this server is not root")
		return
	}
	spec(t, "version: 0.2\nrun-as: codebuild-user\nenv: {variables: {A: 1}}\nphases:\n"+
		"  install: {run-as: root, commands: ['echo i am $(id -un) in $HOME', 'chown -R codebuild-user . && B=2', 'cd /tmp']}\n"+
		"  build: {commands: ['echo i am $(id -un) in $HOME with $A $B at $PWD', 'echo x >$CODEBUILD_SRC_DIR/made; C=3', 'stat -c \"made by %U\" $CODEBUILD_SRC_DIR/made']}\n"+
		"  post_build: {run-as: nobody, commands: ['echo i am $(id -un) with $C', 'echo y 2>/dev/null >>$CODEBUILD_SRC_DIR/made || echo refused'], finally: ['D=4']}\n"+
		"artifacts: {files: made}").
		wants(build.Succeeded, "\ni am root in /root\n", "\ni am codebuild-user in /home/codebuild-user with 1 2 at /tmp\n",
			"\nmade by codebuild-user\n",
			"\ni am nobody with 3\n", "\nrefused\n", "artifact main: 1 files")
	spec(t, "version: 0.2\nrun-as: stranger\nphases: {build: {commands: [echo ran]}}").wants(build.Failed,
		"commands cannot run as stranger here", "!ran")
	spec(t, steps("echo 'id -un; echo in $HOME' >x && su - codebuild-user -c 'sh $0' -- $PWD/x",
		"runuser -u daemon -- id -un",
		"chown 1234:4321 x && stat -c %u:%g x && echo more >>x && echo written")).
		wants(build.Succeeded, "\ncodebuild-user\nin /home/codebuild-user\n", "\ndaemon\n", "\n1234:4321\n", "\nwritten\n")
}

// What a step that fails lacked is said in a line.
func TestWhatAFailedStepLacked(t *testing.T) {
	for name, c := range map[string]struct{ command, want string }{
		"network": {"echo 'curl: (6) Could not resolve host: x'; exit 6", "this build reaches no network: "},
		"command": {"nosuchprogram --all",
			"nosuchprogram is not on this machine: install it on the server, or in the phase install, which needs build: {network: true}"},
		"variable": {"test -n \"$ACCOUNT_ID\" && echo $REGION",
			`ACCOUNT_ID, REGION is not set here: a line such as "build: {variables: {ACCOUNT_ID: …}}" in headgate.yaml on main sets it`},
		"bash": {"a=1; [[ $a == 1 ]]",
			"[[ … ]] is Bash, and this command ran in sh: write env: {shell: bash} in buildspec.yml"},
		"path": {"touch /proc/sys/kernel/mine 2>&1; echo x >/codebuild/output/tmp/x",
			"/codebuild/output/tmp/x cannot be written in builds on this machine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec(t, steps(c.command)).wants(build.Failed, c.want)
		})
	}
	b := spec(t, steps("X=1; for i in a b; do Y=$i; done; test -z ${Z:-} && exit ${W:+1} 3"))
	if strings.Contains(b.log, "is not set here") {
		t.Errorf("what has a default, or is set, is said not to be set:\n%s", b.log)
	}
}
