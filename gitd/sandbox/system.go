package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// systemDirectories are what is seen of the machine, read-only, besides /usr: nothing
// of /etc that holds a key, since what runs inside may be root.
var systemDirectories = []string{
	"/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/tls/certs",
	"/etc/pki/tls/cert.pem",
	"/etc/pki/ca-trust/extracted", "/etc/resolv.conf", "/etc/hosts",
	"/etc/nsswitch.conf", "/etc/localtime", "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/services",
	"/etc/protocols",
	"/etc/mime.types", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/nix/store",
}

// System are the arguments with which bubblewrap shows what runs inside the machine's
// system, read-only, and gives it /dev, /proc and a private /tmp.
func System() []string {
	line := []string{"--ro-bind", "/usr", "/usr"}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"} {
		if to, err := os.Readlink(dir); err == nil {
			line = append(line, "--symlink", to, dir)
		} else {
			line = append(line, "--ro-bind-try", dir, dir)
		}
	}
	for _, dir := range systemDirectories {
		line = append(line, "--ro-bind-try", dir, dir)
	}
	return append(line,
		"--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--dir", "/run", "--dir", "/var", "--symlink",
		"/tmp", "/var/tmp",
		// The kernel's settings are root's to write even without capabilities.
		"--ro-bind", "/proc/sys", "/proc/sys", "--ro-bind-try", "/proc/sysrq-trigger", "/proc/sysrq-trigger",
		"--ro-bind-try", "/proc/mtrr", "/proc/mtrr", "--ro-bind-try", "/proc/pressure", "/proc/pressure")
}

// sealTimeout is how long a sandbox may take in which nothing is done.
const sealTimeout = time.Minute

// Seal is what has bubblewrap forbid user namespaces inside, in which a process would be
// privileged again. It is tried: an older one does not know it, and where the machine is
// itself a container there may be no other /proc in a user namespace. The error says why not.
func Seal(ctx context.Context, bwrap string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, sealTimeout)
	defer cancel()
	seal := []string{"--unshare-user", "--disable-userns"}
	line := append(slices.Clone(seal), "--unshare-pid", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--",
		"/bin/true")
	cmd := exec.CommandContext(ctx, bwrap, line...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return nil, fmt.Errorf("%w: %s", err, said)
	}
	return seal, nil
}
