// Package host runs builds on the machine itself, in bubblewrap: namespaces of
// their own for processes, mounts, IPC, host name, users and (unless asked for)
// network; a read-only system; a home and /tmp that nobody else sees; no keyrings;
// limits by cgroups where the machine lets us.
//
// One sandbox lives for one build. A small shell loop inside runs scripts that
// are named on one pipe and tells exit statuses on another, so that nothing a
// build prints can be taken for an answer, and a child that stays behind can
// neither hold a step up nor outlive the build.
//
// The loop is the first process inside, with which all others end, and the
// build's processes have its user. So two things keep it from them. Its shell is
// a copy that may be executed but not read: the kernel then lets nobody trace
// the process, or look at its descriptors under /proc, who lacks privilege. And
// privilege is dropped: without it nothing inside can undo the sandbox either,
// which root could otherwise do by mounting /usr writable.
package host

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/bounds"
	"github.com/headgate-cd/headgate/hooks/build/pipe"
)

// Host is the executor. Its zero value works.
type Host struct {
	Bwrap  string   // path of bubblewrap; "" looks it up in PATH
	Limits Limits   // zero: bounds.DefaultLimits
	Hidden []string // directories that no build may see, wherever they lie: the server's data
	Shared string   // directory for what an ordinary user's builds share of the system; "": in the user's cache

	Records sandbox.Records // of running sandboxes, for the next start of the server

	probe   sync.Once
	sealing bool // bubblewrap can forbid user namespaces inside

	overlayProbe sync.Once
	overlays     bool

	machineProbe sync.Once
	readOnly     error    // why builds cannot have machines of their own
	users        *os.File // the user namespace of all of them; nil: an ordinary user's have one user
}

// seals reports whether user namespaces can be forbidden inside. In one of its
// own a process is privileged again: it could mount the cgroups and, as
// root's, lift its limits.
func (h *Host) seals(ctx context.Context, bwrap string) bool {
	h.probe.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // the answer is for all builds
		defer cancel()
		help, _ := exec.CommandContext(ctx, bwrap, "--help").Output() // what it cannot tell it cannot do
		h.sealing = strings.Contains(string(help), "--disable-userns")
	})
	return h.sealing
}

func (h *Host) bubblewrap() (string, error) {
	if h.Bwrap != "" {
		return h.Bwrap, nil
	}
	bwrap, err := exec.LookPath("bwrap")
	if err != nil {
		return "", build.UnableError(
			"bubblewrap is not installed, and builds run in it; install it on the server: apt-get install bubblewrap")
	}
	return bwrap, nil
}

// Probe says why no build could run on this machine, before there is one.
func (h *Host) Probe(ctx context.Context) error {
	bwrap, err := h.bubblewrap()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "true")
	// Killed while it makes the sandbox, bubblewrap would leave the process inside
	// waiting for it, with the other end of its output.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
		return build.UnableError(fmt.Sprintf("bubblewrap does not work here, and builds run in it: %s (%v)",
			strings.TrimSpace(string(out)), err))
	}
	return nil
}

// loop is what lives inside: it says that it is there, reads "<shell> <user>
// <script>" lines on descriptor 3 and answers with the exit status on 4. Its
// children have neither, and nothing of the server's own settings.
const loop = `exec 5>&- 6<&- 7<&- 8<&- 9<&-
ulimit -c 0
umask 022
become() { setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups "$@"; }
echo ready >&4
while read -r shell user script <&3; do
	if ! command -v "$shell" >/dev/null 2>&1; then
		echo noshell >&4
	elif [ "$user" = root ]; then
		"$shell" "$script" 3<&- 4>&- </dev/null
		echo $? >&4
	elif become true 3<&- 4>&- >/dev/null 2>&1; then
		become "$shell" "$script" 3<&- 4>&- </dev/null
		echo $? >&4
	else
		echo nouser >&4
	fi
done`

// Start implements build.Executor.
func (h *Host) Start(ctx context.Context, s build.Sandbox) (build.Session, error) {
	if len(s.Services) > 0 {
		return nil, build.UnableError("a build on the server itself has no services: name an image for it")
	}
	bwrap, err := h.bubblewrap()
	if err != nil {
		return nil, err
	}
	sealed := h.seals(ctx, bwrap)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n := &session{sealed: sealed, done: make(chan struct{}), dirs: map[string]string{
		build.SourceDir:  s.Source,
		build.ControlDir: s.Control,
		build.HomeDir:    s.Home,
		"/tmp":           s.Temp,
	}}
	limits := h.Limits
	if limits == (Limits{}) {
		limits = bounds.DefaultLimits()
	}
	limits = s.Limits.Within(limits)
	if n.group, err = newGroup(cgroupRoot, groupName(s.ID), limits); err != nil {
		n.notes = append(n.notes, "no limits on memory and processes: "+err.Error())
	}
	if !sealed {
		n.notes = append(
			n.notes, "builds can make user namespaces, and as root's lift their limits: bubblewrap is older than 0.8")
	}
	if n.sandbox, err = h.Records.New("build "+s.ID, n.group.directories()...); err != nil {
		return nil, errors.Join(err, sandbox.EndCgroups(n.group.directories()))
	}
	if s.Cache.Lower != "" && (ambiguous(s.Cache.Lower+s.Cache.Upper) || !h.Overlays(ctx)) {
		s.Cache.Lower = ""
	}
	written := []string{s.Source, s.Home, s.Temp, s.Cache.Upper}
	if s.System != "" {
		for _, part := range []string{"layers", "var", "home", "etc"} {
			written = append(written, filepath.Join(s.System, part))
		}
	}
	n.disk = bounds.NewDisk(limits.Disk, written...)
	layers := cacheLayer(s.Cache)
	if s.System != "" {
		if why := h.writable(ctx, s.System); why != nil {
			n.notes = append(n.notes, "the system cannot be written to: "+why.Error())
		} else if n.machine, err = h.newMachine(ctx, s); err != nil {
			return nil, errors.Join(fmt.Errorf("make the build's machine: %w", err), n.sandbox.Close())
		} else {
			layers = append(layers, n.machine.layers...)
		}
	}
	mounted, err := mounts(layers)
	if err != nil {
		n.machine.close()
		return nil, errors.Join(fmt.Errorf("make the build's machine: %w", err), n.sandbox.Close())
	}
	if err := n.start(ctx, append(mounted, bwrap), h.arguments(s, n.machine, sealed)); err != nil {
		n.machine.close()
		return nil, errors.Join(err, n.sandbox.Close())
	}
	return n, nil
}

// Descriptors that bubblewrap is given, after those of the loop.
const (
	infoFD = 5 + iota
	shellFD
	seccompFD
	passwdFD
	groupFD
	hostsFD // a shell cannot close it

	usersFD = shellFD // of a machine, whose shell is a file
)

// Where the loop's shell stands inside. Its own name stays sh, which tells a
// busybox what to be.
const loopShell = "/codebuild/loop/sh"

// Small files of /etc that are not the machine's.
const (
	passwd = "root:x:0:0:root:" + build.HomeDir +
		":/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	groups    = "root:x:0:\nnogroup:x:65534:\n"
	loopbacks = "127.0.0.1 localhost headgate-build\n::1 localhost\n"
)

// arguments are bubblewrap's.
func (h *Host) arguments(s build.Sandbox, m *machine, sealed bool) []string {
	args := []string{
		"--new-session", "--cap-drop", "ALL", "--hostname", "headgate-build", "--clearenv",
		"--setenv", "PATH", Path,
		"--dev", "/dev", "--proc", "/proc", "--dir", "/run", "--dir", "/srv", "--dir", "/mnt",
		"--perms", "0755", "--dir", "/codebuild", "--perms", "0755", "--dir", "/codebuild/output",
		"--perms", "0755", "--dir", filepath.Dir(build.SourceDir),
		"--bind", s.Temp, "/tmp", "--bind", s.Home, build.HomeDir,
		"--bind", s.Source, build.SourceDir, "--ro-bind", s.Control, build.ControlDir,
		"--perms", "0777", "--dir", build.StateDir,
		"--chdir", build.SourceDir, "--info-fd", strconv.Itoa(infoFD), "--seccomp", strconv.Itoa(seccompFD),
	}
	if s.Objects != "" {
		args = append(args, "--ro-bind", s.Objects, build.ObjectsDir)
	}
	if s.Cache.Lower != "" {
		args = append(args, "--bind", s.Cache.Merged, build.CacheDir)
	} else if s.Cache.Upper != "" {
		args = append(args, "--bind", s.Cache.Upper, build.CacheDir)
	}
	args = append(args, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
	if !s.Network {
		args = append(args, "--unshare-net")
	}
	if m != nil {
		args = append(args, m.arguments()...)
	} else {
		args = append(args, ownSystem(s)...)
	}
	if m != nil && m.users != nil {
		args = append(args, "--userns", strconv.Itoa(usersFD), "--as-pid-1", "--die-with-parent", "--ro-bind",
			m.dir+"/loop", loopShell)
	} else {
		args = append(args, oneUser(sealed)...)
	}
	// The kernel's settings are root's to write even without privilege, and
	// bubblewrap does not cover them for a root in a user namespace.
	args = append(args, "--ro-bind", "/proc/sys", "/proc/sys")
	for _, file := range []string{"sysrq-trigger", "mtrr", "pressure", "fs", "acpi", "scsi", "irq", "bus", "driver", "tty",
		"asound", "slabinfo", "latency_stats", "lock_stat"} {
		args = append(args, "--ro-bind-try", "/proc/"+file, "/proc/"+file)
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		path := "/" + dir
		if to, err := os.Readlink(path); err == nil {
			args = append(args, "--symlink", to, path)
		} else if _, err := os.Stat(path); err == nil {
			args = append(args, "--ro-bind", path, path)
		}
	}
	for _, dir := range h.Hidden {
		for _, seen := range []string{"/usr", "/opt"} {
			if real, err := filepath.EvalSymlinks(dir); err == nil && strings.HasPrefix(real+"/", seen+"/") {
				args = append(args, "--tmpfs", real)
			}
		}
	}
	return append(args, "--", loopShell, "-c", loop)
}

// oneUser are bubblewrap's arguments for a sandbox with one user.
func oneUser(sealed bool) []string {
	args := append([]string{"--unshare-user-try", sandbox.WithParent}, sandbox.Init(shellFD, loopShell)...)
	if os.Geteuid() != 0 { // be root inside too, so that builds see the same everywhere
		args = append(args, "--unshare-user", "--uid", "0", "--gid", "0")
	} else if setting("/proc/sys/user/max_user_namespaces") == "0" { // root can do without
		sealed = false
	}
	if sealed {
		args = append(args, "--unshare-user", "--disable-userns")
	}
	return args
}

// ownSystem are bubblewrap's arguments for the machine's own system, read-only.
func ownSystem(s build.Sandbox) []string {
	args := []string{
		"--ro-bind", "/usr", "/usr", "--ro-bind-try", "/opt", "/opt", "--dir", "/var/tmp",
		"--ro-bind-data", strconv.Itoa(passwdFD), "/etc/passwd", "--ro-bind-data", strconv.Itoa(groupFD), "/etc/group",
	}
	// Of /etc only what holds no secrets: root's build could read root's keys.
	etc := []string{"alternatives", "ca-certificates", "ca-certificates.conf", "ssl/certs", "ssl/openssl.cnf",
		"pki/tls/certs", "pki/tls/cert.pem", "pki/ca-trust/extracted", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
		"localtime", "nsswitch.conf",
		"perl", "python3", "os-release", "mime.types", "services", "protocols"}
	if s.Network {
		etc = append(etc, "resolv.conf", "hosts")
	} else {
		args = append(args, "--ro-bind-data", strconv.Itoa(hostsFD), "/etc/hosts")
	}
	for _, name := range etc {
		args = append(args, "--ro-bind-try", "/etc/"+name, "/etc/"+name)
	}
	java, _ := filepath.Glob("/etc/java-*") // a pattern without fault
	for _, dir := range java {
		args = append(args, "--ro-bind", dir, dir)
	}
	return args
}

type session struct {
	cmd     *exec.Cmd
	out     *os.File      // what the sandbox prints
	ask     *os.File      // scripts to run
	status  *bufio.Reader // exit statuses
	answer  *os.File      // under status
	sandbox *sandbox.Sandbox
	group   *group
	machine *machine
	disk    *bounds.Disk
	dirs    map[string]string // on the host, by where they are inside
	sealed  bool              // no user namespaces can be made inside
	first   int               // the number of the first process inside
	notes   []string
	done    chan struct{} // closed when bubblewrap has been waited for
}

func (n *session) start(ctx context.Context, program, arguments []string) (err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	outR, outW := pipe()
	askR, askW := pipe()
	answerR, answerW := pipe()
	infoR, infoW := pipe()
	passwdR := given(passwd, pipe)
	groupR := given(groups, pipe)
	hostsR := given(loopbacks, pipe)
	seccompR := given(noKeyrings(), pipe)
	var shell *os.File
	if err == nil {
		shell, err = sandbox.OpenShell()
	}
	for _, f := range []*os.File{outW, askR, answerW, infoW, infoR, passwdR, groupR, hostsR, seccompR, shell} {
		if f != nil {
			files = append(files, f)
		}
	}
	for _, f := range []*os.File{outR, askW, answerR} {
		if err != nil && f != nil {
			files = append(files, f)
		}
	}
	if err != nil {
		return fmt.Errorf("make the sandbox: %w", err)
	}
	extra := []*os.File{askR, answerW, infoW, shell, seccompR, passwdR, groupR, hostsR} // from 3 on
	if n.machine != nil {
		extra[passwdFD-3], extra[groupFD-3], extra[hostsFD-3] = nil, nil, nil
	}
	if n.machine != nil && n.machine.users != nil {
		if _, err := n.machine.loopShellFile(); err != nil {
			files = append(files, outR, askW, answerR)
			return fmt.Errorf("make the sandbox: %w", err)
		}
		extra[shellFD-3] = n.machine.users
	}
	args := append(program, arguments...)
	if n.group != nil {
		// A shell puts itself into the cgroups and becomes bubblewrap, so
		// that nothing of the sandbox ever runs outside of them.
		args = append([]string{"/bin/sh", "-c", n.group.enter() + `exec "$@"`, "sh"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", n.sandbox.Mark()}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = outW, outW
	cmd.ExtraFiles = extra
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		files = append(files, outR, askW, answerR)
		return fmt.Errorf("start bubblewrap: %w", err)
	}
	n.cmd, n.out, n.ask, n.answer, n.status = cmd, outR, askW, answerR, bufio.NewReader(answerR)
	// So that reading ends when those in the sandbox have closed their own.
	for _, f := range []*os.File{infoW, answerW, outW} {
		f.Close()
	}
	// A bubblewrap that is killed before it has tied its first process to itself
	// leaves it behind. So nobody kills it before that process is known.
	var serr error
	n.first, serr = n.sandbox.Started(infoR, cmd.Process.Pid)
	go func() {
		_ = cmd.Wait() // it is killed, or ends as its loop did; neither says anything
		close(n.done)
	}()
	if serr == nil {
		stop := context.AfterFunc(ctx, n.kill)
		defer stop()
		if line, err := n.status.ReadString('\n'); err == nil && line == "ready\n" {
			return nil
		}
	}
	// There is no sandbox; what bubblewrap printed says why.
	said, _ := io.ReadAll(io.LimitReader(outR, 4096))
	if err := errors.Join(ctx.Err(), n.Close()); err != nil {
		return err
	}
	if len(said) == 0 && serr != nil {
		return serr
	}
	why := "bubblewrap could not make a sandbox: " + strings.TrimSpace(string(said))
	if do := advice(string(said), setting); do != "" {
		return build.UnableError(why + "; " + do)
	}
	return errors.New(why) // it may name paths
}

// setting reads a setting of the kernel, "" if there is none.
func setting(path string) string {
	data, _ := os.ReadFile(path)
	return strings.TrimSpace(string(data))
}

// advice is what to do about a refusal to make namespaces, from what bubblewrap
// said and the machine's settings; "" when it is about something else.
func advice(said string, setting func(path string) string) string {
	refused := slices.ContainsFunc([]string{"namespace", "uid map", "RTM_NEWADDR", "Failed to mount"},
		func(s string) bool { return strings.Contains(said, s) })
	switch {
	case !refused:
		return ""
	case setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "AppArmor lets only root make namespaces here: run headgate as root, give bwrap a profile that allows userns, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "only root may make namespaces here: run headgate as root, or sysctl -w kernel.unprivileged_userns_clone=1"
	case setting("/proc/sys/user/max_user_namespaces") == "0":
		return "namespaces are turned off here: sysctl -w user.max_user_namespaces=10000"
	}
	return "in a container, let it make namespaces (docker run --privileged)"
}

// given makes a pipe from which text can be read; it is small enough to fit in.
func given(text string, pipe func() (r, w *os.File)) *os.File {
	r, w := pipe()
	if w != nil {
		_, _ = io.WriteString(w, text) // a pipe just made takes it
		w.Close()
	}
	return r
}

// Put implements build.Session.
func (n *session) Put(_ context.Context, name string, data []byte) error {
	return os.WriteFile(filepath.Join(n.dirs[build.ControlDir], name), data, 0o644)
}

// Files implements build.Session: they are here.
func (n *session) Files(_ context.Context, inside string) (string, error) { return n.dirs[inside], nil }

// Notes implements build.Session.
func (n *session) Notes() []string { return n.notes }

// Limit implements build.Session.
func (n *session) Limit() string {
	limit := n.group.limit()
	if d := n.disk.String(); d != "" {
		limit = strings.TrimPrefix(limit+", "+d, ", ")
	}
	return limit
}

// Run implements build.Session.
func (n *session) Run(ctx context.Context, s build.Script, out io.Writer) (int, error) {
	if _, err := fmt.Fprintf(n.ask, "%s %s %s\n", s.Shell, cmp.Or(s.User, "root"), s.Path); err != nil {
		return n.gone(ctx)
	}
	copying, err := pipe.Copy(out, n.out)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, n.kill)
	watching, rest := context.WithCancel(ctx)
	go n.disk.Watch(watching, n.kill)
	line, err := n.status.ReadString('\n')
	rest()
	stop()
	if cerr := copying.End(); cerr != nil {
		return 0, cerr
	}
	if err != nil || ctx.Err() != nil {
		return n.gone(ctx)
	}
	if n.disk.Over() {
		n.kill()
		return n.gone(ctx)
	}
	line = strings.TrimSpace(line)
	switch line {
	case "noshell":
		return 0, build.ErrNoShell
	case "nouser":
		return 0, build.ErrNoUser
	}
	exit, err := strconv.Atoi(line)
	if err != nil {
		return 0, fmt.Errorf("the sandbox answered %q", line)
	}
	return exit, nil
}

// gone is what Run returns when the sandbox is no more: a build that killed its
// own sandbox, or met its memory limit, has failed; one that was cancelled has not.
func (n *session) gone(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	select {
	case <-n.done:
	case <-time.After(5 * time.Second):
		return 0, errors.New("the sandbox neither answers nor ends")
	}
	return 0, build.ErrEnded
}

// kill ends the sandbox at once.
func (n *session) kill() {
	if n.sandbox.Kill() {
		return // and bubblewrap ends with it
	}
	select {
	case <-n.done:
		return // its number may be another's by now
	default:
	}
	_ = syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL) // it may be gone already
}

// Close implements build.Session.
func (n *session) Close() error {
	n.kill()
	<-n.done
	err := n.sandbox.Close()
	n.machine.close()
	n.out.Close()
	n.ask.Close()
	n.answer.Close()
	return err
}

// cgroupRoot is where cgroups are mounted.
var cgroupRoot = filepath.Join("/sys", "fs", "cgroup")
