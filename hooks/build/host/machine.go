package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/headgate-cd/headgate/gitd/sandbox"
	"github.com/headgate-cd/headgate/hooks/build"
)

// machine is the system of one build as commands see it: the machine's own, below a
// layer that takes what they write and is thrown away with the build; with many users.
// What an ordinary user gives a build has one user, and what belongs to root there can
// be replaced and removed, and not changed in place. The nil machine is the machine's
// own, read-only, with one user.
type machine struct {
	dir      string    // on the host, for all that is made
	layers   []layer   // over directories of the machine
	binds    []string  // directories of dir that are the build's own, by their paths inside
	users    *os.File  // the user namespace; nil: there is one user
	skeleton *skeleton // an ordinary user's; nil for root
}

// layer takes what is written to a directory of the machine.
type layer struct{ at, lower, upper, work, merged string }

// Directories of the machine that a build may write to, each below a layer; those
// that are not there are left out. Of /etc and /var only what holds no secrets.
var layered = []string{"/usr", "/opt", "/etc/alternatives", "/etc/ssl/certs", "/etc/ca-certificates",
	"/etc/pki/tls/certs",
	"/etc/pki/ca-trust/extracted", "/etc/ld.so.conf.d", "/etc/perl", "/etc/python3", "/etc/dpkg", "/var/lib/dpkg", "/var/lib/apt"}

// Files of /etc that a build has copies of.
var copied = []string{"ca-certificates.conf", "ssl/openssl.cnf", "pki/tls/cert.pem", "ld.so.cache", "ld.so.conf",
	"localtime", "nsswitch.conf",
	"os-release", "debian_version", "mime.types", "services", "protocols", "shells", "login.defs", "adduser.conf",
	"deluser.conf", "debconf.conf",
	"apt/sources.list", "apt/preferences"}

// Directories of /etc of whose files a build has copies, of those that everybody may
// read: others hold passwords of mirrors.
var copiedDirs = []string{"apt/sources.list.d", "apt/apt.conf.d", "apt/preferences.d", "apt/trusted.gpg.d",
	"apt/keyrings"}

// own are directories that are empty at first.
var own = []string{"/var/log/apt", "/var/tmp", "/var/cache/apt/archives/partial", "/var/cache/debconf",
	"/var/lib/apt/lists/partial", "/home/codebuild-user", "/etc/pam.d"}

// layeredHere are those that are here.
func layeredHere() []string {
	java, _ := filepath.Glob("/etc/java-*") // a pattern without fault
	return slices.DeleteFunc(append(slices.Clone(layered), java...), func(dir string) bool {
		info, err := os.Stat(dir)
		return err != nil || !info.IsDir()
	})
}

// newMachine makes the machine of a build.
func (h *Host) newMachine(ctx context.Context, s build.Sandbox) (_ *machine, err error) {
	m := &machine{dir: s.System, users: h.users, binds: []string{"/etc", "/var", "/home"}}
	for _, dir := range own {
		if err := os.MkdirAll(m.dir+dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(m.dir+"/var/tmp", 0o777|os.ModeSticky); err != nil {
		return nil, err
	}
	dirs := layeredHere()
	if h.users == nil {
		if m.skeleton, err = h.skeleton(ctx, dirs); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				m.skeleton.close()
			}
		}()
	} else if err := os.Chown(m.dir+"/home/codebuild-user", codebuildUser, codebuildUser); err != nil {
		return nil, err
	}
	for i, lower := range dirs {
		l := layer{at: lower, lower: lower}
		if m.skeleton != nil {
			l.lower = m.skeleton.dir + lower + ":" + lower
		}
		for part, at := range map[string]*string{"upper": &l.upper, "work": &l.work, "merged": &l.merged} {
			*at = fmt.Sprintf("%s/layers/%d/%s", m.dir, i, part)
			if err := os.MkdirAll(*at, 0o755); err != nil {
				return nil, err
			}
		}
		if strings.HasPrefix(lower, "/etc/") || strings.HasPrefix(lower, "/var/") { // where it is mounted
			if err := os.MkdirAll(m.dir+lower, 0o755); err != nil {
				return nil, err
			}
		}
		m.layers = append(m.layers, l)
	}
	return m, m.files(s.Network)
}

// files writes what is in /etc.
func (m *machine) files(network bool) error {
	etc := m.dir + "/etc"
	names := slices.Clone(copied)
	if network {
		names = append(names, "resolv.conf", "hosts")
	}
	for _, dir := range copiedDirs {
		if !network { // there is nothing to download from
			break
		}
		entries, _ := os.ReadDir("/etc/" + dir) // one that is not there has none
		for _, e := range entries {
			names = append(names, dir+"/"+e.Name())
		}
	}
	for _, name := range names {
		info, err := os.Stat("/etc/" + name)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o004 == 0 {
			continue
		}
		data, err := os.ReadFile("/etc/" + name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(etc, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(etc, name), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	users, groups := systemUsers()
	given := map[string]string{
		"passwd": users,
		"group":  groups,
		// Everybody inside who is root may become anybody.
		"pam.d/other":     "auth sufficient pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\npassword required pam_permit.so\n",
		"resolv.conf":     "",
		"hosts":           loopbacks,
		"apt/apt.conf":    "APT::Sandbox::User \"root\";\nDPkg::Use-Pty \"0\";\n",
		"debian_chroot":   "headgate\n",
		"machine-id":      "",
		"default/useradd": "",
	}
	for name, text := range given {
		path := filepath.Join(etc, name)
		if _, err := os.Stat(path); err == nil && (name == "resolv.conf" || name == "hosts") {
			continue // the machine's
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	// A service that a package brings is not to be started here.
	if err := os.MkdirAll(m.dir+"/policy", 0o755); err != nil {
		return err
	}
	return sandbox.WriteProgram(m.dir+"/policy/policy-rc.d", []byte("#!/bin/sh\nexit 101\n"), 0o755)
}

// close lets go of what the machine shares with others.
func (m *machine) close() {
	if m != nil {
		m.skeleton.close()
	}
}

// codebuildUser is the number of codebuild-user, whom CodeBuild's images have.
const codebuildUser = 1000

// systemUsers are the machine's users and groups that packages have made, and those
// of CodeBuild's images. Nobody has a password.
func systemUsers() (users, groups string) {
	read := func(file string) string {
		data, _ := os.ReadFile(file) // without it root and nobody are there
		var b strings.Builder
		for line := range strings.Lines(string(data)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) < 4 || f[0] == "root" || len(f[2]) > 3 && f[2] != "65534" {
				continue
			}
			f[1] = "*"
			b.WriteString(strings.Join(f, ":") + "\n")
		}
		return b.String()
	}
	users = "root:*:0:0:root:" + build.HomeDir + ":/bin/sh\n" + read("/etc/passwd")
	groups = "root:*:0:\n" + read("/etc/group")
	if !strings.Contains(users, "\nnobody:") {
		users += "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
		groups += "nogroup:*:65534:\n"
	}
	users += fmt.Sprintf("codebuild-user:*:%[1]d:%[1]d::/home/codebuild-user:/bin/sh\n", codebuildUser)
	groups += fmt.Sprintf("codebuild-user:*:%d:\n", codebuildUser)
	return users, groups
}

// What root inside may do: what root of a container may, but for devices and raw
// packets. It may do so to what is inside alone.
var capabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP",
	"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"}

// arguments are bubblewrap's for the system of the machine.
func (m *machine) arguments() []string {
	var args []string
	for _, inside := range m.binds {
		args = append(args, "--bind", m.dir+inside, inside)
	}
	for _, l := range m.layers {
		args = append(args, "--bind", l.merged, l.at)
	}
	args = append(args, "--ro-bind", m.dir+"/policy/policy-rc.d", "/usr/sbin/policy-rc.d")
	for _, c := range capabilities {
		if m.users != nil { // a lone user has no use for them
			args = append(args, "--cap-add", c)
		}
	}
	return args
}

// newUsers makes a user namespace of as many users as a machine usually has, each
// the machine's own of that number, in which no other can be made. Nobody in it has
// any privilege outside of it.
func newUsers(ctx context.Context) (*os.File, error) {
	const program = `echo 0 >/proc/sys/user/max_user_namespaces && echo ready && read -r end`
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", program)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: users}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Pdeathsig:                  syscall.SIGKILL,
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(out, 100)).ReadString('\n')
	var f *os.File
	if err == nil && line == "ready\n" {
		f, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	}
	in.Close()
	werr := cmd.Wait() // "read" ends with 1 at the end of its input
	if f == nil {
		return nil, fmt.Errorf("make users: %w: %s", errors.Join(err, werr), bytes.TrimSpace(said.Bytes()))
	}
	return f, nil
}

// users is how many a build has. The shell of the loop belongs to none of them, so
// that no privilege inside is enough to read it, and with it to trace who runs it.
const users = 65536

// loopShellFile writes the shell of the loop for a machine with many users.
func (m *machine) loopShellFile() (string, error) {
	path := m.dir + "/loop"
	data, err := os.ReadFile("/bin/sh")
	if err == nil {
		err = sandbox.WriteProgram(path, data, 0o111)
	}
	if err == nil {
		err = os.Chown(path, users, users)
	}
	if err == nil {
		err = os.Chmod(path, 0o111)
	}
	return path, err
}

// writable reports why a build cannot be given a machine of its own; nil when it
// can. dir is one in which it would be made.
func (h *Host) writable(ctx context.Context, dir string) error {
	if ambiguous(dir) {
		return ambiguousError(dir) // which says nothing about other builds
	}
	h.machineProbe.Do(func() {
		ctx := context.WithoutCancel(ctx) // the answer is for all builds
		if h.readOnly = canOverlay(ctx, dir, "/usr"); h.readOnly != nil {
			return
		}
		if os.Geteuid() == 0 {
			h.users, h.readOnly = newUsers(ctx)
			return
		}
		shared, err := h.skeletons()
		if err == nil && ambiguous(shared) {
			err = ambiguousError(shared)
		}
		h.readOnly = err
	})
	return h.readOnly
}

// Writable reports why builds cannot write to the system here; nil when they can, and all
// that they write is thrown away with them.
func (h *Host) Writable(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "headgate-system-")
	if err != nil {
		return err
	}
	defer build.RemoveAll(dir)
	return h.writable(ctx, dir)
}
