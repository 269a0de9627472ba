package services

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/sandbox"
)

// inside is where an instance finds the release.
const inside = "/app"

// Descriptors that bubblewrap is given.
const (
	infoFD   = 3 + iota // on which it says what it has started
	shellFD             // its first process
	startFD             // what that one waits for; it is named in first
	statusFD            // on which it notes how that one has ended
)

// firstShell is where the sandbox's first process stands inside.
const firstShell = "/run/sandbox/sh"

// first is what the first process of a sandbox does. It waits to be told to start
// the command, and ends if the agent is gone before it does: so nothing of the
// application runs that is not on record. Then it takes in
// processes that lost their parents, as a process 1 must, until the command ends.
// What a shell says of a command that a signal has ended is not the command's output.
const first = `read -r start <&5 || exit 1
exec 6>&2 2>/dev/null
"$@" 2>&6 5<&- 6>&-
exit "$?"`

// sandboxed is the command line that runs argv in bubblewrap: the system and the
// release read-only, everything private but the network, which an instance
// shares to be reached on its port, and gone whole when its first process is gone.
// It outlives the agent. Variables are the command's alone: the first process is not to
// load what the application names in LD_PRELOAD.
func sandboxed(bwrap string, seal []string, c command) []string {
	line := []string{
		bwrap, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", c.hostname,
		"--new-session", "--cap-drop", "ALL", "--info-fd", strconv.Itoa(infoFD),
		"--json-status-fd", strconv.Itoa(statusFD), "--clearenv",
	}
	line = append(line, seal...)
	line = append(line, sandbox.System()...)
	line = append(line, "--ro-bind", c.release, inside, "--chdir", path.Join(inside, c.workingDir))
	line = append(line, sandbox.Init(shellFD, firstShell)...)
	for _, b := range c.binds {
		line = append(line, "--ro-bind", b.Source, b.Target)
	}
	line = append(line, "--", firstShell, "-c", first, "sh", "/usr/bin/env", "-i", "--")
	return slices.Concat(line, c.env, noVariable(c.argv))
}

// noVariable is a command that env does not take for a variable.
func noVariable(argv []string) []string {
	if strings.Contains(argv[0], "=") {
		return append([]string{"/bin/sh", "-c", `exec "$@"`, "sh"}, argv...)
	}
	return argv
}

// firstAlone is what the first process does where there is no bubblewrap. It handles
// the signals that an instance may be stopped with, since it is in the group that
// gets them; whoever it starts does as they like.
const firstAlone = `trap : 1 2 3 10 12 13 14 15
read -r start <&5 || exit 1
exec 4>&- 6>&2 2>/dev/null
"$@" 2>&6 3>&- 5<&- 6>&-
status=$?
echo "{\"exit-code\": $status}" >&3
exit $status`

// alone is the command line that runs argv without a sandbox.
func alone(c command) []string {
	// The status is bubblewrap's to note otherwise.
	line := []string{"/bin/sh", "-c", "exec 3>&6 6>&-\n" + firstAlone, "sh", "/usr/bin/env", "-i", "--"}
	argv := slices.Concat([]string{programIn(c)}, c.argv[1:])
	return slices.Concat(line, c.env, noVariable(argv))
}

// programIn is the program of a command as it is found outside a sandbox.
func programIn(c command) string {
	name := c.argv[0]
	if strings.Contains(name, "/") && !path.IsAbs(name) {
		name = path.Join(c.release, c.workingDir, name)
	}
	return name
}

// environment is the environment of an instance, built from nothing.
func environment(vars map[string]string, declared map[string]string) ([]string, error) {
	all := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8",
	}
	for name, text := range declared {
		value, err := interpolate(text, vars)
		if err != nil {
			return nil, err
		}
		all[name] = value
	}
	var env []string
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env, nil
}
